"""The formulas: each term pinned where a term can be seen alone, and `fastest` chooses what fits and says what does not."""
import json
from dataclasses import replace
import pytest
from fastcore.basics import AttrDict
from transformers import AutoConfig
from ftcook.planning import (GiB, calibration, checkpointed, fastest, fixed_bytes, fit_speed, formula_peak, gpu_offers,
    layer_sizes, machine_rates, peak_gib, read_machine,
    saved_per_token, step_moments, step_seconds, step_work, token_seconds, useful_share)
from ftcook.runs import Run

def small(layers=6, **kwargs):
    shape = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=4096)
    return AutoConfig.for_model('llama', **{**shape, **kwargs})

def run(**kwargs): return Run(small(), **{**dict(per_device_train_batch_size=2, max_length=512), **kwargs})

def test_fixed_bytes_by_hand():
    full, qlora = fixed_bytes(Run(method='full')), fixed_bytes(Run())
    assert full['weights'] == full['gradients'] == full['optimizer']/2 == 2*7_248_023_552
    assert qlora['adapters'] == qlora['gradients'] == qlora['optimizer']/2 == 2*41_943_040
    assert fixed_bytes(Run(method='lora'))['adapters'] == 4*41_943_040                       # float32 on an unquantized base
    assert fixed_bytes(Run(method='dpo', r=0))['reference'] == full['weights']
    assert fixed_bytes(Run(method='dpo'))['reference'] == 0                                  # the base without its adapter serves
    assert fixed_bytes(Run(method='full', optim='paged_adamw_8bit'))['optimizer'] == 0       # torch does not count what is paged
    embedding = 32768*4096
    eight = fixed_bytes(Run(method='full', optim='adamw_8bit'))['optimizer']
    # the embedding's states stay in 32 bits
    assert eight == pytest.approx((2 + 8/256)*7_248_023_552 + embedding*(8 - 2 - 8/256))

def test_kept_by_a_layer_by_hand():
    h, f, a, k, heads = 4096, 14336, 4096, 1024, 32
    assert sum(saved_per_token(Run()).values()) == 8*h + 4*h + 14*16 + 4*a + 4*k + 4*heads + 8*f
    assert sum(saved_per_token(Run(method='lora')).values()) == 8*h + 10*h + 2*a + 14*16 + 4*a + 4*k + 4*heads + 8*f
    assert sum(saved_per_token(Run(method='full')).values()) == 12*h + 4*h + 4*a + 4*k + 4*heads + 8*f
    eager = saved_per_token(Run(attn_implementation='eager', max_length=1000))['attention']
    # the scores, in float32 and in 16 bits
    assert eager == 8*a + 6*heads*1000
    liger = saved_per_token(Run(use_liger_kernel=True))
    assert liger['norms'] == 4*h and liger['mlp'] == 6*f

@pytest.mark.parametrize('mode, layers, twice', [('none', 32, 0), ('full', 32, 32), ('selective', 32, 32), ('every-2', 32, 16),
    ('every-3', 32, 11), ('every-4', 30, 8)])
def test_layers_computed_twice(mode, layers, twice): assert checkpointed(Run(gradient_checkpointing=mode), layers) == twice

def activations(mode, moment='loss'): return step_moments(run(gradient_checkpointing=mode))[moment]['activations']

def test_checkpointing_between_all_and_nothing():
    s, kept, tokens = layer_sizes(small()), sum(saved_per_token(run()).values()), 1024
    full = activations('full')
    assert activations('none') - full == tokens*6*(kept - 2*s.h)
    assert activations('every-2') - full == tokens*3*(kept - 2*s.h)                          # three of six layers keep everything
    # and the attention's output beside the input
    assert activations('selective') - full == tokens*6*2*s.a
    # one layer again, without the norm behind the last
    assert activations('full', 'layer') - full == pytest.approx(tokens*kept - 4*s.h*tokens)
    # the last of six layers was not checkpointed
    assert activations('every-2', 'layer') == tokens*(3*2*s.h + 3*kept)
    assert activations('every-5', 'layer') == tokens*(2*2*s.h + 4*kept + kept)               # now it is

def test_peak_is_the_highest_moment():
    parts, name = formula_peak(run())
    moments = {m: sum(v.values()) for m,v in step_moments(run()).items()}
    assert name == max(moments, key=moments.get) and sum(parts.values()) == pytest.approx(moments[name], abs=10)
    assert peak_gib(run()) == pytest.approx(moments[name]/GiB + calibration().workspace_mib/1024)

def test_more_of_anything_needs_more():
    for field,sizes in (('max_length', (512, 1024, 2048)), ('per_device_train_batch_size', (1, 2, 8)), ('r', (4, 64, 256))):
        peaks = [peak_gib(replace(run(), **{field: n})) for n in sizes]
        assert peaks == sorted(peaks) and peaks[0] < peaks[-1], field

def test_a_mixture_of_experts_is_refused():
    config = AutoConfig.for_model('mixtral', hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=512)
    with pytest.raises(ValueError, match="mixtral.*depth='trace'"): layer_sizes(config)

def test_unknown_optimizer():
    with pytest.raises(ValueError, match='optim=.sgd.*adamw_torch'): fixed_bytes(Run(optim='sgd'))

def h100(): return next(o for o in gpu_offers() if o.gpu == 'H100')

def test_work_of_a_step():
    work, more = step_work(run()), step_work(run(gradient_accumulation_steps=3))
    assert all(more[k] == pytest.approx(3*v) for k,v in work.items() if not k.startswith('update'))
    assert more['update'] == work['update']
    assert step_work(run(), [512]*2) == work and step_work(run(), [1024])['attention'] == 2*work['attention']
    assert step_work(run(method='full', optim='adamw_8bit'))['update_8bit'] == fixed_bytes(run(method='full'))['gradients']/2

def test_work_of_compiled_layers():
    def work(**how): return step_work(run(gradient_checkpointing='none', **how))
    plain, layers, less, graphs = work(), work(compiled='layers'), work(compiled='layers', activation_memory_budget=.1), \
        work(compiled='graphs')
    assert not any(layers[k] for k in ('forward', 'again', 'backward', 'quantized', 'fused'))
    assert not plain['kernels'] + plain['graphs']
    assert 0 < layers['kernels'] < plain['forward'] + plain['backward'] and layers['bytes'] < plain['bytes']
    assert plain['matmul'] == layers['matmul'] < less['matmul'] <= step_work(run())['matmul']
    assert graphs['kernels'] == 0 and graphs['graphs'] == 2*run().config.num_hidden_layers

machine = dict(gpu='H100', matmul_tflops=500, attention_tflops=250, copy_gb_s=2000, op_us=10)
factors = dict(matmul=1, attention=1, bytes=1, update=1, gap=0, again=2, quantized=5, fused=10, step=0, kernel=.5, graph=10,
    waiting=0, update_8bit=0)
nothing = dict.fromkeys(step_work(run()), 0)

def test_time_is_work_or_launches():
    def seconds(m=machine, **more): return step_seconds(nothing | dict(matmul=500e12, forward=1e4), AttrDict(m), factors | more)
    assert seconds() == pytest.approx(1)                       # a second of work hides a tenth of launches
    assert seconds(waiting=.5) == pytest.approx(1.05)
    assert seconds(machine | dict(op_us=200)) == pytest.approx(2)  # two seconds of launches
    assert seconds(step=1.9e5) == pytest.approx(2) and seconds(gap=100) == pytest.approx(2)
    assert seconds(machine | dict(gpu='2 CPU cores')) == pytest.approx(1.1)  # nothing at the same time
    one_second = dict(attention=250e12, bytes=2e12, update=2e12, forward=1e5, backward=1e5, again=5e4, quantized=2e4, kernels=2e5,
        graphs=1e4, fused=1e4)
    for kind,amount in one_second.items():
        assert step_seconds(nothing | {kind: amount}, AttrDict(machine), factors) == pytest.approx(1), kind

def test_a_machine_is_read_and_examined(tmp_path):
    path = tmp_path/'machine.json'
    path.write_text(json.dumps(machine))
    assert read_machine(path) == machine and machine_rates(read_machine(path)) == machine
    for wrong in ([], dict(machine, gpu=3), dict(machine, op_us=-1), dict(machine, copy_gb_s=0), dict(machine, op_us='fast')):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match='machine.json'): read_machine(path)

def test_a_card_that_was_not_measured_has_the_rates_of_its_data_sheet():
    known, card = read_machine(), next(o for o in gpu_offers() if o.gpu == 'A100')
    rates = machine_rates(card)
    assert rates.copy_gb_s/known.copy_gb_s == pytest.approx(card.bandwidth_gb_s/h100().bandwidth_gb_s)
    assert rates.matmul_tflops/known.matmul_tflops == pytest.approx(card.bf16_tflops/h100().bf16_tflops)
    assert rates.op_us == known.op_us and machine_rates(h100()).matmul_tflops == pytest.approx(known.matmul_tflops)
    assert machine_rates(next(o for o in gpu_offers() if o.gpu == 'T4')).matmul_tflops > 0

def test_fit_finds_the_factors():
    runs = [run(gradient_checkpointing=c, per_device_train_batch_size=b, method=m, optim=o) for c in ('none', 'full')
        for b in (1, 64, 512)
        for m,o in (('qlora', 'adamw_torch'), ('lora', 'adamw_torch'), ('full', 'adamw_8bit'))]
    works, cal = [step_work(r) for r in runs], calibration()
    fitted = fit_speed(works, [step_seconds(w, h100(), cal) for w in works], [h100()]*len(works))
    assert max(abs(step_seconds(w, h100(), fitted)/step_seconds(w, h100(), cal) - 1) for w in works) < .05

def test_padding():
    assert useful_share([7]*9, 4) == 1 and useful_share([1, 99], 1) == pytest.approx(1, abs=.02) and useful_share([1, 99], 8) < .6
    padded, packed = run(), replace(run(), packing='bfd', attn_implementation='flash_attention_2')
    lengths = [16]*31 + [512]
    assert token_seconds(padded, lengths, h100(), calibration()) > 3*token_seconds(packed, lengths, h100(), calibration())

def test_fastest_gives_arguments_of_trl():
    choice = fastest('Mistral-7B', lengths=[100, 900], gpu_gib=80, flash=True, use_liger_kernel=True, learning_rate=1e-4)
    args = choice.args
    assert (args.packing, args.max_length, args.learning_rate, args.use_liger_kernel) == (True, 900, 1e-4, True)
    assert choice.load == dict(quantize='nf4-double', dtype='bfloat16', attention='flash_attention_2') and choice.gib < 80*.92
    assert fastest('Mistral-7B', lengths=[100, 900], gpu_gib=80, flash=False, use_liger_kernel=False).run.packing == 'none'
    assert fastest('llama-3.2-3b', 'full', 512, gpu_gib=24, use_liger_kernel=False).run.optim == 'adamw_8bit'
    assert 'times the speed' in choice._repr_markdown_()
    assert fastest('qwen2.5-7b', gpu_gib=24, flash=False).run.model == 'qwen2.5-7b'

def test_fastest_may_compile():
    def chosen(gib, **kwargs): return fastest('Mistral-7B', gpu_gib=gib, flash=False, use_liger_kernel=True, **kwargs)
    for gib in (12, 24, 40):
        plain, compiled = chosen(gib), chosen(gib, compiled=True)
        assert compiled.speedup > plain.speedup and compiled.gib <= .92*gib
        assert compiled.run.compiled == 'layers' and not compiled.run.use_liger_kernel
        assert 'compile_layers(' in str(compiled.reasons)
    assert chosen(12, compiled=True).run.activation_memory_budget < chosen(40, compiled=True).run.activation_memory_budget

@pytest.mark.parametrize('change, measured', [(dict(), 38.929), (dict(activation_memory_budget=.7), 28.179), # steps/compiled.csv
    (dict(model='Llama-3-8B', method='lora', per_device_train_batch_size=2, max_length=1024), 24.292),     # steps/machines.csv
    (dict(model='Llama-3.2-3B', method='full', per_device_train_batch_size=2, max_length=1024), 25.245)],
    ids=lambda v: ' '.join(map(str, v.values())) if isinstance(v, dict) else '')
def test_the_formula_knows_compiled_layers(change, measured):
    assert peak_gib(Run(compiled='layers', gradient_checkpointing='none', **change)) == pytest.approx(measured, rel=.015)

@pytest.mark.parametrize('wrong, why', [(dict(model='Llama-3-70B', gpu_gib=24), 'at least'),
    (dict(method='dpo', gpu_gib=24), 'full, lora, qlora'),
    (dict(lengths=[], gpu_gib=24), 'lengths')])
def test_fastest_says_what_is_wrong(wrong, why):
    with pytest.raises(ValueError, match=why): fastest(**{'model': 'Mistral-7B', **wrong})

def test_prices_of_ones_own(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such table'): gpu_offers(tmp_path/'none.csv')
    assert {'T4', 'H100', 'B200'} <= {o.gpu for o in gpu_offers()}
