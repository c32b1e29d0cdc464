"""The traced step agrees with the formula, leaves nothing behind, and the allocator's replay follows torch's rules."""
import subprocess, sys
import pytest, torch
from transformers import AttentionInterface, AutoConfig
from ftcook.bench import measurement, read_table
from ftcook.planning import calibration, formula_peak, layer_sizes, step_work
from ftcook.runs import Run, comparable_runs, left_over, run_fields
from ftcook.trace import CachingAllocator, GiB, MiB, reserved_bytes, sketch, trace_step

def small(layers=2, kind='llama', **kwargs):
    shape = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=4096)
    return AutoConfig.for_model(kind, **{**shape, **kwargs})

def a_run(config=None, **kwargs): return Run(config or small(),
    **{**dict(per_device_train_batch_size=4, max_length=512), **kwargs})

@pytest.mark.parametrize('change', [dict(), dict(gradient_checkpointing='none'), dict(gradient_checkpointing='every-2'),
    dict(method='lora'),
    dict(method='lora', gradient_checkpointing='none', use_liger_kernel=True), dict(method='full'),
    dict(method='full', gradient_checkpointing='none'),
    dict(method='full', optim='adamw_8bit'), dict(method='dpo'), dict(method='dpo', r=0), dict(attn_implementation='eager')],
    ids=lambda r: ' '.join(map(str, r.values())) or 'defaults')
def test_formula_against_trace(change):
    run = a_run(small(layers=6), max_length=1024, **change)
    trace, (parts, _) = trace_step(run), formula_peak(run)
    assert sum(parts.values())/trace.peak == pytest.approx(1, abs=.07)
    assert step_work(run)['matmul']/trace.work['matmul'] == pytest.approx(1, abs=.05)
    assert reserved_bytes(trace) > trace.peak

def test_nothing_is_left_behind():
    "Not even by a step that fails; and one trace after another gives the same bytes."
    peak = trace_step(a_run(use_liger_kernel=True)).peak
    def broken(*args, **kwargs): raise KeyError('mine')
    with pytest.raises(KeyError, match='mine'): trace_step(a_run(), broken)
    assert 'ftcook_gpu' not in AttentionInterface._global_mapping and not torch.is_autocast_enabled('cuda')
    assert trace_step(a_run(use_liger_kernel=True)).peak == peak

def test_importing_changes_nothing():
    code = """
import warnings, torch, transformers
from transformers import AutoModelForCausalLM
def state(): return len(warnings.filters), transformers.utils.logging.get_verbosity()
def silenced(): return [f for f in warnings.filters if f[0] == 'ignore' and f[2] is FutureWarning and f[3] is None]
before = state()
import ftcook.cost, ftcook.planning, ftcook.runs, ftcook.bench
print(state() == before)
import ftcook.trace, ftcook.memory
print(silenced(), 'ftcook_gpu' in transformers.AttentionInterface._global_mapping)
"""
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split('\n')
    assert said[:2] == ['True', '[] False']

def test_memory_is_linear_in_the_layers():
    peaks = [trace_step(a_run(small(n))).peak for n in (3, 4, 5)]
    assert peaks[2] - peaks[1] == peaks[1] - peaks[0] > 0

def test_qwen_and_a_folder(tmp_path):
    config = small(kind='qwen2')
    config.save_pretrained(tmp_path)
    run = a_run(str(tmp_path), per_device_train_batch_size=2)
    assert layer_sizes(run.config) == layer_sizes(config)
    assert sum(formula_peak(run)[0].values())/trace_step(run).peak == pytest.approx(1, abs=.07)

def test_a_loss_that_keeps_all_logits():
    run, cross_entropy = a_run(small(vocab_size=131072)), torch.nn.functional.cross_entropy
    def all_at_once(outputs, labels, num_items_in_batch=None):
        return cross_entropy(outputs.logits.float().flatten(0, 1), labels.flatten(), reduction='sum')/num_items_in_batch
    # float32 logits and their gradient, against one tile
    assert trace_step(run, all_at_once).peak - trace_step(run).peak > 4*4*512*131072
    with pytest.raises(ValueError, match='compute_loss_func'): trace_step(a_run(method='dpo'), all_at_once)

@pytest.mark.parametrize('change', [dict(lengths='exponential-400'), dict(packing='padding_free'),
    dict(activation_offloading=True)])
def test_what_it_does_not_know_is_refused(change):
    with pytest.raises(ValueError, match='one length'): trace_step(a_run(**change))

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

def test_every_compared_run_is_traced_well():
    "Also those that belong to no split, such as the switches of lesson 10."
    traced = {tuple(r[k] for k in run_fields): float(r['traced_gib']) for r in read_table(measurement('cost/estimates.csv'))}
    extra = calibration().workspace_mib/1024
    measured = {run.key(): float(row['peak_allocated_gib']) - left_over(row) for row,
        run in comparable_runs() if row['status'] == 'ok'}
    off = [(traced[key] + extra)/peak - 1 for key,peak in measured.items()]
    assert len(off) > 80 and max(map(abs, off)) < .02

def test_paged_optimizers_on_another_card():
    rows = [r for r in read_table(measurement('steps/training.csv')) if r['note'].startswith('beside other work')]
    assert {r['optim'] for r in rows} == {'paged_adamw_32bit', 'paged_adamw_8bit', 'adamw_torch_fused'}
    for r in rows:
        run = Run.from_row(r)
        for peak in (sum(formula_peak(run)[0].values()), trace_step(run).peak):
            assert peak/2**30 + calibration().workspace_mib/1024 == pytest.approx(float(r['peak_allocated_gib']), rel=1e-3)

compiled = dict(compiled='layers', gradient_checkpointing='none')

@pytest.mark.parametrize('change, measured', [ # rows of nbs/measurements/steps: compiled.csv and, of other shapes, machines.csv
    (dict(activation_memory_budget=.7), 28.179), (dict(activation_memory_budget=.5), 23.091),
    (dict(model='Llama-3.2-3B', method='full', per_device_train_batch_size=2, max_length=1024), 25.245)],
    ids=lambda v: ' '.join(map(str, v.values())) if isinstance(v, dict) else '')
def test_compiled_layers_against_a_gpu(change, measured):
    found = sketch(Run(**compiled, **change)).peak/GiB + calibration().workspace_mib/1024
    assert found == pytest.approx(measured, rel=.02)

def test_a_budget_is_kept_and_nothing_is_left_alive():
    a_layer = dict(config=small(hidden_size=512), **compiled)
    traces = {b: trace_step(a_run(**a_layer, activation_memory_budget=b)) for b in (1., .5, 0.)}
    assert traces[1.].phases['forward'] > traces[.5].phases['forward'] > traces[0.].phases['forward']
    assert len({t.phases['optimizer'] for t in traces.values()}) == 1  # what a layer kept is gone
    assert traces[0.].work['matmul'] > 1.2*traces[1.].work['matmul']   # and was computed again

def test_a_compiled_layer_starts_fewer_kernels():
    eager, fused = (trace_step(a_run(gradient_checkpointing='none', compiled=how)) for how in ('none', 'layers'))
    assert fused.work['kernels'] < eager.work['kernels']
    assert fused.work['matmul'] == pytest.approx(eager.work['matmul'], rel=.05)
