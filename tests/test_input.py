"""Whatever number or word comes in: taken, or refused with a message that names it; never a traceback, never NaN in JSON."""
import inspect, json, math
from functools import partial
import numpy as np
import pytest
from ftcook import bench, comparisons, cost, evaluation, judge as judging, machine, memory, planning, runs, trace
from ftcook.cli import main
from ftcook.cost import age_days, break_even, compare, estimate, with_interruptions
from ftcook.comparisons import pairs_needed, power, users_needed
from ftcook.evaluation import EvalReport, bootstrap, gate, paired, proportion, score_each
from ftcook.judge import ask, judge, judge_client
from ftcook.machine import call_seconds, host_costs, operation_us
from ftcook.memory import StepTimesCallback, gpu_use, launch_us, measure_run, step_timeline
from ftcook.planning import (calibration, checkpointed, fastest, fit_speed, gpu_offers, price_columns, step_work, token_seconds,
    useful_share)
from ftcook.runs import Run, random_rows, row_lengths, word_tokenizer
from ftcook.runtime import number, one_of
from ftcook.tasks import (base, check_task, clustered_interval, exact_match, exact_reward, get_task, interval, json_object,
    parse_answer, partial_reward)
from ftcook.trace import CachingAllocator, Trace, reserved_bytes

nan, inf, huge = math.nan, math.inf, 10**400
no_number = 'x', None, True, nan, inf, -inf, huge, [1], 1j
run = Run('SmolLM2-135M')
quick = partial(fastest, 'SmolLM2-135M', gpu_gib=24, flash=False, use_liger_kernel=False)
quick_estimate = partial(estimate, 'SmolLM2-135M')
h100 = next(o for o in gpu_offers() if o.gpu == 'H100')
empty_trace = Trace(0, {}, {}, {}, ([], [], [], 0))

def refused(f, *args, **kwargs):
    with pytest.raises(ValueError) as e: f(*args, **kwargs)
    assert str(e.value).strip() and len(str(e.value)) < 400
    return str(e.value)

def test_number():
    assert number('x', 3) == 3 and number('x', np.int64(3), whole=True) == 3 and number('x', np.float32(.5), 0, 1) == .5
    for wrong in no_number: assert refused(number, 'x', wrong).startswith('x=')
    for wrong,bounds in ((0, dict(least=1)), (2, dict(most=1)), (0, dict(least=0, above=True)), (1., dict(whole=True))):
        refused(number, 'x', wrong, **bounds)
    assert 'too many digits' in refused(number, 'x', 10**5000)

def test_one_of():
    assert one_of('x', 'a', 'ab') == 'a' and one_of('x', False, (False, True)) is False
    for wrong in ('c', 0, 1, None, ['a']): refused(one_of, 'x', wrong, ('a', 'b', False, True))

# function, argument, values that it must refuse; those of `no_number` are tried on each
arguments = [
    (Run, 'per_device_train_batch_size', (0, -1, 1.5)), (Run, 'max_length', (1, -5, 1e3)), (Run, 'r', (-3, 2.)),
    (Run, 'gradient_accumulation_steps', (0, -1)), (Run, 'limit_gib', (-1, 2.5)), (Run, 'use_liger_kernel', (0, 'liger')),
    (Run, 'method', ('ful', 3)), (Run, 'quantize', ('nf5', 4)), (Run, 'dtype', ('float8', 16)),
    (Run, 'lengths', ('exponential-0',)), (Run, 'attn_implementation', ('eagr', 'flash')),
    (Run, 'gradient_checkpointing', ('every-1', 2)), (Run, 'packing', ('tight', 2)),
    (Run, 'activation_offloading', ('all', 1)), (Run, 'compiled', ('model', True)),
    (Run, 'activation_memory_budget', (-.1, 1.1, .5)), (Run, 'optim', ('adam w', '')), (Run, 'model', (3,)),
    (quick, 'gpu_gib', (0, -5)), (quick, 'lengths', (0, -3, 2.5, [], [0], ['a'], [nan])), (quick, 'max_length', (0, -1, 1)),
    (quick, 'r', (0, -1)), (quick, 'margin', (1, -1, 2)), (quick, 'gpu_speed', (0, -1)), (quick, 'method', ('dpo', 'x')),
    (quick, 'optim', ('sgd',)), (quick, 'use_liger_kernel', ('x',)),
    (quick_estimate, 'tokens', (-5e6, 0)), (quick_estimate, 'gpu', ('H10', '', 5)), (quick_estimate, 'depth', ('deep', 1)),
    (quick_estimate, 'prices', (-1, (2, 1), {'L40S': -1}, {'L40S': (2, 1)}, {'L40': 1}, {'L40S': nan}, {'L40S': (1, 2, 3)})),
    (partial(compare, 'SmolLM2-135M'), 'tokens', (-1, 0)),
    (partial(with_interruptions, gap=1), 'hours', (-1,)), (partial(with_interruptions, 1), 'gap', (0, -1)),
    (partial(with_interruptions, 1, 1), 'save_s', (0, -1)), (partial(with_interruptions, 1, 1), 'restart_s', (-1,)),
    (partial(with_interruptions, 1, 1), 'interval', (0, -1)),
    (partial(break_even, rent_usd=1, watts=1), 'purchase_usd', (-1,)), (partial(break_even, 1, watts=1), 'rent_usd', (-1,)),
    (partial(break_even, 1, 1), 'watts', (-1,)), (partial(break_even, 1, 1, 1), 'usd_per_kwh', (-1,)),
    (partial(break_even, 1, 1, 1), 'overhead', (.5,)), (partial(break_even, 1, 1, 1), 'hours_per_week', (0, 169)),
    (partial(break_even, 1, 1, 1), 'upkeep_usd_per_week', (-1,)), (age_days, 'date', ('soon', '2026-13', '')),
    (partial(power, only_a=.1, only_b=.2), 'n', (0, 1.5)), (partial(power, 10, only_b=.9), 'only_a', (.9, -1, 2)),
    (partial(power, 10, .9), 'only_b', (.9, -1, 2)), (partial(pairs_needed, only_b=.1), 'only_a', (.1, -1, 1)),
    (partial(power, 10, .1, .2), 'alpha', (0, 1)), (partial(pairs_needed, .1), 'only_b', (.1, -1, 1)),
    (partial(users_needed, b=.1), 'a', (-1, 2)), (partial(users_needed, .1), 'b', (-1, 2)),
    (partial(users_needed, .1, .2), 'power', (0, 1)), (partial(users_needed, .1, .2), 'alpha', (0, 1)),
    (partial(clustered_interval, [1, 0], [1, 2]), 'draws', (0, 1.5)),
    (partial(pairs_needed, .1, .2), 'power', (0, 1)), (partial(pairs_needed, .1, .2), 'alpha', (0, 1)),
    (partial(judge_client, 'http://localhost/v1', 'HOME'), 'timeout', (0, -1)), (partial(ask, None, 'm', '?'), 'tries', (0, 1.5)),
    (partial(ask, None, 'm', '?'), 'wait', (-1,)), (partial(judge, None, 'm', [], '{request}{a}{b}'), 'workers', (0, -1)),
    (partial(interval, n=5), 'k', (-1, 6)), (partial(interval, 0), 'n', (0, -1)), (partial(interval, 1, 5), 'z', (0, -1)),
    (partial(check_task, 'flights'), 'n', (0, -1)),
    (partial(checkpointed, run), 'layers', (0, 1.5)), (partial(step_work, run), 'rows', ([0], [-1], [nan])),
    (partial(useful_share, batch=4), 'lengths', ([], [0], [1.5])), (partial(useful_share, [1, 2]), 'batch', (0, 1.5)),
    (partial(token_seconds, run, gpu=h100, factors=calibration()), 'lengths', ([], [0])),
    (partial(fit_speed, [step_work(run)], machines=[h100]), 'seconds', ([], [0], [nan])),
    (launch_us, 'n', (0, 1.5)), (partial(gpu_use, []), 'wall_s', (-1,)), (partial(call_seconds, print), 'least', (-1,)),
    (host_costs, 'layers', (0, 1.5)), (host_costs, 'rounds', (0, 1.5)), (partial(operation_us, {}), 'layers', (0, 1.5)),
    (word_tokenizer, 'words', (0, 3)),
    (partial(row_lengths, longest=9, rows=2), 'lengths', ('exponential-0', 'normal')),
    (partial(row_lengths, 'fixed', rows=2), 'longest', (0,)), (partial(row_lengths, 'fixed', 9), 'rows', (-1, 1.5)),
    (partial(random_rows, run), 'steps', (0, 1.5)), (partial(random_rows, run, 1), 'words', (3,)),
    (StepTimesCallback, 'warmup', (0,)), (StepTimesCallback, 'steps', (0,)), (StepTimesCallback, 'seconds', (-1,)),
    (partial(measure_run, run), 'warmup', (0,)), (partial(measure_run, run), 'steps', (0,)),
    (partial(measure_run, run), 'seconds', (-1,)), (partial(step_timeline, run), 'points', (0,)),
    (CachingAllocator, 'limit', (-1,)), (partial(reserved_bytes, empty_trace), 'workspace', (-1, 1.5)),
    (partial(reserved_bytes, empty_trace), 'limit', (-1,)), (partial(reserved_bytes, empty_trace), 'steps', (0, 1.5))]

def called(f): return f.func if isinstance(f, partial) else f
def named(argument): return f'{called(argument[0]).__name__}-{argument[1]}'

# what `no_number` has that is a usual value for these
taken = {'model': ('x',), 'use_liger_kernel': (True,), 'gradient_checkpointing': (True,), 'packing': (True,),
    'activation_offloading': (True,), 'quantize': (None,), 'tokens': (None,), 'interval': (None,)}

@pytest.mark.parametrize('f, name, wrong', arguments, ids=map(named, arguments))
def test_what_cannot_be_is_refused_by_name(f, name, wrong):
    default = inspect.signature(called(f)).parameters[name].default
    usual = [default, *taken.get(name, ())]
    lists = name in ('lengths', 'seconds', 'rows') and called(f) not in (Run, row_lengths, StepTimesCallback, measure_run)
    words = name in ('optim', 'prices', 'date', 'lengths')
    tried = [*wrong, *(v for v in no_number if not (lists or words) and not any(v is u or v == u for u in usual))]
    for value in tried: refused(f, **{name: value})

def test_every_number_has_its_line():
    "A public function with an argument of a number has it in the table above, or here with the reason why not."
    known = {(called(f), name) for f,name,_ in arguments}
    excused = {
        'seed', 'version', 'lora_alpha',  # any integer seeds
        'dtype', 'device'}                # `torch_dtype` refuses
    passed_on = {(evaluation.harness, 'batch_size'), (bench.run_apart, 'seconds')}  # lm-eval and subprocess refuse
    passed_on |= {(cost.estimate, 'epochs')}  # counts with data only; test_any_model.py tries it
    def of(module): return [o for o in map(vars(module).get, module.__all__) if callable(o) and o.__module__ == module.__name__]
    for module in (base, bench, comparisons, cost, evaluation, judging, machine, memory, planning, runs, trace):
        for f in of(module):
            if inspect.isclass(f) and f is not Run: continue
            for p in inspect.signature(f).parameters.values():
                numeric = p.annotation in ('int', 'float', int, float, int|None, float|None, float|str, int|list)
                if not numeric or p.name in excused: continue
                assert (f, p.name) in known | passed_on, f'{f.__name__}({p.name}) is not tried'

# --- tables and files of one's own

def offers(tmp_path, **change):
    "A table of one offer, with a change."
    card = dict(gpu='Mine', memory_gb=24, bandwidth_gb_s=900, bf16_tflops=100)
    good = dict.fromkeys(price_columns, '') | card | dict(usd_low=1, usd_high=2, date='2026-11')
    path = tmp_path/'offers.csv'
    path.unlink(missing_ok=True)
    bench.merge_rows(path, [good | change], ('gpu',))
    return path

@pytest.mark.parametrize('change', [dict(memory_gb='nan'), dict(memory_gb=-1), dict(memory_gb=''), dict(bandwidth_gb_s='inf'),
    dict(bf16_tflops=0), dict(usd_low=3), dict(usd_low='', usd_high=1), dict(usd_high=''), dict(usd_low='cheap'),
    dict(date='soon'), dict(date=''), dict(gpu='')])
def test_a_table_of_prices_is_examined(tmp_path, change):
    assert gpu_offers(offers(tmp_path))[0].gpu == 'Mine'
    assert 'offers.csv, line 2' in refused(gpu_offers, offers(tmp_path, **change))

def test_a_calibration_is_examined(tmp_path):
    path, good = tmp_path/'mine.csv', calibration()
    with pytest.raises(FileNotFoundError, match='fit_calibration'): calibration(path)
    for change in (dict(matmul='nan'), dict(slack=-1), dict(bytes='fast'), dict(gap='')):
        bench.merge_rows(path, [good | change], ('gpu',))
        assert 'mine.csv, line 2' in refused(calibration, path)

# --- the command line

@pytest.mark.parametrize('wrong, said', [('--tokens=-5M', 'tokens'), ('--tokens=nan', 'tokens'), ('--tokens=inf', 'tokens'),
    ('--tokens=1e999', 'tokens'), ('--rank=-3', 'r=-3'), ('--rank=0', 'r='), ('--attention=eagr', 'eager'),
    ('--batch=0', 'batch_size=0'),
    ('--accumulation=-1', 'accumulation_steps=-1'), ('--accumulation=0', 'accumulation_steps=0'), ('--seq=1', 'max_length=1'),
    ('--gpu=H10', 'H100'), ('--method=qlor', 'qlora'), ('--quant=nf5', 'nf4'), ('--optimizer=sgd', 'adamw_8bit'),
    ('--checkpointing=every-0', 'every-2'), ('--prices=none.csv', 'none.csv'), ('--seq=' + '9'*30, 'max_length')])
@pytest.mark.parametrize('more', [[], ['--json', '--gpu=all']], ids=['one', 'all'])
def test_estimate_says_what_is_wrong(wrong, said, more, capsys):
    more = [] if wrong.startswith('--gpu') else more
    assert main(['estimate', 'mistral-7b', wrong, *more]) == 2
    out, err = capsys.readouterr()
    assert not out and said in err and err.startswith('ftcook: ') and err.count('\n') == 1

@pytest.mark.parametrize('more', [[], ['--gpu=all'], ['--tokens=1k'], ['--tokens=1e18'],
    ['--liger', '--batch=1000000', '--gpu=T4'], ['--method=full', '--seq=8192', '--gpu=all']])
def test_json_is_strict(more, capsys):
    def refuse(name): raise AssertionError(f'{name} in JSON')
    assert main(['estimate', 'llama-3-70b', '--json', *more]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=refuse)

def with_metric(text): return f'{{"name":"m","metrics":{{"a":{text}}}}}'
reports = dict(digits=with_metric('9'*400), more_digits=with_metric('9'*9000), nested=with_metric('['*10**5 + ']'*10**5),
    deep=with_metric('{"b":'*20000 + '1' + '}'*20000),
    name='{"name":1,"metrics":{}}', nothing='', number='1', text='{"name":"m","metrics":"a"}', utf16='\ufeff{}')

@pytest.mark.parametrize('kind', reports)
@pytest.mark.parametrize('threshold', ['a>=1', 'a<=1e999', 'a>=nan', 'b>=0', 'a.low>=0', 'a>=' + '1'*500, '>'*10**4,
    'a'*10**5 + '>=1'], ids=range(8))
def test_gate_takes_any_report_and_threshold(kind, threshold, tmp_path, capsys):
    path = tmp_path/'report.json'
    path.write_text(reports[kind])
    code = main(['gate', str(path), threshold])
    out, err = capsys.readouterr()
    assert code == 2 and err.startswith('ftcook: ') and len(err) < 500 or code in (0, 1) and ('PASSED' in out or 'FAILED' in out)

def test_gate_names_what_comes_near(tmp_path, capsys):
    report = EvalReport('m', dict(exact_match=dict(value=.5, low=.4), big=huge, many=[nan]))
    assert 'near: exact_match' in str(gate(report, 'exact_mach>=0.4'))
    assert 'there are value, low' in str(gate(report, 'exact_match.p>=0'))
    for endless in ('exact_match<=1e999', 'exact_match>=-1e999', 'exact_match<=' + '9'*400): refused(gate, report, endless)
    assert gate(report, 'big>=1e300') and not gate(report, 'big<=1e300')
    for folder in (tmp_path, tmp_path/'none.json', '/dev/zero', '/dev/null'):
        assert main(['gate', str(folder), 'a>=1']) == 2 and 'EvalReport.save' in capsys.readouterr().err
    assert 'NaN' not in report.save(tmp_path).read_text()

def test_a_report_shows_what_it_holds_as_text():
    "Neither a tag nor a table's bar nor a control character of a name comes through."
    names = '<script>x</script>', 'a|b', 'c\x1b[2J', 'd\n# e', '[f](javascript:g)'
    text = EvalReport(names[0], {n: dict(value=.5) for n in names}, {n: n for n in names})._repr_markdown_()
    assert '<script>' not in text.replace('\\<', '') and '\x1b' not in text and '\n# e' not in text and '\\[f\\]' in text
    lines = [line for line in text.splitlines() if line.startswith('|')]
    assert len(lines) == 2 + len(names) and {line.replace('\\|', '').count('|') for line in lines} == {7}
    said = str(gate(EvalReport('m', {'c\x1b[2J': 1}), 'c\x1b]0;>=0', 'zzz>=0'))
    assert '\x1b' not in said

# --- scores

def row(wanted): return dict(messages=[dict(content='system'), dict(content='request'), dict(content=wanted)])
nests = ['['*10**5, '['*10**5 + ']'*10**5, '{"a":'*10**5, '{"a":'*10**4 + '1' + '}'*10**4]
nests += ['{"a":' + '['*n + ']'*n + '}' for n in (90, 500, 950, 990)]
numbers = ['{"a":NaN}', '{"a":-Infinity}', '{"a":1e999}', '{"a":' + '9'*5000 + '}']
no_json = [*nests, *numbers, '', 'null', '[1]', '\ufeff{}', '{"a":"\\ud800"}']

@pytest.mark.parametrize('answer', no_json, ids=range(len(no_json)))
def test_one_hostile_answer_costs_one_request(answer):
    good = '{"a":1}'
    found = exact_match([good, answer], [row(good), row(good)])
    assert found['exact_match'] == .5 and repr(found) and exact_reward([good, answer], [good]*2) == [1, 0]
    assert partial_reward([good, answer], [good]*2)[1] <= .5
    assert isinstance(parse_answer(answer, dict(type='object')).errors, list)
    v = {'$ref': '#/$defs/v'}
    recursive = v | {'$defs': {'v': {'type': ['object', 'array', 'number'], 'items': v, 'additionalProperties': v}}}
    assert isinstance(parse_answer(answer, recursive).errors, list)
    task = get_task('flights')
    marks = score_each([answer]*2, task.rows(2, 'test'), task)
    assert marks['exact_match'] == [0, 0]

@pytest.mark.parametrize('answer', [*numbers, '1e999', '[NaN]'])
def test_what_is_no_number_of_json_is_no_answer(answer):
    found = parse_answer(answer, {})
    assert json_object(answer) == {} and found.value is None and 'not JSON' in found.errors[0]

@pytest.mark.parametrize('answer, wanted, same', [('true', '1', False), ('1', 'true', False), ('false', '0', False),
    ('1.0', '1', True), ('1', '1.0', True), ('"1"', '1', False), ('null', '0', False), ('null', 'null', True),
    ('[true]', '[1]', False), ('[1, 2]', '[2, 1]', False),
    ('{"b": true, "c": 1}', '{"c": 1, "b": true}', True), ('{"b": true}', '{"b": 1}', False), ('" x "', '"x"', True)])
def test_types_must_match(answer, wanted, same):
    given, right = f'{{"a": {answer}}}', f'{{"a": {wanted}}}'
    found = exact_match([given], [row(right)])
    assert found['exact_match'] == found['fields']['a'] == same and exact_reward([given], [right]) == [float(same)]
    assert partial_reward([given], [right]) == [1. if same else .5]

def test_a_missing_field_is_not_null(): assert partial_reward(['{"b": 1}'], ['{"a": null}']) == [.5]

def test_as_many_answers_as_rows():
    for f in (lambda: exact_match(['{}'], [row('{"a":1}')]*2), lambda: exact_reward(['{}'], ['{"a":1}']*2),
        lambda: partial_reward(['{}'], ['{"a":1}']*2), lambda: score_each(['{}'], get_task('flights').rows(2, 'test'), 'flights'),
        lambda: paired([1], [1, 0]), lambda: bootstrap([1, 2], [1])): refused(f)

@pytest.mark.parametrize('marks', [[2], [.5], ['1'], [None], [nan]])
def test_marks_are_0_or_1(marks):
    refused(proportion, marks)
    refused(paired, marks, [1])

def test_few_requests():
    one = paired([1], [0])
    assert (one['value'], one['n'], one['only_a'], one['p']) == (-1, 1, 1, 1) and math.isnan(one['low'])
    refused(paired, [], [])
    assert bootstrap([3.])['value'] == 3 and math.isnan(bootstrap([3.])['high'])
    for wrong in ([], [nan], [1, inf], [[1, 2]]): refused(bootstrap, wrong)
