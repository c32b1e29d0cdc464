"""Faults of judges, reports and gates."""
import itertools, json, math, time
import numpy as np
import pytest
from scipy.stats import binomtest
from ftcook.evaluation import (EvalReport, JudgeError, _connor, ask, bootstrap, endpoint, forgetting, gate, harness_tasks, judge,
                               judge_client, judge_metrics, paired, pairs_needed, power, proportion, read_verdict, score_each)
from ftcook.tasks import Task, get_task

secret = 'sk-never-to-be-seen'
rubric = 'Request: {request}\nAnswer A: {a}\nAnswer B: {b}'
pairs = [dict(request=f'request {i}', a='good', b='bad', truth='a') for i in range(6)]

@pytest.fixture
def client(monkeypatch):
    monkeypatch.setenv('TEST_JUDGE_KEY', secret)
    return lambda url, **kwargs: judge_client(url, 'TEST_JUDGE_KEY', **kwargs)

def fails(*replies):
    "A server that gives `replies` in turn (functions are called) and then 'A'; `server.calls` has (time, body)."
    def server(body):
        server.calls.append((time.monotonic(), body))
        out = replies[len(server.calls)-1] if len(server.calls) <= len(replies) else 'A'
        return out() if callable(out) else out
    server.calls = []
    return server

def cut(): raise ConnectionError
def late():
    time.sleep(1.2)
    return 'A'

@pytest.mark.parametrize('fault, reason', [
    (late, 'time-out'),
    (cut, 'no connection'),
    ((429, {}, '{}'), 'rate limit'),
    ((500, {}, '{}'), 'server error'),
    ((408, {}, '{}'), 'server error'),
    ((200, {}, 'not JSON'), 'malformed reply'),
    ((200, {}, '{}'), 'malformed reply'),
    ((200, {}, '{"choices": []}'), 'malformed reply'),
    ((200, {}, '{"choices": [{"message": {"content": null}}]}'), 'malformed reply'),
    ((200, {'Content-Type': 'text/html'}, '<p>hello</p>'), 'malformed reply'),
    ('', 'malformed verdict'),
    ('A and B', 'malformed verdict')])
def test_each_fault_is_retried_then_counted(client, fault, reason):
    def asked(times, **kwargs):
        with endpoint(fails(*[fault]*times)) as url: return ask(client(url, timeout=.8), 'm', '?', wait=.01, **kwargs)
    assert asked(1) == ('A', [reason])
    assert asked(3, tries=3) == (None, [reason]*3)

def test_no_server_at_all(client):
    with endpoint(fails()) as url: pass
    assert ask(client(url, timeout=.5), 'm', '?', tries=2, wait=.01) == (None, ['no connection']*2)

def test_retry_after_is_obeyed_and_pauses_grow(client):
    server = fails((429, {'Retry-After': '0.5'}, '{}'), (503, {}, '{}'), (503, {}, '{}'))
    with endpoint(server) as url: verdict, failures = ask(client(url), 'm', '?', wait=.1)
    at = [t for t,_ in server.calls]
    assert verdict == 'A' and failures == ['rate limit', 'server error', 'server error']
    assert at[1] - at[0] >= .5 and at[2] - at[1] >= .2 and at[3] - at[2] >= .4

def test_a_date_in_retry_after_falls_back_to_the_own_pause(client):
    dated = 429, {'Retry-After': 'Wed, 21 Oct 2099 07:28:00 GMT'}, '{}'
    with endpoint(fails(dated)) as url: assert ask(client(url), 'm', '?', wait=.01)[0] == 'A'

def test_a_malformed_verdict_is_asked_again_with_temperature(client):
    server = fails('hm')
    with endpoint(server) as url: ask(client(url), 'm', '?', wait=.01)
    assert [body['temperature'] for _,body in server.calls] == [0, .7]

def test_a_refused_request_is_counted_at_once(client):
    server = fails((400, {}, '{}'))
    with endpoint(server) as url: assert ask(client(url), 'm', '?') == (None, ['refused'])
    assert len(server.calls) == 1

@pytest.mark.parametrize('status', [401, 403, 404])
def test_what_no_patience_helps_raises_without_the_key(client, status):
    with endpoint(fails((status, {}, json.dumps(dict(error=dict(message=f'bad key {secret}')))))) as url:
        with pytest.raises(JudgeError) as e: ask(client(url), 'm', '?')
    assert str(status) in str(e.value) and secret not in str(e.value) and e.value.__suppress_context__

def test_a_wrong_argument_is_no_fault_of_the_server(client):
    with endpoint(fails()) as url, pytest.raises(TypeError): ask(client(url), 'm', '?', temprature=1)

def test_missing_key_is_named(monkeypatch):
    monkeypatch.delenv('TEST_JUDGE_KEY', raising=False)
    with pytest.raises(JudgeError, match='TEST_JUDGE_KEY'): judge_client('http://localhost/v1', 'TEST_JUDGE_KEY')

def test_failed_pairs_are_counted_against_the_judge(client):
    def server(body):
        if 'request 2' in (text := body['messages'][0]['content']): return 503, {}, secret
        return 'A' if 'Answer A: good' in text else 'B'
    with endpoint(server) as url: judged = judge(client(url), 'm', pairs, rubric, tries=2, wait=.01, workers=3)
    m = judge_metrics(judged)
    assert [o['request'] for o in judged] == [o['request'] for o in pairs]
    assert [o['verdict'] for o in judged] == ['a', 'a', 'failed', 'a', 'a', 'a']
    assert (m['agreement']['value'], m['agreement']['n'], m['failed']['value'], m['calls_failed']['value']) == (5/6, 6, 1/6, 2/12)
    assert m['attempts_failed']['reasons'] == {'server error': 4} and m['first_position']['value'] == .5
    assert secret not in json.dumps(judged) + repr(client(url))

def test_a_judge_of_habit_is_inconsistent(client):
    with endpoint(lambda body: 'A') as url: m = judge_metrics(judge(client(url), 'm', pairs, rubric))
    assert (m['agreement']['value'], m['inconsistent']['value'], m['first_position']['value']) == (0, 1, 1)
    assert m['first_position']['p'] < .01

def test_a_tie_once_is_no_tie(client):
    server = fails('tie', 'B')
    with endpoint(server) as url: assert judge(client(url), 'm', pairs[:1], rubric)[0]['verdict'] == 'inconsistent'

def test_braces_in_an_answer_do_not_break_the_rubric(client):
    braces = [dict(request='{x}', a='{"a": 1}', b='{}')]
    with endpoint(lambda body: 'A') as url: assert judge(client(url), 'm', braces, rubric)[0]['calls'] == ['A', 'A']

def test_a_task_brings_its_rubric(client):
    server = fails()
    with endpoint(server) as url: judge(client(url), 'm', pairs[:1], Colour())
    asked = [body['messages'][0]['content'] for _,body in server.calls]
    assert asked == [Colour().rubric.format(request='request 0', a=a, b=b) for a,b in (('good', 'bad'), ('bad', 'good'))]
    assert 'hue' in asked[0]

def test_a_rubric_without_a_place_is_refused(client):
    with pytest.raises(ValueError, match=r'has no \{b\}'): judge(None, 'm', pairs, 'Which is better for {request}: {a}?')
    with pytest.raises(ValueError, match='pass a task'): judge(None, 'm', pairs, 'flights')

@pytest.mark.parametrize('text, verdict', [('A', 'A'), ('tie.', 'tie'), ('Verdict: B', 'B'), ('a b', None), ('Absolutely', None),
                                           ('B is worse', None)])
def test_verdicts(text, verdict): assert read_verdict(text) == verdict

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

@pytest.mark.parametrize('a, b', [(.1, .1), (.7, .6), (0, 0)])
def test_pairs_needed_refuses_what_has_no_answer(a, b):
    with pytest.raises(ValueError): pairs_needed(a, b)

def test_connors_formula():
    "n = ((z_{.975} sqrt(.3) + z_{.8} sqrt(.3 - .1²))/.1)², worked by hand: 233.9."
    assert _connor(.1, .2) == _connor(.2, .1) == 234

def test_pairs_needed_have_the_power():
    "The formula alone promises .8 and gives as little as .75; with few requests, nothing."
    assert pairs_needed(0, 1) == 6 and power(4, 0, 1) == power(5, 0, 1) == 0 and power(6, 0, 1) == 1
    for a,b,wanted in itertools.product((0, .02, .1, .3), (.05, .15, .4, .7), (.5, .8, .95)):
        n, formula = pairs_needed(a, b, wanted), _connor(a, b, wanted)
        assert power(n, a, b) >= wanted and formula <= n <= formula + 2.2/abs(a - b) + 5, (a, b, wanted)
    assert pairs_needed(.1, .2, power=.9) > pairs_needed(.1, .2) > pairs_needed(.1, .2, alpha=.1)

def test_power_agrees_with_simulation():
    rng = np.random.default_rng(1)
    def seen(k, m): return k + m > 0 and binomtest(k, k + m).pvalue <= .05
    for n,a,b in ((20, .05, .4), (80, .02, .12)):
        drawn = rng.multinomial(n, [a, b, 1 - a - b], size=3000)
        assert abs(np.mean([seen(k, m) for k,m,_ in drawn]) - power(n, a, b)) < .03

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
