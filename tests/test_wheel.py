"""What a user gets from `pip install ftcook`: the wheel alone, used from an empty folder, with no checkout in sight."""
import json, os, shutil, subprocess, sys, zipfile
import pytest
import ftcook
from conftest import root

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from the files that git knows."
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    listed = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed += ['ftcook', 'pyproject.toml', 'README.md', 'LICENSE']
    for name in subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split('\0'):
        if not name or not (root/name).exists(): continue
        (source/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/name, source/name)
    build = 'import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])'
    done = subprocess.run([sys.executable, '-c', build, out], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob('*.whl'))

@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "A folder with what pip makes of the wheel. What it depends on comes from the environment of the tests."
    folder = tmp_path_factory.mktemp('installed')
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    pip += ['--no-deps', '--no-index', '--no-compile', '--target', folder, wheel]
    done = subprocess.run(pip, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder

@pytest.fixture
def run(installed, tmp_path):
    "Runs Python in an empty folder, where the installed package hides the checkout; no network."
    env = {k: v for k,v in os.environ.items() if k not in ('PYTHONPATH', 'FTCOOK_RUN_DIR', 'FTCOOK_PROFILE')}
    env |= dict(PYTHONPATH=str(installed), HF_HUB_OFFLINE='1', COLUMNS='120')
    def run(*arguments, code=0):
        done = subprocess.run([sys.executable, *map(str, arguments)], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout
    found = run('-c', 'import ftcook; print(ftcook.__file__)').strip()
    assert found == str(installed/'ftcook'/'__init__.py'), 'this would test the checkout'
    return run

def test_every_module_and_asset_is_in_it(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    there = {p.relative_to(root).as_posix() for p in (root/'ftcook').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    assert there <= packed and 'ftcook/assets/cities.csv' in packed
    assert not [name for name in packed if not name.startswith(('ftcook/', 'ftcook-'))], 'only the package'

def test_the_command(installed, run):
    assert run(installed/'bin'/'ftcook', '--version') == run('-m', 'ftcook.cli', '--version') == f'ftcook {ftcook.__version__}\n'

def test_check(run, tmp_path):
    rows = [dict(messages=[dict(role='user', content='a'), dict(role='assistant', content='b')])] * 2
    (tmp_path/'a.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\nnot json\n')
    report = json.loads(run('-m', 'ftcook.cli', 'check', '--json', 'a.jsonl', code=1))
    assert (report['rows'], report['kept'], [p['code'] for p in report['problems']]) == (3, 2, ['invalid_json'])
    assert run('-c', "from ftcook.data import check_file; print(check_file('a.jsonl').kept)") == '2\n'

def test_estimate(run):
    found = json.loads(run('-m', 'ftcook.cli', 'estimate', 'mistral-7b', '--gpu', 'L40S', '--json'))
    assert 5 < found['peak_gib'] < 48
    assert 'L40S' in run('-c', "from ftcook.cost import estimate; print(estimate('mistral-7b', gpu='L40S', tokens=1e6))")

def test_doctor(run, tmp_path):
    script = 'from transformers import TrainingArguments\nTrainingArguments(evaluation_strategy="steps")\n'
    (tmp_path/'train.py').write_text(script)
    assert 'eval_strategy' in run('-m', 'ftcook.cli', 'doctor', 'train.py', code=1)
    error = "RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')"
    code = f'from ftcook.doctor import diagnose; print(diagnose({error}).first)'
    assert run('-c', code) == 'oom_training\n'

def test_the_flight_task(run):
    assert run('-c', "from ftcook.tasks.flights import flight_requests; print(len(flight_requests(3, 'train')))") == '3\n'
