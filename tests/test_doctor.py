"""The doctor names what is wrong, raises no alarm on what is sound, and survives whatever it is given."""
import csv, json, math, os, pickle, socket, subprocess, sys, time
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from conftest import root
from ftcook.cli import main
from ftcook.doctor import *
from ftcook.doctor import _called, illnesses, messages

python = [sys.executable, '-c']

@pytest.fixture(scope='module')
def cases():
    sys.path.insert(0, str(root/'nbs'/'measurements'))
    import doctor_cases
    sys.path.pop(0)
    return doctor_cases

@pytest.fixture(scope='module')
def results(cases): return [cases.examine_case(c, seed=11) for c in cases.cases]  # another seed than the one of the table

def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

# The two figures of the lesson

def test_planted_causes_are_named_first(results):
    sick = [r for r in results if r['planted'] != 'healthy']
    wrong = [(r['kind'], r['case'], r['planted'], r['first']) for r in sick if not r['right']]
    assert len(sick) >= 40 and len(wrong) <= .05*len(sick), wrong

def test_no_alarm_on_healthy_ones(results):
    healthy = [r for r in results if r['planted'] == 'healthy']
    assert len(healthy) >= 15 and not [(r['kind'], r['case'], r['first'], r['evidence']) for r in healthy if not r['right']]

def test_table_lists_every_case(cases):
    rows = list(csv.DictReader((root/'nbs'/'measurements'/'doctor_cases.csv').open()))
    assert [(r['kind'], r['case'], r['planted']) for r in rows] == [(c.kind, c.name, c.planted or 'healthy') for c in cases.cases]

def test_no_check_fails(results): assert not [r for r in results if r['first'] == 'check_failed']

def test_every_illness_is_planted(cases):
    beyond = {'check_failed', 'not_a_run', 'pickled', 'oom_evaluation', 'broken_import', 'quantized_base'}  # tested below
    assert set(illnesses) - {c.planted for c in cases.cases} <= beyond

def test_live_findings_name_the_row(results):
    places = {r['case']: r['where'] for r in results if r['kind'] == 'live'}
    assert places['one row of nonsense'] == 'step 8, row 60' and places['a division by zero labels'] == 'step 10, row 9' and places['a word without an embedding'] == 'step 6, row 40'

# Watching a run

def losses(trainer): return [e['loss'] for e in trainer.state.log_history if 'loss' in e]

def test_watching_changes_nothing(cases, tmp_path):
    import random
    plain, seen = (cases.toy_trainer(random.Random(0), tmp_path, steps=14, callbacks=c) for c in ([], [Doctor(show=None)]))
    plain.train(), seen.train()
    assert losses(plain) == losses(seen)

def test_stops_with_good_weights(cases, tmp_path):
    import random, torch
    rng = random.Random(0)
    rows = cases.Dataset.from_list([r for r in cases.toy_rows(240, rng) if 16 not in r['input_ids']][:80])
    doctor = Doctor(show=None)
    trainer = cases.toy_trainer(rng, tmp_path, cases.with_row(rows, 40, **cases.outlier(rng)), cases.broken_word(cases.toy_model()), cls=cases.Own, callbacks=[doctor])
    trainer.train()
    assert doctor.findings.first == 'nan_loss' and trainer.state.global_step == 6 and (tmp_path/'checkpoint-6'/'adapter_model.safetensors').exists()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters() if p.requires_grad)

def test_without_stopping(cases, tmp_path):
    import random
    doctor = Doctor(stop=False, show=None)
    trainer = cases.toy_trainer(random.Random(0), tmp_path, lr=1e-1, steps=12, callbacks=[doctor])
    trainer.train()
    assert doctor.findings.first == 'lr_too_high' and trainer.state.global_step == 12 and not doctor.handles

def test_answers_to_every_event():
    from transformers import TrainerCallback
    events = [name for name in vars(TrainerCallback) if name.startswith('on_')]
    assert len(events) > 10 and all(callable(getattr(Doctor(), name)) for name in events)
    with pytest.raises(AttributeError): Doctor().something_else

# Out of memory

def no_memory(**kwargs): raise MemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')

def test_ladder_stops_at_the_first_cure_that_suffices():
    def train(gradient_checkpointing=False, **kwargs): return kwargs if gradient_checkpointing else no_memory()
    result, attempts = train_within(train, dict(per_device_train_batch_size=8, max_length=512))
    assert [a['cure'] for a in attempts] == ['none', 'batch 1, accumulated', 'half the length', 'checkpointing'] and result == dict(per_device_train_batch_size=1, gradient_accumulation_steps=8, max_length=256)

def test_ladder_ends():
    with pytest.raises(MemoryError, match='none of batch 1'): train_within(no_memory, {})

def test_other_errors_pass_through():
    def train(**kwargs): raise RuntimeError('something else')
    with pytest.raises(RuntimeError, match='something else'): train_within(train, {})

def test_memory_of_a_failed_attempt_is_free():
    import weakref
    class Big: pass
    held = []
    def train(gradient_checkpointing=False, **kwargs):
        big = Big()
        held.append(weakref.ref(big))
        return 1 if gradient_checkpointing else no_memory()
    train_within(train, {}, on_attempt=lambda a: a['outcome'] == 'completed' or [r() for r in held] == [None]*len(held) or pytest.fail('the exception still holds the memory'))

def test_evaluation_is_told_from_training():
    def evaluation_loop(): no_memory()
    try: evaluation_loop()
    except MemoryError as e: found = diagnose(e)
    assert found.first == 'oom_evaluation' and found[0].where['file'] == 'test_doctor.py'

def test_cycle_of_exceptions():
    a, b = ValueError('a'), ValueError('does not have a padding token')
    a.__cause__, b.__cause__ = b, a
    assert diagnose(a).first == 'pad_missing'

def test_import_error():
    try: import no_such_library
    except ImportError as e: assert diagnose(e).first == 'broken_import'

def test_message_of_transformers(): assert diagnose(ValueError('You cannot perform fine-tuning on purely quantized models.')).first == 'quantized_base'

# Signatures

def test_new_names_are_those_of_the_installed_classes():
    from ftcook.doctor import renamed
    known = set().union(*(parameters(c) or () for c in _called)) | {'quantization_config'}
    assert {new for new,*_ in renamed.values()} <= known

def test_positional_and_star_arguments(tmp_path):
    path = write(tmp_path/'a.py', 'from trl import SFTTrainer as T\nimport trl\nT(m, tokenizer=t)\ntrl.SFTTrainer(m, **unknown)\nSFTTrainer(*a, **{"tokenizer": t, **b})\n')
    assert [f.where['line'] for f in diagnose(path)] == [3, 5]

def test_notebook(tmp_path):
    cells = [dict(cell_type='markdown', source='# x ='), dict(cell_type='code', source=['%pip install trl\n', 'SFTTrainer(tokenizer=1)'])]
    assert diagnose(write(tmp_path/'a.ipynb', json.dumps(dict(cells=cells)))).first == 'unknown_argument'

# Nothing is executed, unpickled or fetched

class Bomb:
    def __reduce__(self): return open, (os.environ['FTCOOK_BOMB'], 'w')

def test_nothing_is_executed(tmp_path, monkeypatch):
    fuse = tmp_path/'exploded'
    monkeypatch.setenv('FTCOOK_BOMB', str(fuse))
    monkeypatch.setattr(socket, 'socket', lambda *a, **k: pytest.fail('network'))
    write(tmp_path/'run'/'adapter_model.bin', pickle.dumps(Bomb()))
    write(tmp_path/'run'/'training_args.bin', pickle.dumps(Bomb()))
    write(tmp_path/'run'/'optimizer.pt', pickle.dumps(Bomb()))
    script = write(tmp_path/'train.py', f'open({str(fuse)!r}, "w")\n')
    assert diagnose(tmp_path/'run').first == 'pickled' and diagnose(script) == []
    diagnose()
    assert not fuse.exists()

# Strange files

deep = '['*200_000
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda o: st.lists(o, max_size=4) | st.dictionaries(st.sampled_from(['log_history', 'step', 'loss', 'grad_norm', 'learning_rate', 'eval_loss', 'rewards/margins', 'logps/chosen', 'messages', 'prompt', 'chosen', 'role', 'content', 'model', 'vocab', 'added_tokens', 'id', 'r', 'cells', 'source', 'cell_type', 'chat_template', 'eos_token']), o, max_size=5), max_leaves=25)
entries = st.lists(st.dictionaries(st.sampled_from(['step', 'loss', 'grad_norm', 'learning_rate', 'eval_loss', 'rewards/chosen', 'rewards/margins', 'logps/chosen']), st.integers(-5, 60) | st.floats() | st.none() | st.text(max_size=3), max_size=6), max_size=40)
names = st.sampled_from(['trainer_state.json', 'adapter_config.json', 'config.json', 'tokenizer.json', 'tokenizer_config.json', 'adapter_model.safetensors', 'optimizer.pt', 'chat_template.jinja'])
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

def sound(found): assert 'check_failed' not in found.codes, str(found)

@quick
@given(names, st.binary(max_size=200) | json_values.map(lambda o: json.dumps(o).encode()))
def test_any_run_folder(tmp_path, name, content):
    for p in tmp_path.iterdir(): p.unlink()
    write(tmp_path/name, content)
    sound(diagnose(tmp_path))

@quick
@given(entries)
def test_any_history(history): sound(examine('losses', history))

@quick
@given(st.sampled_from(['.py', '.ipynb', '.jsonl', '.log']), st.binary(max_size=300) | st.text(max_size=200).map(str.encode) | json_values.map(lambda o: json.dumps(o).encode()))
def test_any_file(tmp_path, suffix, content): sound(diagnose(write(tmp_path/f'file{suffix}', content)))

@quick
@given(st.lists(json_values, max_size=5))
def test_any_rows(tmp_path, rows): sound(diagnose(write(tmp_path/'rows.jsonl', '\n'.join(json.dumps(r) for r in rows))))

@quick
@given(st.lists(st.text(max_size=80), max_size=5))
def test_any_answers(texts): sound(diagnose_answers(texts))

@pytest.mark.parametrize('name,content', [('a.py', deep), ('a.py', 'x = ' + '-'*100_000 + '1'), ('a.py', 'x\0y'), ('a.py', b'\xff\xfe\x00'), ('a.py', '('*5000), ('a.ipynb', deep), ('a.ipynb', '[]'), ('a.jsonl', deep), ('a.jsonl', '{"a":'*50_000), ('a.jsonl', '\0'*1000), ('a.log', deep), ('a.jsonl', '')], ids=lambda o: str(o[:12]))
def test_hostile_files(tmp_path, name, content):
    start = time.perf_counter()
    sound(diagnose(write(tmp_path/name[:8], content)))
    assert time.perf_counter() - start < 10

@pytest.mark.parametrize('name', ['trainer_state.json', 'adapter_config.json', 'tokenizer.json'])
@pytest.mark.parametrize('content', [deep, '{"log_history": ' + deep, '\0', '{', 'NaN', '[1]', '{"log_history": [{"step": 1e400}, 7, {"step": 1, "loss": "NaN"}]}', b'\xff\xff'], ids=lambda o: str(o[:12]))
def test_hostile_run_files(tmp_path, name, content):
    write(tmp_path/name, content)
    sound(diagnose(tmp_path))

def test_huge_files(tmp_path):
    for name in ('a.py', 'a.jsonl', 'a.log', 'run/trainer_state.json', 'run/adapter_model.safetensors'):
        with write(tmp_path/name, '').open('wb') as f: f.truncate(2**33)  # sparse: takes no space
    start = time.perf_counter()
    for name in ('a.py', 'a.log', 'run'): sound(diagnose(tmp_path/name))
    assert time.perf_counter() - start < 5
    with (tmp_path/'a.jsonl').open('r+b') as f: f.truncate(2**26)
    sound(diagnose(tmp_path/'a.jsonl'))

@pytest.mark.skipif(sys.platform == 'win32', reason='needs symbolic links and pipes')
def test_loops_and_pipes(tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    (run/'checkpoint-1').symlink_to(run)
    (run/'trainer_state.json').symlink_to(run/'trainer_state.json')
    os.mkfifo(run/'adapter_config.json')
    os.mkfifo(run/'adapter_model.safetensors')
    os.mkfifo(tmp_path/'pipe.jsonl')
    sound(diagnose(run))
    with pytest.raises(ValueError, match='neither a file nor a folder'): diagnose(tmp_path/'pipe.jsonl')

def test_empty_folder(tmp_path): assert diagnose(tmp_path).first == 'not_a_run'

# The command

def test_command(tmp_path, capsys):
    script = write(tmp_path/'train.py', 'SFTTrainer(tokenizer=1)\n')
    assert main(['doctor', str(script), '--json']) == 1
    found = json.loads(capsys.readouterr().out)['findings'][0]
    assert found['code'] == 'unknown_argument' and found['where'] == dict(file='train.py', line=1) and 'processing_class' in found['cure']
    assert main(['doctor', str(write(tmp_path/'fine.py', 'x = 1\n'))]) == 0
    assert main(['doctor', str(tmp_path/'none.py')]) == 2 and main(['doctor', str(write(tmp_path/'a.xyz', ''))]) == 2

def test_light_and_fast(cases, tmp_path):
    import random
    cases.finished(cases.toy_trainer(random.Random(0), tmp_path, steps=12), tmp_path)
    code = f"import sys, time; start = time.perf_counter(); from ftcook.doctor import diagnose; found = diagnose({str(tmp_path)!r}); print(len(found), 'torch' in sys.modules, time.perf_counter() - start)"
    n, torch, seconds = subprocess.run([*python, code], capture_output=True, text=True, check=True).stdout.split()
    assert n == '0' and torch == 'False' and float(seconds) < 2

def test_findings_need_a_known_certainty():
    with pytest.raises(ValueError, match='use one of certain, likely, possible'): Finding('frozen', 'perhaps', '')

def test_diagnosis_is_ordered_and_without_repeats():
    a, b = Finding('frozen', 'likely', 'x'), Finding('spike', 'certain', 'y', dict(step=1))
    assert Diagnosis([a, b, a]).codes == ['spike', 'frozen'] and Diagnosis([a, b]).to_dict()['findings'][0]['where'] == dict(step=1)
    assert Diagnosis().exit_code == 0 and '<' not in Diagnosis([Finding('frozen', 'likely', '<script>')])._repr_html_().partition('frozen')[0].replace('<p>', '').replace('</p>', '')[:0]
