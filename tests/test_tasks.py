"A task has a room of its own: adding one touches no other module."
import itertools, json, re, sys
import pytest, torch
from scipy.stats import binomtest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from conftest import root
from ftcook.runtime import load_settings, model_path
from ftcook.sft import AnswersCallback, score, train_task
from ftcook.tasks import (Task, check_task, clarify, clustered_interval, exact_match, exact_reward, get_task, interval,
                          is_clarification, json_object, parse_answer, partial_reward, task_names)
from ftcook.tasks.flights import flight_requests, incomplete_requests, task as flights

sums = '''
import random
from ftcook.tasks import Task

numbers = 'zero one two three four five six seven eight nine'.split()

class Sums(Task):
    name, instruction = 'sums', 'Turn the sum into JSON.'
    schema = dict(type='object', additionalProperties=False, required=['a', 'b'],
                  properties=dict(a=dict(type='integer'), b=dict(type='integer')))
    request_fields = ('b',)
    sentences = dict(train=['{} plus {}', 'add {} to {}'], test=['what do {} and {} make'])

    def rows(self, n, split='train', seed=0):
        rng = random.Random(f'{split}-{seed}')
        pairs = [(rng.randrange(10), rng.randrange(10)) for _ in range(n)]
        return [self.row(rng.choice(self.sentences[split]).format(numbers[a], numbers[b]), dict(a=a, b=b)) for a,b in pairs]

task = Sums()
'''

@pytest.fixture
def own(tmp_path, monkeypatch):
    "A module of the user's own, on the path, with a task in it."
    package = tmp_path/'shop'
    package.mkdir()
    (package/'__init__.py').touch()
    (package/'sums.py').write_text(sums)
    (package/'empty.py').write_text('tasks = 1\n')
    (package/'broken.py').write_text('import no_such_library\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield 'shop.sums'
    for name in [name for name in sys.modules if name.split('.')[0] == 'shop']: del sys.modules[name]

def test_a_second_task_needs_no_other_module(own):
    task = get_task(own)
    rows = task.rows(20, 'test', 3)
    answers = [row['messages'][-1]['content'] for row in rows]
    assert rows == task.rows(20, 'test', 3) != task.rows(20, 'test', 4) and check_task(own) == []
    assert rows[0]['messages'][:2] == task.prompt(rows[0]['messages'][1]['content'])
    assert task.score(answers, rows)['exact_match'] == 1 and task.score(['{"a":1}']*20, rows)['exact_match'] == 0
    assert task.reward([*answers[:1], 'no'], answers[:2]) == [1, 0]
    assert task.fields == ('a', 'b') and 'exactly the a and b of the request' in task.rubric
    assert task.rubric.format(request='r', a='1', b='2').count('\n\n') == 4
    with pytest.raises(NotImplementedError, match='Sums'): task.incomplete_rows(1)

def test_it_trains_and_is_scored(own, tmp_path):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    special = {name: getattr(tokenizer, name) for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                        num_attention_heads=2, **special)
    settings = load_settings('cpu', root/'settings.ini')
    settings.update(train_rows=4, batch_size=2, rank=2, max_new_tokens=4)
    models = [LlamaForCausalLM(shape) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    how = dict(max_steps=2, report_to='none', disable_tqdm=True)
    trainer = train_task(own, settings, tmp_path/'run', model=models[0], **how)
    others = get_task(own).rows(2, 'test')
    how |= dict(callbacks=[watch := AnswersCallback(others, 4)], validation=others, eval_steps=1)
    watched = train_task(own, settings, tmp_path/'watched', model=models[1], **how)
    assert {step: len(answers) for step,answers in watch.answers.items()} == {1: 2, 2: 2}
    assert sum('eval_loss' in log for log in watched.state.log_history) == 2
    weights, same = (run.model.state_dict() for run in (trainer, watched))
    assert all(torch.equal(weights[k], same[k]) for k in weights), 'measuring on the way changes nothing'
    assert trainer.state.global_step == 2 and (tmp_path/'run'/'adapter_model.safetensors').exists()
    said = tokenizer.decode(trainer.train_dataset[0]['input_ids'])
    assert 'Turn the sum into JSON.' in said and get_task(own).rows(4)[0]['messages'][1]['content'] in said
    result = score(trainer.model, tokenizer, get_task(own).rows(3, 'test'), settings, own)
    assert result['n'] == 3 and set(result['fields']) == {'a', 'b'} and len(result['errors']) == 3*(1 - result['exact_match'])

def test_a_task_that_is_not_there(own):
    assert get_task('flights') is flights and get_task(flights) is flights and 'base' not in task_names()
    for name in ('flight', 'base', 'shop.orders', 'no_such_package.x'):
        with pytest.raises(ValueError, match=f'(?s){re.escape(name)}.*flights|has no `task`'): get_task(name)
    with pytest.raises(ValueError, match='shop.empty has no `task`'): get_task('shop.empty')
    with pytest.raises(ModuleNotFoundError, match='no_such_library'): get_task('shop.broken')

def test_only_one_module_knows_flights():
    for name in ('sft', 'inference', 'dpo', 'asking', 'evaluation', 'methods', 'tasks/base'):
        text = (root/'ftcook'/f'{name}.py').read_text()
        for word in ('tasks.flights import', 'flight_requests', 'max_price', 'currency', 'destination'):
            assert word not in text, name

def test_the_rubric_is_the_one_that_the_judge_was_measured_with():
    assert flights.rubric.startswith(
        'You judge two answers to one request. The better answer is a JSON object with exactly the action, origin, destination, '
        'date, max_price and currency of the request; one wrong value makes an answer worse. Style and length do not count.\n')
    assert flights.rubric.endswith('Which answer is better? Reply with one word, A, B or tie:')

def test_interval_is_wilsons():
    for n in (1, 7, 80, 1000):
        for k in {0, 1, n//3, n//2, n - 1, n}:
            expected = binomtest(k, n).proportion_ci(method='wilson')
            assert interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert interval(5, 10, z=1) != interval(5, 10)

def test_clustered_interval():
    right, each = [True]*30 + [False]*10, list(range(40))
    alone = clustered_interval(right, each)
    assert clustered_interval(right*5, each*5) == alone, 'copies of an answer prove nothing new'
    assert alone == pytest.approx(interval(30, 40), abs=.04) and clustered_interval([-1., 1.]*9, range(18))[0] < 0
    few = clustered_interval(right, [i//10 for i in each])
    assert few[1] - few[0] > 1.5*(alone[1] - alone[0])
    for bad in (dict(groups=[0]*40), dict(groups=each[1:]), dict(groups=each, draws=3)):
        with pytest.raises(ValueError): clustered_interval(right, **bad)

def row(answer, **more): return dict(messages=[dict(role='user', content='?'), dict(role='assistant', content=answer)], **more)

def test_exact_match():
    rows = [row('{"a":1,"b":"x"}'), row('{"a":1}')]
    found = exact_match(['{"a": 1, "b": " x "}', 'no JSON'], rows)
    assert (found['exact_match'], found['n'], found['fields']) == (.5, 2, dict(a=.5, b=1))
    assert (found['low'], found['high']) == interval(1, 2) and found['right'] == [True, False]
    assert found['errors'] == [('?', dict(a=1), 'no JSON')]
    assert exact_match(['{"a":1,"extra":2}'], rows[1:])['exact_match'] == 0
    with pytest.raises(ValueError): exact_match([], rows)
    with pytest.raises(ValueError, match='nothing to score'): exact_match([], [])
    for text in ('a sentence', '[1]', '{}'):
        with pytest.raises(ValueError, match='not a JSON object'): exact_match([text], [row(text)])

@pytest.mark.parametrize('text', ['', 'null', '[]', '1', '"x"', '{"a":', '['*100_000])
def test_what_is_no_object(text):
    assert json_object(text) == {} and exact_reward([text], ['{"a":1}']) == partial_reward([text], ['{"a":1}']) == [0]
    assert parse_answer(text, dict(type='object')).errors

def test_rewards_take_what_trl_passes():
    wanted = '{"a":1,"b":2,"c":3}'
    chats = [[dict(role='assistant', content=text)] for text in (wanted, '{"a":1,"b":2}', '{"a":1,"b":2,"c":"3"}')]
    schema = dict(type='object', required=['c'])
    assert exact_reward(chats, [wanted]*3, prompts=None, completion_ids=None) == [1, 0, 0]
    assert partial_reward(chats, [wanted]*3, schema, prompts=None) == [1, .5, .75]
    with pytest.raises(ValueError): partial_reward(chats, [wanted])
    for reward in (exact_reward, partial_reward):
        with pytest.raises(ValueError, match='not a JSON object'): reward(['x'], ['x'])

@pytest.mark.parametrize('answer,expected', [
    (clarify(['date']), True), ('{"action":"book"}', False), ('[1]', False), ('clarify', False), ('', False), ('null', False),
    ('{"action":["clarify"]}', False)])
def test_is_clarification(answer, expected): assert is_clarification(answer) is expected

other = itertools.count()
def faulty(**methods): return type('Faulty', (type(flights),), methods)()

@pytest.mark.parametrize('fault,task', [
    ('no rows', faulty(rows=lambda self, n, split, seed: [])),
    ('seed gives other rows', faulty(rows=lambda self, n, split, seed: flight_requests(n, split, next(other)))),
    ('row 0: ', faulty(rows=lambda self, n, split, seed: [dict(messages=[])]*n)),
    ('fails the schema', faulty(schema=dict(type='object', required=['seat']))),
    ('do not score 1', faulty(score=lambda self, answers, rows: dict(exact_match=.5))),
    ('an empty answer earns', faulty(reward=lambda self, answers, wanted: [1.]*len(answers))),
    ('stand in the training split', faulty(rows=lambda self, n, split, seed: flight_requests(n, 'test', seed)))])
def test_faults_of_a_task_are_named(fault, task): assert fault in '\n'.join(check_task(task, 20))

@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_the_missing_field_is_not_in_the_request(split):
    money = '$ € £ ¥ USD EUR GBP SEK JPY kronor yen euros pounds dollars'.split()
    for row in incomplete_requests(300, split, 3):
        request, wanted = row['messages'][1]['content'], json.loads(row['messages'][2]['content'])
        assert wanted['action'] == 'clarify' and len(wanted['missing']) == 1
        assert '{' not in request and '  ' not in request and not request.startswith((' ', ',', ':'))
        if wanted['missing'] == ['max_price']: assert not any(mark in request for mark in money)
        if wanted['missing'] == ['date']: assert '2026' not in request and '2027' not in request

def test_validation_is_other_material_and_rows_say_their_sentence():
    sides = {split: flights.rows(300, split) for split in ('train', 'validation', 'test')}
    wanted = {split: [json.loads(row['messages'][2]['content']) for row in rows] for split,rows in sides.items()}
    seen = {split: {o[k] for o in answers for k in ('origin', 'destination', 'max_price')} for split,answers in wanted.items()}
    assert not any(seen[a] & seen[b] for a,b in itertools.combinations(seen, 2))
    sentences = {split: {flights.group(row) for row in rows} for split,rows in sides.items()}
    assert len(sentences['test']) == len(sentences['validation']) == 15 and not sentences['test'] & sentences['validation']
    assert len(sentences['train']) > 290, 'the grammar has no list of sentences'
    assert len({flights.group(row) for row in flights.incomplete_rows(300, 'test')}) == 16
    def fits(sentence, row): return re.fullmatch(re.sub(r'\\{\w\\}', '.+', re.escape(sentence)), row['messages'][1]['content'])
    fitting = [bool(fits(flights.group(row), row)) for row in sides['test']]
    assert .8 < sum(fitting)/300 < 1, 'all but those with a typing error'

def test_only_the_fields_asked_for():
    rows = flights.incomplete_rows(50, fields=('date', 'origin'))
    assert {json.loads(row['messages'][2]['content'])['missing'][0] for row in rows} == {'date', 'origin'}
    for bad in ((), ('currency',)):
        with pytest.raises(ValueError, match='max_price'): flights.incomplete_rows(1, fields=bad)
    with pytest.raises(ValueError, match='train, test, validation'): flights.rows(1, 'dev')

def test_twins_differ_in_what_is_left_out_alone():
    rows = flights.twin_rows(400, seed=3)
    assert rows == flights.twin_rows(400, seed=3) != flights.twin_rows(400, seed=4) and len(flights.twin_rows(5)) == 5
    seen = set()
    for whole,lacking in zip(rows[::2], rows[1::2]):
        (said, known), (less, asks) = ([m['content'] for m in row['messages'][1:]] for row in (whole, lacking))
        known, (missing,) = json.loads(known), json.loads(asks)['missing']
        assert '{' not in said + less
        for field in ('origin', 'destination'):
            assert known[field] in said and (known[field] in less) == (field != missing), (said, less)
        seen.add(missing)
    assert seen == set(flights.request_fields)
    for n,fields in ((2, ()), (2, ('currency',))):
        with pytest.raises(ValueError, match='max_price'): flights.twin_rows(n, fields=fields)
    with pytest.raises(ValueError, match='train'): flights.twin_rows(2, 'test')

def test_no_twin_says_what_a_test_sentence_says():
    from ftcook.tasks import flights as module
    by_hand = ' | '.join(s for kind in (module._sentences, module._gaps) for split in kind.values() for some in split.values()
                         for s in some)
    plain = {s for some in (module._dates, module._prices, *module._half_routes.values()) for s in some}
    free = {s for bank in (module._phrases, module._statements) for some in bank.values() for s in some if len(s.split()) > 2}
    assert not {s for s in free - plain if s in by_hand}

def test_same_seed_same_rows():
    assert incomplete_requests(20, 'train', 1) == incomplete_requests(20, 'train', 1) != incomplete_requests(20, 'train', 2)

def test_rows_are_as_they_were():
    "Fingerprints of the rows that every figure of the course was measured with."
    from ftcook.data import fingerprint
    assert fingerprint(flight_requests(384, 'train', 0)).startswith('bc463a59c87231d8')
    assert fingerprint(flight_requests(300, 'test', 5)).startswith('5e482f75307e8290')
    assert fingerprint(incomplete_requests(100, 'test', 0)).startswith('d3a39dade832649f')
    assert fingerprint(incomplete_requests(100, 'train', 3, ('date', 'origin'))).startswith('a2b50a803e73d29c')
    assert fingerprint(flights.twin_rows(100, 'train', 3)).startswith('1751e5b6ab9034f8')

def test_a_task_is_light():
    import subprocess
    code = 'import sys, ftcook.tasks.flights; print(*sys.modules)'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root).stdout.split()
    assert 'ftcook.tasks.base' in loaded and not {'torch', 'transformers', 'datasets', 'jsonschema'} & set(loaded)

def test_a_class_without_rows_says_so():
    with pytest.raises(NotImplementedError, match='Task has no `rows`'): Task().rows(1)
