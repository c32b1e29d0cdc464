"""Each helper that loads, trains, saves or asks, one after another, on a tiny random model: `python helpers.py FOLDER`.

Before each, the switches go back to what the libraries have by default: a helper must be silent by itself."""
import os, sys, tempfile, warnings
from pathlib import Path
import datasets, huggingface_hub.constants
from huggingface_hub.utils import _telemetry
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from ftcook import data, runtime
from ftcook.dpo import dpo_config, dpo_trainer
from ftcook.doctor import diagnose, toy
from ftcook.evaluation import harness, harness_tasks, run_harness
from ftcook.inference import load_adapter, merge_adapter, save_for_serving
from ftcook.lora import lora_config
from ftcook.methods import grpo_trainer
from ftcook.quantization import load_model
from ftcook.runs import Run, step_trainer
from ftcook.sft import generate_batch, sft_config, sft_trainer, train_task
from ftcook.tasks.flights import flight_requests

root, folder = Path(__file__).parents[2], Path(sys.argv[1])
warnings.simplefilter('ignore')
settings = runtime.load_settings('cpu', root/'settings.ini')
settings.update(train_rows=8, model=str(folder/'tiny'))
once = dict(max_steps=1, report_to='none', disable_tqdm=True, use_cpu=True, bf16=False)
rows = flight_requests(8)

def defaults():
    for name in runtime.unasked: os.environ.pop(name, None)
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False, True
    if sys.modules.get('kernels') is None: sys.modules.pop('kernels', None)

def tiny():
    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=2, vocab_size=49152)
    sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
    return LlamaForCausalLM(LlamaConfig(**ids, **sizes))

def adapted():
    return get_peft_model(load_model(settings.model), LoraConfig(r=2, target_modules='all-linear', task_type='CAUSAL_LM'))
def new(): return tempfile.mkdtemp(dir=folder)

def preferences():
    def says(role, text): return [dict(role=role, content=text)]
    return [dict(prompt=says('user', 'a?'), chosen=says('assistant', 'b'), rejected=says('assistant', 'c'))]*4

def reward(completions, **kwargs): return [float(len(c)) for c in completions]

def pieces():
    "Name and function; what one leaves behind, the next may use."
    import random
    tokenizer = runtime.load_tokenizer()
    tiny().save_pretrained(folder/'tiny'); tokenizer.save_pretrained(folder/'tiny')
    base, adapter = settings.model, folder/'adapter'
    yield 'model_config', lambda: runtime.model_config(base)
    yield 'load_tokenizer', lambda: runtime.load_tokenizer(base)
    for quantize in ('none', 'int8', 'nf4-double'): yield f'load_model {quantize}', lambda q=quantize: load_model(base, q)
    yield 'chat', lambda: runtime.chat(load_model(base), tokenizer, 'hi', max_new_tokens=2)
    yield 'dry_trainer', lambda: data.dry_trainer(map(data.to_prompt_completion, rows), tokenizer)
    yield 'sft_trainer', lambda: sft_trainer(load_model(base), tokenizer, rows, sft_config(settings, new(), **once),
                                             lora_config(r=2)).train()
    yield 'train_task', lambda: train_task('flights', settings, adapter, per_device_train_batch_size=2, **once)
    yield 'dpo_trainer', lambda: dpo_trainer(load_adapter(base, adapter), tokenizer, preferences(),
                                             dpo_config(settings, new(), **once)).train()
    grpo = once | dict(per_device_train_batch_size=2, num_generations=2, max_completion_length=4)
    yield 'grpo_trainer', lambda: grpo_trainer(adapted(), tokenizer, rows, settings, new(), reward, **grpo).train()
    small = Run(model=runtime.model_config(base), method='lora', dtype='float32', max_length=16, per_device_train_batch_size=1)
    yield 'step_trainer', lambda: step_trainer(small, new()).train()
    yield 'toy_trainer', lambda: toy.toy_trainer(random.Random(0), new(), steps=1).train()
    yield 'toy prefer', lambda: toy.prefer(random.Random(0), new(), steps=1)
    yield 'load_adapter', lambda: load_adapter(base, adapter)
    yield 'generate_batch', lambda: generate_batch(load_model(base), tokenizer, [r['messages'][:-1] for r in rows[:2]], 2)
    yield 'merge_adapter', lambda: save_for_serving(merge_adapter(base, adapter), tokenizer, folder/'served', base, 'mit')
    yield 'harness', lambda: run_harness(harness(base), harness_tasks(root/'nbs'/'data')[:1], limit=2)
    os.chdir(folder)
    yield 'harness, a relative folder', lambda: run_harness(harness('served'), harness_tasks(root/'nbs'/'data')[:1], limit=2)
    text = 'Anna Berg wrote from anna@acme-corp.com about www.foo.co.uk'
    yield 'scrub', lambda: data.scrub([dict(messages=[dict(role='user', content=text)])])
    yield 'language', lambda: data.language('hej på dig, hur mår du i dag?')
    yield 'splits', lambda: data.load_splits(data.write_splits(data.split(rows, test=.3), new(), 'x', 'o', 'MIT'))
    yield 'dedupe', lambda: data.dedupe(rows)
    yield 'diagnose', lambda: diagnose()

if __name__ == '__main__':
    log, seen = Path(os.environ['FTCOOK_ATTEMPTS']), 0
    def attempts(): return log.read_text().splitlines() if log.exists() else []
    for name,call in pieces():
        defaults()
        call()
        _telemetry._TELEMETRY_QUEUE.join()
        print(f'{name}: {len(attempts()) - seen} attempts', flush=True)
        seen = len(attempts())
