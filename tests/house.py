"What the gates look at: notebooks, their cells and the modules that they make, read and not imported."
import ast, functools, json, re
from pathlib import Path
from ftcook import publish
from IPython.core.inputtransformer2 import TransformerManager

root = Path(__file__).parents[1]
nbs, package = root/'nbs', root/'ftcook'

def notebooks():
    "Every notebook, the template included."
    return sorted(p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

def lessons(folder=None): return sorted((folder or nbs).glob('[0-9][0-9]*_*.ipynb'))

@functools.cache
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']

def text(cell): return ''.join(cell['source'])
def code_cells(path): return [c for c in cells(path) if c['cell_type'] == 'code']
def prose_cells(path): return [c for c in cells(path) if c['cell_type'] == 'markdown']
def exported(path): return [c for c in code_cells(path) if re.match(r'#\|\s*exporti?\b', text(c))]

def parsed(cell):
    try: return ast.parse(text(cell))
    except SyntaxError: return ast.parse(TransformerManager().transform_cell(text(cell)))

def default_exp(path):
    "The module that a notebook makes, such as data.check; empty if it makes none."
    found = [m[1] for c in code_cells(path) if (m := re.match(r'#\|\s*default_exp\s+(\S+)', text(c)))]
    return found[0] if found else ''

@functools.cache
def modules():
    "Module, such as data.check, to the notebook that makes it."
    return {module: path for path in notebooks() if path.name[0] != '_' and (module := default_exp(path))}

def source(module): return package/f"{module.replace('.', '/')}.py"

@functools.cache
def names(module):
    "What a module exports."
    tree = ast.parse(source(module).read_text(encoding='utf-8'))
    found = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__']
    return ast.literal_eval(found[0]) if found else []

def owner(dotted):
    "The module that `ftcook.<dotted>` lives in: of `data.check_file`, data.check. None: in no notebook's module."
    if dotted in modules(): return dotted
    before, _, last = dotted.rpartition('.')
    if before in modules(): return before
    inside = sorted((m for m in modules() if m.startswith(f'{before or dotted}.')), key=lambda m: modules()[m].stem)
    exporting = [m for m in inside if last in names(m)]
    return (exporting or inside[-1:] or [None])[0]

def asked_for(tree, module=''):
    """The modules of the package that `tree` imports from, by the module that defines the name.

    `module`: the one it belongs to. Relative imports start there; its own face, asked for its neighbours, is nothing new."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found += [o.name for o in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ['ftcook', *module.split('.')][:-node.level] if node.level else []
            found += ['.'.join(filter(None, [*start, node.module, o.name])) for o in node.names]
    inside = [name.partition('.')[2] for name in found if name.startswith('ftcook.')]
    face = module.rpartition('.')[0]
    return {o for name in inside if name != face and (o := owner(name))}

@functools.cache
def imports(module): return asked_for(ast.parse(source(module).read_text(encoding='utf-8')), module)

@functools.cache
def place(module):
    "What to sort a module by, and may be imported from where: `publish.place`, on modules that define the names."
    found = {name: dict(notebook=path.stem, imports=imports(name)) for name,path in modules().items()}
    return publish.place(module, found)
