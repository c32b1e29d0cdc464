"""Descriptions of runs: what cannot be is refused by name, trl's arguments become a run and back, random models are as loaded."""
import dataclasses, subprocess, sys
import pytest, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, BitsAndBytesConfig
from trl import DPOConfig, SFTConfig
from ftcook.quantization import model_bytes, stored_bytes
from ftcook.runs import Run, comparable_runs, is_oom, left_over, random_model, row_lengths, run_fields, step_config

def tiny():
    return AutoConfig.for_model('mistral', hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=512)

def sft(**kwargs): return SFTConfig(output_dir='out', use_cpu=True, bf16=False, **kwargs)

@pytest.mark.parametrize('quantize', ['none', 'int8', 'nf4', 'nf4-double'])
def test_random_model_stores_what_a_loaded_one_would(quantize):
    assert stored_bytes(random_model(tiny(), quantize, 'float32')) == model_bytes(tiny(), quantize, 'float32')

def test_skeleton_takes_no_memory():
    assert {p.device.type for p in random_model(tiny(), 'nf4-double', device='meta').parameters()} == {'meta'}

@pytest.mark.parametrize('wrong, why', [
    (dict(method='qlora', r=0), 'quantize'), (dict(method='lora', r=0), 'rank of 1'),
    (dict(use_liger_kernel='triton'), 'use one of False, True'),
    (dict(method='dpo', packing='bfd'), 'dpo'), (dict(gradient_checkpointing='every-1'), 'every-2'),
    (dict(gradient_checkpointing='every-'), 'every-2'),
    (dict(max_length=1), 'max_length=1.*at least 2'), (dict(per_device_train_batch_size=2.), 'whole number'),
    (dict(r=-1), 'at least 0'),
    (dict(dtype='float8'), 'bfloat16, float16, float32'), (dict(method='full', quantize='nf4'), 'cannot')])
def test_wrong_runs_are_refused(wrong, why):
    with pytest.raises(ValueError, match=why): Run(**wrong)

def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match='batches'): Run(batches=2)

def test_a_run_cannot_be_changed():
    run = Run()
    with pytest.raises(dataclasses.FrozenInstanceError): run.r = 8
    assert {run: 1}[Run()] == 1 and dataclasses.replace(run, r=8) != run

def test_words_for_switches():
    assert Run(gradient_checkpointing=True, packing=False) == Run(gradient_checkpointing='full', packing='none')
    assert Run(activation_offloading=True).activation_offloading == 'activations'
    assert Run(dtype=torch.float16).dtype == 'float16' and Run(method='full').r == 0 and Run(method='lora').quantize == 'none'
    assert Run(method='dpo', max_length=100).tokens == 800 and Run(method='dpo',
        r=0).kind == 'full' and Run(quantize='int8').kind == 'qlora'

def test_settings_reach_trl(tmp_path):
    run = Run(gradient_checkpointing='every-3', activation_offloading='checkpoints', packing='bfd', optim='adamw_8bit',
        gradient_accumulation_steps=4)
    args = step_config(run, tmp_path)
    assert args.gradient_checkpointing_kwargs == dict(every_n_layers=3, offload=True)
    assert (args.packing, args.packing_strategy, args.max_length) == (True, 'bfd', 2048)
    assert (args.optim, args.gradient_accumulation_steps) == ('adamw_8bit', 4)
    assert step_config(Run(packing='padding_free'), tmp_path).max_length is None
    assert step_config(Run(gradient_checkpointing='none'), tmp_path).gradient_checkpointing is False

@pytest.mark.parametrize('args, found', [
    (dict(), dict(per_device_train_batch_size=8, max_length=1024, gradient_checkpointing='full', packing='none')),
    (dict(gradient_checkpointing=False), dict(gradient_checkpointing='none')),
    (dict(gradient_checkpointing_kwargs=dict(selective=True)), dict(gradient_checkpointing='selective')),
    (dict(packing=True, packing_strategy='bfd_split'), dict(packing='bfd')),
    (dict(packing=True, packing_strategy='wrapped'), dict(packing='wrapped')),
    (dict(activation_offloading=True), dict(activation_offloading='activations')),
    (dict(use_liger_kernel=True, optim='paged_adamw_8bit'), dict(use_liger_kernel=True, optim='paged_adamw_8bit')),
    (dict(model_init_kwargs=dict(attn_implementation='eager', dtype='float16')),
    dict(attn_implementation='eager', dtype='float16'))])
def test_from_trl(args, found):
    run = Run.from_trl(sft(**args), LoraConfig(r=4), 'mistral-7b')
    assert {k: getattr(run, k) for k in found} == found and (run.method, run.r, run.model) == ('lora', 4, 'mistral-7b')

def test_from_trl_a_name_is_loaded_in_float32():
    assert Run.from_trl(sft(), None, 'Llama-3.2-1B') == Run('Llama-3.2-1B', 'full', dtype='float32', max_length=1024,
        per_device_train_batch_size=8)

def test_from_trl_quantized():
    four, eight = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4',
        bnb_4bit_use_double_quant=True), BitsAndBytesConfig(load_in_8bit=True)
    for recipe,name in ((four, 'nf4-double'), (four.to_dict(), 'nf4-double'), (eight, 'int8')):
        config = tiny()
        config.quantization_config = recipe
        run = Run.from_trl(sft(), LoraConfig(r=4), config)
        assert (run.method, run.quantize, run.kind) == ('qlora', name, 'qlora')
    assert Run.from_trl(sft(), LoraConfig(r=4), 'mistral-7b', quantize='nf4').method == 'qlora'

def test_from_trl_models_in_hand():
    model = random_model(tiny(), dtype='float32', attention='eager')
    run = Run.from_trl(sft(max_length=64), LoraConfig(r=4), model)
    assert (run.dtype, run.attn_implementation, run.config, run.method) == ('float32', 'eager', model.config, 'lora')
    assert Run.from_trl(sft(), None, get_peft_model(model, LoraConfig(r=3))).r == 3
    dpo = Run.from_trl(DPOConfig(output_dir='out', use_cpu=True, bf16=False), LoraConfig(r=4), model)
    assert dpo.method == 'dpo' and dpo.sequences == 2*dpo.per_device_train_batch_size

def test_from_trl_says_what_is_missing():
    from peft import IA3Config
    with pytest.raises(ValueError, match='max_length=2048'): Run.from_trl(sft(max_length=None), LoraConfig())
    assert Run.from_trl(sft(max_length=None), LoraConfig(), max_length=77).max_length == 77
    with pytest.raises(ValueError, match='IA3Config'): Run.from_trl(sft(), IA3Config())

def test_a_row_is_a_run_again():
    run = Run('Llama-3.2-1B', use_liger_kernel=True, limit_gib=12, compiled='layers', activation_memory_budget=.7)
    assert Run.from_row({k: str(v) for k,v in run.to_dict().items()}) == run and list(run.to_dict()) == list(run_fields)
    assert Run(tiny()).to_dict()['model'] == 'mistral'

def test_lengths():
    drawn = row_lengths('exponential-400', 2048, 4000)
    assert 350 < sum(drawn)/len(drawn) < 420 and max(drawn) == 2048
    with pytest.raises(ValueError, match='exponential'): row_lengths('normal-400', 2048, 3)

@pytest.mark.parametrize('error, expected', [(torch.OutOfMemoryError('CUDA out of memory'), True),
    (RuntimeError('CUBLAS_STATUS_ALLOC_FAILED'), True),
    (RuntimeError('CUDA error: out of memory'), True), (KeyError('layers'), False)])
def test_out_of_memory(error, expected): assert is_oom(error) is expected

def test_rows_that_are_compared():
    runs = comparable_runs()
    assert all(row['status'] in ('ok', 'oom') for row,_ in runs) and {row['split'] for row,_ in runs} >= {'fit', 'holdout'}
    assert len({row['gpu'] for row,_ in runs}) == 1 and len(runs) > 90
    assert left_over(dict(note='1.05 GiB were left over from an earlier run')) == 1.05 and left_over(dict(note='')) == 0

def test_describing_a_run_needs_no_trainer():
    code = 'import sys; from ftcook.runs import Run; from ftcook.cost import estimate; estimate("mistral-7b"); '
    code += 'print([m for m in ("trl", "peft", "matplotlib", "datasets") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
