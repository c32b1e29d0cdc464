"""Importing a module of the package changes nothing in the process that imports it."""
import ast, json, subprocess, sys
import house

state = '''
def state():
    import os, warnings, logging, matplotlib, torch, transformers, datasets
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.utils import logging as hf
    return dict(filters=[(o[0], str(o[1]), o[2].__name__, str(o[3])) for o in warnings.filters], environ=dict(os.environ),
        verbosity=hf.get_verbosity(), hf_bars=hf.is_progress_bar_enabled(), bars=datasets.utils.are_progress_bars_disabled(),
        attention=sorted(ALL_ATTENTION_FUNCTIONS.valid_keys()), style={k: str(v) for k,v in matplotlib.rcParams.items()},
        levels={name: logging.getLogger(name).level for name in ('bitsandbytes', 'trl', 'peft', 'torch', 'transformers')},
        threads=torch.get_num_threads(), seed=torch.initial_seed(), default=str(torch.get_default_dtype()))
'''

def others(module):
    "The statements by which a module imports from other packages."
    tree = ast.parse((house.package/f"{module.replace('.', '/')}.py").read_text(encoding='utf-8'))
    return [ast.unparse(n) for n in tree.body if isinstance(n, ast.Import) or isinstance(n, ast.ImportFrom) and not n.level]

def test_importing_changes_nothing():
    "The libraries are imported first: what they do is their business."
    libraries = sorted({statement for module in house.modules() for statement in others(module)})
    code = f'''{state}
import importlib, json
for statement in {libraries}: exec(statement, {{}})
changed, before = {{}}, state()
for name in {list(house.modules())}:
    importlib.import_module(f'ftcook.{{name}}')
    after = state()
    for what in after:
        if after[what] != before[what]: changed.setdefault(name, []).append(what)
    before = after
print(json.dumps(changed))'''
    done = subprocess.run([sys.executable, '-c', code], cwd=house.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}
