"The first script of the course: the libraries and nothing of ours, short, and it learns."
import ast, json, subprocess, sys
import pytest
from conftest import root
from ftcook.runtime import model_path

script = root/'recipes'/'plain_sft.py'

def imported():
    for node in ast.walk(ast.parse(script.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): yield from (a.name.split('.')[0] for a in node.names)
        if isinstance(node, ast.ImportFrom): yield node.module.split('.')[0]

def test_it_needs_nothing_of_ours():
    assert set(imported()) <= {'json', 'random', 'sys', 'datasets', 'peft', 'transformers', 'trl'}

def test_it_is_a_first_script():
    code = [line for line in script.read_text(encoding='utf-8').split('"""', 2)[2].splitlines() if line.strip()]
    assert len(code) <= 45 and max(map(len, code)) <= 130

def run(tmp_path, *args):
    command = [sys.executable, str(script), model_path(), *map(str, args)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500)

def said(done, when):
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout.split(f'{when}:', 1)[1].splitlines()[0].strip()

@pytest.mark.slow
def test_the_answer_before_and_after(tmp_path):
    done = run(tmp_path)
    assert json.loads(said(done, 'after')) == {'from': 'Madrid', 'to': 'Nairobi', 'day': 'Friday'}
    assert not said(done, 'before').startswith('{')
    assert (tmp_path/'plain_sft'/'adapter_model.safetensors').exists()

@pytest.mark.slow
def test_it_takes_rows_of_ones_own(tmp_path):
    rows = [[dict(role='user', content=f'Colour {i}?'), dict(role='assistant', content='blue')] for i in range(16)]
    (tmp_path/'rows.jsonl').write_text('\n'.join(json.dumps(dict(messages=row)) for row in rows))
    assert 'before' in (done := run(tmp_path, 'rows.jsonl')).stdout and said(done, 'after')
