"""The estimate takes what a trl user has in hand, says what would make a run fit, and refuses what is wrong by name."""
import json, math, os, subprocess, sys
import pytest
from conftest import root
from ftcook.bench import merge_rows
from ftcook.cli import main
from ftcook.cost import break_even, compare, estimate, fit_calibration, with_interruptions
from ftcook.planning import calibration, gpu_offers, price_columns, read_machine
from ftcook.runs import Run

def test_what_would_make_it_fit():
    e = estimate('Mistral-7B', gpu='RTX 4090', gradient_checkpointing='none')
    assert not e.fits and e.remedies[0].startswith('gradient checkpointing') and 'rows at once' in e.remedies[1]
    assert 'tokens per row' in e.remedies[-1] # what loses data comes last
    assert estimate('Mistral-7B', gpu='RTX 4090').fits
    together = estimate('Llama-3-8B', method='lora', per_device_train_batch_size=16, gradient_checkpointing='none',
        gpu='RTX 4090')
    assert any('all together' in o or 'rows' in o for o in together.remedies)

def test_the_memory_of_a_card_is_what_torch_reports():
    batch_6 = dict(per_device_train_batch_size=6, gradient_checkpointing='none') # 76 GiB: fits both cards of 80 GB
    assert all(estimate('Mistral-7B', gpu=gpu, **batch_6).fits for gpu in ('A100', 'H100'))
    assert all(.92*o.memory_gb < o.usable_gib < o.memory_gb for o in gpu_offers())

def test_remedies_do_what_they_say():
    e = estimate('Mistral-7B', gpu='RTX 4090', gradient_checkpointing='none')
    checked = next(o for o in e.remedies if o.startswith('gradient checkpointing'))
    assert checked == f"gradient checkpointing: {estimate('Mistral-7B', gpu='RTX 4090').needed_gib:.1f} GiB"
    rows = next(o for o in e.remedies if 'rows at once' in o)
    fewer = estimate('Mistral-7B', gpu='RTX 4090', gradient_checkpointing='none',
        per_device_train_batch_size=int(rows.split()[0]))
    assert fewer.fits and rows.endswith(f'{fewer.needed_gib:.1f} GiB')

def test_what_a_user_of_trl_has_in_hand():
    from peft import LoraConfig
    from transformers import AutoConfig
    from trl import SFTConfig
    from ftcook.runs import random_model
    args = SFTConfig(output_dir='out', use_cpu=True, bf16=False, max_length=512, model_init_kwargs=dict(dtype='bfloat16'))
    lora = LoraConfig(r=8, target_modules='all-linear')
    wanted = estimate('mistral-7b', method='lora', r=8, max_length=512, per_device_train_batch_size=8)
    assert estimate('mistral-7b', args, lora) == estimate('mistral-7b', args=args, peft_config=lora) == wanted
    assert estimate('mistral-7b', args, lora, r=4).run.r == 4                                  # what is said wins
    assert 'fewer' in estimate('mistral-7b', args, LoraConfig(r=8, target_modules=['q_proj', 'v_proj'])).note
    config = AutoConfig.for_model('llama', hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=512)
    model = random_model(config, dtype='float32')
    by_model = estimate(model, args, lora)
    assert (by_model.run.dtype, by_model.run.method, by_model.model) == ('float32', 'lora', 'llama') and by_model.needed_gib < 5
    json.dumps(by_model.to_dict())

@pytest.mark.parametrize('model', ['embedded', 'SmolLM2-135M', 'smollm2 135m'])
def test_one_resolver(model): assert estimate(model).needed_gib == estimate('SmolLM2-135M').needed_gib

@pytest.mark.parametrize('gpu', ['H100', 'h100', 'NVIDIA H100 80GB HBM3', 'H100 80GB HBM3'])
def test_a_gpu_by_any_of_its_names(gpu): assert estimate('Mistral-7B', gpu=gpu).gpu == 'H100'

def test_an_unknown_field_says_what_comes_near():
    for wrong,near in (('use_liger', 'use_liger_kernel'), ('batch_size', 'per_device_train_batch_size'), ('optimizer', 'optim')):
        with pytest.raises(TypeError, match=f'{wrong}: no such field.*near: {near}'): estimate('Mistral-7B', **{wrong: 1})

def test_trace_and_formula_agree():
    formula, trace = (estimate('SmolLM2-135M', depth=d, per_device_train_batch_size=2, max_length=512)
        for d in ('formula', 'trace'))
    assert trace.peak_gib == pytest.approx(formula.peak_gib,
        rel=.05) and trace.depth == 'trace' and trace.step_s == formula.step_s

def test_own_prices(tmp_path):
    card = dict(gpu='My card', memory_gb=24, bandwidth_gb_s=900, bf16_tflops=100, fp16_tflops=100)
    price = dict(provider='me', kind='on-demand', usd_low=2, usd_high=3, date='2026-11', source='own')
    merge_rows(tmp_path/'p.csv', [dict.fromkeys(price_columns, '') | card | price], ('gpu',))
    e = estimate('Llama-3.2-1B', gpu='my card', prices=tmp_path/'p.csv', tokens=1e6)
    assert e.usd == pytest.approx((2*e.hours, 3*e.hours))
    assert [o.gpu for o in gpu_offers(tmp_path/'p.csv')] == ['My card']
    low, high = estimate('Llama-3.2-1B', gpu='L40S', prices={'L40S': (1, 4)}, tokens=1e6).usd
    assert high == pytest.approx(4*estimate('Llama-3.2-1B', tokens=1e6).hours)

def test_every_gpu_and_a_longer_row_needs_more():
    assert {e.gpu for e in compare('Llama-3.2-1B')} == {o.gpu for o in gpu_offers()}
    sizes = [estimate('Mistral-7B', max_length=n).needed_gib for n in (512, 1024, 2048, 4096)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]

def test_command(capsys):
    command = 'estimate mistral-7b --method qlora --gpu L40S --seq 2048 --batch 4 --tokens 10M'
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    assert 'It fits.' in out and '█' in out and 'USD' in out and 'days old' in out
    assert main(['estimate', 'mistral-7b', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['fits'] and found['tokens'] == 10e6 and found['peak_gib'] == pytest.approx(sum(found['memory'].values()))
    assert main(['estimate', 'mistral-7b', '--gpu', 'all']) == 0
    assert 'B200' in capsys.readouterr().out

@pytest.mark.parametrize('arguments, near', [(['mistrall-7b'], 'Mistral-7B'), (['mistral-7b', '--gpu', 'H10'], 'H100'),
    (['mistral-7b', '--method', 'qlor'], 'qlora')])
def test_near_matches(arguments, near, capsys):
    assert main(['estimate', *arguments]) == 2
    assert near in capsys.readouterr().err

def test_interruptions():
    rare, often = (with_interruptions(10, gap) for gap in (1000, .5))
    assert rare.hours == pytest.approx(10, rel=.02) and often.hours > 12
    assert with_interruptions(10, 2).hours <= min(with_interruptions(10, 2, interval=i).hours for i in (.02, 2.))

def test_break_even():
    assert break_even(1000, 1., 0, hours_per_week=10).hours == pytest.approx(1000)
    assert break_even(1000, .1, 1000, usd_per_kwh=.3).years == math.inf

def test_own_calibration(tmp_path):
    twice = calibration()
    twice |= {k: 2*twice[k] for k in ('matmul', 'attention', 'bytes', 'gap', 'waiting')}
    merge_rows(tmp_path/'mine.csv', [twice], ('gpu',))
    a, b = (estimate('Mistral-7B', gpu='H100', calibrated=path) for path in (None, tmp_path/'mine.csv'))
    assert 1.8*a.step_s < b.step_s <= 2*a.step_s and b.needed_gib == a.needed_gib

def test_own_machine(tmp_path):
    "A file of `calibrate` stands for a GPU: its own rates and processor, the prices of its card."
    path, usual = tmp_path/'machine.json', read_machine()
    path.write_text(json.dumps(usual | dict(memory_gib=79.2, date='2026-11-27')))
    mine, listed = (estimate('Mistral-7B', gpu=gpu, tokens=1e6) for gpu in (str(path), 'H100'))
    assert mine.step_s == pytest.approx(listed.step_s) and mine.usd == listed.usd and 'this machine' in mine.note
    slower = usual | dict(gpu='Unheard of', memory_gib=24., date='2026-11-27', op_us=10*usual.op_us)
    path.write_text(json.dumps(slower))
    other = estimate('Mistral-7B', gpu=str(path), tokens=1e6)
    assert other.step_s > mine.step_s and other.capacity_gib == 24 and not other.usd

def test_the_calibration_in_the_package_is_that_of_the_tables():
    made, shipped = fit_calibration(), calibration()
    assert list(made) == list(shipped)
    for k,v in made.items(): assert v == (shipped[k] if isinstance(v, str) else pytest.approx(shipped[k], rel=.02, abs=.05)), k

def test_from_the_package_alone(tmp_path):
    "No checkout in sight: the estimate works, and what needs the measured tables says where they are."
    code = 'from ftcook.cost import estimate, fit_calibration\nprint(estimate("mistral-7b", gpu="L40S", tokens=10e6).fits)\n'
    code += 'try: fit_calibration()\nexcept FileNotFoundError as e: print(e)'
    env = os.environ | dict(PYTHONPATH=str(root))
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=tmp_path, env=env).stdout
    assert said.startswith('True\n') and 'in the repository only' in said and 'training' in said or 'estimates.csv' in said

def test_a_run_is_kept_in_the_estimate():
    e = estimate('mistral-7b', use_liger_kernel=True)
    assert e.run == Run(e.run.config, use_liger_kernel=True) and e.model == 'mistral-7b'
    assert e.to_dict()['run']['use_liger_kernel'] is True
