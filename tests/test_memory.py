"""Runs of random models: every kind trains, whatever fails leaves a row, and the timeline adds up."""
import csv, weakref
import pytest, torch
from transformers import AutoConfig
from conftest import root
from ftcook import memory
from ftcook.memory import fastest, free_gpu, measure_run, measured, needed_gib, random_model, row_lengths, run_defaults, step_config, step_timeline, training_run
from ftcook.quantization import model_bytes, stored_bytes

def tiny(): return AutoConfig.for_model('mistral', hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=512)

def a_run(**kwargs): return dict(model=tiny(), dtype='float32', batch=2, seq=32, **kwargs)

@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'nbs'/'measurements'))
    import training
    return training

@pytest.mark.parametrize('quantize', ['none', 'int8', 'nf4', 'nf4-double'])
def test_random_model_stores_what_a_loaded_one_would(quantize):
    assert stored_bytes(random_model(tiny(), quantize, 'float32')) == model_bytes(tiny(), quantize, 'float32')

def test_skeleton_takes_no_memory():
    assert {p.device.type for p in random_model(tiny(), 'nf4-double', device='meta').parameters()} == {'meta'}

@pytest.mark.parametrize('change', [dict(method='full'), dict(method='lora', checkpointing='none'), dict(checkpointing='every-2'), dict(method='dpo'), dict(method='dpo', rank=0), dict(method='dpo', quant='nf4-double'),
    dict(method='lora', packing='bfd', lengths='exponential-20'), dict(method='lora', packing='padding_free', lengths='exponential-20'), dict(accumulation=2)], ids=lambda c: '-'.join(map(str, c.values())))
def test_every_kind_of_run_trains(change):
    row = measure_run(a_run(**change), warmup=1, steps=1, seconds=0)
    assert row['status'] == 'ok' and not row['note'] and row['tokens_per_s'] > 0, row['note']
    assert list(row) == [*run_defaults, *measured]
    if change.get('lengths', 'fixed') == 'fixed': assert row['step_tokens'] == 2*32*change.get('accumulation', 1)*(2 if change.get('method') == 'dpo' else 1)
    assert (row['trainable'] == row['parameters']) == (change.get('method') == 'full' or change.get('rank') == 0)

@pytest.mark.parametrize('error,status', [(torch.OutOfMemoryError('CUDA out of memory'), 'oom'), (RuntimeError('CUBLAS_STATUS_ALLOC_FAILED'), 'oom'), (KeyError('layers'), 'error')])
def test_failure_leaves_a_row(monkeypatch, error, status):
    def fail(*args): raise error
    monkeypatch.setattr(memory, 'random_model', fail)
    row = measure_run(a_run())
    assert row['status'] == status and row['tokens_per_s'] == '' and list(row) == [*run_defaults, *measured]
    assert ('KeyError' in row['note']) == (status == 'error')

@pytest.mark.parametrize('wrong,why', [(dict(batches=2), 'no such key'), (dict(method='qlora', rank=0), 'quant'), (dict(method='lora', rank=0), 'rank of 1'), (dict(kernels='triton'), 'use one of'), (dict(method='dpo', packing='bfd'), 'dpo')])
def test_wrong_runs_are_refused(wrong, why):
    with pytest.raises(ValueError, match=why): training_run(**wrong)

def test_settings_reach_trl(tmp_path):
    args = step_config(training_run(checkpointing='every-3', offload='checkpoints', packing='bfd', optimizer='adamw_8bit', accumulation=4), tmp_path)
    assert args.gradient_checkpointing_kwargs == dict(every_n_layers=3, offload=True)
    assert (args.packing, args.packing_strategy, args.max_length, args.optim, args.gradient_accumulation_steps) == (True, 'bfd', 2048, 'adamw_8bit', 4)
    assert step_config(training_run(packing='padding_free'), tmp_path).max_length is None
    assert step_config(training_run(checkpointing='none'), tmp_path).gradient_checkpointing is False

def test_lengths():
    drawn = row_lengths('exponential-400', 2048, 4000)
    assert 350 < sum(drawn)/len(drawn) < 420 and max(drawn) == 2048
    with pytest.raises(ValueError, match='exponential'): row_lengths('normal-400', 2048, 3)

def test_timeline_adds_up():
    rows = step_timeline(a_run(method='lora'), points=50)
    first, last = rows[0], rows[-1]
    stored = sum(stored_bytes(random_model(tiny(), 'none', 'float32')).values())/2**30
    for row in rows: assert row['weights'] == pytest.approx(stored, abs=2e-6) and row['optimizer'] == pytest.approx(2*row['adapters'], abs=2e-6)
    assert max(r['gradients'] for r in rows) == pytest.approx(first['adapters'], abs=2e-6) and first['gradients'] == 0
    assert max(r['recomputed'] for r in rows) > 0 and {'forward', 'backward'} <= {r['phase'] for r in rows}
    assert last['activations'] < max(r['activations'] for r in rows)

def test_every_configuration_of_the_script_is_valid(training):
    for name,runs in training.groups.items():
        keys = [tuple(training.complete(run).values()) for run in runs]
        assert len(set(keys)) == len(keys), name
    held = [r for r in training.estimate if r['split'] == 'holdout']
    assert len(training.estimate) >= 44 and .25 < len(held)/len(training.estimate) < .5
    assert {r['model'] for r in held} == {r['model'] for r in training.estimate} and {r['method'] for r in held} == {'full', 'lora', 'qlora', 'dpo'}

def test_script_knows_what_it_has_measured(training):
    there, jobs = training.known(training.here/'training.csv'), [(name, run) for name,runs in training.groups.items() for run in runs]
    missing = [job for job in jobs if training.key_of(*job) not in there]
    assert not missing and len(there) > 100

def test_script_measures_what_fastest_chooses(training):
    able, runs = dict(flash=True, kernels='liger'), [training.complete(run) for run in training.fastest]
    for change,wanted in ((dict(gpu_gib=80), dict()), (dict(gpu_gib=12), dict(limit_gib=12)), (dict(gpu_gib=80, lengths=row_lengths('exponential-400', 2048, 2000)), dict(lengths='exponential-400'))):
        assert {**fastest('Mistral-7B', **change, **able).run, **wanted} in runs

def test_fastest_gives_arguments_of_trl():
    choice = fastest('Mistral-7B', lengths=[100, 900], gpu_gib=80, flash=True, kernels='liger', learning_rate=1e-4)
    assert (choice.args.packing, choice.args.max_length, choice.args.learning_rate, choice.args.use_liger_kernel) == (True, 900, 1e-4, True)
    assert choice.load == dict(quantize='nf4-double', dtype='bfloat16', attention='flash_attention_2') and choice.gib < 80*.92
    assert fastest('Mistral-7B', lengths=[100, 900], gpu_gib=80, flash=False, kernels='none').run['packing'] == 'none'

def test_fastest_full_takes_8_bit_states_only_if_it_must():
    assert fastest('Llama-3.2-3B', 'full', 512, gpu_gib=40, kernels='none').run['optimizer'] == 'adamw_torch_fused'
    assert fastest('Llama-3.2-3B', 'full', 512, gpu_gib=24, kernels='none').run['optimizer'] == 'adamw_8bit'

@pytest.mark.parametrize('wrong,why', [(dict(model='Llama-3-70B', gpu_gib=24), 'at least'), (dict(model='Mistral-7B', method='dpo', gpu_gib=24), 'full, lora, qlora'), (dict(model='Mistral-7B', lengths=[], gpu_gib=24), 'lengths')])
def test_fastest_says_what_is_wrong(wrong, why):
    with pytest.raises(ValueError, match=why): fastest(**wrong)

def test_formula_takes_a_configuration():
    assert needed_gib(dict(model=tiny(), seq=64)) > 0

def test_eight_bit_optimizer_is_forgotten():
    model = random_model(tiny(), dtype='float32')
    import bitsandbytes as bnb
    bnb.optim.GlobalOptimManager.get_instance().register_module_override(model.model.embed_tokens, 'weight', dict(optim_bits=32))
    watched = weakref.ref(model.model.embed_tokens)
    del model
    free_gpu()
    assert watched() is None

def test_a_process_that_dies_leaves_rows(training, tmp_path, monkeypatch):
    monkeypatch.setattr(training.sys, 'executable', 'false')
    run = dict(model='Mistral-7B', optimizer='paged_adamw_8bit')
    training.run_apart([('levers', run)], tmp_path/'t.csv', 100)
    row, = csv.DictReader((tmp_path/'t.csv').open())
    assert (row['status'], row['optimizer'], row['purpose']) == ('error', 'paged_adamw_8bit', 'levers') and 'ended with 1' in row['note']
