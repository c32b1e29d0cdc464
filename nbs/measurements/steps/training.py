"""Measure training steps at real shapes with random weights, a row per run.

    python nbs/measurements/steps/training.py --groups levers"""
import argparse, json, sys, tempfile, time
from pathlib import Path
from ftcook.bench import device_name, known_rows, label, merge_rows, pinned, run_apart
from ftcook.runs import Run, run_fields

here = Path(__file__).parent
started = time.perf_counter()
estimate, limit = [], []

def plan(into, model, *runs):
    "Runs of one model: 'fit' or 'holdout', method, batch, length, and whatever else is not the default."
    into += [dict(model=model, split=split, method=method, per_device_train_batch_size=batch, max_length=length, **rest)
             for split,method,batch,length,rest in runs]

# The estimator of lesson 11 may look at the rows marked fit, never at those marked holdout; the split came before the first run.
plan(estimate, 'SmolLM2-135M',
    ('fit', 'full', 8, 512, dict()),
    ('fit', 'full', 8, 512, dict(gradient_checkpointing='none')),
    ('holdout', 'full', 4, 1024, dict(gradient_checkpointing='none', optim='adamw_torch')),
    ('fit', 'lora', 8, 1024, dict(gradient_checkpointing='none')),
    ('holdout', 'lora', 8, 2048, dict(r=64)),
    ('holdout', 'dpo', 4, 512, dict()),
    ('fit', 'full', 8, 512, dict(gradient_checkpointing='none', dtype='float32')))
plan(estimate, 'Qwen2.5-0.5B',
    ('fit', 'full', 4, 1024, dict()),
    ('holdout', 'full', 4, 1024, dict(gradient_checkpointing='none')),
    ('fit', 'lora', 8, 1024, dict()),
    ('fit', 'qlora', 4, 2048, dict(r=64, gradient_checkpointing='none')),
    ('holdout', 'qlora', 8, 512, dict(r=8)))
plan(estimate, 'Llama-3.2-1B',
    ('fit', 'full', 2, 1024, dict(gradient_checkpointing='none')),
    ('fit', 'full', 4, 2048, dict(optim='adamw_torch')),
    ('holdout', 'full', 4, 1024, dict(optim='adamw_8bit')),
    ('fit', 'lora', 4, 1024, dict(r=8, gradient_checkpointing='none')),
    ('holdout', 'lora', 2, 4096, dict(r=64)),
    ('fit', 'qlora', 8, 1024, dict()),
    ('holdout', 'qlora', 4, 1024, dict(gradient_checkpointing='none')),
    ('fit', 'dpo', 2, 1024, dict()),
    ('fit', 'dpo', 2, 512, dict(r=0)))
plan(estimate, 'Llama-3.2-3B',
    ('fit', 'full', 2, 1024, dict()),
    ('holdout', 'full', 1, 2048, dict(gradient_checkpointing='none')),
    ('fit', 'full', 2, 1024, dict(optim='adamw_8bit')),
    ('fit', 'lora', 4, 2048, dict()),
    ('holdout', 'lora', 4, 512, dict(r=8, gradient_checkpointing='none')),
    ('fit', 'qlora', 4, 2048, dict()),
    ('fit', 'qlora', 2, 2048, dict(r=64, gradient_checkpointing='none')),
    ('holdout', 'dpo', 2, 1024, dict(quantize='nf4-double')))
plan(estimate, 'Mistral-7B',
    ('fit', 'qlora', 2, 2048, dict()),
    ('fit', 'qlora', 1, 2048, dict(gradient_checkpointing='none')),
    ('holdout', 'qlora', 2, 4096, dict(r=64)),
    ('holdout', 'qlora', 4, 1024, dict(r=8, gradient_checkpointing='none')),
    ('fit', 'qlora', 8, 256, dict()),
    ('fit', 'lora', 2, 2048, dict()),
    ('holdout', 'lora', 1, 1024, dict(r=64, gradient_checkpointing='none')),
    ('fit', 'lora', 1, 4096, dict(gradient_checkpointing='none')),
    ('fit', 'full', 1, 512, dict()),
    ('holdout', 'full', 2, 1024, dict(optim='adamw_8bit')),
    ('fit', 'dpo', 1, 1024, dict(quantize='nf4-double')),
    ('holdout', 'dpo', 2, 1024, dict()),
    ('fit', 'qlora', 4, 1024, dict(gradient_checkpointing='none', attn_implementation='flash_attention_2')),
    ('holdout', 'lora', 2, 2048, dict(attn_implementation='flash_attention_2')),
    ('fit', 'qlora', 1, 1024, dict(attn_implementation='eager')),
    ('holdout', 'qlora', 2, 512, dict(attn_implementation='eager', gradient_checkpointing='none')))
plan(estimate, 'Llama-3-8B',
    ('fit', 'qlora', 2, 2048, dict()),
    ('holdout', 'qlora', 1, 2048, dict(gradient_checkpointing='none')),
    ('fit', 'lora', 2, 1024, dict(gradient_checkpointing='none')),
    ('holdout', 'lora', 4, 1024, dict()),
    ('fit', 'full', 1, 256, dict()),
    ('holdout', 'full', 1, 1024, dict()))

# Close to the memory of an 80 GB card, on both sides
plan(limit, 'Mistral-7B',
    ('fit', 'qlora', 6, 2048, dict(gradient_checkpointing='none')),
    ('holdout', 'qlora', 7, 2048, dict(gradient_checkpointing='none')),
    ('holdout', 'lora', 5, 2048, dict(gradient_checkpointing='none')),
    ('fit', 'lora', 7, 2048, dict(gradient_checkpointing='none')),
    ('fit', 'full', 1, 2048, dict(gradient_checkpointing='none')),
    ('holdout', 'full', 4, 2048, dict()),
    ('holdout', 'full', 1, 512, dict(dtype='float32')))
plan(limit, 'Llama-3-8B',
    ('fit', 'full', 2, 2048, dict()),
    ('holdout', 'full', 2, 1024, dict(gradient_checkpointing='none')),
    ('holdout', 'full', 4, 2048, dict(gradient_checkpointing='none')))

unchecked, liger = dict(gradient_checkpointing='none'), dict(use_liger_kernel=True)
flash, both = dict(attn_implementation='flash_attention_2'), dict(use_liger_kernel=True, attn_implementation='flash_attention_2')
one, varied = dict(per_device_train_batch_size=1), dict(lengths='exponential-400')
long_rows = one | dict(max_length=8192)
half = dict(gradient_checkpointing='every-2')
levers = [dict(), unchecked, dict(gradient_checkpointing='selective'), half, flash,
    one | dict(attn_implementation='eager'), liger]
levers += [liger | unchecked, unchecked | both, half | both, both,
    one, one | dict(gradient_accumulation_steps=4), one | unchecked]
levers += [one | unchecked | dict(activation_offloading='activations'), dict(activation_offloading='checkpoints')]
levers += [dict(optim=name) for name in ('adamw_8bit', 'paged_adamw_32bit', 'paged_adamw_8bit')]
levers += [dict(per_device_train_batch_size=16, max_length=512), long_rows, long_rows | flash, dict(method='lora')]
levers += [dict(method='lora') | unchecked | both, varied, *(varied | dict(packing=p)
    for p in ('bfd', 'wrapped', 'padding_free'))]
levers += [varied | flash | dict(packing=p) for p in ('padding_free', 'bfd')]
short_full = dict(model='Llama-3.2-3B', method='full', per_device_train_batch_size=2, max_length=1024)
levers += [short_full | dict(optim=name) for name in ('adamw_torch_fused', 'adamw_8bit')]

# trl's defaults against what `fastest` chooses and what it might have chosen, side by side, over more steps than usual
def rows_at_once(*sizes): return [dict(per_device_train_batch_size=n) for n in sizes]
ample, longer, held = unchecked | liger, dict(steps=6), dict(steps=6, limit_gib=12)
fastest = [longer, *(longer | ample | size for size in rows_at_once(4, 6, 8)), varied]
fastest += [varied | ample | both | dict(packing='bfd') | size for size in rows_at_once(4, 8)]
fastest += [held, *(held | liger | size for size in rows_at_once(4, 6, 7, 8))]
fastest += [held | both | one | dict(gradient_checkpointing='every-3')]

# Is the answer of `fastest` the best that can be had? What it may choose among, from the least memory to the most.
def layers(budget, how='layers', **rest): return unchecked | dict(compiled=how, activation_memory_budget=budget, **rest)
def each(setting, *sizes): return [longer | setting | size for size in rows_at_once(*sizes)]
grid = [*each(ample, 4, 6, 8), *each(layers(.7), 4, 6, 8, 10), *each(layers(1.), 4, 6), *each(layers(.1), 2, 3, 4)]
grid += [*each(liger, 4, 7, 8), *each(dict(compiled='layers'), 4, 6, 8), *each(layers(.5), 2, 4, 6), *each(layers(.3), 2, 4, 6)]
grid += [*each(liger | half, 2, 4), *each(liger | dict(gradient_checkpointing='every-4'), 4, 6), *each(layers(.7), 2, 3)]
grid += [*each(layers(.7, 'graphs'), 4, 6), *each(ample, 2, 3), *each(layers(.2), 2, 4), *each(layers(0.), 4, 8)]
middling = dict(model='Llama-3.2-3B', method='lora', max_length=1024)
grid += [middling | g for g in (*each(ample, 8, 16), *each(layers(.7), 8, 16), *each(layers(.5), 8), *each(layers(.1), 8),
    *each(liger, 8, 16))]

# What a budget does to memory elsewhere than in the grid: nothing of this is looked at by what foretells it
budget = [dict(model='Llama-3-8B', per_device_train_batch_size=2, split='holdout') | layers(b) for b in (.7, .3)]
budget += [dict(model='Llama-3.2-1B', method='full', max_length=1024, split='holdout') | layers(b) for b in (1., .5, .1)]
budget += [dict(model='Mistral-7B', method='lora', per_device_train_batch_size=2, split='holdout') | layers(b) for b in (.8, .4)]
budget += [long_rows | dict(split='holdout') | layers(b) for b in (.6, .2)]
short_qwen = dict(model='Qwen2.5-0.5B', per_device_train_batch_size=8, max_length=1024, split='holdout')
budget += [short_qwen | layers(b) for b in (1., .5)]

# Paged states beside others, on a card with nothing else on it
paged = [short | dict(optim=name) for short in (dict(), short_full)
    for name in ('adamw_torch_fused', 'adamw_8bit', 'paged_adamw_32bit', 'paged_adamw_8bit')]

groups = dict(fastest=fastest, levers=levers, estimate=estimate, limit=limit)
waiting = dict(grid=grid, budget=budget, paged=paged) # planned, and not measured yet
libraries = (*pinned, 'liger-kernel', 'flash-attn')

def complete(run):
    "A planned run with all its fields, without its split and its steps."
    return Run(**{k: v for k,v in run.items() if k not in ('split', 'steps')})

def key_of(purpose, run): return (purpose, *complete(run).key())

def known(path):
    "What the table already has: purpose and every field of the run, as text."
    return known_rows(path, ('purpose', *run_fields))

def apart(run):
    "Does a run leave something behind in its process?"
    return run.get('optim', '').startswith('paged') or run.get('activation_offloading', 'none') != 'none'

def keep(path, purpose, split, row):
    row = dict(gpu=device_name(), purpose=purpose, split=split) | row | label(libraries)
    merge_rows(path, [row], ('gpu', 'purpose', *run_fields))
    changed = ' '.join(f'{k}={v}' for k,v in Run.from_row({k: str(row[k]) for k in run_fields}).changes().items())
    found = f"{row['status']} {row['tokens_per_s']} tokens/s, {row['peak_allocated_gib']} GiB {row['note']}"
    print(f"{time.perf_counter()-started:5.0f} s  {row['seconds'] or 0:>5} s  {purpose} {split} {changed}: {found}", flush=True)

def run_all(jobs, path, budget):
    from ftcook.memory import measure_run
    for n,(purpose,run) in enumerate(jobs):
        if time.perf_counter() - started > budget:
            print(f'{len(jobs) - n} runs from {purpose} on were not started: the budget of {budget:.0f} s is used up', flush=True)
            return
        keep(path, purpose, run.get('split', ''), measure_run(complete(run), steps=run.get('steps')))

def run_in_process(jobs, path, budget):
    "The same in a process of its own; a run that kills it leaves a row that says so."
    if not jobs: return
    from ftcook.memory import free_gpu, measured
    free_gpu()
    with tempfile.NamedTemporaryFile('w', suffix='.json') as f:
        json.dump(jobs, f)
        f.flush()
        left = budget - (time.perf_counter() - started)
        why = run_apart([sys.executable, __file__, '--out', str(path), '--jobs', f.name, '--budget', str(left)])
    if not why: return
    there = known(path)
    for purpose,run in jobs:
        if key_of(purpose, run) in there: continue
        row = complete(run).to_dict() | dict.fromkeys(measured, '') | dict(status='error', note=why)
        keep(path, purpose, run.get('split', ''), row)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--groups', nargs='+', default=[*groups], choices=[*groups, *waiting])
    parser.add_argument('--out', type=Path, default=here/'training.csv')
    parser.add_argument('--budget', type=float, default=540., help='no run starts later than this many seconds')
    parser.add_argument('--resume', action='store_true', help='leave out what the table already has')
    parser.add_argument('--model', help='use this model for every run, such as SmolLM2-135M to try the script out')
    parser.add_argument('--jobs', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.jobs: run_all(json.loads(args.jobs.read_text()), args.out, args.budget)
    else:
        there, of_model = groups | waiting, dict(model=args.model) if args.model else {}
        jobs = [(name, run | of_model) for name in args.groups for run in there[name]]
        if args.resume:
            there = known(args.out)
            jobs = [j for j in jobs if key_of(*j) not in there]
        run_all([j for j in jobs if not apart(j[1])], args.out, args.budget)
        run_in_process([j for j in jobs if apart(j[1])], args.out, args.budget)
