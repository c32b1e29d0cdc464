"Plumbing of ftcook.dpo: what the lesson does not show."
import csv, json
import pytest, torch
from conftest import root
from ftcook.dpo import check_pairs, dpo_loss, dpo_trainer, invention_pairs, invention_rate, needless_questions
from ftcook.runtime import load_settings
from ftcook.tasks import clarify
from ftcook.tasks.flights import flight_requests, incomplete_requests, request_fields

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
    monkeypatch.setattr('ftcook.dpo.generate_batch', lambda *args, **kwargs: answers)
    pairs = invention_pairs(None, None, rows, settings)
    assert [pair['rejected'][0]['content'] for pair in pairs] == [answers[0], answers[3]]
    assert [pair['chosen'] for pair in pairs] == [rows[i]['messages'][-1:] for i in (0, 3)]

def test_loss_prefers_the_chosen():
    zero = torch.zeros(1)
    better, worse = dpo_loss(zero + 5, zero, zero, zero)[0], dpo_loss(zero, zero + 5, zero, zero)[0]
    assert better < torch.log(torch.tensor(2.)) < worse

def test_a_model_without_an_adapter_is_refused():
    with pytest.raises(ValueError, match="'default'"): dpo_trainer(torch.nn.Linear(1, 1), None, [], None)

def test_the_longer_runs_ask_and_still_fill_in():
    "The rows that the lesson quotes: the run of the gpu profile reaches both bars, those on a CPU one; the control is rougher."
    text, settings = {'profile', 'device', 'loss', 'versions', 'date'}, load_settings('gpu')
    with (root/'nbs'/'measurements'/'flights'/'dpo.csv').open() as f:
        runs = [{k: v if k in text else float(v) for k,v in r.items()} for r in csv.DictReader(f)]
    pairs = settings.mistake_pairs + settings.complete_pairs
    def reached(r): return r['inventions_after'] <= .10, r['exact_match_before'] - r['exact_match_after'] <= .03
    runs_of = {(r['profile'], r['gap_fields'], r['loss'], r['pairs']): r for r in runs if r['profile'] == 'gpu'}
    def gpu(fields, loss): return runs_of['gpu', fields, loss, pairs]
    best, control = gpu(settings.gap_fields, 'sigmoid+sft'), gpu(settings.gap_fields, 'sft')
    assert all(reached(best)) and best['asked_right'] >= .9 and best['needless'] == 0
    assert best['requests'] >= 200 and best['complete_requests'] >= 400
    assert best['learning_rate'] == settings.dpo_learning_rate and best['beta'] == settings.beta
    assert best['batch_size'] == settings.dpo_batch_size
    assert control['inventions_after'] > best['inventions_high'] and control['needless'] >= 10
    assert all(r['inventions_after'] > .3 for r in runs if r['gap_fields'] == 4)
    assert gpu(4, 'sft')['exact_match_after'] > gpu(4, 'sigmoid+sft')['exact_match_after'] + .05
    assert all(sum(reached(r)) == 1 and r['needless'] == 0 for r in runs if r['profile'] == 'cpu')
    assert all(r['inventions_before'] > .9 for r in runs)
