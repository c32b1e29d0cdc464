"""The measuring script keeps its rows in order, and a method that fails leaves a row that says why."""
import sys
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

def test_a_failed_row_has_every_column(methods, settings):
    assert list(methods.apart('full', settings, process('raise SystemExit(3)'))) == methods.columns == list(methods.label('base', settings))

def test_rl_needs_its_first_stage(methods, settings, tmp_path):
    with pytest.raises(FileNotFoundError, match='measure `lora` first'): methods.started(None, tmp_path/'lora')
