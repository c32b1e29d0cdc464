"""However a run is killed, and whatever that leaves, the next start ends with the adapter of the run that was left alone.

The runs are processes of their own, forked from one that has imported the libraries, so that each takes a few seconds."""
import json, multiprocessing, os, random, shutil, signal, subprocess, time, warnings
from pathlib import Path
import pytest
from ftcook.checkpoints import DiskFull, RunFolderError, checkpoint_fault, find_checkpoint, full_disk_told, last_checkpoint
from ftcook.checkpoints import one_run, save_adapter
from ftcook.outputs import output
from test_resume import tiny_model, train as train_quantized

server = multiprocessing.get_context('forkserver')
server.set_forkserver_preload(['trl', 'ftcook.sft', 'test_resume'])
files = ['adapter_model.safetensors', 'training_args.bin', 'scheduler.pt', 'optimizer.pt', 'rng_state.pth', 'trainer_state.json']

def train(*args, **kwargs): return train_quantized(*args, quantize='none', **kwargs)

def _told(said, function, args, kwargs):
    "What came of it, and what it warned of."
    import torch
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        try: out = function(*args, **kwargs)
        except Exception as e: out = f'{type(e).__name__}: {e}'
    said.send((out, [str(o.message) for o in heard if 'not whole' in str(o.message)]))

def start(function, *args, **kwargs):
    "A process of its own."
    mine, its = server.Pipe(duplex=False)
    run = server.Process(target=_told, args=(its, function, args, kwargs), daemon=True)
    run.start()
    its.close()
    run.said = mine
    return run

def end(run):
    "What a run that ends by itself came to, and its warnings."
    out = run.said.recv()
    run.join()
    return out

def kill(run):
    run.kill()
    run.join()
    assert run.exitcode == -signal.SIGKILL or not run.exitcode

def adapter(folder): return (folder/'adapter_model.safetensors').read_bytes()

def watched(folder, model, copies):
    "A run that keeps a copy of each of its checkpoints; the seconds from its start to each step, and to its end."
    from transformers import TrainerCallback
    begin, times = time.perf_counter(), []
    class Keep(TrainerCallback):
        def on_step_end(self, *args, **kwargs): times.append(time.perf_counter() - begin)
        def on_save(self, args, state, control, **kwargs):
            name = f'checkpoint-{state.global_step}'
            shutil.copytree(Path(folder)/name, copies/name)
    train(folder, model, callbacks=[Keep()])
    return [*times, time.perf_counter() - begin]

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The run that was left alone: its folder, copies of its checkpoints, the model, and its times."
    home = tmp_path_factory.mktemp('whole')
    model = tiny_model(home/'model')
    times, heard = end(start(watched, home/'run', model, home/'copies'))
    assert len(times) == 7 and not heard, times
    return home/'run', home/'copies', model, times

def interrupted(copies):
    "The 19 states of a checkpoint that a kill leaves: the folder; each file written, half written, empty."
    def part(done, cut=None):
        def make(folder):
            shutil.copytree(copies/'checkpoint-4', folder, ignore=lambda _, names: set(files[done:]) & set(names))
            if cut is not None: os.truncate(folder/files[done - 1], int(cut*(folder/files[done - 1]).stat().st_size))
        return make
    yield 'folder only', lambda folder: folder.mkdir()
    for i,name in enumerate(files, 1):
        for how,cut in (('written', None), ('half', .5), ('empty', 0)): yield f'{name} {how}', part(i, cut)

def resumed_states(states, copies, run, model):
    "Each state of checkpoint-4 beside a whole checkpoint-2, resumed: the steps taken, and the warning."
    out = {}
    for i,(name,make) in enumerate(interrupted(copies)):
        folder = states/str(i)
        shutil.copytree(copies/'checkpoint-2', folder/'checkpoint-2')
        shutil.copy(run/'run.json', folder)
        make(folder/'checkpoint-4')
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter('always')
            out[name] = train(folder, model), [str(o.message) for o in heard if 'not whole' in str(o.message)], adapter(folder)
        assert not list(folder.glob('broken-*')), 'the parts are gone when the run is finished'
    return out

def test_every_state_of_an_interrupted_checkpoint_is_resumed(whole, tmp_path):
    run, copies, model, _ = whole
    found, _ = end(start(resumed_states, tmp_path, copies, run, model))
    assert len(found) == 19, found
    for name,(steps,heard,weights) in found.items():
        is_whole = name == 'trainer_state.json written'
        assert steps == ([5, 6] if is_whole else [3, 4, 5, 6]) and weights == adapter(run), name
        assert len(heard) == (not is_whole), name
        assert is_whole or 'checkpoint-4 is not whole, ' in heard[0] and 'goes on from checkpoint-2' in heard[0]

def damaged(folder):
    "A complete checkpoint with one thing wrong."
    from safetensors.torch import load_file, save_file
    def not_a_number(o):
        weights = load_file(o/'adapter_model.safetensors')
        next(iter(weights.values()))[0] = float('nan')
        save_file(weights, o/'adapter_model.safetensors')
    def state(o, text): (o/'trainer_state.json').write_text(text)
    def flip(o):
        data = bytearray((o/'optimizer.pt').read_bytes())
        data[len(data)//2] ^= 64
        (o/'optimizer.pt').write_bytes(data)
    lost = {'optimizer': 'optimizer.pt', 'schedule': 'scheduler.pt', 'state of the trainer': 'trainer_state.json',
            'weights': 'adapter_model.safetensors', 'state of the random generators': 'rng_state.pth'}
    ways = {f'no {what}': lambda o, name=name: (o/name).unlink() for what,name in lost.items()}
    ways |= {'NaN or infinity': not_a_number, 'optimizer.pt.*damaged': flip}
    ways |= {'state.json is of step 3': lambda o: state(o, '{"global_step": 3}')}
    ways |= {'state.json is of step None': lambda o: state(o, '[]')}
    ways |= {'tokenizer.json is broken': lambda o: (o/'tokenizer.json').write_text('{')}
    for i,(fault,way) in enumerate(ways.items()):
        o = folder/str(i)/'checkpoint-4'
        shutil.copytree(folder/'checkpoint-4', o)
        way(o)
        yield fault, o

def test_what_is_wrong_is_said(whole, tmp_path):
    _, copies, _, _ = whole
    shutil.copytree(copies/'checkpoint-4', tmp_path/'checkpoint-4')
    assert checkpoint_fault(tmp_path/'checkpoint-4') == ''
    for fault,o in damaged(tmp_path):
        shutil.copytree(copies/'checkpoint-2', o.parent/'checkpoint-2')
        before = sorted(p.name for p in o.parent.rglob('*'))
        assert find_checkpoint(o.parent) == (o.parent/'checkpoint-2', {o: checkpoint_fault(o)})
        assert before == sorted(p.name for p in o.parent.rglob('*')), 'to look changes nothing'
        with pytest.warns(UserWarning, match=f'checkpoint-4 is not whole, .*{fault}.*broken-checkpoint-4'):
            assert last_checkpoint(o.parent) == o.parent/'checkpoint-2'
        assert sorted(p.name for p in o.parent.iterdir()) == ['broken-checkpoint-4', 'checkpoint-2']
    assert find_checkpoint(tmp_path/'none') == (None, {}) and last_checkpoint(tmp_path/'none') is None

def moments(times):
    "When to kill, of twenty: ten at any time; ten while something is written, an instant after it appears."
    rng, saves = random.Random(12), ['checkpoint-2', 'checkpoint-4', 'checkpoint-6', '.adapter.partial']
    anywhere = [(None, rng.uniform(0, times[-1])) for _ in range(10)]
    return anywhere + [(saves[i%4], rng.uniform(0, .06)) for i in range(10)]

@pytest.mark.slow
def test_killed_at_twenty_moments(whole, tmp_path):
    run, _, model, times = whole
    left = {}
    for i,(what,seconds) in enumerate(moments(times)):
        folder = tmp_path/str(i)
        victim = start(train, folder, model)
        while what and not (folder/what).exists() and victim.is_alive(): time.sleep(.0005)
        time.sleep(seconds)
        kill(victim)
        there, skipped = find_checkpoint(folder)
        left[i] = what, round(seconds, 3), there and there.name, [f'{o.name}: {fault}' for o,fault in skipped.items()]
        steps, heard = end(start(train, folder, model))
        begin = int(there.name[11:]) + 1 if there else 1
        assert steps == list(range(begin, 7)) and len(heard) == len(skipped), (left[i], steps, heard)
        assert adapter(folder) == adapter(run), left[i]
        hidden = [o.name for o in folder.rglob('*') if o.name.endswith('.partial') or o.name.startswith('broken')]
        assert not hidden, hidden
    print(*left.values(), sep='\n')
    assert sum(bool(skipped) for *_,skipped in left.values()) >= 2, 'some died inside a save'

def test_killed_again_and_again(whole, tmp_path):
    "Inside each save, one after the other, in one folder."
    run, _, model, _ = whole
    for what in ('checkpoint-2', 'checkpoint-4', 'checkpoint-6', '.adapter.partial'):
        victim = start(train, tmp_path/'run', model)
        while not (tmp_path/'run'/what).exists() and victim.is_alive(): time.sleep(.0005)
        kill(victim)
    end(start(train, tmp_path/'run', model))
    assert adapter(tmp_path/'run') == adapter(run)

@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', disk], capture_output=True, text=True)
    if made.returncode: pytest.skip(f'a small disk cannot be made here: {made.stderr.strip()}')
    yield disk
    subprocess.run(['umount', disk], check=True)

def train_on_a_disk_that_fills_up(folder, model, left):
    "Somebody else fills the disk after the third step, but for `left` bytes."
    from transformers import TrainerCallback
    class Fill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                (folder.parent/'filler').write_bytes(b'x'*(shutil.disk_usage(folder).free - left))
    return train(folder, model, callbacks=[Fill()])

@pytest.mark.parametrize('left', [0, 3_000_000, 4_000_000])
def test_a_full_disk_is_told_and_then_resumed(left, whole, small_disk):
    "It fills up while the weights, the tokenizer, the optimizer are written."
    run, copies, model, _ = whole
    folder = small_disk/'run'
    said, _ = end(start(train_on_a_disk_that_fills_up, folder, model, left))
    print(said)
    assert 'DiskFull' in said and f'{folder}: No space left on device: a checkpoint takes about ' in said, said
    assert 'Remedy: free ' in said and 'goes on from checkpoint-2' in said
    assert [o.name for o in folder.glob('*checkpoint*')] == ['checkpoint-2'], 'the part is removed'
    (small_disk/'filler').unlink()
    assert end(start(train, folder, model)) == ([3, 4, 5, 6], [])
    assert adapter(folder) == adapter(run)

def held(folder, wait):
    with one_run(folder, dict(x=1)):
        (folder/'holding').touch()
        time.sleep(wait)

def test_two_runs_at_once_are_refused(whole, tmp_path):
    "By a lock that is free as soon as its holder is dead, or done."
    folder, (run, _, model, _) = tmp_path/'run', whole
    holder = start(held, folder, 600)
    while not (folder/'holding').exists(): time.sleep(.005)
    before = {o: o.stat().st_mtime_ns for o in folder.iterdir()}
    with pytest.raises(RunFolderError, match=f'{folder}: another run is at work in it, process {holder.pid}; .*choose another'):
        with one_run(folder, dict(x=1), wait=.3): raise AssertionError
    assert before == {o: o.stat().st_mtime_ns for o in folder.iterdir()}, 'who is refused changes nothing'
    kill(holder)
    with one_run(folder, dict(x=1), wait=.3): pass
    with one_run(folder, dict(x=1), wait=.3): pass
    twins = [start(train, tmp_path/'twins', model) for _ in range(2)]
    said = sorted((end(o)[0] for o in twins), key=str)
    assert any('another run is at work' in str(o) for o in said) or said.count([]) == 1, said
    assert adapter(tmp_path/'twins') == adapter(run)

def test_a_folder_belongs_to_one_set_of_settings(whole, tmp_path):
    run, _, model, _ = whole
    folder = tmp_path/'run'
    shutil.copytree(run, folder)
    before = {o: o.read_bytes() for o in folder.rglob('*') if o.is_file() and o.name != '.lock'}
    for over,differs in {'seed': (1, 'trainer.seed is 0 there and 1 here'),
                         'learning_rate': (2e-4, 'trainer.learning_rate is 0.002 there and 0.0002 here')}.items():
        said, _ = end(start(train, folder, model, **{over: differs[0]}))
        assert f'RunFolderError: {folder} holds the run of another recipe: {differs[1]}' in said, said
    with pytest.raises(RunFolderError, match='rank is 16 there and 4 here'):
        asked = json.loads((folder/'run.json').read_text())['asked']
        with one_run(folder, asked | dict(rank=4)): raise AssertionError
    assert end(start(train, folder, model)) == ([], []), 'what is finished is not done again'
    assert before == {o: o.read_bytes() for o in folder.rglob('*') if o.is_file() and o.name != '.lock'}

def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path/'diary.txt').write_text('mine')
    with pytest.raises(RunFolderError, match='is not empty and holds no run; choose another'):
        with one_run(tmp_path, {}): raise AssertionError
    assert [o.name for o in tmp_path.iterdir()] == ['diary.txt']
    (tmp_path/'run.json').write_text('{"asked"')
    with pytest.raises(RunFolderError, match='run.json cannot be read'):
        with one_run(tmp_path, {}): raise AssertionError

def test_what_a_killed_run_was_writing_is_removed_at_the_next_start(tmp_path):
    with one_run(tmp_path/'run', {}): pass
    (tmp_path/'run'/'.curve.csv.partial').write_text('half')
    for name in ('.adapter.partial', 'data/.writing-x1'): (tmp_path/'run'/name/'inside').mkdir(parents=True)
    with one_run(tmp_path/'run', {}) as folder: assert sorted(o.name for o in folder.rglob('*')) == ['.lock', 'data', 'run.json']

def test_a_file_and_an_adapter_are_whole_or_absent(tmp_path):
    with pytest.raises(KeyboardInterrupt), output(tmp_path/'a.json') as f:
        f.write('half')
        raise KeyboardInterrupt
    assert not (tmp_path/'a.json').exists()
    class Dies:
        def save_pretrained(self, folder):
            for name in ('adapter_config.json', 'adapter_model.safetensors'): (folder/name).write_text('new')
            raise KeyboardInterrupt
    class Saves:
        def save_pretrained(self, folder):
            folder.mkdir(exist_ok=True)
            for name in ('adapter_config.json', 'adapter_model.safetensors'): (folder/name).write_text('old')
    save_adapter(Saves(), Saves(), tmp_path)
    with pytest.raises(KeyboardInterrupt): save_adapter(Saves(), Dies(), tmp_path)
    assert {(tmp_path/name).read_text() for name in ('adapter_config.json', 'adapter_model.safetensors')} == {'old'}

def test_no_room_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(DiskFull, match='a checkpoint takes about .* MB and .* MB are free. Remedy: free .* MB or more'):
        with full_disk_told(tmp_path, 10**18): raise AssertionError
    with pytest.raises(RuntimeError, match='a bug'), full_disk_told(tmp_path, 1): raise RuntimeError('a bug')
