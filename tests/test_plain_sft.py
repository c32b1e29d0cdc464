"The first script of the course: the libraries and nothing of ours, and short. That it learns, lesson 00 shows by running it."
import ast, json, os, subprocess, sys
import pytest
from conftest import root
from ftcook.runtime import model_path, unasked

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
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | unasked, capture_output=True, text=True, timeout=1500)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout

@pytest.mark.slow
def test_it_takes_rows_of_ones_own(tmp_path):
    rows = [[dict(role='user', content=f'Colour {i}?'), dict(role='assistant', content='blue')] for i in range(48)]
    (tmp_path/'rows.jsonl').write_text('\n'.join(json.dumps(dict(messages=row)) for row in rows))
    said = run(tmp_path, 'rows.jsonl')
    assert said.split('after:')[1].splitlines()[0].strip() == 'blue' != said.split('before:')[1].splitlines()[0].strip()
    assert (tmp_path/'plain_sft'/'adapter_model.safetensors').exists()
