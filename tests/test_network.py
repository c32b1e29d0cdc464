"""What leaves your machine: nothing, unless you ask for it. The README's paragraph, a test for each of its sentences.

`tests/silent/sitecustomize.py` notes each attempt of a process and of its children; what runs here runs without a network.
The lessons run with the same hook in test_lessons.py."""
import ast, json, os, pty, re, resource, shutil, subprocess, sys, time
from pathlib import Path
import pytest
import house
from conftest import attempts, root, watched

silent = Path(__file__).parent/'silent'
alone = ['unshare', '-n', 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh']
can_unshare = bool(shutil.which('unshare')) and subprocess.run([*alone, 'true'], capture_output=True).returncode == 0

def cut_off(command, log, cwd=root, around=(), **env):
    "Run a command where there is no network: in a namespace of its own, or, where that is not allowed, with a hook that refuses."
    env = watched(log) | dict(OMP_NUM_THREADS='1', FTCOOK_NO_NETWORK='' if can_unshare else '1') | env
    return subprocess.run([*around, *(alone if can_unshare else ()), *map(str, command)], cwd=cwd, env=env, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)

@pytest.fixture
def log(tmp_path): return tmp_path/'attempts'

# The hook sees what it should

lookup = 'import socket; socket.getaddrinfo("example.org", 80)'
plants = dict(name="import urllib.request; urllib.request.urlopen('https://example.org', timeout=1)",
    address="import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
    packet="import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    child=f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {lookup!r}])",
    telemetry="from huggingface_hub.utils import _telemetry as t; t.send_telemetry('trl/x'); t._TELEMETRY_QUEUE.join()",
    counter="from datasets.load import increase_load_count as count; count('json')")

@pytest.mark.parametrize('plant', plants)
def test_a_planted_attempt_is_seen(plant, log):
    assert attempts(log) == [] and cut_off([sys.executable, '-c', plants[plant]], log) and attempts(log)

def test_this_machine_may_be_called(log):
    code = '''import socket, threading
server = socket.create_server(('127.0.0.1', 0))
socket.create_connection(('localhost', server.getsockname()[1])).close()
a, b = socket.socketpair(); a.send(b'x')'''
    assert cut_off([sys.executable, '-c', code], log).returncode == 0 and attempts(log) == []

def test_an_attempt_of_a_lesson_is_seen(tmp_path, monkeypatch):
    "The fixture `silent` of test_lessons.py asks for the same list."
    from ftcook.cli import run_lesson
    from test_cli import notebook
    notebook(tmp_path/'00_loud.ipynb', f'try: exec({lookup!r})\nexcept OSError: pass')
    for name,value in watched(tmp_path/'attempts').items(): monkeypatch.setenv(name, value)
    monkeypatch.setenv('FTCOOK_NO_NETWORK', '1')
    assert run_lesson(tmp_path/'00_loud.ipynb', tmp_path/'out', progress=False)['error'] is None
    assert [o['host'] for o in attempts(tmp_path/'attempts')] == ['example.org']

# No command, lesson or helper reports, counts or fetches anything

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A tiny model, rows, a recipe, a script and a report."
    from test_recipe import good, row, topics, verbs
    from test_resume import tiny_model
    folder = tmp_path_factory.mktemp('home')
    tiny_model(folder/'tiny')
    rows = [row(topic, verb) for topic in topics for verb in verbs]
    rows = [dict(prompt=r['q'], completion=r['a'], topic=r['topic'], year=r['year']) for r in rows]
    (folder/'rows.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    (folder/'good.yaml').write_text(good.replace('max_steps: 8', 'max_steps: 2'))
    (folder/'train.py').write_text('from trl import SFTTrainer\nSFTTrainer("m", tokenizer=1)\n')
    (folder/'report.json').write_text('{"name": "x", "metrics": {"score": {"value": 0.8}}}')
    return folder

quick = ['check rows.jsonl', 'doctor train.py', 'estimate mistral-7b']
commands = ['check rows.jsonl --fix clean.jsonl', 'doctor', 'doctor rows.jsonl', 'gate report.json score>=0.5',
    'estimate mistral-7b --gpu all', 'estimate smollm2-135m --trace',
    'estimate mistral-7b --method dpo', 'estimate tiny', 'estimate embedded', 'train good.yaml --dry-run',
    'train good.yaml --dry-run --measure 1', 'train good.yaml']
of_the_repository = ['readme --check', 'site --out {folder}/site', 'course --profile cpu --out {folder}/runs 01b']

def slow(values): return [pytest.param(o, marks=pytest.mark.slow) for o in values]

@pytest.mark.parametrize('command', [*quick, *slow(commands)])
def test_a_command_is_silent(command, home, log):
    done = cut_off([sys.executable, '-m', 'ftcook.cli', *command.split()], log, home)
    assert done.returncode in (0, 1) and 'Traceback' not in done.stderr, done.stderr
    assert attempts(log) == []

@pytest.mark.slow
@pytest.mark.parametrize('command', of_the_repository)
def test_a_command_of_the_repository_is_silent(command, tmp_path, log):
    done = cut_off([sys.executable, '-m', 'ftcook.cli', *command.format(folder=tmp_path).split()], log)
    assert done.returncode == 0 and attempts(log) == [], done.stderr

@pytest.mark.slow
def test_each_helper_is_silent_by_itself(tmp_path, log):
    done = cut_off([sys.executable, silent/'helpers.py', tmp_path], log)
    assert done.returncode == 0, done.stderr[-3000:]
    told = dict(re.findall(r'^(.+): (\d+) attempts$', done.stdout, re.M))
    assert len(told) >= 24 and {name: n for name,n in told.items() if n != '0'} == {} and attempts(log) == []

def test_whatever_builds_a_trainer_is_silent_first():
    "Also what is not called in this file."
    loud = []
    for path in sorted((root/'ftcook').rglob('*.py')):
        if path.name.startswith('cases_'): continue  # they raise before there is a trainer
        for f in ast.walk(ast.parse(path.read_text())):
            if not isinstance(f, ast.FunctionDef): continue
            calls = [ast.unparse(n.func) for n in ast.walk(f) if isinstance(n, ast.Call)]
            builds = any(re.search(r'\b\w*[a-z]Trainer$|^cls$|Trainer if ', name) for name in calls)
            if builds and {'no_telemetry', 'quiet'}.isdisjoint(calls) and 'train_dataset' in ast.unparse(f):
                loud.append(f'{path.name}: {f.name}')
    assert loud == []

def test_a_variable_that_is_set_wins():
    code = '''import os
os.environ.update(HF_HUB_DISABLE_TELEMETRY='0', USE_HUB_KERNELS='1')
import datasets, huggingface_hub, sys
from ftcook.runtime import no_telemetry
no_telemetry()
print(huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, 'kernels' in sys.modules)'''
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split() == ['False'] * 3

def test_no_kernel_is_fetched_where_kernels_is_installed(tmp_path):
    "bitsandbytes calls `get_kernel` as it is imported."
    (tmp_path/'kernels.py').write_text('def get_kernel(*args, **kwargs): print("fetched"); raise OSError("no network")\n')
    def fetched(first):
        env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(tmp_path), str(root)]))
        code = f'{first}\nimport bitsandbytes'
        return 'fetched' in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env).stdout
    if not fetched(''): pytest.skip('on this machine bitsandbytes asks for no kernel')
    assert not fetched('from ftcook.runtime import no_telemetry; no_telemetry()')

# A hub id without a network says so within two seconds

asking = '''
import json, sys, time, warnings
from ftcook.runtime import load_tokenizer, model_config, model_path
from ftcook.cost import estimate
from ftcook.evaluation import harness
from ftcook.inference import load_adapter
from ftcook.quantization import load_model
from ftcook.train import dry_run, train
name, recipe = 'somebody/something', ['model.base=somebody/something']
entries = dict(model_path=lambda: model_path(name), model_config=lambda: model_config(name), estimate=lambda: estimate(name),
    load_tokenizer=lambda: load_tokenizer(name), load_model=lambda: load_model(name),
    load_adapter=lambda: load_adapter(name, 'x'),
    harness=lambda: harness(name), dry_run=lambda: dry_run('good.yaml', recipe), train=lambda: train('good.yaml', recipe, 'hub'))
for entry,call in entries.items():
    start, said = time.perf_counter(), ''
    try: call()
    except ValueError as e: said = str(e)
    print(json.dumps([entry, time.perf_counter() - start, said]))
'''

deaf = '''
import os, socket, sys
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 53)) # it hears every question and answers none
server.set_inheritable(True)
os.execvp(sys.argv[1], sys.argv[1:])
'''

def without_answers(tmp_path):
    "Around a command: a resolver that never answers. It needs a mount namespace."
    (tmp_path/'resolv.conf').write_text('nameserver 127.0.0.1\n')
    mount = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
    if subprocess.run(['unshare', '-m', 'sh', '-c', mount, 'sh', 'true'], capture_output=True).returncode or not can_unshare:
        pytest.skip('no mount namespaces here')
    return ['unshare', '-m', 'sh', '-c', mount, 'sh'], [sys.executable, '-c', deaf]

@pytest.mark.parametrize('resolver', [*slow(['none']), 'deaf'])
def test_a_hub_id_without_a_network_says_so_within_two_seconds(resolver, home, log, tmp_path):
    around, inside = without_answers(tmp_path) if resolver == 'deaf' else ([], [])
    done = cut_off([*inside, sys.executable, '-c', asking], log, home, around)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('[')]
    assert len(told) == 9, done.stderr[-2000:]
    assert [o for o in told if 'hub does not answer' not in o[2]] == []
    assert [o for o in told if o[1] > 2] == []
    assert attempts(log), 'it has been asked for, so it is asked'

@pytest.mark.parametrize('command, resolver', [('estimate somebody/something', 'none'), ('train hub.yaml', 'deaf'),
                                               ('train good.yaml --set model.base=somebody/something', 'deaf')])
def test_a_command_says_so_before_the_libraries_load(command, resolver, home, log, tmp_path):
    (home/'hub.yaml').write_text((home/'good.yaml').read_text().replace('base: tiny', 'base: somebody/something'))
    around, inside = without_answers(tmp_path) if resolver == 'deaf' else ([], [])
    def once():
        start, busy = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = cut_off([*inside, sys.executable, '-m', 'ftcook.cli', *command.split()], log, home, around)
        assert done.returncode == 2 and 'the hub does not answer' in done.stderr and done.stderr.count('\n') == 1
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        worked = after.ru_utime + after.ru_stime - busy.ru_utime - busy.ru_stime
        took = time.perf_counter() - start
        return min(took, max(worked, took/3)) # beside other work it takes longer
    assert any(once() < 2 for _ in range(3))

# The code of a model never runs

def calls():
    "Every call in the package, the notebooks and the scripts: where it stands, and its node."
    def of(tree, where): return [(where, n) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    scripts = [p for p in [*root.glob('ftcook/**/*.py'), *root.glob('nbs/measurements/**/*.py')]]
    out = [o for p in scripts for o in of(ast.parse(p.read_text()), p.relative_to(root))]
    return out + [o for p in house.notebooks() for c in house.code_cells(p) for o in of(house.parsed(c), f"{p.name} {c['id']}")]

def test_no_call_may_run_the_code_of_a_model():
    "`from_pretrained` and `from_config` say trust_remote_code=False; an adapter has no code."
    bad = []
    for where,call in calls():
        name, given = ast.unparse(call.func), {k.arg: k.value for k in call.keywords}
        if re.search(r'\.from_(pretrained|config)$', name) and not re.match(r'Peft|AutoHfQuantizer|script\.', name):
            if ast.unparse(given.get('trust_remote_code', call.func)) != 'False': bad.append(f'{where}: {name}')
        elif 'trust_remote_code' in given and ast.unparse(given['trust_remote_code']) != 'False': bad.append(f'{where}: {name}')
    assert bad == []

@pytest.fixture(scope='module')
def with_code(tmp_path_factory):
    "Folders of models that bring code: of their own architecture, and of a known one with another tokenizer."
    from ftcook.runtime import embedded_model
    own, known = tmp_path_factory.mktemp('own'), tmp_path_factory.mktemp('known')
    code = 'open("it has run", "w")\nclass Config: pass\nModel = Tokenizer = Config\n'
    for folder in (own, known): (folder/'code.py').write_text(code)
    mapped = dict(AutoConfig='code.Config', AutoModelForCausalLM='code.Model')
    (own/'config.json').write_text(json.dumps(dict(model_type='own', auto_map=mapped)))
    for name in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):
        if (embedded_model()/name).exists(): (own/name).write_bytes((embedded_model()/name).read_bytes())
    config = json.loads((embedded_model()/'config.json').read_text())
    (known/'config.json').write_text(json.dumps(config | dict(auto_map=mapped)))
    own_tokenizer = dict(tokenizer_class='Own', auto_map=dict(AutoTokenizer=['code.Tokenizer', None]))
    (known/'tokenizer_config.json').write_text(json.dumps(own_tokenizer))
    return dict(own=own, known=known)

def at_a_terminal(command, cwd):
    "Exit code and output of a command that has a terminal to ask on, where somebody types y."
    parent, child = pty.openpty()
    process = subprocess.Popen(command, cwd=cwd, stdin=child, stdout=child, stderr=child, close_fds=True,
                               env=os.environ | dict(PYTHONPATH=str(root)))
    os.close(child)
    os.write(parent, b'y\n'*3)
    said = b''
    try:
        while part := os.read(parent, 4096): said += part
    except OSError: pass  # the terminal is closed
    os.close(parent)
    return process.wait(), said.decode()

refusals = {'estimate': ['-m', 'ftcook.cli', 'estimate', '{own}'],
    'train --dry-run': ['-m', 'ftcook.cli', 'train', 'good.yaml', '--dry-run', '--set', 'model.base={own}'],
    'load_model': ['-c', 'from ftcook.quantization import load_model; load_model({own!r})'],
    'load_tokenizer': ['-c', 'from ftcook.runtime import load_tokenizer; load_tokenizer({known!r})']}

@pytest.mark.parametrize('entry', refusals)
def test_a_model_that_brings_code_is_refused_without_a_question(entry, with_code, home):
    folders = {k: str(v) for k,v in with_code.items()}
    code, said = at_a_terminal([sys.executable, *(o.format(**folders) for o in refusals[entry])], home)
    assert code != 0 and 'never runs the code of a model' in said and 'y/N' not in said
    assert not (home/'it has run').exists() and ('Traceback' not in said or '-c' in refusals[entry])

def test_an_architecture_that_transformers_has_needs_no_code_of_the_model(with_code):
    from ftcook.runtime import model_config
    assert type(model_config(with_code['known'])).__module__.startswith('transformers.')

def test_the_doctor_reads_such_a_folder_and_runs_nothing(with_code, home):
    code, said = at_a_terminal([sys.executable, '-m', 'ftcook.cli', 'doctor', str(with_code['own'])], home)
    assert 'y/N' not in said and 'Traceback' not in said and not (home/'it has run').exists()

def test_the_readme_says_it():
    text = ' '.join((root/'README.md').read_text().split())
    for sentence in ('Nothing leaves your machine unless you ask for it.', 'code that comes with a model never runs',
                     'A hub id without a network is answered within two seconds'): assert sentence in text
