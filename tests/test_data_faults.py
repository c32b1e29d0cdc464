"`ftcook check --fix` is killed, or runs out of disk: its outputs are absent, or whole and of one run."
import json, os, random, subprocess, sys, time
import pytest
from ftcook.data import check_file

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='needs SIGKILL')
fine = json.dumps(dict(messages=[dict(role='user', content='Hi'), dict(role='assistant', content='Hello')]))
bad = json.dumps(dict(messages=[dict(role='user', content='Hi')]))
fix = 'import sys; from ftcook.data import check_file; check_file(sys.argv[1], fix=sys.argv[2])'

def write(path, rows): path.write_text(''.join((bad if i % 3 == 0 else fine) + '\n' for i in range(rows)))

def outputs(folder):
    "Contents of the clean file and of the rejects, None where there is no such file."
    paths = folder/'clean.jsonl', folder/'clean.rejects.jsonl'
    return tuple(p.read_bytes() if p.exists() else None for p in paths)

def wanted(tmp_path, data, name):
    "What an undisturbed run writes."
    (tmp_path/name).mkdir()
    check_file(data, fix=tmp_path/name/'clean.jsonl')
    return outputs(tmp_path/name)

def whole(found, *runs):
    "Clean file absent, or with its own rejects; rejects absent or whole."
    clean, rejects = found
    return found in runs or clean is None and (rejects is None or rejects in [r for _,r in runs])

@pytest.mark.parametrize('old', [False, True], ids=['first run', 'over an older run'])
def test_killed_at_random_moments(tmp_path, old):
    data, older = tmp_path/'data.jsonl', tmp_path/'older.jsonl'
    write(data, 60_000)
    write(older, 10)
    new, before = wanted(tmp_path, data, 'new'), wanted(tmp_path, older, 'before')
    folder, rng, seen = tmp_path/'out', random.Random(0), set()
    start = time.perf_counter()
    folder.mkdir()
    subprocess.run([sys.executable, '-c', fix, data, folder/'clean.jsonl'], check=True)
    duration = time.perf_counter() - start
    for i in range(12):
        for p in folder.iterdir(): p.unlink()
        if old: check_file(older, fix=folder/'clean.jsonl')
        process = subprocess.Popen([sys.executable, '-c', fix, data, folder/'clean.jsonl'])
        if i % 2: time.sleep(rng.uniform(0, duration*1.1))
        else: # aim at the end, where the files are renamed
            def nearly_done(): return any(p.stat().st_size > len(new[0])*.9 for p in folder.glob('.clean.jsonl.*'))
            while process.poll() is None and not nearly_done(): time.sleep(.0005)
            time.sleep(rng.uniform(0, .02))
        process.kill()
        process.wait()
        found = outputs(folder)
        assert whole(found, new, *([before] if old else []))
        seen.add(found == new)
        assert all(p.name.endswith('.partial') for p in folder.iterdir() if p.name not in ('clean.jsonl', 'clean.rejects.jsonl'))
    assert False in seen # at least one was killed on the way
    check_file(data, fix=folder/'clean.jsonl') # what a kill leaves does not disturb the next run
    assert outputs(folder) == new

# The same, with the kill placed before each call that touches a file name, so that every gap is tried.
stepwise = '''
import os, signal, sys
from pathlib import Path
from ftcook.data import check_file
at, calls = int(sys.argv[3]), 0
def deadly(f):
    def run(*args, **kwargs):
        global calls
        calls += 1
        if calls == at: os.kill(os.getpid(), signal.SIGKILL)
        return f(*args, **kwargs)
    return run
os.replace, os.fsync, Path.unlink = deadly(os.replace), deadly(os.fsync), deadly(Path.unlink)
check_file(sys.argv[1], fix=sys.argv[2])
'''

@pytest.mark.parametrize('old', [False, True], ids=['first run', 'over an older run'])
def test_killed_between_any_two_steps(tmp_path, old):
    data, older = tmp_path/'data.jsonl', tmp_path/'older.jsonl'
    write(data, 30)
    write(older, 10)
    new, before = wanted(tmp_path, data, 'new'), wanted(tmp_path, older, 'before')
    for at in range(1, 30):
        folder = tmp_path/f'out{at}'
        folder.mkdir()
        if old: check_file(older, fix=folder/'clean.jsonl')
        code = subprocess.run([sys.executable, '-c', stepwise, data, folder/'clean.jsonl', str(at)]).returncode
        assert whole(outputs(folder), new, *([before] if old else []))
        if code == 0: break
    assert code == 0 and at > 7 and outputs(folder) == new

def test_full_disk_leaves_nothing(tmp_path):
    data = tmp_path/'data.jsonl'
    write(data, 30_000)
    code = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n' + fix
    process = subprocess.run([sys.executable, '-c', code, data, tmp_path/'clean.jsonl'], capture_output=True, text=True)
    assert process.returncode == 1 and 'File too large' in process.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['data.jsonl']

def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    data = tmp_path/'data.jsonl'
    write(data, 30)
    def interrupt(fd): raise KeyboardInterrupt
    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt): check_file(data, fix=tmp_path/'clean.jsonl')
    assert [p.name for p in tmp_path.iterdir()] == ['data.jsonl']
