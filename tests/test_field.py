"""Inputs rebuilt from public reports: what is said first, and what of it is wrong."""
import importlib, io, json, re, tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import pytest
from ftcook.cli import main

here = Path(__file__).parent/'field'
cases = [dict(case, kind=file.stem) for file in sorted(here.glob('*.toml'))
         for case in tomllib.loads(file.read_text(encoding='utf-8')).get('case', [])]

def first_code(found):
    "The code of the first thing that a report names: of a doctor's finding, a row's problem, or none."
    named = found.get('findings') or found.get('problems') or []
    return named[0]['code'] if named else 'none'

def command(case, monkeypatch):
    "First code, text and exit status of a command line."
    monkeypatch.chdir(here/'cases'/case['id'])
    def run(*more):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try: status = main(case['run'].split() + list(more))
            except SystemExit as e: status = e.code
        return out.getvalue(), err.getvalue(), status
    text, errors, status = run()
    report, _, _ = run('--json')
    try: code = first_code(json.loads(report))
    except ValueError: code = 'refused' if status == 2 else 'none'
    return code, text + errors, status

def examined(case):
    "The same of a Python object, which the doctor is handed."
    from ftcook.doctor.cases_base import Given, given
    from ftcook.doctor.diagnose import diagnose
    made = getattr(importlib.import_module(f"field.objects_{case['kind']}"), case['id'])()
    things, options = made if isinstance(made, Given) else given(made)
    found = diagnose(*things, **options)
    return first_code(found.to_dict()), str(found), found.exit_code

@pytest.mark.parametrize('case', cases, ids=[c['id'] for c in cases])
def test_field_case(case, monkeypatch):
    code, text, status = command(case, monkeypatch) if case['run'] else examined(case)
    assert code in case['first'], f"said {code}, wanted {case['first']}\n{text}"
    for pattern in case.get('says', []): assert re.search(pattern, text), f'{pattern!r} is not in\n{text}'
    assert status == case.get('exit', 0 if case['first'] == ['none'] else 1)

def test_cases_are_complete():
    assert len({c['id'] for c in cases}) == len(cases)
    assert all(set(c) <= set('id source what run first says exit kind'.split()) and c['source'] and c['first'] for c in cases)
