"""Every lesson runs headlessly, and what it measured is what the book claims.

The claims are in claims.toml, and below where no threshold can say it."""
import ast, json, re, tomllib
from pathlib import Path
import pytest
import conftest, house
from ftcook.cli import lesson_notebooks, run_lesson, trains_for_others
from conftest import adapter, root

lessons = lesson_notebooks(root)
solutions = lesson_notebooks(root, solutions=True)
thresholds = tomllib.loads(Path(__file__).with_name('claims.toml').read_text(encoding='utf-8'))
relations = []

def claim(number, metric, profile='both'):
    "The function says what must hold for this metric, recorded by a lesson with this number."
    def keep(holds):
        relations.append((number, profile, metric, holds))
        return holds
    return keep

@claim('02', 'rms_error')
def nf4_rounds_best(v): return v['NF4'] < v['INT4'] < v['FP4']

@claim('02', 'perplexity', 'cpu')
def nf4_harms_less_than_fp4(v): return v['nf4'] < v['fp4']

@claim('03', 'where')
def all_layers_beat_attention_alone(v): return v['all linear, r=16'] < v['attention, r=42']

@claim('03', 'rank_alpha')
def stronger_updates_learn_faster(v): return v['16/128'] < v['16/32'] < v['1/2']

@claim('07c', 'needed')
def a_small_gain_needs_ten_times_the_rows(v): return v['0.02'] > 10*v['0.1']

@claim('08', 'forgetting')
def ia3_forgets_less_than_lora(v): return v['ia3'] < v['lora']

@claim('08b', 'luck')
def the_best_of_twenty_looks_better_than_one(v): return v['20'] > v['5'] > v['1']

@claim('08c', 'forgetting')
def what_is_mixed_in_comes_back(v): return v['+ 4 requests, 4 general rows'] < v['+ 8 requests']

@claim('08d', 'domain')
def specialising_reads_better(v): return v['specialised'] < v['before']

@claim('08d', 'json_loss')
def instructing_halves_the_loss(v): return v['instructed'] < v['specialised']/2

@claim('09', 'kernel_gain')
def flash_is_four_times_faster_at_every_length(v): return min(gains['flash_attention_2'] for gains in v.values()) > 4

@claim('09', 'step_gain')
def a_step_gains_less_than_its_attention(v): return all(gains['flash_attention_2'] < 4 for gains in v.values() if gains)

@claim('10b', 'switch_peak')
def checkpointing_is_paid_in_layers(v):
    return v['the defaults'] < v['every 2nd layer checkpointed'] < v['no checkpointing']

@claim('13a', 'gpu_cures')
def the_cure_depends_on_the_card(v): return len(set(v.values())) >= 3

@claim('13b', 'runs')
def sick_runs_are_told_from_the_healthy_one(v):
    named = v['healthy'] == 'none' and v['rate times 10'] == 'lr_too_high' and v['rate times a tenth'] == 'lr_too_low'
    return named and all(found != 'none' for name,found in v.items() if name != 'healthy')

def parts(value):
    """What a claim can be about: the `value` of a number; of lists and dicts the entries, n, and min, max and sum of the numbers.

    An entry `a, b` is called a_b, and the entry c of a dict in it a_b_c."""
    if not isinstance(value, (dict, list)): return dict(value=value)
    entries = {}
    for k,v in value.items() if isinstance(value, dict) else enumerate(value):
        for inner,o in parts(v).items(): entries[re.sub(r'\W+', '_', f'{k}_{inner}'.removesuffix('_value'))] = o
    numbers = [v for v in entries.values() if isinstance(v, (int, float))]
    totals = dict(min=min(numbers), max=max(numbers), sum=sum(numbers)) if numbers else {}
    return entries | totals | dict(n=len(value))

def wrong(metrics, lines):
    "The lines that do not hold, each with what was measured."
    from ftcook.evaluation import EvalReport, gate
    seen, found = {k: parts(v) for k,v in metrics.items()}, []
    bounds = [line for line in lines if '==' not in line]
    if bounds:
        numbers = {k: {p: v for p,v in o.items() if isinstance(v, (int, float))} for k,o in seen.items()}
        found = [reason for reason in gate(EvalReport('lesson', numbers), *bounds).reasons if not reason.startswith('pass')]
    for line in lines:
        name, same, wanted = line.partition('==')
        metric, _, part = name.partition('.')
        value = metrics.get(metric) if not part else seen.get(metric, {}).get(part)
        if same and not (metric in metrics and value == ast.literal_eval(wanted)): found.append(f'{line}: measured {value!r}')
    return found

def recorded(path):
    "The metrics that a lesson records: the names in its last cell's `record(…)`."
    return {keyword.arg for keyword in house.parsed(house.cells(path)[-1]).body[-1].value.keywords}

def claims(path, profile):
    "The thresholds and the relations that are about what this lesson records."
    own, number = recorded(path), number_of(path)
    section = thresholds.get(number, {})
    lines = [line.strip() for p in ('both', profile) for line in section.get(p, '').splitlines() if line.strip()]
    return ([line for line in lines if metric_of(line) in own],
            [(metric, holds) for n,p,metric,holds in relations if n == number and p in ('both', profile) and metric in own])

def number_of(path): return re.match(r'\d+[a-z]?', path.stem)[0]
def metric_of(line): return re.match(r'\w+', line)[0]

def trains(path): return path.stem == trains_for_others and path.parent.name != 'solutions'
def needs_adapter(path): return not trains(path) and "'adapters'" in path.read_text()

def lesson_id(path): return path.stem

marked = [pytest.param(p, marks=pytest.mark.trains) if trains(p) else p for p in lessons]

@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('path', marked, ids=lesson_id)
def test_lesson(path, profile, run_dir, silent):
    if needs_adapter(path): assert adapter(run_dir, profile)['error'] is None
    if trains(path): result = adapter(run_dir, profile, trained_now=True)
    else: result = run_lesson(path, run_dir, profile, progress=False)
    assert result['error'] is None
    lines, functions = claims(path, profile)
    failed = wrong(result['metrics'], lines)
    values = [(holds, result['metrics'][metric]) for metric,holds in functions]
    failed += [f'{holds.__name__}: measured {value}' for holds,value in values if not holds(value)]
    assert not failed, '\n'.join(failed)

@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize('path', solutions, ids=lesson_id)
def test_solution(path, profile, run_dir, silent):
    if needs_adapter(path): assert adapter(run_dir, profile)['error'] is None
    assert run_lesson(path, run_dir/'solutions', profile, progress=False, run_dir=run_dir)['error'] is None

def test_every_lesson_has_solutions_and_claims():
    assert {p.stem for p in solutions} == {p.stem for p in lessons}
    assert [p.stem for p in lessons if not any(claims(p, 'cpu'))] == []

def test_every_claim_is_about_something_that_its_lesson_records():
    lines = [(n, line) for n,section in thresholds.items() for text in section.values() for line in text.split('\n') if line]
    made = [(n, metric_of(line)) for n,line in lines] + [(n, metric) for n,_,metric,_ in relations]
    there = {(number_of(path), metric) for path in lessons for metric in recorded(path)}
    assert [f'{n}: {metric}' for n,metric in made if (n, metric) not in there] == []

def test_a_claim_that_does_not_hold_is_noticed():
    metrics = dict(score=.8, sure=True, by_name={'a b': 1, 'inner': {'x': 3.5}}, listed=[1, 4], named='sdpa', none={})
    held = ['score>=0.8', 'score<0.81', 'score==0.8', 'sure==True',
            'by_name.a_b==1', 'by_name.inner_x>3', 'by_name.max<=3.5', 'by_name.n==2',
            'listed.n>=2', 'listed.min==1', 'listed.sum==5', "named=='sdpa'", 'none=={}']
    assert wrong(metrics, held) == []
    broken = ['score>0.8', 'score==0.7', 'sure==False', 'by_name.a_b==2', 'by_name.a_c>=0',
              'gone>=0', 'gone==None', 'listed.max<4', "named=='eager'", 'named>=0', 'none.min>0']
    assert len(wrong(metrics, broken)) == len(broken)

def test_the_adapter_is_trained_once(tmp_path, monkeypatch):
    "However many tests ask for it, until a new run of the tests must train it, or what it is made from has changed."
    trained = []
    def fake(notebook, out, profile, **kwargs):
        trained.append(notebook.stem)
        (out/'adapters'/'flights').mkdir(parents=True, exist_ok=True)
        return dict(error='out of memory' if len(trained) == 4 else None, metrics=dict(score=.9))
    def asked(**kwargs): return adapter(tmp_path, 'cpu', **kwargs), len(trained)
    monkeypatch.setattr(conftest, 'run_lesson', fake)
    good = dict(error=None, metrics=dict(score=.9))
    assert asked(trained_now=True) == asked() == asked(trained_now=True) == (good, 1)
    monkeypatch.setattr(conftest, 'run_id', 'another run')
    assert asked() == (good, 1) and asked(trained_now=True) == (good, 2)
    monkeypatch.setattr(conftest, 'made_from', lambda notebook: 'something else')
    assert asked() == asked() == (good, 3)
    monkeypatch.setattr(conftest, 'made_from', lambda notebook: 'edited again')
    assert asked()[0]['error'] and asked() == (good, 5), 'a training that failed is not kept'

@pytest.mark.parametrize('path', lessons + solutions, ids=lambda p: f'{p.parent.name}-{p.stem}')
def test_stored_outputs_are_clean(path):
    "What the site shows: real outputs, no error, no warning, no path of the machine they ran on."
    outputs = [o for c in house.code_cells(path) for o in c['outputs']]
    assert outputs
    text = json.dumps(outputs)
    assert not [o for o in outputs if o['output_type'] == 'error']
    for unwanted in ('Warning:', '/home/', '/root/', '/tmp/', 'site-packages'): assert unwanted not in text, unwanted
