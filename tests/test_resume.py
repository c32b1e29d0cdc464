"""Training that is killed goes on from its last checkpoint and ends with the same adapter."""
import os, signal, subprocess, sys, time
import pytest, torch
from safetensors.torch import load_file

train = '''
import sys
from ftcook.runtime import load_settings, quiet
quiet()
from ftcook.sft import train_flights
settings = load_settings('cpu', 'settings.ini')
settings.train_rows = 16
train_flights(settings, sys.argv[1], max_steps=6, save_steps=2, per_device_train_batch_size=2, report_to='none', disable_tqdm=True)
'''

def start(folder): return subprocess.Popen([sys.executable, '-c', train, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

@pytest.mark.timeout(600)
def test_killed_training_ends_with_the_same_adapter(tmp_path, run_dir):
    whole, killed = tmp_path/'whole', tmp_path/'killed'
    assert start(whole).wait() == 0
    run = start(killed)
    while not (killed/'checkpoint-2'/'trainer_state.json').exists():
        assert run.poll() is None, 'it ended before it could be killed'
        time.sleep(.02)
    time.sleep(.3)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (killed/'adapter_model.safetensors').exists()
    assert start(killed).wait() == 0
    a, b = (load_file(folder/'adapter_model.safetensors') for folder in (whole, killed))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
