"""The command line as a user meets it."""
import json, subprocess, sys
import nbformat, pytest
from ftcook.cli import course, main, run_lesson, summary
from conftest import root

def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell('profile = ""', metadata=dict(tags=['parameters'])), *map(nbformat.v4.new_code_cell, sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))), path)

@pytest.fixture
def small_course(tmp_path, monkeypatch):
    (tmp_path/'nbs').mkdir()
    (tmp_path/'settings.ini').write_text((root/'settings.ini').read_text())
    notebook(tmp_path/'nbs'/'00_good.ipynb', "from ftcook.runtime import record", "record('00_good', profile, rows=3)")
    notebook(tmp_path/'nbs'/'01_bad.ipynb', "1/0")
    notebook(tmp_path/'nbs'/'02_after.ipynb', "from ftcook.runtime import record", "record('02_after', profile, score=.5)")
    monkeypatch.chdir(tmp_path)
    return tmp_path

def test_a_failing_lesson_does_not_hide_the_others(small_course, capsys):
    assert main(['course', '--profile', 'cpu']) == 1
    out = capsys.readouterr().out
    assert 'ZeroDivisionError' in out and '2 passed, 1 failed' in out and 'score 0.5' in out
    assert set(json.loads((small_course/'runs/cpu/metrics.json').read_text())) == {'00_good', '02_after'}
    assert len(list((small_course/'runs/cpu').glob('*.ipynb'))) == 3

def test_part_of_the_course(small_course, capsys):
    assert main(['course', '--profile', 'cpu', '00', '02']) == 0
    assert '2 passed, 0 failed' in capsys.readouterr().out

def test_no_such_lesson(small_course):
    with pytest.raises(SystemExit, match='no lesson starts with 77.*00_good'): main(['course', '--profile', 'cpu', '77'])

def test_old_metrics_do_not_pass_for_new_ones(small_course):
    notebook(small_course/'nbs'/'00_good.ipynb', "from ftcook.runtime import record", "record('00_good', profile, rows=3)", "1/0")
    assert run_lesson(small_course/'nbs'/'00_good.ipynb', small_course/'runs'/'cpu')['metrics'] == {}

def test_unknown_profile(small_course, capsys):
    assert main(['course', '--profile', 'tpu']) == 2
    assert 'no profile [tpu]' in capsys.readouterr().err

def test_missing_file(capsys):
    assert main(['check', 'no-such-file.jsonl']) == 2
    assert 'no-such-file.jsonl' in capsys.readouterr().err

def test_check_starts_fast(tmp_path):
    import time
    (tmp_path/'a.jsonl').write_text('{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n')
    def seconds():
        start = time.perf_counter()
        assert subprocess.run([sys.executable, '-m', 'ftcook.cli', 'check', str(tmp_path/'a.jsonl')]).returncode == 0
        return time.perf_counter() - start
    assert min(seconds() for _ in range(3)) < 1

def test_gate(tmp_path, capsys):
    from ftcook.evaluation import EvalReport
    path = str(EvalReport('flights', dict(exact_match=dict(value=.8, low=.7, high=.88, n=80))).save(tmp_path))
    assert main(['gate', path, 'exact_match>=0.75']) == 0 and 'PASSED' in capsys.readouterr().out
    assert main(['gate', path, 'exact_match.low>=0.75']) == 1 and 'FAILED' in capsys.readouterr().out
    assert main(['gate', path, 'speed>=1']) == 1
    assert main(['gate', path, 'exact_match']) == 2 and main(['gate', str(tmp_path/'none.json'), 'exact_match>=0.75']) == 2
