"""What lesson 08 computes: groups, memory and recommendations; and the measuring script, whose failures leave a row."""
import csv, sys
import pytest, torch
from conftest import root
from ftcook.methods import (Rental, approach_rules, frozen_bytes, group_advantages, peft_config_for, recommend, rentals,
                            training_gib, weight_rules)

def test_advantages_compare_the_answers_to_one_prompt():
    "Two prompts, three answers each, side by side: a mixed-up grouping would compare answers to different prompts."
    found = group_advantages([0, 1, 2, 10, 10, 10], 3)
    assert found.shape == (2, 3) and torch.allclose(found[0], torch.tensor([-1., 0, 1]), atol=1e-3)
    assert not found[1].any()
    assert torch.allclose(group_advantages([0, 1, 2, 10, 12, 14], 3)[1], found[0], atol=1e-3)
    with pytest.raises(RuntimeError): group_advantages([1, 2, 3], 2)

@pytest.mark.parametrize('method, gpus, gib', [('full', 1, 16), ('full', 4, 4), ('lora', 1, 2 + .16), ('lora', 2, 1 + .08)])
def test_memory_of_2_to_the_30_weights(method, gpus, gib):
    "16 bytes for each trained weight, 2 for a frozen one; several GPUs share them, but each needs its own step."
    assert training_gib(method, 2**30, share=.01, step_gib=0, gpus=gpus) == pytest.approx(gib)
    assert training_gib(method, 2**30, share=.01, step_gib=3, gpus=gpus) == pytest.approx(gib + 3)

def test_qlora_stores_half_a_byte_and_a_little():
    assert frozen_bytes['qlora'] == pytest.approx(4.127/8, abs=1e-4)
    assert training_gib('qlora', 2**30, share=0, step_gib=0) == frozen_bytes['qlora']

def test_rental_prices_are_those_of_the_table():
    "The middle one of the offers on demand, whatever the order of the rows."
    with (root/'ftcook'/'assets'/'gpu_prices.csv').open() as f: table = list(csv.DictReader(f))
    for rental in rentals():
        prices = sorted(float(r['usd_high']) for r in table if (r['gpu'], r['kind']) == (rental.gpu, 'on-demand'))
        assert rental.usd == prices[(len(prices) - 1)//2]
        row = next(r for r in table if r['gpu'] == rental.gpu and f"{r['provider']}, {r['date']}" == rental.source)
        assert float(row['usd_high']) == rental.usd and float(row['memory_gb']) == rental.memory_gb

@pytest.fixture
def prices(monkeypatch):
    offers = Rental('small', 20, 1., 'here'), Rental('large', 80, 3., 'there')
    monkeypatch.setattr('ftcook.methods.rentals', lambda: offers)

@pytest.mark.parametrize('case, answer, said', [
    (dict(budget_usd=20), 'SFT: QLoRA on a rented small', '20 hours of a rented small cost 20 USD (here)'),
    (dict(budget_usd=19), 'SFT: a smaller model, or more memory', 'does not rent one'),
    (dict(budget_usd=60, billions=30.), 'SFT: LoRA on a rented large', '20 hours of a rented large cost 60 USD (there)'),
    (dict(budget_usd=119, lora_falls_short=True), 'SFT: QLoRA on a rented small', 'All weights were asked for'),
    (dict(budget_usd=120, lora_falls_short=True), 'SFT: full fine-tuning on 2 × large', '2 × large cost 120 USD (there)')])
def test_what_a_budget_rents(prices, case, answer, said):
    found = recommend('task', examples=800, **case)
    assert str(found) == answer and said in ' '.join(found.reasons)

@pytest.mark.parametrize('gpus, vram, more, answer', [(4, 24, {}, 'SFT: QLoRA'), (2, 40, {}, 'SFT: QLoRA'),
    (8, 80, dict(lora_falls_short=True), 'SFT: LoRA'), (1, 24, {}, 'SFT: a smaller model, or more memory')])
def test_several_gpus_share_an_adapters_base(gpus, vram, more, answer):
    "70 billion weights: no method may count the whole base on each of several GPUs."
    found = recommend('task', examples=800, billions=70, gpus=gpus, vram_gib=vram, **more)
    assert str(found) == answer and (f'over the {gpus} GPUs' in ' '.join(found.reasons)) == (gpus > 1)

def test_gpus_that_need_not_share_are_told_nothing_of_it():
    assert not any('over the' in r for r in recommend('task', examples=800, gpus=4, vram_gib=80).reasons)

def test_the_assumed_step_grows_with_the_model():
    steps = [training_gib('qlora', n) - training_gib('qlora', n, step_gib=0) for n in (.135e9, 7e9, 70e9)]
    assert steps[1] == pytest.approx(4) and 3 < steps[0] < 3.2 and 7 < steps[2] < 8

def test_the_last_rule_always_holds():
    assert approach_rules[-1].holds({}) and weight_rules[-1].holds({})

def test_what_each_method_trains():
    from types import SimpleNamespace
    settings = SimpleNamespace(rank=8, alpha_over_rank=2)
    assert peft_config_for('full', settings) is None
    lora, ada = peft_config_for('qlora', settings), peft_config_for('adalora', settings, steps=40)
    assert (lora.r, lora.lora_alpha) == (8, 16) and (ada.init_r, ada.target_r, ada.total_step, ada.tfinal) == (12, 8, 40, 20)
    with pytest.raises(ValueError, match='use one of full, lora, qlora, ia3, adalora'): peft_config_for('dora', settings)

# --- the measuring script

@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'nbs'/'measurements'/'flights'))
    import methods
    return methods

@pytest.fixture
def settings():
    from ftcook.runtime import load_settings
    return load_settings('cpu')

def process(code): return [sys.executable, '-c', code]

def test_failure_leaves_a_row(methods, settings):
    row = methods.apart('full', settings, process('raise MemoryError("no room for the optimizer")'))
    assert row['error'] == 'MemoryError: no room for the optimizer'
    assert row['method'] == 'full' and row['profile'] == 'cpu' and 'torch-' in row['versions']

def test_killed_for_memory(methods, settings):
    assert 'memory' in methods.apart('full', settings, process('import os; os.kill(os.getpid(), 9)'))['error']

def test_silent_failure(methods, settings):
    assert methods.apart('full', settings, process('raise SystemExit(3)'))['error'] == 'the process ended with 3'

def test_a_failed_row_has_every_column(methods, settings):
    failed = methods.apart('full', settings, process('raise SystemExit(3)'))
    assert list(failed) == methods.columns == list(methods.empty_row('base', settings))

def test_rl_needs_its_first_stage(methods, settings, tmp_path):
    with pytest.raises(FileNotFoundError, match='measure `lora` first'): methods.started(None, tmp_path/'lora')

# --- the sweep over seeds and rates

@pytest.fixture
def sweep(methods):
    import sweep
    return sweep

def test_nothing_is_measured_before_what_it_starts_from(sweep):
    jobs = sweep.all_jobs([*sweep.once, *sweep.repeated, 'distilled'], [1, .333, 3], [0, 1, 2])
    assert len(jobs) == len(set(jobs)) == len(sweep.once) + 3*len(sweep.repeated)*3 + 3
    for i,(method,_,seed) in enumerate(jobs):
        if start := sweep.starts.get(method): assert jobs.index((start, 1, seed)) < i

def test_a_run_belongs_to_one_lane_and_waits_for_its_start(sweep, tmp_path):
    (tmp_path/'rows').mkdir()
    assert sweep.claim(tmp_path, ('lora', 1, 0)) and not sweep.claim(tmp_path, ('lora', 1, 0))
    assert not sweep.ready(tmp_path, ('dpo', 3, 0))
    sweep.row_file(tmp_path, ('lora', 1, 0)).write_text('{}')
    assert sweep.ready(tmp_path, ('dpo', 3, 0)) and not sweep.ready(tmp_path, ('dpo', 1, 1))

def test_rates_and_seeds_reach_the_settings(sweep, settings):
    s = sweep.for_job(settings, sweep.sizes['cpu'], ('full', 3, 2))
    assert (s.seed, s.batch_size) == (2, 4) and sweep.rate('full', s) == pytest.approx(3*.1*settings.learning_rate)
    assert sweep.rate('dpo', s) == pytest.approx(settings.learning_rate, rel=1e-3), 'a third of LoRA\'s, times 3'

def test_a_sweep_goes_on_where_its_table_stopped(sweep, tmp_path):
    jobs = sweep.all_jobs(['lora', 'dpo'], [1, 3], [0, 1])
    known = {('cpu', 'lora', '1', '0'), ('cpu', 'lora', '1', '1'), ('cpu', 'lora', '3', '0'), ('cpu', 'dpo', '1', '0')}
    (tmp_path/'rows').mkdir()
    starting, left = sweep.to_do(jobs, known, 'cpu', tmp_path)
    assert starting == [('lora', 1, 0), ('lora', 1, 1)] and left == [('dpo', 1, 1), ('lora', 3, 1), ('dpo', 3, 0), ('dpo', 3, 1)]
    sweep.row_file(tmp_path, ('lora', 1, 0)).write_text('{}')
    assert sweep.to_do(jobs, known, 'cpu', tmp_path)[0] == [('lora', 1, 1)]
    assert sweep.to_do(jobs, known, 'gpu', tmp_path)[1] == jobs
