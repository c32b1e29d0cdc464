"""The doctor names what is wrong, raises no alarm on what is sound, and is one entrance for everything."""
import csv, importlib, inspect, json, random, re, subprocess, sys, tomllib
from types import ModuleType
import pytest
import ftcook.doctor as doctor
from conftest import root
from ftcook.cli import main
from ftcook.doctor import Diagnosis, Facts, Finding, Rule, Rows, diagnose, examine, rules

@pytest.fixture(scope='module')
def cases():
    import ftcook.doctor.cases as cases
    import ftcook.doctor.toy as toy
    toy.calm()
    return cases

def entrance(cases): return cases.examiners | dict.fromkeys(('run', 'exception', 'trainer', 'script', 'data', 'log'), diagnose)

@pytest.fixture(scope='module')
def results(cases): # another seed than the one of the table
    return [cases.examine_case(c, entrance(cases), 11) for c in cases.cases]

def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

# The two figures of the lesson

def test_planted_causes_are_named_first(results):
    sick = [r for r in results if r['planted'] != 'healthy']
    wrong = [(r['kind'], r['case'], r['planted'], r['first']) for r in sick if not r['right']]
    assert len(sick) >= 40 and len(wrong) <= .05*len(sick), wrong

def test_no_alarm_on_healthy_ones(results):
    healthy = [r for r in results if r['planted'] == 'healthy']
    assert len(healthy) >= 15
    assert not [(r['kind'], r['case'], r['first'], r['evidence']) for r in healthy if not r['right']]

def test_no_check_fails(results):
    "Even where another finding comes first."
    assert not [(r['kind'], r['case']) for r in results if 'check_failed' in r['codes']]

def test_table_lists_every_case(cases):
    rows = list(csv.DictReader((root/'nbs'/'measurements'/'doctor'/'doctor_cases.csv').open()))
    kept = [(r['kind'], r['case'], r['planted']) for r in rows]
    assert kept == [(c.kind, c.name, c.planted or 'healthy') for c in cases.cases]

def test_the_page_of_a_rule_is_there():
    "What the catalogue of 13f links to: a page and a heading on it."
    def headings(name):
        cells = json.loads((root/'nbs'/name).read_text())['cells']
        titles = [line for c in cells if c['cell_type'] == 'markdown' for line in c['source'] if line.startswith('#')]
        return {re.sub('[^a-z0-9 -]', '', t.lower()).strip().replace(' ', '-') for t in titles}
    for page in {r.page for r in rules.values()} - {''}:
        name, _, section = page.partition('#')
        assert section in headings(name), page
    assert {code for code,r in rules.items() if not r.page} == {'cut_off', 'check_failed'}

def test_every_rule_is_planted(cases):
    "Or a case from the field, or a message has it (test_doctor_errors.py tries each), or it is tested beside this file."
    beyond = {'check_failed', 'cut_off', 'not_a_run', 'pickled', 'oom_evaluation', 'unknown_error'}
    tables = (tomllib.loads(path.read_text(encoding='utf-8')) for path in (root/'tests'/'field').glob('*.toml'))
    elsewhere = {code for t in tables for case in t.get('case', []) for code in case['first']}
    elsewhere |= {m.code for m in doctor.known_messages()}
    assert set(rules) - {c.planted for c in cases.cases} - elsewhere == beyond - elsewhere

def test_live_findings_name_the_row(results):
    places = {r['case']: r['where'] for r in results if r['kind'] == 'live'}
    assert places['one row of nonsense'] == 'step 8, row 60'
    assert places['a division by zero labels'] == 'step 10, row 9'
    assert places['a word without an embedding'] == 'step 6, row 40'

# One entrance

def test_several_kinds_at_once(tmp_path):
    script = write(tmp_path/'train.py', 'SFTTrainer(tokenizer=1)\n')
    row = json.dumps(dict(messages=[dict(role='user', content='Hi'), dict(role='assistant', content='Hello')])) + '\n'
    train, test = write(tmp_path/'train.jsonl', row), write(tmp_path/'test.jsonl', row)
    found = diagnose(script, train, test)
    assert found.codes == ['unknown_argument', 'leak'] and found.subject == 'train.py, train.jsonl, test.jsonl'
    assert diagnose(train, script, test).codes == ['leak', 'unknown_argument']  # the two data sets belong together

def test_things_that_are_no_paths(cases, tmp_path):
    import ftcook.doctor.toy as toy
    assert diagnose(MemoryError('CUDA out of memory')).first == 'oom_training'
    assert diagnose([dict(messages=[])]*3).subject == 'rows'
    assert diagnose(Facts(free_gib=.5)).codes == ['disk_low']
    assert diagnose(toy.toy_trainer(random.Random(0), tmp_path)).codes == []

def test_what_cannot_be_examined(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file or folder'): diagnose(tmp_path/'none.py')
    with pytest.raises(ValueError, match=r'unknown kind of file; the doctor reads folders and \.py, \.ipynb, \.jsonl'):
        diagnose(write(tmp_path/'a.xyz', ''))

def test_a_state_file_stands_for_its_folder(tmp_path):
    history = [dict(step=i, loss=0., grad_norm=0.) for i in range(1, 6)]
    state = write(tmp_path/'trainer_state.json', json.dumps(dict(log_history=history)))
    assert diagnose(state).codes == diagnose(tmp_path).codes == ['all_masked']

def test_command(tmp_path, capsys):
    script = write(tmp_path/'train.py', 'SFTTrainer(tokenizer=1)\n')
    assert main(['doctor', str(script), '--json']) == 1
    found = json.loads(capsys.readouterr().out)['findings'][0]
    assert found['code'] == 'unknown_argument' and found['where'] == dict(file='train.py', line=1)
    assert found['confidence'] == 'certain' and 'processing_class' in found['fix']
    assert main(['doctor', str(write(tmp_path/'fine.py', 'x = 1\n'))]) == 0
    assert main(['doctor', str(tmp_path/'none.py')]) == 2 and main(['doctor', str(write(tmp_path/'a.xyz', ''))]) == 2

@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_command_examines_all_in_any_order(tmp_path, capsys, order):
    "Whatever can be examined is, and then the command says what could not."
    row = json.dumps(dict(messages=[dict(role='user', content='Hi'), dict(role='assistant', content='')])) + '\n'
    state = json.dumps(dict(log_history=[dict(step=i, loss=0., grad_norm=0.) for i in range(1, 6)]))
    things = [write(tmp_path/'train.py', 'SFTTrainer(tokenizer=1)\n'), write(tmp_path/'data.jsonl', row),
              write(tmp_path/'x'/'trainer_state.json', state).parent, tmp_path/'gone.py']
    assert main(['doctor', '--json', *(str(things[i]) for i in order)]) == 2
    out, err = capsys.readouterr()
    assert {f['code'] for f in json.loads(out)['findings']} == {'unknown_argument', 'bad_rows', 'all_masked'}
    assert err == f'ftcook: {tmp_path}/gone.py: no such file or folder\n'

def test_command_with_nothing_that_can_be_examined(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for args in ([''], [' '], ['', 'gone.log'], [str(write(tmp_path/'a.xyz', ''))]):
        assert main(['doctor', *args]) == 2
        out, err = capsys.readouterr()
        assert not out and err.count('ftcook: ') == len(args)
    assert main(['doctor']) in (0, 1) and 'environment' in capsys.readouterr().out

# Findings

def test_findings_need_a_known_confidence():
    with pytest.raises(ValueError, match='use one of certain, likely, possible'): Finding('frozen', 'perhaps', '')

def test_findings_need_a_known_rule():
    with pytest.raises(ValueError, match='no rule of rules.toml'): Finding('no_such_rule', 'certain', '')

def test_a_rule_of_ones_own():
    found = Finding(Rule('gap', 'a gap', 'unknown', 'close it'), 'likely', 'seen', dict(step=3))
    assert (found.code, found.title, found.cause, found.fix) == ('gap', 'a gap', 'unknown', 'close it') and 'gap' not in rules
    assert str(found).startswith('likely: a gap (step 3)')

def test_a_finding_may_say_it_more_exactly():
    assert Finding('frozen', 'likely', 'x', fix='thaw').fix == 'thaw' != Finding('frozen', 'likely', 'x').fix

def test_diagnosis_is_ordered_and_without_repeats():
    a, b = Finding('frozen', 'likely', 'x'), Finding('spike', 'certain', 'y', dict(step=1))
    assert Diagnosis([a, b, a]).codes == ['spike', 'frozen']
    assert Diagnosis([a, b]).to_dict()['findings'][0]['where'] == dict(step=1)
    assert Diagnosis().exit_code == 0 and Diagnosis([a]).exit_code == 1

def test_a_table_shows_what_was_found_as_text():
    "Evidence may come from a user's data, and a notebook shows the table as HTML."
    page = Diagnosis([Finding('frozen', 'likely', '<script>alert(1)</script>', dict(file='<b>.py'))], '<i>name</i>')._repr_html_()
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page and '&lt;b&gt;.py' in page and '&lt;i&gt;name' in page
    assert '<script' not in page and '<b>' not in page and '<i>' not in page

def test_a_check_that_fails_is_a_finding():
    def _check_nothing(facts): yield Finding('frozen', 'possible', facts)
    def _check_too_much(facts): raise KeyError(facts)
    found = examine((_check_too_much, _check_nothing), 'here')
    assert found.codes == ['check_failed', 'frozen'] and found[0].evidence == 'too_much: KeyError: "\'here\'"'

# The house

def test_importing_it_is_light():
    code = """import sys; before = set(sys.modules); import ftcook.doctor
heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy', 'matplotlib'} & (set(sys.modules) - before)
print(sorted(heavy), len(ftcook.doctor.rules))"""
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ['[]', str(len(rules))]

def test_examining_a_run_is_light_and_fast(cases, tmp_path):
    import ftcook.doctor.toy as toy
    cases.cases_training.finished(toy.toy_trainer(random.Random(0), tmp_path, steps=12), tmp_path)
    code = f"""import sys, time; start = time.perf_counter()
from ftcook.doctor import diagnose; found = diagnose({str(tmp_path)!r})
print(len(found), 'torch' in sys.modules, time.perf_counter() - start)"""
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    n, torch, seconds = said.split()
    assert n == '0' and torch == 'False' and float(seconds) < 2

rooms = ('errors', 'training', 'inputs', 'scripts', 'diagnose', 'callback', 'toy', 'cases', 'cases_base',
         'cases_errors', 'cases_training', 'cases_inputs')
def modules(): return [vars(importlib.import_module(f'ftcook.doctor.{name}')) for name in rooms]

def test_every_public_function_says_what_it_does():
    for names in modules():
        for name in names['__all__']:
            o = names[name]
            if inspect.isfunction(o) or inspect.isclass(o): assert inspect.getdoc(o), name

def test_checks_are_private_and_all_in_use():
    for names in modules():
        defined = {o for name,o in names.items() if name.startswith('_check_') and o.__module__ == names['__name__']}
        used = {f for name,o in names.items() if name.endswith('_checks') and isinstance(o, tuple) for f in o}
        assert defined <= used and all(f.__name__.startswith('_check_') for f in used)
        assert not [name for name in names['__all__'] if name.startswith('check')]

def test_the_face_shows_every_room():
    for names in modules()[:5]:
        assert not [name for name in names['__all__'] if getattr(doctor, name) is not names[name]]
    assert not isinstance(doctor.diagnose, ModuleType) and doctor.Rows is Rows
    with pytest.raises(AttributeError, match='Doctor'): _ = doctor.Doctor
