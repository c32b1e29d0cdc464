"Outputs go only where a file may stand, are whole or absent, and what a killed run left is found by the next."
import errno, json, os, signal, socket, stat, subprocess, sys, threading, time
from pathlib import Path
import pytest
from ftcook.bench import merge_rows
from ftcook.cli import main
from ftcook.data import check_file, split, write_splits
from ftcook.evaluation import EvalReport
from ftcook.outputs import check_output, ends_cleanly, output, output_folder, outputs, partial, write_output
from ftcook.runtime import record

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='needs POSIX')
fine = json.dumps(dict(messages=[dict(role='user', content='Hi'), dict(role='assistant', content='Hello')]))
bad = json.dumps(dict(messages=[dict(role='user', content='Hi')]))

@pytest.fixture
def data(tmp_path):
    path = tmp_path/'in'/'data.jsonl'
    path.parent.mkdir()
    path.write_text(f'{fine}\n{bad}\n'*5)
    return path

def identity(path): return (s := os.lstat(path)).st_ino, stat.S_IFMT(s.st_mode), s.st_rdev, s.st_mtime_ns

def special(folder):
    "Everything that is no ordinary file, each by its kind."
    os.mkfifo(folder/'fifo')
    with socket.socket(socket.AF_UNIX) as s: s.bind(str(folder/'socket'))
    (folder/'target').write_text('as it was')
    (folder/'link').symlink_to(folder/'target')
    (folder/'dangling').symlink_to(folder/'nowhere')
    (folder/'null').symlink_to('/dev/null')
    (folder/'folder').mkdir()
    found = {name: folder/name for name in ('fifo', 'socket', 'link', 'dangling', 'null',
        'folder')} | {'device': Path('/dev/null')}
    try: os.mknod(folder/'own', 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError: return found
    return found | {'own': folder/'own'}

writers = dict(
    check=lambda path, data: check_file(data, fix=path), write_output=lambda path, data: write_output(path, 'text'))

@pytest.mark.parametrize('writer', writers)
def test_only_ordinary_files_are_replaced(tmp_path, data, writer):
    for name,path in special(tmp_path).items():
        before = identity(path)
        with pytest.raises(OSError, match='is a (symbolic link|named pipe|socket|device|folder)'): writers[writer](path, data)
        assert identity(path) == before, name
    assert (tmp_path/'target').read_text() == 'as it was' and not list(tmp_path.rglob('*.partial'))

def test_the_rejects_are_looked_at_as_well(tmp_path, data):
    os.mkfifo(tmp_path/'clean.rejects.jsonl')
    with pytest.raises(OSError, match='named pipe'): check_file(data, fix=tmp_path/'clean.jsonl')
    assert not (tmp_path/'clean.jsonl').exists()

def test_each_writer_refuses_a_link(tmp_path, monkeypatch):
    (tmp_path/'target').write_text('as it was')
    def link(name):
        (path := tmp_path/name).parent.mkdir(exist_ok=True, parents=True)
        path.symlink_to(tmp_path/'target')
        return path
    monkeypatch.setenv('FTCOOK_RUN_DIR', str(tmp_path))
    link('metrics/x.json'), link('report/report.json')
    with pytest.raises(OSError, match='symbolic link'): record('x', a=1)
    with pytest.raises(OSError, match='symbolic link'): EvalReport('x', dict(a=1.)).save(tmp_path/'report')
    with pytest.raises(OSError, match='symbolic link'): merge_rows(link('rows.csv'), [dict(a=1)], ('a',))
    assert (tmp_path/'target').read_text() == 'as it was'

def test_the_command_says_so_and_ends_with_2(data, capsys):
    assert main(['check', str(data), '--fix', '/dev/null']) == 2
    assert 'ftcook: /dev/null: is a device; an output must be an ordinary file' in capsys.readouterr().err
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)

def test_no_module_writes_past_the_helper():
    "Where a module opens a file for writing itself, the file is in a folder of its own making."
    import re
    package, found = Path(__file__).parents[1]/'ftcook', {}
    writes = re.compile(r'''atomic_save|os\.replace|\.write_(?:text|bytes)\(|open\([^)]*['"][wxa]b?['"]''')
    for path in sorted(package.rglob('*.py')):
        n = sum(bool(writes.search(line)) for line in path.read_text().splitlines())
        if n: found[path.relative_to(package).as_posix()] = n
    known = {'outputs.py', 'publish.py', 'inference.py', 'train.py',
        'checkpoints.py'} # the site, the folder of a model, the run folder
    assert {p for p in found if not p.startswith('doctor/cases')} <= known, found

# Whole or absent

def test_two_names_never_share_their_rejects(tmp_path, data):
    names = ['out.jsonl', 'out.txt', 'out', 'out.json', 'out.jsonl.txt']
    made = [check_file(data, fix=tmp_path/name).rejects for name in names]
    assert len({*made, *(str(tmp_path/name) for name in names)}) == 10
    assert made[0] == str(tmp_path/'out.rejects.jsonl')

def test_a_second_run_is_refused_and_disturbs_nothing(tmp_path, data, capsys):
    with outputs(tmp_path/'out.rejects.jsonl', tmp_path/'out.jsonl') as (a, b):
        b.write(b'first\n')
        with pytest.raises(BlockingIOError, match='another run is writing it'): check_file(data, fix=tmp_path/'out.jsonl')
        assert main(['check', str(data), '--fix', str(tmp_path/'out.jsonl')]) == 2
        with pytest.raises(BlockingIOError): check_file(data, fix=tmp_path/'out.rejects.jsonl') # it is the first run's other file
    assert (tmp_path/'out.jsonl').read_text() == 'first\n' and (tmp_path/'out.rejects.jsonl').read_text() == ''
    assert check_file(data, fix=tmp_path/'out.jsonl').kept == 5 and 'killed' not in capsys.readouterr().err

fix = 'import sys; from ftcook.data import check_file; check_file(sys.argv[1], fix=sys.argv[2])'

def test_many_runs_at_once_leave_one_whole_result(tmp_path):
    inputs = []
    for i in range(4):
        inputs.append(tmp_path/f'{i}.jsonl')
        inputs[-1].write_text(''.join((bad if j % (i + 2) else fine) + '\n' for j in range(3000)))
    wanted = []
    for i,path in enumerate(inputs):
        check_file(path, fix=tmp_path/f'wanted{i}.jsonl')
        wanted.append(((tmp_path/f'wanted{i}.jsonl').read_bytes(), (tmp_path/f'wanted{i}.rejects.jsonl').read_bytes()))
    for _ in range(4):
        running = [subprocess.Popen([sys.executable, '-c', fix, p, tmp_path/'out.jsonl'], stderr=subprocess.PIPE,
            text=True) for p in inputs]
        ended = [(p.communicate()[1], p.returncode) for p in running]
        assert all(code == 0 or 'another run is writing it' in said for said,code in ended) and any(code == 0 for _,code in ended)
        assert ((tmp_path/'out.jsonl').read_bytes(), (tmp_path/'out.rejects.jsonl').read_bytes()) in wanted
        assert not list(tmp_path.glob('.*'))

def test_what_a_kill_left_is_removed_and_said(tmp_path, data, capsys):
    code = ('import os, sys; from ftcook.outputs import outputs\n'
            'with outputs(*sys.argv[1:]) as (a, b): a.write(b"x"*9); a.flush(); os.kill(os.getpid(), 9)')
    out = tmp_path/'out.jsonl'
    rejects = tmp_path/'out.rejects.jsonl'
    assert subprocess.run([sys.executable, '-c', code, rejects, out]).returncode == -9
    assert partial(rejects).read_bytes() == b'x'*9
    check_file(data, fix=out)
    assert 'removed .out.rejects.jsonl.partial, which a run that was killed had left' in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in', 'out.jsonl', 'out.rejects.jsonl']

def test_what_stands_in_place_of_a_partial_file_is_not_followed(tmp_path):
    (tmp_path/'secret').write_text('as it was')
    partial(tmp_path/'a').symlink_to(tmp_path/'secret')
    os.mkfifo(partial(tmp_path/'b'))
    partial(tmp_path/'c').symlink_to(tmp_path/'in')
    for name in 'ab':
        with pytest.raises(OSError): write_output(tmp_path/name, 'x')
    with pytest.raises(OSError):
        with output_folder(tmp_path/'c'): pass
    assert (tmp_path/'secret').read_text() == 'as it was'

def test_an_error_leaves_the_old_file(tmp_path):
    write_output(tmp_path/'a', 'old')
    with pytest.raises(ZeroDivisionError):
        with output(tmp_path/'a') as f: f.write(str(1/0))
    assert (tmp_path/'a').read_text() == 'old' and [p.name for p in tmp_path.iterdir()] == ['a']

def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    write_output(tmp_path/'a', 'old')
    def full(fd): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'): write_output(tmp_path/'a', 'new')
    assert (tmp_path/'a').read_text() == 'old' and [p.name for p in tmp_path.iterdir()] == ['a']

def test_folders_are_whole_or_absent(tmp_path, capsys):
    with output_folder(tmp_path/'a') as work:
        (work/'inner').mkdir()
        (work/'inner'/'x').write_text('1')
        assert not (tmp_path/'a').exists()
        with pytest.raises(BlockingIOError):
            with output_folder(tmp_path/'a'): pass
        assert (work/'inner'/'x').exists()
    assert (tmp_path/'a'/'inner'/'x').read_text() == '1'
    with pytest.raises(FileExistsError, match='exists'):
        with output_folder(tmp_path/'a'): pass
    with pytest.raises(ZeroDivisionError):
        with output_folder(tmp_path/'b') as work: (work/'x').write_text(str(1/0))
    partial(tmp_path/'b').mkdir()
    (partial(tmp_path/'b')/'left').write_text('by a kill')
    with output_folder(tmp_path/'b') as work: assert not list(work.iterdir())
    assert 'removed .b.partial' in capsys.readouterr().err and sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']

def test_a_killed_write_splits_is_cleared_by_the_next(tmp_path, capsys):
    code = ('import os, sys; from ftcook.data import split, splits, write_splits\n'
            'splits.card_markdown = lambda card: os.kill(os.getpid(), 9)\n'
            'write_splits(split([dict(id=i) for i in range(9)], test=3), sys.argv[1], "toy", "x", "MIT")')
    assert subprocess.run([sys.executable, '-c', code, tmp_path]).returncode == -9
    hidden, = tmp_path.iterdir()
    assert hidden.name.endswith('.partial')
    made = write_splits(split([dict(id=i) for i in range(9)], test=3), tmp_path, 'toy', 'x', 'MIT')
    assert list(tmp_path.iterdir()) == [made] and 'killed' in capsys.readouterr().err

# Signals

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up_and_ends_without_a_traceback(tmp_path, data, number):
    os.mkfifo(tmp_path/'pipe')
    code = 'import sys; from ftcook.cli import main; sys.exit(main(["check", sys.argv[1], "--fix", sys.argv[2]]))'
    process = subprocess.Popen([sys.executable, '-c', code, tmp_path/'pipe', tmp_path/'out.jsonl'], stderr=subprocess.PIPE,
        text=True)
    with open(tmp_path/'pipe', 'wb') as pipe:
        pipe.write(data.read_bytes())
        pipe.flush()
        while not partial(tmp_path/'out.jsonl').exists(): time.sleep(.01)
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 128 + number and said == f'stopped by {signal.Signals(number).name}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in', 'pipe']

def test_signals_are_as_they_were_and_nohup_is_respected():
    before = signal.getsignal(signal.SIGTERM)
    with ends_cleanly(): assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_cleanly(): assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally: signal.signal(signal.SIGHUP, old)
    said = []
    thread = threading.Thread(target=lambda: said.append(ends_cleanly().__enter__())) # no signals there, and no error
    thread.start()
    thread.join()
    assert said == [None]

def test_check_output_wants_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder'): check_output(tmp_path/'nowhere'/'a')
    assert check_output(tmp_path/'new') == tmp_path/'new'
