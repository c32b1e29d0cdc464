"""The estimator's two depths agree, what is wrong is refused by name, and the allocator's replay follows torch's rules."""
import csv, json, math
import pytest, torch
from ftcook.cli import main, merge_rows
from ftcook.cost import (CachingAllocator, MiB, break_even, calibration, comparable_runs, compare, estimate, formula_peak, gpu_offers, layer_sizes, left_over, model_config, reserved_bytes, step_work, trace_step,
                         with_interruptions)
from ftcook.memory import run_defaults, training_run
from transformers import AutoConfig
from conftest import root

def small(layers=2, kind='llama', **kwargs):
    return AutoConfig.for_model(kind, **{**dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, vocab_size=4096), **kwargs})

@pytest.mark.parametrize('run', [dict(), dict(checkpointing='none'), dict(method='lora'), dict(method='lora', checkpointing='none', kernels='liger'), dict(method='full'), dict(method='full', checkpointing='none'), dict(method='full', optimizer='adamw_8bit'),
    dict(method='dpo'), dict(method='dpo', rank=0), dict(attention='eager')], ids=lambda r: ' '.join(map(str, r.values())) or 'defaults')
def test_formula_against_trace(run):
    config, run = small(layers=6), training_run(**{'batch': 4, 'seq': 1024, **run})
    trace, (parts, _) = trace_step(config, run), formula_peak(config, run)
    assert sum(parts.values())/trace.peak == pytest.approx(1, abs=.07)
    assert step_work(config, run)['matmul']/trace.work['matmul'] == pytest.approx(1, abs=.05)
    assert reserved_bytes(trace) > trace.peak

def test_memory_is_linear_in_the_layers():
    peaks = [trace_step(small(n), training_run(batch=4, seq=512)).peak for n in (3, 4, 5)]
    assert peaks[2] - peaks[1] == peaks[1] - peaks[0] > 0

def test_qwen_and_a_folder(tmp_path):
    config = small(kind='qwen2')
    config.save_pretrained(tmp_path)
    run = training_run(batch=2, seq=512)
    assert layer_sizes(model_config(str(tmp_path))) == layer_sizes(config)
    assert sum(formula_peak(config, run)[0].values())/trace_step(config, run).peak == pytest.approx(1, abs=.07)

def test_a_mixture_of_experts_is_refused():
    config = AutoConfig.for_model('mixtral', hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, vocab_size=512)
    with pytest.raises(ValueError, match="mixtral.*depth='trace'"): layer_sizes(config)

def test_a_loss_that_keeps_all_logits():
    config, run, cross_entropy = small(vocab_size=131072), training_run(batch=4, seq=512), torch.nn.functional.cross_entropy
    def all_at_once(outputs, labels, num_items_in_batch=None): return cross_entropy(outputs.logits.float().flatten(0, 1), labels.flatten(), reduction='sum')/num_items_in_batch
    assert trace_step(config, run, all_at_once).peak - trace_step(config, run).peak > 4*4*512*131072  # float32 logits and their gradient, against one tile
    with pytest.raises(ValueError, match='compute_loss_func'): trace_step(config, training_run(method='dpo'), all_at_once)

def test_variable_rows_are_refused():
    with pytest.raises(ValueError, match='one length'): trace_step(small(), training_run(lengths='exponential-400'))

def test_allocator():
    a = CachingAllocator()
    a.take('a', 512)
    assert a.reserved == 2*MiB                         # a small segment
    a.take('b', 3*MiB)
    a.take('c', 5*MiB)
    assert a.reserved == 22*MiB                        # both from one segment of 20 MiB
    a.take('d', 31*MiB)
    assert a.reserved == 54*MiB                        # a segment of its own, a multiple of 2 MiB
    a.give('b'); a.give('c'); a.give('d')
    a.take('e', 20*MiB)
    assert a.reserved == 54*MiB                        # neighbours were joined again
    a.release()
    assert a.reserved == 22*MiB                        # what is in use stays
    with pytest.raises(MemoryError, match='allowed'): CachingAllocator(limit=30*MiB).take('f', 31*MiB)

def test_limit_is_met_by_releasing():
    a = CachingAllocator(limit=40*MiB)
    a.take('a', 30*MiB); a.give('a')
    a.take('b', 36*MiB)
    assert a.reserved == 36*MiB

def test_what_would_make_it_fit():
    e = estimate('Mistral-7B', gpu='RTX 4090', checkpointing='none')
    assert not e.fits and any('gradient checkpointing' in o for o in e.remedies) and any('rows at once' in o for o in e.remedies)
    assert estimate('Mistral-7B', gpu='RTX 4090').fits
    together = estimate('Llama-3-8B', method='lora', batch_size=16, checkpointing='none', gpu='RTX 4090')
    assert any('all together' in o for o in together.remedies) or any('rows' in o for o in together.remedies)

def test_own_prices(tmp_path):
    text = 'gpu,memory_gb,usable_gib,bandwidth_gb_s,bf16_tflops,fp16_tflops,provider,kind,usd_low,usd_high,date,source\nMy card,24,,900,100,100,me,on-demand,2,3,2026-11,own\n'
    (tmp_path/'p.csv').write_text(text)
    e = estimate('Llama-3.2-1B', gpu='my card', prices=tmp_path/'p.csv', tokens=1e6)
    assert e.usd == pytest.approx((2*e.hours, 3*e.hours))
    assert [o.gpu for o in gpu_offers(tmp_path/'p.csv')] == ['My card']

def test_every_gpu_and_a_longer_row_needs_more():
    assert {e.gpu for e in compare('Llama-3.2-1B')} == {o.gpu for o in gpu_offers()}
    sizes = [estimate('Mistral-7B', seq_len=n).needed_gib for n in (512, 1024, 2048, 4096)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]

def test_command(capsys):
    assert main(['estimate', 'mistral-7b', '--method', 'qlora', '--gpu', 'L40S', '--seq', '2048', '--batch', '4', '--tokens', '10M']) == 0
    out = capsys.readouterr().out
    assert 'It fits.' in out and '█' in out and 'USD' in out and 'days old' in out
    assert main(['estimate', 'mistral-7b', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['fits'] and found['tokens'] == 10e6 and found['peak_gib'] == pytest.approx(sum(found['memory'].values()))
    assert main(['estimate', 'mistral-7b', '--gpu', 'all']) == 0
    assert 'B200' in capsys.readouterr().out

@pytest.mark.parametrize('arguments, near', [(['mistrall-7b'], 'Mistral-7B'), (['mistral-7b', '--gpu', 'H10'], 'H100'), (['mistral-7b', '--method', 'qlor'], 'qlora')])
def test_near_matches(arguments, near, capsys):
    assert main(['estimate', *arguments]) == 2
    assert near in capsys.readouterr().err

def test_interruptions():
    rare, often = (with_interruptions(10, every) for every in (1000, .5))
    assert rare.hours == pytest.approx(10, rel=.02) and often.hours > 12
    assert with_interruptions(10, 2).hours <= min(with_interruptions(10, 2, interval=i).hours for i in (.02, 2.))

def test_break_even():
    assert break_even(1000, 1., 0, hours_per_week=10).hours == pytest.approx(1000)
    assert break_even(1000, .1, 1000, usd_per_kwh=.3).years == math.inf

def test_rows_that_are_compared():
    runs = comparable_runs()
    assert all(row['status'] in ('ok', 'oom') for row,_ in runs) and {row['split'] for row,_ in runs} >= {'fit', 'holdout'} and len({row['gpu'] for row,_ in runs}) == 1

def test_every_compared_run_is_traced_well():
    "Also those that belong to no split, such as the switches of lesson 10."
    with (root/'nbs'/'measurements'/'estimates.csv').open() as f: traced = {tuple(r[k] for k in run_defaults): float(r['traced_gib']) for r in csv.DictReader(f)}
    extra = calibration().workspace_mib/1024
    off = {tuple(run.values()): (traced[tuple(map(str, run.values()))] + extra)/(float(row['peak_allocated_gib']) - left_over(row)) - 1 for row,run in comparable_runs() if row['status'] == 'ok'}
    assert len(off) > 80 and max(map(abs, off.values())) < .02

def test_paged_optimizers_on_another_card():
    with (root/'nbs'/'measurements'/'training.csv').open() as f: rows = [r for r in csv.DictReader(f) if r['note'].startswith('beside other work')]
    assert {r['optimizer'] for r in rows} == {'paged_adamw_32bit', 'paged_adamw_8bit', 'adamw_torch_fused'}
    for r in rows:
        config, run = model_config('Mistral-7B'), training_run(model='Mistral-7B', method='qlora', optimizer=r['optimizer'])
        for peak in (sum(formula_peak(config, run)[0].values()), trace_step(config, run).peak): assert peak/2**30 + calibration().workspace_mib/1024 == pytest.approx(float(r['peak_allocated_gib']), rel=1e-3)

def test_own_calibration(tmp_path):
    merge_rows(tmp_path/'mine.csv', [(cal := calibration()) | {k: 2*cal[k] for k in ('matmul', 'attention', 'bytes')}], ('gpu',))
    a, b = (estimate('Mistral-7B', gpu='H100', calibrated=path) for path in (None, tmp_path/'mine.csv'))
    assert b.step_s == pytest.approx(2*a.step_s) and b.needed_gib == a.needed_gib
