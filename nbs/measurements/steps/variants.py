"""Measure runs again with one thing changed that a run has no field for: its rows, its adapters' type, its arithmetic.

    python nbs/measurements/steps/variants.py --groups rows"""
import argparse, contextlib, importlib, time
from pathlib import Path
from unittest.mock import patch
from ftcook.bench import device_name, known_rows, label, merge_rows, pinned
from ftcook.runs import Run, run_fields

here = Path(__file__).parent
libraries = (*pinned, 'liger-kernel', 'flash-attn', 'torchao')

def rows_of(run, steps, labels, whole):
    "Rows of random tokens for SFT, with or without a column of labels, over the whole vocabulary or its first 4,096."
    import torch
    from datasets import Dataset
    words = run.config.get_text_config().vocab_size if whole else 4096
    count = run.per_device_train_batch_size*run.gradient_accumulation_steps*steps
    ids = torch.randint(3, words, (count, run.max_length), generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_dict(dict(input_ids=ids, **(dict(labels=ids) if labels else {})))

@contextlib.contextmanager
def liger_left(run):
    "What an earlier run with Liger's kernels leaves in the process: the classes that the next model is made of."
    kind = run.config.model_type
    module = importlib.import_module(f'transformers.models.{kind}.modeling_{kind}')
    before = dict(vars(module))
    getattr(importlib.import_module('liger_kernel.transformers'), f'apply_liger_kernel_to_{kind}')()
    try: yield
    finally: vars(module).update(before)

def adapters_as(name):
    "Adapters of another type, from the first step on."
    import torch
    from transformers import TrainerCallback
    class CastAdaptersCallback(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            for p in model.parameters():
                if p.requires_grad: p.data = p.data.to(getattr(torch, name))
    return CastAdaptersCallback()

def to_fp8(model):
    "The linear layers between the first and the last multiply in 8-bit floats."
    from accelerate.utils.ao import convert_model_to_fp8_ao
    convert_model_to_fp8_ao(model)

# What may differ from `measure_run`: the rows (labels, whole), trl's own preparation of them, a callback, the model, the process
course, user = dict(labels=True, whole=False), dict(labels=False, whole=True)
variants = {
    'labels, 4096 words': course, 'labels, all words': course | dict(whole=True),
    'ids, 4096 words': user | dict(whole=False), 'ids, all words': user,
    'ids, all words, prepared by trl': user | dict(prepared=True),
    'ids, all words, Liger left in the process': user | dict(around=liger_left),
    'adapters in float32': user | dict(adapters='float32'), 'adapters in bfloat16': user | dict(adapters='bfloat16'),
    'bfloat16': user, 'float8': user | dict(model=to_fp8)}

@contextlib.contextmanager
def changed(run, labels, whole, prepared=False, adapters=None, model=None, around=lambda run: contextlib.nullcontext()):
    "While this is on, `measure_run` measures a variant."
    from ftcook import memory
    usual = memory.step_trainer
    def build(run, folder, base, callbacks=(), max_steps=3, **kwargs):
        if model: model(base)
        if adapters: callbacks = [*callbacks, adapters_as(adapters)]
        if prepared: kwargs['dataset_kwargs'] = None
        return usual(run, folder, base, rows_of(run, max_steps, labels, whole), callbacks, max_steps=max_steps, **kwargs)
    with patch.object(memory, 'step_trainer', build), around(run): yield

def runs_of(names, *runs): return [(name, run) for run in runs for name in names]

named = [*variants]
mistral, lora = dict(model='Mistral-7B'), dict(model='Mistral-7B', method='lora')
long_row = mistral | dict(per_device_train_batch_size=1, max_length=8192)
llama = dict(model='Llama-3-8B', per_device_train_batch_size=2)
unchecked, compiled = dict(gradient_checkpointing='none'), dict(gradient_checkpointing='none', compiled='layers')
full = dict(model='Llama-3.2-3B', method='full', per_device_train_batch_size=2)
groups = dict(
    rows=runs_of(named[:6], long_row, lora, mistral | dict(attn_implementation='flash_attention_2'), llama),
    adapters=runs_of(named[6:8], lora, lora | unchecked | dict(use_liger_kernel=True), mistral,
        mistral | unchecked | dict(use_liger_kernel=True), lora | compiled, mistral | compiled),
    float8=runs_of(named[8:], full | unchecked | dict(use_liger_kernel=True), full | compiled,
        full | compiled | dict(model='Llama-3.2-1B', per_device_train_batch_size=4)))

def keep(path, name, row):
    row = dict(gpu=device_name(), variant=name) | row | label(libraries)
    merge_rows(path, [row], ('gpu', 'variant', *run_fields))
    changed = ' '.join(f'{k}={v}' for k,v in Run.from_row({k: str(row[k]) for k in run_fields}).changes().items())
    print(f"{row['seconds'] or 0:>5} s  {changed}, {name}: {row['status']} {row['tokens_per_s']} tokens/s, "
          f"{row['peak_allocated_gib']} GiB {row['note']}", flush=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--groups', nargs='+', default=[*groups], choices=[*groups])
    parser.add_argument('--out', type=Path, default=here/'variants.csv')
    parser.add_argument('--budget', type=float, default=540., help='no run starts later than this many seconds')
    parser.add_argument('--resume', action='store_true', help='leave out what the table already has')
    parser.add_argument('--model', help='use this model for every run, such as SmolLM2-135M to try the script out')
    args = parser.parse_args()
    from ftcook.memory import measure_run
    started, there = time.perf_counter(), known_rows(args.out, ('variant', *run_fields)) if args.resume else set()
    jobs = [(name, Run(**run | (dict(model=args.model) if args.model else {}))) for g in args.groups for name,run in groups[g]]
    for name,run in jobs:
        if (name, *run.key()) in there: continue
        if time.perf_counter() - started > args.budget:
            print(f'{name} and later were not started: the budget is used up')
            break
        with changed(run, **variants[name]): keep(args.out, name, measure_run(run))
