"""The measuring script keeps its rows in order, and a method that fails leaves a row that says why."""
import csv, sys
import pytest
from conftest import root

@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'nbs'/'measurements'))
    import methods
    return methods

@pytest.fixture
def settings():
    from ftcook.runtime import load_settings
    return load_settings('cpu')

def process(code): return [sys.executable, '-c', code]

def test_failure_leaves_a_row(methods, settings):
    row = methods.apart('full', settings, process('raise MemoryError("no room for the optimizer")'))
    assert row['error'] == 'MemoryError: no room for the optimizer' and row['method'] == 'full' and row['profile'] == 'cpu' and 'torch-' in row['versions']

def test_killed_for_memory(methods, settings):
    assert 'memory' in methods.apart('full', settings, process('import os; os.kill(os.getpid(), 9)'))['error']

def test_silent_failure(methods, settings):
    assert methods.apart('full', settings, process('raise SystemExit(3)'))['error'] == 'no message'

def test_rows_replace_only_their_own(methods, settings, tmp_path):
    path = tmp_path/'methods.csv'
    def row(method, profile, value): return methods.label(method, settings) | dict(profile=profile, exact_match=value)
    methods.keep([row('lora', 'cpu', .5), row('base', 'cpu', 0), row('lora', 'gpu', .9)], path)
    methods.keep([row('lora', 'cpu', .6)], path)
    assert [(r['profile'], r['method'], r['exact_match']) for r in csv.DictReader(path.open())] == [('cpu', 'base', '0'), ('cpu', 'lora', '0.6'), ('gpu', 'lora', '0.9')]
    assert list(csv.DictReader(path.open()))[0].keys() == dict.fromkeys(methods.columns).keys()

def test_rl_needs_its_first_stage(methods, settings, tmp_path):
    with pytest.raises(FileNotFoundError, match='measure `lora` first'): methods.started(None, tmp_path/'lora')
