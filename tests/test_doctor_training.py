"""Watching a run changes nothing, stops it with good weights, and every number in a check is needed by a case."""
import random, tempfile, time, tomllib
from pathlib import Path
import pytest
from ftcook.doctor import DoctorCallback, diagnose, diagnose_history, is_jump, objective, run_checks, thresholds
from conftest import root

@pytest.fixture(scope='module')
def toy():
    import ftcook.doctor.toy as toy
    toy.calm()
    return toy

def losses(trainer): return [e['loss'] for e in trainer.state.log_history if 'loss' in e]

# Watching

def test_it_is_a_callback_of_transformers():
    from transformers import TrainerCallback
    assert issubclass(DoctorCallback, TrainerCallback) and DoctorCallback is not TrainerCallback

def test_watching_changes_nothing(toy, tmp_path):
    plain, seen = (toy.toy_trainer(random.Random(0), tmp_path, steps=14, callbacks=c) for c in ([], [DoctorCallback(show=None)]))
    plain.train()
    seen.train()
    assert losses(plain) == losses(seen) and len(losses(seen)) == 14

def test_stops_with_good_weights(toy, tmp_path):
    import torch
    rng = random.Random(0)
    rows = toy.Dataset.from_list([r for r in toy.toy_rows(240, rng) if 16 not in r['input_ids']][:80])
    doctor, model = DoctorCallback(show=None), toy.broken_word(toy.toy_model())
    trainer = toy.toy_trainer(rng, tmp_path, toy.with_row(rows, 40, **toy.outlier(rng)), model, cls=toy.Own, callbacks=[doctor])
    trainer.train()
    assert doctor.findings.first == 'nan_loss' and trainer.state.global_step == 6 and doctor.named == dict(nan_loss=6)
    assert (tmp_path/'checkpoint-6'/'adapter_model.safetensors').exists()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters() if p.requires_grad)

def test_without_stopping(toy, tmp_path):
    doctor = DoctorCallback(stop=False, show=None)
    trainer = toy.toy_trainer(random.Random(0), tmp_path, lr=1e-1, steps=12, callbacks=[doctor])
    trainer.train()
    assert doctor.findings.first == 'lr_too_high' and trainer.state.global_step == 12 and not doctor.handles

def test_findings_are_shown_once(toy, tmp_path):
    shown = []
    doctor = DoctorCallback(stop=False, show=shown.append)
    toy.toy_trainer(random.Random(0), tmp_path, lr=1e-1, steps=12, callbacks=[doctor]).train()
    assert shown and sorted(f.code for f in shown) == sorted(doctor.findings.codes)

# Histories

def history(losses, rate=None, **columns):
    "Log entries from lists of equal length."
    extra = [dict(zip(columns, values)) for values in zip(*columns.values())] or [{}]*len(losses)
    rates = {} if rate is None else dict(learning_rate=rate)
    return [dict(step=i + 1, loss=v, **rates, **more) for i,(v,more) in enumerate(zip(losses, extra))]

def evaluated(train, held_out): return history(train) + [dict(step=4*(i + 1), eval_loss=v) for i,v in enumerate(held_out)]

def test_equal_rewards_at_first_stop_nothing(toy, tmp_path):
    from trl import GRPOConfig, GRPOTrainer
    calls, doctor, rng = [], DoctorCallback(show=None), random.Random(0)
    def late(completions, **kwargs):
        calls.append(1)
        return [0. if len(calls) < 4 else rng.random() for _ in completions]
    args = GRPOConfig(output_dir=str(tmp_path), max_steps=6, num_generations=4, per_device_train_batch_size=4, logging_steps=1,
        max_completion_length=4, report_to='none', use_cpu=True, bf16=False, save_strategy='no', disable_tqdm=True)
    trainer = GRPOTrainer(toy.plain_model(), late, args, toy.Dataset.from_list([dict(prompt='w1 w2')]*24), callbacks=[doctor],
        processing_class=toy.toy_tokenizer())
    trainer.train()
    assert trainer.state.global_step == 6 and doctor.findings.codes == [] and 'reward' in trainer.state.log_history[0]

def test_a_jump_needs_neighbours():
    assert is_jump(3., [1., 1., 1.]) and not is_jump(3., [1., 1.]) and not is_jump(1.6, [1., 1., 1.]) and not is_jump(.5, [.1]*4)

def test_the_objective_is_told_by_the_keys():
    margins = {'rewards/chosen': 0., 'rewards/margins': 0.}
    for keys,name in [({}, 'next token'), (margins, 'dpo'), ({'kl': 0., **margins}, 'kto'), ({'reward': 1., 'kl': 0.}, 'online'),
            ({'log_odds_ratio': 1., **margins}, 'no reference'), (dict(mean_reward=1., margin=0.), 'reward model')]:
        assert objective([dict(step=1, loss=1., **keys)]) == name

def test_a_long_history_is_read_once(tmp_path):
    entries = history([1.5 - i/2e5 + .1*(i%7) for i in range(100_000)], 1e-4)
    start = time.process_time()
    diagnose_history(entries)
    assert time.process_time() - start < 4

def test_a_check_of_ones_own(tmp_path):
    from ftcook.doctor import Finding, Rule
    def check_seen(run): yield Finding(Rule('seen', 'seen', 'x', 'y'), 'possible', f'{run.seen} files')
    (tmp_path/'config.json').write_text('{}')
    assert diagnose(tmp_path, checks=(*run_checks, check_seen)).codes == ['seen'] and diagnose(tmp_path).codes == []

def test_what_ended_in_a_cut_is_said_to_be_cut(tmp_path):
    (tmp_path/'optimizer.pt').write_bytes(b'PK\x03\x04' + bytes(50))
    (tmp_path/'config.json').write_text('{"a": 1')
    causes = {f.where['file']: f.cause for f in diagnose(tmp_path)}
    assert 'disk was full or the process was killed' in causes['optimizer.pt'] and 'disk was full or' not in causes['config.json']

# Thresholds: each is needed by the case that it names, with the value that it names

def numbered():
    groups = tomllib.loads((root/'ftcook'/'assets'/'thresholds.toml').read_text(encoding='utf-8'))
    return [(group, name) for group,entries in groups.items() for name in entries]

def broke(rising):
    "A run that ends in NaN, after a loss that rose or one that did not."
    return [*history([1., 1.1, 4. if rising else 1.]), dict(step=4, loss=float('nan'), grad_norm=float('nan'))]

def fix_of(entries): return diagnose_history(entries)[0].fix[:7]

def three_jumps():
    "Sixty steps that go down a little, with three jumps far apart."
    return history([.5 - i/1000 + 2.*(i in (15, 30, 45)) for i in range(60)])

def near_zero(): return evaluated([v*(1 + i/1000) for i,v in enumerate([.01, .001, .0005, .0004]*5)], [.002, .001, .004])

def culprit():
    "A batch whose gradient breaks on the row with by far the highest loss."
    import torch
    from ftcook.doctor.callback import Batch
    doctor = DoctorCallback()
    doctor._place = lambda batch, i: dict(row=i)
    return doctor._worst(Batch(torch.tensor(1.), torch.tensor([1., 1., 9., 1.]), None, None, None))[1]

def rate(value):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder)/'a.py').write_text(f'SFTConfig(learning_rate={value})\n')
        return diagnose(Path(folder)/'a.py').codes

def slow_rate():
    "At which step is a tenth of the rate named?"
    import ftcook.doctor.toy as toy
    rng, doctor = random.Random(0), DoctorCallback(show=None)
    with tempfile.TemporaryDirectory() as folder: toy.toy_trainer(rng, folder, lr=1e-3, callbacks=[doctor]).train()
    return doctor.named.get('lr_too_low')

field_cases = {c['id']: c for c in tomllib.loads((root/'tests'/'field'/'curves.toml').read_text(encoding='utf-8'))['case']}

def field_case(name): return (diagnose(root/'tests'/'field'/'cases'/name/'run').first or 'none') in field_cases[name]['first']

def prepared(rows, left):
    "What trl makes of rows, of which its last filter leaves a part."
    from types import SimpleNamespace as Made
    class Data:
        _indices, _data = 'kept', Made(num_rows=rows)
        def __len__(self): return left
    return Made(dataset=Data(), args=Made(truncation_mode='keep_start', max_length=8))

def cold():
    from ftcook.doctor import batch
    class GRPOConfig: temperature, top_k = 1e-6, 0
    class Setup: args = GRPOConfig()
    return any(batch._check_sampling(Setup))

def dropped():
    from ftcook.doctor import batch
    return [[f.code for f in batch._check_dropped(prepared(9, left))] for left in (2, 8)] == [['rows_dropped'], []]

made_here = { # name -> does it come out right?
    'a rate that broke the run': lambda: [fix_of(broke(rising)) for rising in (True, False)] == ['A tenth', 'bf16 in'],
    'three jumps in sixty steps': lambda: diagnose_history(three_jumps()).first == 'spike',
    'an evaluation near zero': lambda: diagnose_history(near_zero()).codes == [],
    'a gradient that breaks on one row': lambda: culprit() == dict(row=2),
    'a slow rate, named at the tenth step': lambda: slow_rate() == 10,
    'all weights, hardly moved': lambda: rate(1e-8) == ['lr_too_low'],
    'rows that a short window drops': dropped,
    'answers without randomness': cold,
    'all weights, moved too far': lambda: rate(1e-2) == ['lr_too_high']}

@pytest.fixture(scope='module')
def outcome(toy):
    "A function that says whether a case comes out right; run folders are made once."
    import ftcook.doctor.cases as cases
    from ftcook.doctor.cases_base import examine_made
    by_name, made, places = {f'{c.kind}: {c.name}': c for c in cases.cases}, {}, tempfile.TemporaryDirectory()
    def right(name):
        if name.startswith('field: '): return field_case(name.removeprefix('field: '))
        if name.startswith('tests: '): return made_here[name.removeprefix('tests: ')]()
        c = by_name[name]
        def make():
            folder = Path(places.name)/str(len(made))
            folder.mkdir(exist_ok=True)
            return folder, examine_made(c, cases.examiners, random.Random(f'{c.kind}-{c.name}-0'), folder)
        if c.kind == 'run' and name not in made: made[name] = make()[0]
        found = diagnose(made[name]) if c.kind == 'run' else make()[1]
        return found.first == c.planted if c.planted else not found
    yield right
    places.cleanup()

@pytest.mark.parametrize('group,name', numbered(), ids=lambda o: o)
def test_a_threshold_is_needed(outcome, monkeypatch, group, name):
    threshold = thresholds[name]
    assert threshold.why and outcome(threshold.case), threshold.case
    monkeypatch.setitem(thresholds, name, threshold._replace(value=threshold.otherwise))
    assert not outcome(threshold.case), f'{threshold.case} comes out right with {name} = {threshold.otherwise} as well'

def test_what_is_made_here_is_used_and_nothing_is_named_twice():
    names = [name for _,name in numbered()]
    assert len(set(names)) == len(names) and set(names) == set(thresholds)
    assert {f'tests: {name}' for name in made_here} == {t.case for t in thresholds.values() if t.case.startswith('tests: ')}
    with pytest.raises(AttributeError, match='no_such'): _ = thresholds.no_such

# A checkpoint that was not written to its end

@pytest.mark.parametrize('files', [['README.md'], ['README.md', 'adapter_config.json'], ['adapter_config.json', 'optimizer.pt']])
def test_a_checkpoint_that_was_begun(tmp_path, files):
    "The state of the trainer is written last; without it a run cannot go on from there."
    for step,names in ((2, ['trainer_state.json']), (4, files)):
        for name in names:
            (tmp_path/f'checkpoint-{step}').mkdir(exist_ok=True)
            (tmp_path/f'checkpoint-{step}'/name).write_text('{}')
    found = diagnose(tmp_path)
    assert found.codes == ['unreadable'] and 'cut off' in found[0].cause
    assert found[0].evidence.startswith('checkpoint-4: incomplete')
    assert diagnose(tmp_path/'checkpoint-4').first == 'unreadable' and diagnose(tmp_path/'checkpoint-2').codes == []
