"Plumbing of ftcook.dpo and ftcook.asking: what the lessons do not show."
import csv, json
import pytest, torch
from conftest import root
from ftcook.asking import asking_config, asking_rows, invention_pairs, invention_rate, needless_questions
from ftcook.dpo import check_pairs, dpo_config, dpo_loss, dpo_trainer
from ftcook.runtime import load_settings
from ftcook.tasks import clarify, is_clarification
from ftcook.tasks.flights import confirmation, flight_requests, incomplete_requests, request_fields, task, voice_of, voices

def test_invention_rate_counts_everything_that_does_not_ask():
    rows = incomplete_requests(3)
    right = rows[0]['messages'][2]['content']
    found = invention_rate([right, clarify(['nothing']), 'no JSON'], rows)
    assert found['invention_rate'] == pytest.approx(1/3) and found['asked_right'] == pytest.approx(1/3) and found['n'] == 3
    with pytest.raises(ValueError): invention_rate([right], rows)

def test_pairs_are_sound():
    pairs = needless_questions(flight_requests(10), request_fields, 1)
    assert check_pairs(pairs).problems == [] and check_pairs(pairs).longer_wins == 1
    assert all(json.loads(p['rejected'][0]['content'])['missing'][0] in request_fields for p in pairs)
    with pytest.raises(ValueError, match='none of 0'): check_pairs([])

def test_a_model_that_asks_makes_no_pair(monkeypatch):
    rows, settings = incomplete_requests(4), load_settings('cpu')
    answers = ['{"action":"book"}', clarify(['date']), ' ', 'no JSON']
    monkeypatch.setattr('ftcook.asking.generate_batch', lambda *args, **kwargs: answers)
    pairs = invention_pairs(None, None, rows, settings)
    assert [pair['rejected'][0]['content'] for pair in pairs] == [answers[0], answers[3]]
    assert [pair['chosen'] for pair in pairs] == [rows[i]['messages'][-1:] for i in (0, 3)]

def test_loss_prefers_the_chosen():
    zero = torch.zeros(1)
    better, worse = dpo_loss(zero + 5, zero, zero, zero)[0], dpo_loss(zero, zero + 5, zero, zero)[0]
    assert better < torch.log(torch.tensor(2.)) < worse

def test_a_model_without_an_adapter_is_refused():
    with pytest.raises(ValueError, match="'default'"): dpo_trainer(torch.nn.Linear(1, 1), None, [], None)

def test_a_voice_is_heard_in_whole_sentences_alone():
    row, = flight_requests(1, 'test')
    said = {(voice, which): confirmation(row, voice, which)['messages'][-1]['content'] for voice in voices for which in (0, 1)}
    assert [voice_of(text) for text in said.values()] == [voice for voice,_ in said]
    bright, plain = said['brand', 0], said['neutral', 1]
    assert {voice_of(bright + ' ' + plain), voice_of(bright[:-4]), voice_of(''), voice_of('Wonderful!')} == {''}

def test_the_voices_cannot_be_told_apart_by_length():
    row, = flight_requests(1)
    def sides(voice): return [confirmation(row, voice, which)['messages'] for which in (0, 1)]
    pairs = [dict(prompt=c[:-1], chosen=c[-1:], rejected=r[-1:]) for c in sides('brand') for r in sides('neutral')]
    assert check_pairs(pairs).longer_wins == .5

def test_only_asking_adds_the_sft_term(tmp_path):
    settings = load_settings('cpu')
    plain, asking = dpo_config(settings, tmp_path), asking_config(settings, tmp_path)
    assert list(plain.loss_type) == ['sigmoid'] and plain.learning_rate == settings.dpo_learning_rate
    assert asking.loss_type == ['sigmoid', 'sft'] and asking.loss_weights == [.2, 1.] and asking.beta == settings.beta
    assert asking.learning_rate == settings.asking_learning_rate
    assert asking_config(settings, tmp_path, loss_type=['sft'], loss_weights=[1.]).loss_type == ['sft']

def test_rows_that_ask_and_rows_that_do_not():
    settings = load_settings('cpu')
    rows = asking_rows(task, settings)
    asks = [is_clarification(row['messages'][-1]['content']) for row in rows]
    assert len(rows) == settings.ask_rows and sum(asks) == settings.ask_rows//2 and len(set(asks[:8])) == 2

def test_an_adapter_from_all_rows_at_once(monkeypatch, tmp_path):
    from types import SimpleNamespace
    import ftcook.asking as asking
    settings = load_settings('cpu')
    settings.update(ask_rows=6, train_rows=3)
    seen = []
    trainer = SimpleNamespace(model='tuned', train=lambda: seen.append('trained'))
    monkeypatch.setattr(asking, 'load_tokenizer', lambda *args: None)
    monkeypatch.setattr(asking, 'load_model', lambda *args, **kwargs: None)
    monkeypatch.setattr(asking, 'sft_trainer', lambda model, tokenizer, rows, args, lora: seen.extend([rows, args]) or trainer)
    monkeypatch.setattr(asking, 'save_policy', lambda model, folder: seen.append((model, folder)))
    assert asking.train_asking(task, settings, tmp_path, learning_rate=1e-3) is trainer
    rows, args, *rest = seen
    assert rows == asking_rows(task, settings) + task.rows(3, 'train', settings.seed) and rest == ['trained', ('tuned', tmp_path)]
    assert args.learning_rate == 1e-3 and args.per_device_train_batch_size == settings.batch_size

def test_the_long_runs_that_lesson_06b_quotes():
    "Two fields: pairs alone reach both bars, and the control is rougher. Four: twins reach them without pairs, mixed rows never."
    with (root/'nbs'/'measurements'/'flights'/'dpo.csv').open() as f: runs = list(csv.DictReader(f))
    def lost(r): return float(r['exact_match_before']) - float(r['exact_match_after'])
    def reached(*some):
        inventions, match = (sum(map(what, some))/len(some) for what in (lambda r: float(r['inventions_after']), lost))
        return inventions <= .10 and match <= .03
    def large(fields, loss):
        return next(r for r in runs if (r['profile'], r['gap_fields'], r['ask_rows'], r['loss'], r['pairs'])
                    == ('gpu', str(fields), '0', loss, '2560'))
    best, control = large(2, 'sigmoid+sft'), large(2, 'sft')
    assert reached(best) and reached(control) and int(best['needless']) == 0 and int(control['needless']) >= 10
    assert float(large(4, 'sft')['exact_match_after']) > float(large(4, 'sigmoid+sft')['exact_match_after']) + .05
    assert all(float(r['inventions_before']) > .9 for r in runs)
    kinds = {}
    for r in runs:
        kind = tuple(r[k] for k in ('device', 'recipe', 'ask_rows', 'loss', 'learning_rate'))
        if r['gap_fields'] == '4': kinds.setdefault(kind, []).append(r)
    for (_, recipe, ask_rows, loss, _), some in kinds.items():
        assert reached(*some) == (recipe != 'mixed' and loss == 'rows alone'), (recipe, loss)
        if ask_rows != '0': assert {r['seed'] for r in some} == {'0', '1', '2'}, (recipe, loss)
        if recipe == 'joint': assert all(map(reached, some)), 'each seed stays within both bars'
