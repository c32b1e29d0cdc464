"""Faults of judges, and of the servers that they stand behind."""
import json, math, time
import pytest
from ftcook.judge import JudgeError, ask, endpoint, judge, judge_client, judge_metrics, kappa, read_verdict
from ftcook.tasks import get_task

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
    time.sleep(.7)
    return 'A'

@pytest.mark.parametrize('fault, reason', [
    (late, 'time-out'),
    (cut, 'no connection'),
    ((429, {}, '{}'), 'rate limit'),
    ((408, {}, '{}'), 'server error'),
    ((200, {}, '{"choices": [{"message": {"content": null}}]}'), 'malformed reply'),
    ((200, {'Content-Type': 'text/html'}, '<p>hello</p>'), 'malformed reply'),
    ('A and B', 'malformed verdict')])
def test_each_fault_is_retried_then_counted(client, fault, reason):
    def asked(times, **kwargs):
        with endpoint(fails(*[fault]*times)) as url: return ask(client(url, timeout=.4), 'm', '?', wait=.01, **kwargs)
    assert asked(1) == ('A', [reason])
    assert asked(2, tries=2) == (None, [reason]*2)

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
    server, task = fails(), get_task('flights')
    with endpoint(server) as url: judge(client(url), 'm', pairs[:1], task)
    asked = [body['messages'][0]['content'] for _,body in server.calls]
    assert asked == [task.rubric.format(request='request 0', a=a, b=b) for a,b in (('good', 'bad'), ('bad', 'good'))]
    assert 'origin' in asked[0]

def test_a_rubric_without_a_place_is_refused(client):
    with pytest.raises(ValueError, match=r'has no \{b\}'): judge(None, 'm', pairs, 'Which is better for {request}: {a}?')
    with pytest.raises(ValueError, match='pass a task'): judge(None, 'm', pairs, 'flights')

@pytest.mark.parametrize('text, verdict', [('A', 'A'), ('tie.', 'tie'), ('Verdict: B', 'B'), ('a b', None), ('Absolutely', None),
                                           ('B is worse', None)])
def test_verdicts(text, verdict): assert read_verdict(text) == verdict

def test_kappa_is_agreement_beyond_chance():
    "Worked by hand: 35 of 50 agree, chance gives half of them."
    a, b = ['yes']*25 + ['no']*25, ['yes']*20 + ['no']*5 + ['yes']*10 + ['no']*15
    assert kappa(a, b) == pytest.approx(.4) and kappa(a, a) == 1
    assert math.isnan(kappa(['yes']*9, ['yes']*9)) and kappa(['A']*4, ['a', 'b', 'a', 'b']) == 0
    with pytest.raises(ValueError): kappa(a, b[1:])
