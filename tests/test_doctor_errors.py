"""Exceptions, logs and machines: what they say is recognised, whatever else they hold."""
import os, re, weakref
from dataclasses import replace
from pathlib import Path
import pytest
from ftcook.doctor import (Facts, Message, diagnose, diagnose_environment, diagnose_exception, diagnose_log,
    confidences, environment_facts, half_the_length, is_oom, known_messages, oom_fixes, rules, train_within)

# Messages

said = [ # one text of each entry of messages.toml, as the library says it, and the rule that it points to
    ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", 'oom_training'),
    ('OutOfMemoryError: CUDA out of memory. Tried to allocate 502.00 MiB', 'oom_training'),
    ('RuntimeError: HIP out of memory. Tried to allocate 2.00 GiB', 'oom_training'),
    ('MemoryError: ', 'oom_training'),
    ('OSError: [Errno 28] No space left on device', 'disk_full'),
    ('RuntimeError: [enforce fail] . PytorchStreamWriter failed: file write failed, not enough space', 'disk_full'),
    ("TypeError: SFTTrainer.__init__() got an unexpected keyword argument 'tokenizer'", 'unknown_argument'),
    ('A decoder-only architecture is being used, but right-padding was detected!', 'padding_side'),
    ('ValueError: You passed a `PeftModel` instance together with a `peft_config` to the trainer.', 'double_adapter'),
    ('TemplateError: System role not supported', 'no_system_role'),
    ('DatasetGenerationError: An error occurred while generating the dataset', 'bad_rows'),
    ("KeyError: 'messages'", 'bad_rows'),
    ('TemplateError: Conversation roles must alternate user/assistant/user/assistant/...', 'bad_rows'),
    ('ValueError: Asking to pad but the tokenizer does not have a padding token.', 'pad_missing'),
    ('ValueError: Attempting to unscale FP16 gradients.', 'fp16_weights'),
    ('IndexError: index out of range in self', 'label_outside'),
    ('RuntimeError: CUDA error: device-side assert triggered', 'device_assert'),
    ('UserWarning: None of the inputs have requires_grad=True. Gradients will be None', 'checkpoint_cut'),
    ('[rank1]: [E ProcessGroupNCCL.cpp:632] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)', 'hang'),
    ('RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn', 'frozen'),
    ('RuntimeError: at least one example has no assistant tokens', 'no_marks'),
    ('RuntimeError: size mismatch for model.embed_tokens.weight: copying a param', 'embedding_mismatch'),
    ('RuntimeError: size mismatch for base_model.model.q_proj.lora_A.default.weight', 'wrong_base'),
    ("ValueError: Target modules {'c_attn'} not found in the base model.", 'wrong_modules'),
    ('ValueError: You cannot perform fine-tuning on purely quantized models.', 'quantized_base'),
    ('bitsandbytes library load error: Configured CUDA binary not found at libbitsandbytes_cuda128.so', 'bnb_cuda'),
    ('OSError: libcudart.so.12: cannot open shared object file', 'bnb_cuda'),
    ('ImportError: flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2E', 'flash_abi'),
    ("ValueError: Your setup doesn't support bf16/gpu.", 'bf16'),
    ('RuntimeError: bf16 is only supported on A100+', 'bf16'),
    ('RuntimeError: The NVIDIA driver on your system is too old (found version 11040).', 'driver'),
    ('AssertionError: Torch not compiled with CUDA enabled', 'cpu_torch'),
    ('RuntimeError: CUDA error: no kernel image is available for execution on the device', 'no_kernel'),
    ('ImportError: tokenizers>=0.23 is required for a normal functioning of this module, but found tokenizers==0.17',
        'incompatible'),
    ("ImportError: cannot import name 'SFTConfig' from 'trl' (/x/trl/__init__.py)", 'incompatible'),
    ("ModuleNotFoundError: No module named 'peft'", 'broken_import')]

def named(text): return next((m for m in known_messages() if m.pattern.search(text)), None)

@pytest.mark.parametrize('text,code', said, ids=lambda o: o[:40])
def test_a_message_points_to_its_rule(text, code): assert named(text).code == code

def test_every_entry_is_tried(): assert {named(text) for text,_ in said} == set(known_messages())

def test_entries_are_whole():
    assert {m.code for m in known_messages()} <= set(rules)
    for m in known_messages(): assert m.library and re.fullmatch(r'[\d.]*', m.version) and m.confidence in confidences

def test_a_message_of_ones_own():
    killed = Message('oom_training', re.compile(r'oom-kill event'), 'likely', 'slurm', '24.05')
    error = RuntimeError('slurmstepd: error: Detected 1 oom-kill event(s)')
    assert diagnose_exception(error).codes == []
    found = diagnose_exception(error, messages=(*known_messages(), killed))
    assert [(f.code, f.confidence) for f in found] == [('oom_training', 'likely')]

def test_ordinary_errors_are_not_recognised():
    ordinary = KeyError('x'), ValueError('invalid literal for int()'), RuntimeError('something else'), ZeroDivisionError('by 0')
    for e in ordinary:
        assert diagnose(e).codes == [], e

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
