"Plumbing of ftcook.dpo: what the lesson does not show."
import csv, json
import pytest, torch
from conftest import root
from ftcook.dpo import check_pairs, dpo_loss, dpo_trainer, invention_rate, needless_questions
from ftcook.runtime import load_settings
from ftcook.tasks import clarify, is_clarification
from ftcook.tasks.flights import flight_requests, incomplete_requests, request_fields

@pytest.mark.parametrize('split', ['train', 'test'])
def test_the_missing_field_is_not_in_the_request(split):
    for row in incomplete_requests(300, split, 3):
        request, wanted = row['messages'][1]['content'], json.loads(row['messages'][2]['content'])
        assert wanted['action'] == 'clarify' and len(wanted['missing']) == 1
        assert '{' not in request and '  ' not in request and not request.startswith((' ', ',', ':'))
        if wanted['missing'] == ['max_price']: assert not any(mark in request for mark in ('$', '€', '£', '¥', 'USD', 'EUR', 'GBP', 'SEK', 'JPY', 'kronor', 'yen', 'euros', 'pounds', 'dollars'))
        if wanted['missing'] == ['date']: assert '2026' not in request and '2027' not in request

def test_only_the_fields_asked_for():
    assert {json.loads(r['messages'][2]['content'])['missing'][0] for r in incomplete_requests(50, fields=('date', 'origin'))} == {'date', 'origin'}
    for bad in ((), ('currency',)):
        with pytest.raises(ValueError, match='max_price'): incomplete_requests(1, fields=bad)

def test_same_seed_same_rows():
    assert incomplete_requests(20, 'train', 1) == incomplete_requests(20, 'train', 1) != incomplete_requests(20, 'train', 2)

def test_complete_requests_are_as_before():
    "`without` must not move the random draws of the complete requests."
    from ftcook.data import fingerprint
    assert fingerprint(flight_requests(384, 'train', 0)).startswith('bc463a59c87231d8')

@pytest.mark.parametrize('answer,expected', [(clarify(['date']), True), ('{"action":"book"}', False), ('[1]', False), ('clarify', False), ('', False), ('null', False), ('{"action":["clarify"]}', False)])
def test_is_clarification(answer, expected): assert is_clarification(answer) is expected

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

def test_loss_prefers_the_chosen():
    zero = torch.zeros(1)
    better, worse = dpo_loss(zero + 5, zero, zero, zero)[0], dpo_loss(zero, zero + 5, zero, zero)[0]
    assert better < torch.log(torch.tensor(2.)) < worse

def test_a_model_without_an_adapter_is_refused():
    with pytest.raises(ValueError, match="'default'"): dpo_trainer(torch.nn.Linear(1, 1), None, [], None)

def test_the_longer_runs_ask_and_still_fill_in():
    "The rows that the lesson quotes: the run of the gpu profile reaches both bars, those on a CPU one of them, and the control without rejected answers draws a rougher line."
    text = {'profile', 'device', 'loss', 'date'}
    runs = [{k: v if k in text else float(v) for k,v in r.items()} for r in csv.DictReader((root/'nbs'/'measurements'/'dpo.csv').open())]
    settings = load_settings('gpu')
    def reached(r): return r['inventions_after'] <= .10, r['exact_match_before'] - r['exact_match_after'] <= .03
    def gpu(fields, loss): return next(r for r in runs if r['profile'] == 'gpu' and (r['gap_fields'], r['loss'], r['pairs']) == (fields, loss, settings.mistake_pairs + settings.complete_pairs))
    best, control = gpu(settings.gap_fields, 'sigmoid+sft'), gpu(settings.gap_fields, 'sft')
    assert all(reached(best)) and best['asked_right'] >= .9 and best['needless'] == 0 and best['requests'] >= 200 and best['complete_requests'] >= 400
    assert (best['learning_rate'], best['beta'], best['batch_size']) == (settings.dpo_learning_rate, settings.beta, settings.dpo_batch_size)
    assert control['inventions_after'] > best['inventions_high'] and control['needless'] >= 10
    assert all(r['inventions_after'] > .3 for r in runs if r['gap_fields'] == 4) and gpu(4, 'sft')['exact_match_after'] > gpu(4, 'sigmoid+sft')['exact_match_after'] + .05
    assert all(sum(reached(r)) == 1 and r['needless'] == 0 for r in runs if r['profile'] == 'cpu')
    assert all(r['inventions_before'] > .9 for r in runs)
