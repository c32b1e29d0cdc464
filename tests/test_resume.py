"""Training that is killed goes on from its last checkpoint and ends with the same adapter.

A model of two layers with random weights proves it: lesson 04 resumes the real one."""
import signal, subprocess, sys, time
from pathlib import Path
import pytest
from conftest import root

def tiny_model(folder):
    "A Llama of two layers in a folder, with the tokenizer of the embedded model."
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
    from ftcook.runtime import model_path
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

def train(folder, model, stop_after=None, callbacks=(), quantize=None, **over):
    "Six steps, a checkpoint at every second one; the steps that were made. It waits to be killed after `stop_after`."
    from transformers import TrainerCallback
    from ftcook.runtime import load_settings
    from ftcook.sft import train_task
    steps = []
    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)
            if state.global_step == stop_after: (Path(folder)/'waiting').touch(), time.sleep(600)
    settings = load_settings('cpu', root/'settings.ini')
    settings.update(train_rows=16, model=str(model), quantize=quantize or settings.quantize)
    how = dict(max_steps=6, save_steps=2, per_device_train_batch_size=2, report_to='none', disable_tqdm=True)
    train_task('flights', settings, folder, callbacks=[Watch(), *callbacks], **how | over)
    return steps

@pytest.mark.timeout(300)
def test_killed_training_ends_with_the_same_adapter(tmp_path):
    import torch
    from safetensors.torch import load_file
    model, whole, killed = tiny_model(tmp_path/'model'), tmp_path/'whole', tmp_path/'killed'
    code = f'import test_resume; test_resume.train({str(killed)!r}, {str(model)!r}, stop_after=3)'
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = subprocess.Popen([sys.executable, '-c', code], cwd=Path(__file__).parent, **silent)
    assert train(whole, model) == [1, 2, 3, 4, 5, 6]
    while not (killed/'waiting').exists():
        assert run.poll() is None, 'it ended before it could be killed'
        time.sleep(.05)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (killed/'adapter_model.safetensors').exists()
    assert train(killed, model) == [3, 4, 5, 6], 'it goes on after its last checkpoint'
    a, b = (load_file(folder/'adapter_model.safetensors') for folder in (whole, killed))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert all(v.abs().max() > 0 for v in a.values()), 'it has learned something'
