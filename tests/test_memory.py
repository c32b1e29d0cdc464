"""Measured runs: every kind trains, whatever fails leaves a row, the timeline adds up, and the script knows its plan."""
import csv, weakref
import pytest, torch
from transformers import AutoConfig
from conftest import root
from ftcook import memory
from ftcook.memory import free_gpu, measure_run, measured, step_timeline
from ftcook.planning import fastest
from ftcook.quantization import stored_bytes
from ftcook.runs import Run, random_model, row_lengths, run_fields

def tiny():
    return AutoConfig.for_model('mistral', hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=512)

def a_run(**kwargs): return Run(tiny(), dtype='float32', per_device_train_batch_size=2, max_length=32, **kwargs)

@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'nbs'/'measurements'/'steps'))
    import training
    return training

@pytest.mark.parametrize('change', [dict(method='full'), dict(method='lora', gradient_checkpointing='none'),
    dict(gradient_checkpointing='every-2'),
    dict(method='dpo'), dict(method='dpo', r=0), dict(method='dpo', quantize='nf4-double'),
    dict(method='lora', packing='bfd', lengths='exponential-20'),
    dict(method='lora', packing='padding_free', lengths='exponential-20'), dict(gradient_accumulation_steps=2)],
    ids=lambda c: '-'.join(map(str, c.values())))
def test_every_kind_of_run_trains(change):
    run = a_run(**change)
    row = measure_run(run, warmup=1, steps=1, seconds=0)
    assert row['status'] == 'ok' and not row['note'] and row['tokens_per_s'] > 0, row['note']
    assert list(row) == [*run_fields, *measured]
    if run.lengths == 'fixed': assert row['step_tokens'] == run.tokens*run.gradient_accumulation_steps
    assert (row['trainable'] == row['parameters']) == (not run.r)

@pytest.mark.parametrize('error,status', [(torch.OutOfMemoryError('CUDA out of memory'), 'oom'),
    (RuntimeError('CUBLAS_STATUS_ALLOC_FAILED'), 'oom'),
    (KeyError('layers'), 'error')])
def test_failure_leaves_a_row(monkeypatch, error, status):
    def fail(*args): raise error
    monkeypatch.setattr(memory, 'random_model', fail)
    row = measure_run(a_run())
    assert row['status'] == status and row['tokens_per_s'] == '' and list(row) == [*run_fields, *measured]
    assert ('KeyError' in row['note']) == (status == 'error')

def test_timeline_adds_up():
    rows = step_timeline(a_run(method='lora'), points=50)
    first, last = rows[0], rows[-1]
    stored = sum(stored_bytes(random_model(tiny(), 'none', 'float32')).values())/2**30
    for row in rows:
        assert row['weights'] == pytest.approx(stored, abs=2e-6)
        assert row['optimizer'] == pytest.approx(2*row['adapters'], abs=2e-6)
    assert max(r['gradients'] for r in rows) == pytest.approx(first['adapters'], abs=2e-6) and first['gradients'] == 0
    assert max(r['recomputed'] for r in rows) > 0 and {'forward', 'backward'} <= {r['phase'] for r in rows}
    assert last['activations'] < max(r['activations'] for r in rows)

def test_every_configuration_of_the_script_is_valid(training):
    for name,runs in training.groups.items():
        keys = [training.complete(run).key() for run in runs]
        assert len(set(keys)) == len(keys), name
    held = [r for r in training.estimate if r['split'] == 'holdout']
    assert len(training.estimate) >= 44 and .25 < len(held)/len(training.estimate) < .5
    assert {r['model'] for r in held} == {r['model'] for r in training.estimate}
    assert {r['method'] for r in held} == {'full', 'lora', 'qlora', 'dpo'}

def test_script_knows_what_it_has_measured(training):
    there = training.known(training.here/'training.csv')
    jobs = [(name, run) for name,runs in training.groups.items() for run in runs]
    missing = [job for job in jobs if training.key_of(*job) not in there]
    assert not missing and len(there) > 100

def test_script_measures_what_fastest_chooses(training):
    runs = {training.complete(run).key() for run in training.fastest}
    drawn = row_lengths('exponential-400', 2048, 2000)
    cases = [
        (dict(gpu_gib=79.18, margin=.07), dict()),
        (dict(gpu_gib=12), dict(limit_gib=12)),
        (dict(gpu_gib=79.18, margin=.07, lengths=drawn), dict(lengths='exponential-400'))]
    for change,wanted in cases:
        chosen = fastest('Mistral-7B', flash=True, use_liger_kernel=True, **change).run
        assert Run(**chosen.to_dict() | wanted).key() in runs

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
    run = dict(model='Mistral-7B', optim='paged_adamw_8bit')
    training.run_in_process([('levers', run)], tmp_path/'t.csv', 100)
    row, = csv.DictReader((tmp_path/'t.csv').open())
    assert (row['status'], row['optim'], row['purpose']) == ('error', 'paged_adamw_8bit', 'levers')
    assert 'ended with 1' in row['note']

def test_tables_carry_the_fields_of_a_run():
    "Every row is a run again, no two rows have one key, and each says on what, with which versions and when."
    keys = {
        'steps/training.csv': ('gpu', 'purpose', *run_fields),
        'cost/estimates.csv': run_fields,
        'cost/edges.csv': ('gpu', *run_fields)}
    for name,key in keys.items():
        with (root/'nbs'/'measurements'/name).open(newline='') as f: rows = list(csv.DictReader(f))
        assert len({tuple(r[k] for k in key) for r in rows}) == len(rows) > 10, name
        assert [tuple(r[k] for k in key) for r in rows] == sorted(tuple(r[k] for k in key) for r in rows), name
        for r in rows:
            assert Run.from_row(r).key() == tuple(r[k] for k in run_fields)
            assert r['versions'].startswith('torch-') and r['date'] >= '2026'
