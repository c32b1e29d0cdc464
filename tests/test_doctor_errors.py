"""Exceptions, logs and machines: what they say is recognised, whatever else they hold."""
import os, re, weakref
from dataclasses import replace
from pathlib import Path
import pytest
from ftcook.doctor import (Facts, Message, diagnose, diagnose_environment, diagnose_exception, diagnose_log,
    confidences, environment_facts, half_the_length, holds_metrics, is_oom, known_messages, log_history, oom_fixes, rules,
    train_within)

# Messages

def named(text): return next((m for m in known_messages() if m.pattern.search(text)), None)

@pytest.mark.parametrize('m', known_messages(), ids=lambda m: m.example[:40])
def test_a_message_points_to_its_rule(m, tmp_path):
    "As the library says it: in the table, as an exception and in a log, behind what a launcher puts before it."
    assert named(m.example) is m
    kind, _, said = m.example.partition(': ')
    module, _, name = kind.rpartition('.')
    error = type(name, (Exception,), dict(__module__=module or 'builtins'))(said) if name.isidentifier() else Exception(m.example)
    if m.library != 'pip': assert diagnose_exception(error).first == m.code
    for before in ('', '[rank1]: ', '2026-01-05 12:00:00,123 - ERROR - ', 'trainer-0  | '):
        (tmp_path/'a.log').write_text(f'loading\n{before}{m.example}\n')
        assert diagnose_log(tmp_path/'a.log').codes[0] == m.code, before

def test_entries_are_whole():
    assert {m.code for m in known_messages()} <= set(rules)
    for m in known_messages(): assert m.library and re.fullmatch(r'[\d.]*', m.version) and m.confidence in confidences

def test_a_message_of_ones_own():
    held = Message('stopped', re.compile(r'budget of project \w+ is spent'), 'likely', 'a cluster', '3')
    error = RuntimeError('budget of project 7 is spent')
    assert diagnose_exception(error).codes == ['unknown_error']
    found = diagnose_exception(error, messages=(*known_messages(), held))
    assert [(f.code, f.confidence) for f in found] == [('stopped', 'likely')]

def test_ordinary_errors_are_quoted_as_unknown():
    ordinary = KeyError('x'), ValueError('invalid literal for int()'), RuntimeError('something else'), ZeroDivisionError('by 0')
    for e in ordinary:
        found = diagnose(e)
        assert found.codes == ['unknown_error'] and found.exit_code == 1 and str(e) in found[0].evidence, e

# Exceptions

def no_memory(**kwargs): raise MemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')

def test_evaluation_is_told_from_training():
    def evaluation_loop(): no_memory()
    try: evaluation_loop()
    except MemoryError as e: found = diagnose(e)
    assert found.first == 'oom_evaluation' and found[0].where['file'] == Path(__file__).name

def test_the_exception_behind_is_heard():
    try:
        try: no_memory()
        except MemoryError as e: raise RuntimeError('the training failed') from e
    except RuntimeError as e: assert diagnose(e).first == 'oom_training' and is_oom(e)

def test_cycle_of_exceptions():
    a, b = ValueError('a'), ValueError('does not have a padding token')
    a.__cause__, b.__cause__ = b, a
    assert diagnose(a).first == 'pad_missing'

def test_import_error():
    try: import no_such_library # noqa: F401
    except ImportError as e: assert diagnose(e).first == 'broken_import'

# The ladder

def test_ladder_stops_at_the_first_fix_that_suffices():
    def train(gradient_checkpointing=False, **kwargs): return kwargs if gradient_checkpointing else no_memory()
    result, attempts = train_within(train, dict(per_device_train_batch_size=8, max_length=512))
    assert [a['fix'] for a in attempts] == ['none', 'fused loss', 'bfloat16', 'checkpointing']
    assert result == dict(per_device_train_batch_size=8, max_length=512, fused=True, bf16=True)

def test_ladder_ends_and_never_shortens_rows_unasked():
    lengths = []
    def train(**settings): lengths.append(settings['max_length']), no_memory()
    with pytest.raises(MemoryError, match='none of fused loss.*lose data'): train_within(train, dict(max_length=512))
    assert set(lengths) == {512}
    with pytest.raises(MemoryError): train_within(train, dict(max_length=512), [*oom_fixes, half_the_length])
    assert lengths[-1] == 256

def test_a_rung_that_changes_nothing_is_skipped():
    _, attempts = train_within(lambda **s: s if s.get('gradient_checkpointing') else no_memory(), dict(fp16=True, fused=True))
    assert [a['fix'] for a in attempts] == ['none', 'checkpointing']

def test_other_errors_pass_through():
    def train(**kwargs): raise RuntimeError('something else')
    with pytest.raises(RuntimeError, match='something else'): train_within(train, {})

def test_memory_of_a_failed_attempt_is_free():
    class Big: pass
    held, left = [], []
    def train(gradient_checkpointing=False, **kwargs):
        big = Big()
        held.append(weakref.ref(big))
        return 1 if gradient_checkpointing else no_memory()
    train_within(train, {}, on_attempt=lambda a: left.append((a['outcome'], sum(r() is not None for r in held))))
    assert left == [('out of memory', 0)]*3 + [('completed', 0)]

def test_every_rung_changes_something():
    settings = dict(per_device_train_batch_size=8, max_length=512)
    for fix in oom_fixes: assert settings | fix.change(settings) != settings and fix.price, fix.name

# Logs

def test_the_phase_is_read_from_the_traceback_of_a_log(tmp_path):
    trace = 'Traceback (most recent call last):\n  File "/x/trainer.py", line 1, in evaluation_loop\n    x()\n'
    ending = 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n'*3
    (tmp_path/'a.log').write_text('{"loss": 1}\n'*5 + trace + ending)
    found = diagnose_log(tmp_path/'a.log')
    assert found.codes == ['oom_evaluation'] and found[0].where == dict(file='a.log', line=9)

def test_only_the_end_of_a_long_log_is_read(tmp_path):
    (tmp_path/'a.log').write_text('No space left on device\n' + 'x\n'*1000)
    assert diagnose_log(tmp_path/'a.log', last=500).codes == ['cut_off'] and diagnose_log(tmp_path/'a.log').codes == ['disk_full']

def logged(tmp_path, text, encoding='utf-8'):
    (tmp_path/'a.log').write_bytes(text.encode(encoding))
    return diagnose_log(tmp_path/'a.log')

progress = "{'loss': 1.5, 'grad_norm': 0.5, 'learning_rate': 1e-4, 'epoch': 0.5}\n"
trace = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n    train()\n'

@pytest.mark.parametrize('after', [progress, '  5%|5 | 1/20 [00:01<00:20]' + progress, '[rank0]: ' + progress,
    ' iteration 10/ 100 | lm loss: 2.1E+00 | grad norm: 1.0 |\n', 'Epoch 1: 100%|# | 5/5 [00:01, v_num=0, train_loss=0.3]\n',
    "{'train_runtime': '12.5', 'train_loss': '1.2'}\n"], ids=range(6))
def test_what_a_run_survived_is_no_finding(tmp_path, after):
    error = trace + 'OSError: [Errno 98] Address already in use\n'
    assert logged(tmp_path, error).codes == ['port_in_use']
    assert logged(tmp_path, error + after).codes == []
    assert logged(tmp_path, error + after + trace + 'MyError: else\n').codes == ['unknown_error']
    assert logged(tmp_path, error + after + trace + 'KeyboardInterrupt\n').codes == ['port_in_use', 'stopped']

def test_a_warning_counts_although_the_run_goes_on(tmp_path):
    warned = 'UserWarning: None of the inputs have requires_grad=True. Gradients will be None\n' + progress
    assert logged(tmp_path, warned).codes == ['checkpoint_cut']

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le'])
def test_encodings(tmp_path, encoding):
    text = ('\ufeff' if encoding == 'utf-16-le' else '') + trace + "OSError: [Errno 28] No space left on device: 'ü'\n"
    assert logged(tmp_path, text, encoding).codes == ['disk_full']
    assert logged(tmp_path, text.replace('\n', '\r\n'), encoding).codes == ['disk_full']

@pytest.mark.parametrize('line', ["{'loss': 1.5, 'learning_rate': 1e-4, 'epoch': 0.5}",
    "{'loss': '1.5', 'learning_rate': '1e-4', 'epoch': '0.5'}",
    '{"step": 1, "loss": 1.5, "lr": 1e-4, "epoch": 0.5}',
    '[rank0]: step: 1 - loss: 1.5 - lr: 1e-4', 'step=1 loss=1.5 learning_rate=1e-4'])
def test_metrics_are_read(tmp_path, line):
    (tmp_path/'a.log').write_text(f'start\n{line}\nthe loss function is 3 lines long\n')
    row, = log_history(tmp_path/'a.log')
    assert (row['step'], row['loss'], row['learning_rate']) == (1, 1.5, 1e-4)

def test_rows_are_no_metrics(tmp_path):
    def holds(text): return (tmp_path/'a.jsonl').write_text(text) and holds_metrics(tmp_path/'a.jsonl')
    assert holds('{"step": 1, "loss": 1.5}\n') and not holds('{"text": "step=1 loss=1.5"}\n') and not holds('[1]\n')
    assert not holds('{"step": 1, "loss": 1.5, "text": "' + 'x'*99 + '"}\n') and not holds('{"loss": 1.5, "answer": "b"}\n')

# Machines

def test_this_machine(): assert set(environment_facts().versions) >= {'torch', 'transformers', 'trl', 'peft'}

cuda = Facts(free_gib=500., versions=dict(torch='2.13.0'), torch_cuda='12.8', driver=(13, 0), capability=(9, 0),
    architectures=('sm_90',))

@pytest.mark.parametrize('changes,code', [
    ({}, None), (dict(capability=(7, 5), architectures=('sm_75',)), 'bf16'), (dict(capability=(12, 0)), 'no_kernel'),
    (dict(capability=(12, 0), architectures=('sm_90', 'compute_90')), None), (dict(driver=(11, 8)), 'driver'),
    (dict(torch_cuda=None), 'cpu_torch'), (dict(bnb_libraries=('libbitsandbytes_cuda118.so',)), 'bnb_cuda'),
    (dict(bnb_libraries=('libbitsandbytes_cuda126.so',)), None), (dict(free_gib=1.), 'disk_low'),
    (dict(imports=dict(torch='OSError: x')), 'broken_import'), (dict(requires=dict(trl=['torch>=3'])), 'incompatible'),
    (dict(requires=dict(trl=['torch>=3; extra == "dev"'])), None), (dict(requires=dict(trl=['torch is old'])), None)], ids=str)
def test_a_machine(changes, code):
    facts = replace(cuda, **changes)
    facts = replace(facts, versions=dict(facts.versions, trl='1.16.0'))
    assert diagnose_environment(facts).first == code

def test_a_folder_of_ones_own(tmp_path): assert environment_facts(tmp_path).free_gib > 0 and os.path.isdir(tmp_path)
