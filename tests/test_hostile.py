"""Bounded time and memory, whatever a file holds: 10 CPU seconds and 500 MB for every command, which says where it stopped."""
import json, os, random, re, resource, subprocess, sys, time, tomllib
import pytest
from conftest import root

SECONDS, MEGABYTES = 10, 500

# Between the test and the command: the peak memory of a child counts from the process that starts it, and this one is small.
launcher = """
import resource, subprocess, sys
with open(sys.argv[1], 'w') as said: code = subprocess.call(sys.argv[2:], stdout=said, stderr=subprocess.STDOUT)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, used.ru_maxrss/1024)
"""

def ran(*args, cwd=None):
    "Exit code, CPU seconds, peak memory in MB, and what was printed, of one `ftcook` command."
    def limit(): resource.setrlimit(resource.RLIMIT_CPU, (3*SECONDS, 3*SECONDS))  # a hopeless one is not waited for
    env = os.environ | dict(PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    said = os.path.join(cwd or '.', '.said')
    command = [sys.executable, '-m', 'ftcook.cli', *map(str, args)]
    done = subprocess.run([sys.executable, '-S', '-c', launcher, said, *command], capture_output=True, text=True, cwd=cwd,
                          preexec_fn=limit, env=env, check=True)
    code, seconds, megabytes = map(float, done.stdout.split())
    with open(said, errors='replace') as f: return int(code), seconds, megabytes, f.read(2*10**6)

def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

def talk(question, answer): return dict(messages=[dict(role='user', content=question), dict(role='assistant', content=answer)])
def notebook(source): return json.dumps(dict(cells=[dict(cell_type='code', source=source)]))

# Each makes one file or folder and gives its name; `cut`: is there more in it than is looked at?

made = {}
def hostile(cut=False, command='doctor'):
    def keep(make):
        made[make.__name__.strip('_')] = make, cut, command
        return make
    return keep

@hostile()
def notebook_of_blank_lines(folder): write(folder/'a.ipynb', notebook('\n'*250_000 + 'x = 1'))

@hostile()
def notebook_of_blanks(folder): write(folder/'a.ipynb', notebook('\n'.join([' ']*60_000 + [' '*100_000, 'x = 1'])))

@hostile(cut=True)
def notebook_that_is_a_bomb(folder): write(folder/'a.ipynb', '{"cells": [' + '[],'*2**24 + '0]}')

@hostile(cut=True)
def script_of_unknown_arguments(folder): write(folder/'a.py', 'SFTConfig(' + ','.join(f'a{i}=1' for i in range(20_000)) + ')')

@hostile(cut=True)
def script_of_calls(folder): write(folder/'a.py', 'SFTConfig(bad=1)\n'*15_000)

@hostile(cut=True)
def script_that_unpacks_one_dict_often(folder):
    write(folder/'a.py', 'd = {' + ','.join(f'"a{i}":1' for i in range(10_000)) + '}\n' + 'SFTConfig(**d)\n'*9000)

@hostile(cut=True)
def script_that_assigns_one_name_often(folder):
    write(folder/'a.py', 'm=1\n'*32_000 + 'aTrainer(m,peft_config=1,train_dataset=m,eval_dataset=m)\n'*2300)

@hostile(cut=True)
def script_that_is_long(folder): write(folder/'a.py', 'x,'*2**20)

@hostile()
def script_of_names(folder): write(folder/'a.py', 'x;'*2**17)

@hostile(cut=True)
def rows_that_are_tiny(folder): write(folder/'a.jsonl', (json.dumps(talk('a', 'b')) + '\n')*3_000_000)

@hostile(cut=True)
def rows_that_are_many_turns(folder):
    row = json.dumps(dict(messages=[dict(role=role, content='a') for role in ('user', 'assistant')]*8000)) + '\n'
    write(folder/'a.jsonl', row*300)

@hostile(cut=True)
def rows_that_all_differ(folder):
    rng = random.Random(0)
    def row(i): return json.dumps(talk(f'What is {i}? ' + 'word '*60, ' '.join(f'{rng.random():.9f}' for _ in range(60))))
    write(folder/'a.jsonl', '\n'.join(row(i) for i in range(60_000)))

@hostile(cut=True)
def rows_like_secrets(folder):
    texts = ['a.'*9000, 'key='*4500, 'a@'*9000, 'a-a.'*4500 + '@', '1 '*9000, 'AB12 '*3600,
             'eyJ'*6000, 'https://a:'*1800, 'sk-'*6000,
             '-----BEGIN '*1600, 'password'*2000, "'"*18_000, 'x'*18_000, '4929 '*3600]
    write(folder/'a.jsonl', '\n'.join(json.dumps(talk(text, text)) for text in texts*100))

@hostile()
def log_of_short_lines(folder): write(folder/'a.log', 'x\n'*2**19)

@hostile()
def log_of_empty_lines(folder): write(folder/'a.log', '\n'*2**20)

@hostile()
def log_of_many_lines(folder): write(folder/'a.log', '\n'.join(f'{i:x}' for i in range(180_000)))

@hostile()
def log_of_half_messages(folder):
    "Lines of what the patterns begin with, again and again, so that each is tried at every place."
    rng, lines = random.Random(0), []
    for message in tomllib.loads((root/'ftcook'/'assets'/'messages.toml').read_text())['message']:
        parts = re.findall(r"[A-Za-z][A-Za-z0-9_ ,.'=:-]{2,}", ' | '.join(message['patterns'])) or ['x']
        for _ in range(8): lines.append((''.join(rng.choices(parts, k=3))*2000)[:3900])
    write(folder/'a.log', '\n'.join(lines))

@hostile(cut=True)
def log_that_is_long(folder): write(folder/'a.log', '\n'.join(f'{i} RuntimeError: {i}' for i in range(200_000)))

@hostile(cut=True)
def run_of_bombs(folder):
    for place in ('', 'checkpoint-1/', 'checkpoint-2/'):
        for name in ('trainer_state', 'adapter_config', 'config', 'tokenizer_config', 'tokenizer'):
            path = folder/'run'/f'{place}{name}.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open('w') as f:
                f.write('[')
                for _ in range(2**6): f.write('[],'*2**18)
                f.write('0]')

@hostile(cut=True)
def run_of_many_entries(folder):
    entries = ','.join(f'{{"step":{i},"loss":{1 + i % 7},"learning_rate":1e-4}}' for i in range(400_000))
    write(folder/'run'/'trainer_state.json', f'{{"log_history":[{entries}]}}')

@hostile()
def run_of_numbers_that_are_too_large(folder):
    big = '9'*400
    entries = ','.join(f'{{"step":{i},"loss":{big},"grad_norm":-{big},"learning_rate":{big}}}' for i in range(30))
    write(folder/'run'/'trainer_state.json', f'{{"log_history":[{entries}]}}')
    write(folder/'run'/'adapter_config.json', f'{{"r":{big}}}')
    write(folder/'run'/'config.json', f'{{"vocab_size":{big}}}')

def safetensors(path, header, n=0):
    "A file of tensors; its numbers are a hole and take no space on disk."
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    write(path, len(text).to_bytes(8, 'little') + text)
    with path.open('r+b') as f: f.truncate(8 + len(text) + n)

@hostile(cut=True)
def tensors_without_end(folder):
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    safetensors(folder/'run'/'adapter_model.safetensors', ('{' + ','.join(map(entry.format, range(1_000_000))) + '}').encode())

@hostile(cut=True)
def tensors_that_are_large(folder):
    n = 2**31
    header = {'embed_tokens.weight': dict(dtype='F32', shape=[n//4], data_offsets=[0, n])}
    safetensors(folder/'run'/'adapter_model.safetensors', header, n)

@hostile()
def tensors_without_a_shape(folder):
    header = {'model.embed_tokens.weight': dict(dtype='F32', shape=[], data_offsets=[0, 4])}
    safetensors(folder/'run'/'adapter_model.safetensors', header, 4)
    write(folder/'run'/'tokenizer.json', '{"model": {"vocab": {"a": 9}}}')

# Reports and recipes

@hostile(command='gate', cut=True)
def report_that_is_a_bomb(folder): write(folder/'report.json', '{"name": "a", "metrics": [' + '[],'*2**24 + '0]}')

@hostile(command='gate')
def report_of_many_metrics(folder):
    metrics = {f'metric {i}': dict(value=1) for i in range(200_000)}
    write(folder/'report.json', json.dumps(dict(name='a', metrics=metrics)))

@hostile(command='gate')
def report_that_is_deep(folder): write(folder/'report.json', '{"name": "a", "metrics": ' + '{"a":'*100_000)

@hostile(command='gate')
def report_of_a_long_number(folder): write(folder/'report.json', '{"name": "a", "metrics": {"a": {"value": ' + '9'*400 + '}}}')

@hostile(command='train', cut=True)
def recipe_of_aliases(folder):
    bomb = 'a0: &a0 [x,x,x,x,x,x,x,x,x]\n' + ''.join(f'a{i}: &a{i} [{",".join([f"*a{i-1}"]*9)}]\n' for i in range(1, 12))
    write(folder/'a.yaml', bomb)

@hostile(command='train', cut=True)
def recipe_that_is_long(folder): write(folder/'a.yaml', 'data: [' + 'a, '*10**6 + ']')

@hostile(command='train', cut=True)
def recipe_of_keys(folder): write(folder/'a.yaml', ''.join(f'k{i}: 1\n' for i in range(7000)))

@hostile(command='train')
def recipe_that_is_deep(folder): write(folder/'a.yaml', 'data: ' + '['*30_000)

@hostile(command='train', cut=True)
def recipe_of_a_long_number(folder): write(folder/'a.yaml', f"trainer: {{max_steps: {'9'*5000}}}")

@hostile(command='train', cut=True)
def recipe_of_one_line(folder): write(folder/'a.yaml', 'name: ' + 'a b'*20_000)

@hostile(command='train')
def recipe_that_is_none(folder): write(folder/'a.yaml', os.urandom(50_000))

# A model's folder, a table of prices

@hostile(command='estimate', cut=True)
def config_that_is_a_bomb(folder): write(folder/'model'/'config.json', '{"model_type": [' + '[],'*2**24 + '0]}')

@hostile(command='prices', cut=True)
def prices_that_are_long(folder): write(folder/'prices.csv', 'gpu,provider\n' + 'L40S,x\n'*10**7)

# The data of a check

@hostile(command='check')
def lines_that_are_blank(folder): write(folder/'a.jsonl', '\n'*2_000_000)

@hostile(command='check')
def lines_that_are_deep(folder): write(folder/'a.jsonl', ('['*100_000 + '\n')*100)

@hostile(command='check')
def one_line(folder): write(folder/'a.jsonl', b'x'*10**8)

def arguments(folder, command):
    "What a user would type."
    it = next(p.name for p in sorted(folder.iterdir()) if not p.name.startswith('.'))
    return dict(doctor=['doctor', it], gate=['gate', it, 'b>=1'], train=['train', it, '--dry-run'], check=['check', it],
                estimate=['estimate', it], prices=['estimate', 'mistral-7b', '--prices', it])[command]

@pytest.mark.skipif(sys.platform == 'win32', reason='needs resource')
@pytest.mark.parametrize('name', made)
def test_time_and_memory(name, tmp_path):
    make, cut, command = made[name]
    make(tmp_path)
    code, seconds, megabytes, said = ran(*arguments(tmp_path, command), cwd=tmp_path)
    assert seconds <= SECONDS and megabytes <= MEGABYTES, f'{seconds:.1f} s, {megabytes:.0f} MB'
    assert code in (0, 1, 2) and 'Traceback' not in said and 'a check of the doctor failed' not in said, said[-500:]
    assert len(said) < 100_000
    if cut: assert 'cut off here' in said and code != 0, said[-500:]

# Without limits, and without weight

@pytest.mark.parametrize('args', [['--help'], ['--version'], ['check', 'a.jsonl'], ['gate', 'report.json', 'a>=1'],
    ['doctor', 'a.log'], ['doctor', 'a.jsonl'], ['doctor', 'a.py'], ['doctor', 'run']], ids=' '.join)
def test_what_needs_no_model_does_not_import_torch(args, tmp_path):
    write(tmp_path/'report.json', '{"name": "m", "metrics": {"a": 2}}')
    write(tmp_path/'a.log', 'CUDA out of memory\n')
    write(tmp_path/'a.jsonl', json.dumps(talk('Hi', 'Hello')))
    write(tmp_path/'a.py', 'SFTConfig(bad=1)')
    header = {'a.lora_B.weight': dict(dtype='F32', shape=[2], data_offsets=[0, 8])}
    safetensors(tmp_path/'run'/'adapter_model.safetensors', header, 8)
    code = """import sys
from ftcook.cli import main
try: main(sys.argv[1:])
except SystemExit: pass
sys.exit(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets'} & set(sys.modules)).__repr__())"""
    env = os.environ | dict(PYTHONPATH=str(root))
    done = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stderr.strip() == '[]' and done.stdout, done.stderr

def test_the_rest_can_be_looked_at(tmp_path):
    "What is cut off here is not cut off with --whole."
    write(tmp_path/'a.log', 'CUDA out of memory\n' + 'x\n'*2**19)
    write(tmp_path/'a.py', 'x = 1\n'*50_000 + 'SFTConfig(bad=1)\n')
    for name,code in (('a.log', 'out of memory while training'), ('a.py', 'does not take bad')):
        short, whole = ran('doctor', name, cwd=tmp_path)[3], ran('doctor', name, '--whole', cwd=tmp_path)[3]
        assert 'cut off here' in short and 'cut off here' not in whole and code in whole and code not in short

def test_no_text_is_skipped(tmp_path):
    "A secret at the end of a long text is found, and one on the seam of two pieces is counted once."
    from ftcook.doctor import diagnose_data
    from ftcook.limits import limits
    key = 'hf_' + 'a'*34
    for before in (0, limits().text - 20, limits().text, limits().text + 990, 90_000):
        found = next(f for f in diagnose_data([talk('Hi', 'x '*(before//2) + key + ' x'*3000)]) if f.code == 'secrets')
        assert found.evidence == '1 × huggingface', before

def test_answers_of_blank_lines():
    from ftcook.doctor import diagnose_answers
    for text in ('\n'*100_000, ' \n'*50_000, '\nuser'*20_000, '<|im_start|>'*8000, '\n' + ' '*100_000):
        start = time.process_time()
        assert 'check_failed' not in diagnose_answers([text]*3).codes
        assert time.process_time() - start < 3, repr(text[:10])
