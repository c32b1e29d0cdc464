"""The command line as a user meets it."""
import json, os, subprocess, sys
import nbformat, pytest
from ftcook.cli import main, run_lesson, store_outputs
from conftest import root

def notebook(path, *sources):
    parameters = nbformat.v4.new_code_cell('profile = ""', metadata=dict(tags=['parameters']))
    cells = [parameters, *map(nbformat.v4.new_code_cell, sources)]
    kernel = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), path)

def executed(path): return [c for c in nbformat.read(path, 4).cells if c.cell_type == 'code']

@pytest.fixture
def small_course(tmp_path, monkeypatch):
    (tmp_path/'nbs').mkdir()
    for name in ('settings.ini', 'pyproject.toml'): (tmp_path/name).write_text((root/name).read_text())
    notebook(tmp_path/'nbs'/'00_good.ipynb', "from ftcook.runtime import record", "record('00_good', profile, rows=3)")
    notebook(tmp_path/'nbs'/'01_bad.ipynb', "1/0")
    notebook(tmp_path/'nbs'/'02_after.ipynb', "from ftcook.runtime import record", "record('02_after', profile, score=.5)")
    monkeypatch.chdir(tmp_path)
    return tmp_path

def test_a_failing_lesson_does_not_hide_the_others(small_course, capsys):
    assert main(['course', '--profile', 'cpu']) == 1
    out = capsys.readouterr().out
    assert 'ZeroDivisionError' in out and '2 passed, 1 failed' in out and 'score 0.5' in out
    assert {p.stem for p in (small_course/'runs/cpu/metrics').iterdir()} == {'00_good', '02_after'}
    assert json.loads((small_course/'runs/cpu/metrics/02_after.json').read_text()) == dict(score=.5)
    assert len(list((small_course/'runs/cpu').glob('*.ipynb'))) == 3

def test_part_of_the_course(small_course, capsys):
    assert main(['course', '--profile', 'cpu', '00', '02']) == 0
    assert '2 passed, 0 failed' in capsys.readouterr().out

def test_no_such_lesson(small_course, capsys):
    assert main(['course', '--profile', 'cpu', '77']) == 2
    assert capsys.readouterr().err.startswith('ftcook: no lesson starts with 77; there are 00_good')

def test_old_metrics_do_not_pass_for_new_ones(small_course):
    notebook(small_course/'nbs'/'00_good.ipynb', "from ftcook.runtime import record", "record('00_good', profile, rows=3)", "1/0")
    assert run_lesson(small_course/'nbs'/'00_good.ipynb', small_course/'runs'/'cpu')['metrics'] == {}

def test_metrics_of_an_earlier_run_do_not_pass_for_this_one(small_course):
    path, out = small_course/'nbs'/'00_good.ipynb', small_course/'runs'/'cpu'
    assert run_lesson(path, out)['metrics'] == dict(rows=3)
    notebook(path, "'it records nothing any more'")
    assert run_lesson(path, out)['metrics'] == {}

def test_a_lesson_changes_nothing_in_the_process_that_runs_it(small_course):
    before = dict(os.environ)
    names = "('FTCOOK_PROFILE', 'FTCOOK_RUN_DIR', 'OMP_NUM_THREADS')"
    notebook(small_course/'nbs'/'00_good.ipynb', f"import os; print(*(os.environ[name] for name in {names}))")
    run_lesson(small_course/'nbs'/'00_good.ipynb', small_course/'out', 'gpu', run_dir=small_course/'runs', threads=3)
    assert executed(small_course/'out'/'00_good.ipynb')[-1].outputs[0].text.split() == ['gpu', str(small_course/'runs'), '3']
    assert dict(os.environ) == before

def test_two_lessons_at_a_time(small_course, capsys):
    "Each waits for the other to start; one after the other, they would not end."
    wait = """import os, pathlib, time
folder, own = pathlib.Path(os.environ['FTCOOK_RUN_DIR']), '{own}'
(folder/own).touch()
for _ in range(200):
    if (folder/'{other}').exists(): break
    time.sleep(.1)
else: raise TimeoutError('alone')"""
    for own,other in (('00_good', '02_after'), ('02_after', '00_good')):
        keep = f"from ftcook.runtime import record; record('{own}', own={own!r})"
        notebook(small_course/'nbs'/f'{own}.ipynb', wait.format(own=own, other=other), keep)
    keep = "record('04_sft', files=sorted(os.listdir(os.environ['FTCOOK_RUN_DIR'])))"
    notebook(small_course/'nbs'/'04_sft.ipynb', f"import os; from ftcook.runtime import record; {keep}")
    assert main(['course', '--profile', 'cpu', '--jobs', '2']) == 1
    out = capsys.readouterr().out
    assert '3 passed, 1 failed' in out and [line[:2] for line in out.splitlines()[-5:-1]] == ['00', '01', '02', '04']
    metrics = {p.stem: json.loads(p.read_text()) for p in (small_course/'runs/cpu/metrics').iterdir()}
    assert metrics['00_good'] == dict(own='00_good') and metrics['02_after'] == dict(own='02_after')
    assert not {'00_good', '02_after'} & set(metrics['04_sft']['files']), 'it trains for the others, and goes before them'

def test_solutions_are_run_where_their_lesson_left_its_adapters(small_course):
    (small_course/'nbs'/'solutions').mkdir()
    notebook(small_course/'nbs'/'solutions'/'00_good.ipynb', "import os; os.environ['FTCOOK_RUN_DIR']")
    assert main(['course', '--profile', 'cpu', 'solutions/00']) == 0
    shown = executed(small_course/'runs/cpu/solutions/00_good.ipynb')[-1].outputs[0].data['text/plain']
    assert shown == repr(str(small_course/'runs'/'cpu'))

def test_store_keeps_the_outputs_in_the_notebook(small_course):
    path = small_course/'nbs'/'00_good.ipynb'
    ids = [c.id for c in executed(path)]
    assert main(['course', '--profile', 'cpu', '--store', '00', '01']) == 1
    cells = executed(path)
    assert [c.id for c in cells] == ids and {c.execution_count for c in cells} == {None}
    assert "{'rows': 3}" in str(cells[-1].outputs)
    assert not any(c.outputs for c in executed(small_course/'nbs'/'01_bad.ipynb'))

def test_store_refuses_a_notebook_that_was_edited(small_course):
    path = small_course/'nbs'/'00_good.ipynb'
    result = run_lesson(path, small_course/'out')
    nb = nbformat.read(path, 4)
    nb.cells[-1].source += '  # edited'
    nbformat.write(nb, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f'{nb.cells[-1].id} has been edited'): store_outputs(result['executed'], path)
    assert path.read_bytes() == before

@pytest.mark.parametrize('part, stems', [('I', '00 01 02'), ('ii', None)])
def test_a_part_of_the_course(small_course, part, stems, capsys):
    if stems is None:
        assert main(['course', '--profile', 'cpu', '--part', part]) == 2 and 'has no lesson yet' in capsys.readouterr().err
    else:
        main(['course', '--profile', 'cpu', '--part', part])
        assert [line[:2] for line in capsys.readouterr().out.splitlines()[-4:-1]] == stems.split()

def test_no_such_part(small_course, capsys):
    assert main(['course', '--profile', 'cpu', '--part', 'XI']) == 2
    assert "no part 'XI'" in capsys.readouterr().err

def test_module_and_command_are_the_same():
    def said(*command): return subprocess.run([*command, 'check', 'no-such-file.jsonl'], capture_output=True, text=True)
    module = said(sys.executable, '-m', 'ftcook.cli')
    command = said(sys.executable, '-c', 'import sys; from ftcook.cli import main; sys.exit(main())')
    assert (module.returncode, module.stdout, module.stderr) == (command.returncode, command.stdout, command.stderr)
    assert module.returncode == 2 and 'no-such-file.jsonl' in module.stderr

def test_version(capsys):
    import ftcook
    with pytest.raises(SystemExit) as end: main(['--version'])
    assert end.value.code == 0 and capsys.readouterr().out == f'ftcook {ftcook.__version__}\n'

def test_the_page_shows_what_the_command_says(tmp_path):
    "The stored outputs of the page on the command line are those of a run today."
    page = root/'nbs'/'command_line.ipynb'
    assert run_lesson(page, tmp_path, progress=False)['error'] is None
    def texts(path): return {c.id: [o.get('text') or o.data['text/plain'] for o in c.outputs] for c in executed(path)}
    today = texts(tmp_path/page.name)
    assert {k: v for k,v in texts(page).items()} == {k: v for k,v in today.items() if k in texts(page)}
    assert any('estimate' in text for found in today.values() for text in found)

def test_unknown_profile(small_course, capsys):
    assert main(['course', '--profile', 'tpu']) == 2
    assert 'no profile [tpu]' in capsys.readouterr().err

def test_missing_file(capsys):
    assert main(['check', 'no-such-file.jsonl']) == 2
    assert 'no-such-file.jsonl' in capsys.readouterr().err

def test_gate(tmp_path, capsys):
    from ftcook.evaluation import EvalReport
    path = str(EvalReport('flights', dict(exact_match=dict(value=.8, low=.7, high=.88, n=80))).save(tmp_path))
    assert main(['gate', path, 'exact_match>=0.75']) == 0 and 'PASSED' in capsys.readouterr().out
    assert main(['gate', path, 'exact_match.low>=0.75']) == 1 and 'FAILED' in capsys.readouterr().out
    assert main(['gate', path, 'speed>=1']) == 1
    assert main(['gate', path, 'exact_match']) == 2 and main(['gate', str(tmp_path/'none.json'), 'exact_match>=0.75']) == 2
