"""Faults of marks, intervals, reports and gates."""
import math
import numpy as np
import pytest
from scipy.stats import binomtest
from ftcook.evaluation import (EvalReport, bootstrap, forgetting, gate, harness_tasks, paired, proportion, score_each)
from ftcook.tasks import Task, get_task

class Colour(Task):
    "A second task, of which no module of the package knows."
    name, instruction = 'colour', 'Name the colour.'
    schema = dict(type='object', required=['hue', 'dark'], properties=dict(hue=dict(type='string'), dark=dict(type='boolean')))
    def rows(self, n, split='train', seed=0):
        return [self.row(f'{split} {i}: red', dict(hue='red', dark=False)) for i in range(n)]

def test_answers_of_any_task_are_marked():
    rows = Colour().rows(4)
    right = rows[0]['messages'][-1]['content']
    found = score_each([right, right.replace('red', 'blue'), '{"hue": "red"}', 'red'], rows, Colour())
    assert found == dict(exact_match=[1, 0, 0, 0], schema_valid=[1, 1, 0, 0], hue=[1, 0, 1, 0], dark=[1, 1, 0, 0])
    with pytest.raises(ValueError): score_each([right], rows, Colour())

def test_marks_agree_with_the_score_of_the_whole():
    task = get_task('flights')
    rows = task.rows(6, 'test')
    answers = [row['messages'][-1]['content'] for row in rows]
    answers[1], answers[4] = answers[1].replace('"max_price":', '"max_price":1'), 'no'
    whole, found = task.score(answers, rows), score_each(answers, rows, 'flights')
    assert sum(found['exact_match'])/6 == whole['exact_match'] == 4/6
    assert {f: sum(found[f])/6 for f in whole['fields']} == whole['fields']

@pytest.mark.parametrize('k, n, low, high', [(8, 10, .4902, .9433), (0, 10, 0, .2775), (10, 10, .7225, 1), (1, 2, .0945, .9055),
                                             (90, 100, .8256, .9448)])
def test_proportion_is_wilsons(k, n, low, high):
    "Bounds to four digits, as scipy's binomtest(k, n).proportion_ci(method='wilson') has them."
    found = proportion([1]*k + [0]*(n - k))
    assert (found['value'], found['n']) == (k/n, n) and (round(found['low'], 4), round(found['high'], 4)) == (low, high)

def test_bootstrap_of_equal_values_claims_nothing():
    assert math.isnan(bootstrap([1, 1, 1])['low']) and paired([1, 0], [1, 0])['p'] == 1 and math.isnan(proportion([])['value'])

def test_bootstrap_knows_the_error_of_a_mean():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap(values)
    assert found['value'] == pytest.approx(values.mean()) and found['n'] == 400
    assert found['high'] - found['low'] == pytest.approx(2*1.96*values.std(ddof=1)/20, rel=.1)

def test_paired_needs_the_same_requests():
    with pytest.raises(ValueError): paired([1, 0], [1])

def test_paired_is_antisymmetric():
    a, b = [1]*12 + [0]*8 + [1]*20, [0]*12 + [1]*3 + [0]*5 + [1]*20
    ab, ba = paired(a, b), paired(b, a)
    assert ab['value'] == -ba['value'] and ab['p'] == ba['p'] == binomtest(3, 15).pvalue
    assert ab['low'] < ab['value'] < ab['high'] < 0

def test_groups_widen_what_they_share():
    "Ten sentences of one mind are worth ten requests; a hundred groups of one are worth a hundred."
    marks, sentences = [1]*80 + [0]*20, [i//10 for i in range(100)]
    alone, single, together = proportion(marks), proportion(marks, range(100)), proportion(marks, sentences)
    assert together['value'] == .8 and together['groups'] == 10
    assert single['low'] == pytest.approx(alone['low'], abs=.03)
    assert together['high'] - together['low'] > 2.5*(alone['high'] - alone['low'])
    sure = proportion([1]*20, [0]*10 + [1]*10)
    assert sure['low'] == pytest.approx(proportion([1, 1])['low']) and sure['high'] == 1

def test_paired_by_groups_counts_groups_and_not_requests():
    "Eight requests that change are significant, unless they are one sentence."
    a, b = [1]*8 + [1]*12, [0]*8 + [1]*12
    one, many = [0]*8 + list(range(1, 13)), list(range(20))
    assert paired(a, b)['p'] < .01 and paired(a, b, groups=many)['p'] == pytest.approx(paired(a, b)['p'])
    by_sentence = paired(a, b, groups=one)
    assert by_sentence['p'] == 1 and by_sentence['high'] == 0 and by_sentence['value'] == -.4
    with pytest.raises(ValueError): paired(a, b, groups=one[:-1])

def samples(name, values, order): return [{'doc_id': i, name: values[i]} for i in order]

def test_forgetting_pairs_items_by_id():
    def results(acc, ll, order):
        means = dict(quiz={'acc,none': np.mean(acc)}, text={'bits_per_byte,none': -sum(ll)/40/math.log(2)})
        items = dict(quiz=samples('acc', acc, order), text=samples('bits_per_byte', [(v, 10) for v in ll], order))
        return dict(results=means, samples=items)
    before = results([1., 1., 0., 1.], [-10, -20, -30, -40], [0, 1, 2, 3])
    out = forgetting(before, results([1., 0., 1., 0.], [-11, -22, -36, -40], [2, 0, 1, 3]))
    assert (out['quiz']['only_a'], out['quiz']['only_b'], out['quiz']['value']) == (2, 1, -1/4)
    assert out['text']['value'] == pytest.approx(out['text']['after'] - out['text']['before']) == pytest.approx(9/40/math.log(2))

def test_forgetting_refuses_what_it_cannot_compare():
    generated = dict(results={}, samples=dict(story=samples('bleu', [1.], [0])))
    with pytest.raises(ValueError, match='story'): forgetting(generated, generated)

def test_no_tasks_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError): harness_tasks(tmp_path)

metrics = dict(exact_match=dict(value=.8, low=.7, high=.9, n=80), perplexity=dict(value=math.nan, n=3))
report = EvalReport('m', metrics, dict(data='flights'))

@pytest.mark.parametrize('text, passed, said', [
    ('exact_match>=0.8', True, 'measured 0.8'),
    ('exact_match > 0.8', False, 'measured 0.8'),
    ('exact_match.low>=0.75', False, 'measured 0.7'),
    ('exact_match.n>=50', True, 'measured 80'),
    ('perplexity<100', False, 'not measured'),
    ('perplexity>=0', False, 'not measured'),
    ('unknown<=1', False, 'not measured; no such metric; there are exact_match, perplexity'),
    ('exact_match.p<=1', False, 'not measured; no such figure; there are value, low, high, n'),
    ('exact_match<=8e-1', True, 'measured 0.8'),
    ('exact_match>=-1', True, 'measured 0.8')])
def test_gate(text, passed, said):
    result = gate(report, text)
    assert (result.passed, result.exit_code, bool(result)) == (passed, int(not passed), passed)
    assert result.reasons == [f"{'pass' if passed else 'FAIL'}  {text}: {said}"] and result.reasons[0] in str(result)

def test_gate_passes_only_if_all_hold():
    assert gate(report, 'exact_match>=0.8', 'exact_match.n>=50') and not gate(report, 'exact_match>=0.8', 'exact_match.n>=90')

@pytest.mark.parametrize('text', ['exact_match', '>=1', 'exact_match=1', 'exact_match>=high', 'exact_match>=1.2.3', ''])
def test_gate_refuses_what_it_cannot_read(text):
    with pytest.raises(ValueError, match='no threshold'): gate(report, text)

def test_report_survives_a_round_trip_and_is_strict_json(tmp_path):
    path = report.save(tmp_path/'new')
    assert EvalReport.load(path) == report and 'NaN' not in path.read_text()
    assert '| exact_match | 0.8 |' in (tmp_path/'new'/'report.md').read_text()

def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = report.save(tmp_path)
    old = path.read_text()
    with pytest.raises(TypeError): EvalReport('m', dict(exact_match=dict(value=object()))).save(tmp_path)
    assert path.read_text() == old and sorted(p.name for p in tmp_path.iterdir()) == ['report.json', 'report.md']

def test_bare_and_numpy_numbers(tmp_path):
    path = EvalReport('m', dict(a=.5, b=dict(value=np.int64(3), n=np.float32(2)), c=np.float64('nan'))).save(tmp_path)
    again = EvalReport.load(path)
    assert gate(again, 'a>=0.5', 'b>=3', 'b.n>=2').passed and again.metrics['c'] == dict(value=None)

@pytest.mark.parametrize('content', ['{"name": "m", "metrics": [1]}', '{"name": "m"', '[]', '"text"',
                                     '{"name": "m", "metrics": {}, "extra": 1}'])
def test_what_is_no_report_is_refused(tmp_path, content):
    (tmp_path/'report.json').write_text(content)
    with pytest.raises(ValueError, match='not a report'): EvalReport.load(tmp_path/'report.json')
