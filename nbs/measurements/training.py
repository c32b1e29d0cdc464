"""Measure training steps at real shapes with random weights, a row per run: python nbs/measurements/training.py --groups fastest levers estimate limit"""
import argparse, csv, datetime, json, subprocess, sys, tempfile, time
from pathlib import Path
from ftcook.cli import device_name, merge_rows
from ftcook.runtime import versions

here = Path(__file__).parent
started = time.perf_counter()
estimate, limit = [], []

def plan(into, model, *runs):
    "Runs of one model: 'fit' or 'holdout', method, batch, length, and whatever else is not the default."
    into += [dict(model=model, split=split, method=method, batch=batch, seq=seq, **rest) for split,method,batch,seq,rest in runs]

# The estimator of lesson 12 may look at the rows marked fit, never at those marked holdout. The split was made before anything was measured.
plan(estimate, 'SmolLM2-135M',
    ('fit', 'full', 8, 512, dict()), ('fit', 'full', 8, 512, dict(checkpointing='none')), ('holdout', 'full', 4, 1024, dict(checkpointing='none', optimizer='adamw_torch')),
    ('fit', 'lora', 8, 1024, dict(checkpointing='none')), ('holdout', 'lora', 8, 2048, dict(rank=64)), ('holdout', 'dpo', 4, 512, dict()), ('fit', 'full', 8, 512, dict(checkpointing='none', dtype='float32')))
plan(estimate, 'Qwen2.5-0.5B',
    ('fit', 'full', 4, 1024, dict()), ('holdout', 'full', 4, 1024, dict(checkpointing='none')), ('fit', 'lora', 8, 1024, dict()), ('fit', 'qlora', 4, 2048, dict(rank=64, checkpointing='none')),
    ('holdout', 'qlora', 8, 512, dict(rank=8)))
plan(estimate, 'Llama-3.2-1B',
    ('fit', 'full', 2, 1024, dict(checkpointing='none')), ('fit', 'full', 4, 2048, dict(optimizer='adamw_torch')), ('holdout', 'full', 4, 1024, dict(optimizer='adamw_8bit')), ('fit', 'lora', 4, 1024, dict(rank=8, checkpointing='none')),
    ('holdout', 'lora', 2, 4096, dict(rank=64)), ('fit', 'qlora', 8, 1024, dict()), ('holdout', 'qlora', 4, 1024, dict(checkpointing='none')), ('fit', 'dpo', 2, 1024, dict()), ('fit', 'dpo', 2, 512, dict(rank=0)))
plan(estimate, 'Llama-3.2-3B',
    ('fit', 'full', 2, 1024, dict()), ('holdout', 'full', 1, 2048, dict(checkpointing='none')), ('fit', 'full', 2, 1024, dict(optimizer='adamw_8bit')), ('fit', 'lora', 4, 2048, dict()), ('holdout', 'lora', 4, 512, dict(rank=8, checkpointing='none')),
    ('fit', 'qlora', 4, 2048, dict()), ('fit', 'qlora', 2, 2048, dict(rank=64, checkpointing='none')), ('holdout', 'dpo', 2, 1024, dict(quant='nf4-double')))
plan(estimate, 'Mistral-7B',
    ('fit', 'qlora', 2, 2048, dict()), ('fit', 'qlora', 1, 2048, dict(checkpointing='none')), ('holdout', 'qlora', 2, 4096, dict(rank=64)), ('holdout', 'qlora', 4, 1024, dict(rank=8, checkpointing='none')),
    ('fit', 'qlora', 8, 256, dict()), ('fit', 'lora', 2, 2048, dict()), ('holdout', 'lora', 1, 1024, dict(rank=64, checkpointing='none')), ('fit', 'lora', 1, 4096, dict(checkpointing='none')),
    ('fit', 'full', 1, 512, dict()), ('holdout', 'full', 2, 1024, dict(optimizer='adamw_8bit')), ('fit', 'dpo', 1, 1024, dict(quant='nf4-double')), ('holdout', 'dpo', 2, 1024, dict()),
    ('fit', 'qlora', 4, 1024, dict(checkpointing='none', attention='flash_attention_2')), ('holdout', 'lora', 2, 2048, dict(attention='flash_attention_2')), ('fit', 'qlora', 1, 1024, dict(attention='eager')), ('holdout', 'qlora', 2, 512, dict(attention='eager', checkpointing='none')))
plan(estimate, 'Llama-3-8B',
    ('fit', 'qlora', 2, 2048, dict()), ('holdout', 'qlora', 1, 2048, dict(checkpointing='none')), ('fit', 'lora', 2, 1024, dict(checkpointing='none')), ('holdout', 'lora', 4, 1024, dict()),
    ('fit', 'full', 1, 256, dict()), ('holdout', 'full', 1, 1024, dict()))
# Close to the memory of an 80 GB card, on both sides
plan(limit, 'Mistral-7B', ('fit', 'qlora', 6, 2048, dict(checkpointing='none')), ('holdout', 'qlora', 7, 2048, dict(checkpointing='none')), ('holdout', 'lora', 5, 2048, dict(checkpointing='none')),
    ('fit', 'lora', 7, 2048, dict(checkpointing='none')), ('fit', 'full', 1, 2048, dict(checkpointing='none')), ('holdout', 'full', 4, 2048, dict()), ('holdout', 'full', 1, 512, dict(dtype='float32')))
plan(limit, 'Llama-3-8B', ('fit', 'full', 2, 2048, dict()), ('holdout', 'full', 2, 1024, dict(checkpointing='none')), ('holdout', 'full', 4, 2048, dict(checkpointing='none')))

base = dict(model='Mistral-7B', method='qlora', batch=4, seq=2048)
both = dict(kernels='liger', attention='flash_attention_2')
varied = dict(base, lengths='exponential-400')
levers = [dict(base, **change) for change in (dict(), dict(checkpointing='none'), dict(checkpointing='selective'), dict(checkpointing='every-2'), dict(attention='flash_attention_2'), dict(attention='eager', batch=1), dict(kernels='liger'),
    dict(kernels='liger', checkpointing='none'), dict(checkpointing='none', **both), dict(checkpointing='every-2', **both), dict(checkpointing='full', **both),
    dict(batch=1), dict(batch=1, accumulation=4), dict(batch=1, checkpointing='none'), dict(batch=1, checkpointing='none', offload='activations'), dict(offload='checkpoints'),
    dict(optimizer='adamw_8bit'), dict(optimizer='paged_adamw_32bit'), dict(optimizer='paged_adamw_8bit'),
    dict(batch=16, seq=512), dict(batch=1, seq=8192), dict(batch=1, seq=8192, attention='flash_attention_2'), dict(method='lora'), dict(method='lora', checkpointing='none', **both))]
levers += [dict(varied, **change) for change in (dict(), dict(packing='bfd'), dict(packing='wrapped'), dict(packing='padding_free'), dict(packing='padding_free', attention='flash_attention_2'), dict(packing='bfd', attention='flash_attention_2'))]
levers += [dict(model='Llama-3.2-3B', method='full', batch=2, seq=1024, optimizer=o) for o in ('adamw_torch_fused', 'adamw_8bit')]
# The defaults of trl against what `fastest` chooses and what it might have chosen, side by side, over more steps than a run takes by itself
ample, long = dict(checkpointing='none', kernels='liger'), dict(base, steps=6)
fastest = [long, *(dict(long, batch=b, **ample) for b in (4, 6, 8)), dict(varied), *(dict(varied, batch=b, packing='bfd', **{**ample, **both}) for b in (4, 8))]
fastest += [dict(long, limit_gib=12, **change) for change in (dict(), *(dict(batch=b, kernels='liger') for b in (4, 6, 7, 8)), dict(both, batch=1, checkpointing='every-3'))]

groups = dict(fastest=fastest, levers=levers, estimate=estimate, limit=limit)

def label():
    return dict(versions=' '.join(f'{k}-{v}' for k,v in versions('torch transformers trl peft bitsandbytes liger-kernel flash-attn'.split()).items()), date=datetime.date.today().isoformat())

def keep(path, purpose, split, row):
    from ftcook.memory import run_defaults
    row = dict(gpu=device_name(), purpose=purpose, split=split) | row | label()
    merge_rows(path, [row], ('gpu', 'purpose', *run_defaults))
    changed = ' '.join(f'{k}={row[k]}' for k,v in run_defaults.items() if row[k] != v and row[k] != '')
    print(f"{time.perf_counter()-started:5.0f} s  {row['seconds'] or 0:>5} s  {purpose} {split} {changed}: {row['status']} {row['tokens_per_s']} tokens/s, {row['peak_allocated_gib']} GiB {row['note']}", flush=True)

def apart(run):
    "Does a run leave something behind in its process?"
    return run.get('optimizer', '').startswith('paged') or run.get('offload', 'none') != 'none'

def known(path):
    "What the table already has: purpose and every key of the run, as text."
    from ftcook.memory import run_defaults
    return {tuple(r[k] for k in ('purpose', *run_defaults)) for r in csv.DictReader(path.open())} if path.exists() else set()

def complete(run):
    "A planned run with all its keys, without its split and its steps."
    from ftcook.memory import training_run
    return training_run(**{k: v for k,v in run.items() if k not in ('split', 'steps')})

def key_of(purpose, run): return tuple(map(str, (purpose, *complete(run).values())))

def run_all(jobs, path, budget):
    from ftcook.memory import measure_run
    for n,(purpose,run) in enumerate(jobs):
        if time.perf_counter() - started > budget:
            print(f'{len(jobs) - n} runs of {purpose} and later were not started: the budget of {budget:.0f} s is used up', flush=True)
            return
        keep(path, purpose, run.get('split', ''), measure_run(complete(run), steps=run.get('steps')))

def run_apart(jobs, path, budget):
    "The same in a process of its own; a run that kills it leaves a row that says so."
    if not jobs: return
    from ftcook.memory import free_gpu, measured
    free_gpu()
    with tempfile.NamedTemporaryFile('w', suffix='.json') as f:
        json.dump(jobs, f)
        f.flush()
        code = subprocess.run([sys.executable, __file__, '--out', str(path), '--jobs', f.name, '--budget', str(budget - (time.perf_counter() - started))]).returncode
    if not code: return
    there = known(path)
    for purpose,run in jobs:
        if key_of(purpose, run) not in there: keep(path, purpose, run.get('split', ''), complete(run) | dict.fromkeys(measured, '') | dict(status='error', note=f'the process ended with {code}'))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--groups', nargs='+', default=[*groups], choices=[*groups])
    parser.add_argument('--out', type=Path, default=here/'training.csv')
    parser.add_argument('--budget', type=float, default=540., help='no run starts later than this many seconds')
    parser.add_argument('--resume', action='store_true', help='leave out what the table already has')
    parser.add_argument('--model', help='use this model for every run, such as SmolLM2-135M to try the script out')
    parser.add_argument('--jobs', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.jobs: run_all(json.loads(args.jobs.read_text()), args.out, args.budget)
    else:
        jobs = [(name, run | (dict(model=args.model) if args.model else {})) for name in args.groups for run in groups[name]]
        if args.resume:
            there = known(args.out)
            jobs = [j for j in jobs if key_of(*j) not in there]
        run_all([j for j in jobs if not apart(j[1])], args.out, args.budget)
        run_apart([j for j in jobs if apart(j[1])], args.out, args.budget)
