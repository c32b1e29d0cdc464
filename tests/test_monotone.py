"""More memory is never answered by slower settings, more work never by less memory or time."""
import itertools, random
from functools import partial
import pytest
from ftcook import planning
from ftcook.cost import estimate
from ftcook.planning import calibration, fastest, gpu_offers, peak_gib, token_seconds
from ftcook.runs import Run
from ftcook.runtime import shapes

mixed = [64]*30 + [300]*15 + [1900]*5
plain = dict(flash=False, use_liger_kernel=False)

@pytest.fixture
def remembered(monkeypatch):
    "The candidates do not depend on the memory, so a ladder ranks them once."
    known, rank = {}, planning._ranked
    def ranked(base, lengths, *args):
        key = base.key(), tuple(lengths), str(args)
        if key not in known: known[key] = rank(base, lengths, *args)
        return known[key]
    monkeypatch.setattr(planning, '_ranked', ranked)

def answer(*args, **kwargs):
    "What `fastest` says: its speed over trl's defaults, which do not depend on the memory. None: nothing fits."
    try: return fastest(*args, **kwargs)
    except ValueError as e:
        assert 'at least' in str(e)
        return None

def climbs(model, method, lengths, sizes, **kwargs):
    "Walk up a ladder of memory sizes; a step down in speed is a failure. The answers."
    found = [answer(model, method, lengths, gpu_gib=gib, **kwargs) for gib in sizes]
    speeds = [choice.speedup if choice else 0 for choice in found]
    for gib,before,after in zip(sizes[1:], speeds, speeds[1:]):
        assert after >= before, f'{model} {method} {lengths}: slower from {gib:.2f} GiB on, {before:.3f} to {after:.3f}'
    return found

def ladder(model, method, lengths, steps=14):
    "Memory from a little less than the leanest setting to more than any needs, and on both sides of every edge."
    first = fastest(model, method, lengths, gpu_gib=10**5, **plain)
    needs = sorted(gib/.92 for _,gib,_ in first.others)
    edges = random.Random(0).sample(needs, min(len(needs), steps)) + needs[:2]
    even = [needs[0]*.98*(1.02*needs[-1]/needs[0])**(i/steps) for i in range(steps + 1)]
    return sorted([*even, *(e*f for e in edges for f in (1 - 1e-9, 1 + 1e-9))])

@pytest.mark.parametrize('method', ['full', 'lora', 'qlora'])
@pytest.mark.parametrize('model', shapes)
def test_more_memory_is_never_slower(model, method, remembered):
    able = dict(flash=True, use_liger_kernel=True, gpu_speed=.2)
    for lengths,how in ((64, plain), (2048, plain), (mixed, able)):
        found = climbs(model, method, lengths, ladder(model, method, lengths), **how)
        assert found[-1] is not None and found[-1].speedup == max(o.speedup for o in found if o)

@pytest.mark.parametrize('model, low, high', [('Llama-3.2-1B', 10.5, 10.6), ('Qwen2.5-0.5B', 4.2, 4.3),
    ('Llama-3.2-3B', 26.8, 26.9), ('Mistral-7B', 58, 59)])
def test_where_states_of_full_size_begin_to_fit(model, low, high, remembered):
    "From there on, nothing else was considered once; the answer became up to twice as slow."
    sizes = [low*.9 + i*(high*1.3 - low*.9)/60 for i in range(61)]
    found = climbs(model, 'full', 2048, sorted([*sizes, low, high]), **plain)
    usual = [c for c in found if c and c.run.optim == 'adamw_torch_fused']
    assert usual, 'the ladder passes the place where full-size states win'
    for choice in usual: assert any(run.optim == 'adamw_8bit' for _,_,run in choice.others)

@pytest.mark.parametrize('method', ['full', 'lora', 'qlora'])
def test_the_choice_is_the_best_that_fits(method, remembered):
    "By hand: every candidate that fits is no faster, and the same speed is told of it by `token_seconds`."
    card = next(o for o in gpu_offers() if o.gpu == 'H100')
    for gib in (5, 11, 24, 80):
        choice = answer('Llama-3.2-1B', method, mixed, gpu_gib=gib, flash=True, use_liger_kernel=False)
        if choice is None: continue
        room, mine = .92*gib, token_seconds(choice.run, mixed, card, calibration())
        assert choice.gib == peak_gib(choice.run) <= room
        assert mine == min(seconds for seconds,needs,_ in choice.others if needs <= room)

def test_equal_speed_is_decided_for_the_simpler(monkeypatch):
    "An 8-bit optimizer has to gain something, and memory is not taken for nothing."
    monkeypatch.setattr(planning, 'token_seconds', lambda *args: 1.)
    choice = fastest('Llama-3.2-1B', 'full', gpu_gib=10**5, **plain)
    usual = [gib for _,gib,run in choice.others if run.optim == 'adamw_torch_fused']
    assert choice.run.optim == 'adamw_torch_fused' and choice.gib == min(usual) > min(gib for _,gib,_ in choice.others)

def test_an_optimizer_that_is_asked_for_is_the_only_one():
    for optim in ('adamw_torch_fused', 'adamw_8bit', 'paged_adamw_8bit'):
        choice = fastest('Llama-3.2-1B', 'full', gpu_gib=40, optim=optim, **plain)
        assert {run.optim for _,_,run in choice.others} == {optim} and choice.args.optim == optim

@pytest.mark.parametrize('method', ['full', 'lora', 'qlora'])
def test_more_to_choose_from_is_never_slower(method, remembered):
    for model,gib in itertools.product(shapes, (3, 12, 24, 80, 640)):
        few = answer(model, method, mixed, gpu_gib=gib, **plain)
        for more in (dict(plain, flash=True), dict(plain, use_liger_kernel=True), dict(plain, margin=.02)):
            many = answer(model, method, mixed, gpu_gib=gib, **more)
            assert few is None or many.speedup >= few.speedup, (model, gib, more)

def random_run(draw):
    method = draw.choice(['full', 'lora', 'qlora', 'dpo'])
    modes = ['none', 'full', 'every-2'] + ['selective']*(method != 'dpo')
    rank = {} if method == 'full' else dict(r=draw.choice([4, 16, 64]))
    return Run(draw.choice(list(shapes)), method, per_device_train_batch_size=draw.choice([1, 2, 4, 8, 16]),
        max_length=draw.choice([128, 512, 2048, 8192]), gradient_checkpointing=draw.choice(modes),
        use_liger_kernel=draw.choice([False, True]), attn_implementation=draw.choice(['sdpa', 'eager', 'flash_attention_2']),
        gradient_accumulation_steps=draw.choice([1, 2]), **rank)

def test_more_rows_or_tokens_take_no_less():
    "Of memory, of time for a step, and of money, over random runs."
    draw = random.Random(0)
    for _ in range(250):
        run, gpu = random_run(draw), draw.choice(['L40S', 'H100', 'T4', 'A100'])
        asked = partial(estimate, gpu=gpu, tokens=1e6)
        one = asked(**run.to_dict())
        for field,more in (('per_device_train_batch_size', 1), ('max_length', 64), ('gradient_accumulation_steps', 1)):
            two = asked(**run.to_dict() | {field: getattr(run, field) + more})
            assert two.needed_gib >= one.needed_gib - 1e-9 and two.step_s >= one.step_s - 1e-9, (run, gpu, field)
        twice = estimate(**run.to_dict(), gpu=gpu, tokens=2e6)
        assert twice.hours == pytest.approx(2*one.hours) and twice.needed_gib == one.needed_gib
