"""Measure a machine: what its card and its processor can do (`ftcook calibrate`), and short runs of training, 135M to 8B.

    python nbs/measurements/steps/machines.py --machine a --resume"""
import argparse, json, sys, time
from pathlib import Path
import torch
from ftcook.bench import device_name, known_rows, label, merge_rows, pinned, run_apart
from ftcook.runs import Run, run_fields

here = Path(__file__).parent
started = time.perf_counter()
libraries = (*pinned, 'liger-kernel', 'flash-attn')

def run(model, method, batch, length, **rest):
    how = dict(gradient_checkpointing='none') | rest
    return dict(model=model, method=method, per_device_train_batch_size=batch, max_length=length) | how

full, liger, layers = dict(gradient_checkpointing='full'), dict(use_liger_kernel=True), dict(compiled='layers')
plain = [
    run('Mistral-7B', 'qlora', 4, 2048, **liger), run('Mistral-7B', 'qlora', 2, 2048, **full),
    run('SmolLM2-135M', 'lora', 8, 1024), run('Llama-3.2-1B', 'full', 4, 1024), run('Llama-3-8B', 'lora', 2, 1024),
    run('Qwen2.5-0.5B', 'qlora', 4, 1024, **full), run('Llama-3.2-3B', 'lora', 4, 1024, **full),
    run('SmolLM2-135M', 'full', 8, 512), run('Llama-3.2-3B', 'full', 2, 1024), run('Mistral-7B', 'qlora', 1, 512),
    run('Llama-3.2-1B', 'qlora', 4, 2048), run('Qwen2.5-0.5B', 'full', 4, 2048), run('Mistral-7B', 'lora', 2, 2048),
    run('Llama-3-8B', 'full', 1, 1024, **full), run('Llama-3-8B', 'qlora', 2, 2048, **full, **liger),
    run('Llama-3.2-1B', 'lora', 8, 1024, **liger), run('Mistral-7B', 'qlora', 1, 8192, **full),
    run('SmolLM2-135M', 'qlora', 4, 512, **full)]
compiled = [
    run('Mistral-7B', 'qlora', 4, 2048, **layers), run('Llama-3.2-1B', 'lora', 4, 1024, **layers),
    run('Llama-3.2-3B', 'full', 2, 1024, **layers), run('Mistral-7B', 'qlora', 4, 2048, **layers, activation_memory_budget=.1),
    run('SmolLM2-135M', 'lora', 8, 1024, **layers), run('Llama-3-8B', 'lora', 2, 1024, **layers),
    run('Qwen2.5-0.5B', 'qlora', 4, 1024, **layers), run('Mistral-7B', 'qlora', 2, 2048, compiled='graphs')]

# A machine without a GPU: small models, short rows
cpu = [r | dict(dtype='float32') for r in (
    run('SmolLM2-135M', 'lora', 1, 64), run('SmolLM2-135M', 'full', 1, 64), run('SmolLM2-135M', 'lora', 1, 256),
    run('SmolLM2-135M', 'lora', 1, 64, **full), run('SmolLM2-135M', 'qlora', 1, 64), run('Qwen2.5-0.5B', 'lora', 1, 64))]

def key_of(machine, run): return (machine, *Run(**run).key())
def known(path): return known_rows(path, ('machine', *run_fields))

def measure(machine, jobs, path, budget):
    "A row for each run, in this process."
    from ftcook.memory import measure_run
    for job in jobs:
        if time.perf_counter() - started > budget: return
        keep(machine, path, measure_run(Run(**job), steps=6))

def keep(machine, path, row):
    merge_rows(path, [dict(machine=machine, gpu=device_name()) | row | label(libraries)], ('machine', *run_fields))
    changed = ' '.join(f'{k}={v}' for k,v in Run.from_row({k: str(row[k]) for k in run_fields}).changes().items())
    found = f"{row['step_s']} s a step, GPU busy {row['busy_share']}, processor {row['host_s']} s, {row['kernels']} kernels"
    after = f"{time.perf_counter()-started:5.0f} s  {row['seconds']} s"
    print(f"{after}  {changed}: {row['status']} {found} {row['note']}", flush=True)

def apart(args, *more, seconds):
    "This script in a process of its own."
    left = args.budget - (time.perf_counter() - started)
    if left < 15: return print('the budget is used up', flush=True)
    command = [sys.executable, __file__, '--machine', args.machine, '--out', str(args.out), '--budget', str(left), *more]
    if why := run_apart(command, min(seconds, left + 60)): print(f'failed: {why}', flush=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--machine', required=True, help='a short name: rows of different machines stand side by side')
    parser.add_argument('--out', type=Path, default=here/'machines.csv')
    parser.add_argument('--budget', type=float, default=500., help='no run starts later than this many seconds')
    parser.add_argument('--resume', action='store_true', help='leave out what the table already has')
    parser.add_argument('--tiny', action='store_true', help='few runs of a small model with short rows, to try the script out')
    parser.add_argument('--jobs', help=argparse.SUPPRESS)
    args = parser.parse_args()
    card = args.out.with_name(f'machine_{args.machine}.json')
    if args.jobs == 'calibrate':
        from ftcook.machine import calibrate
        print(json.dumps(calibrate(card)), flush=True)
    elif args.jobs: measure(args.machine, json.loads(args.jobs), args.out, args.budget)
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        there = known(args.out) if args.resume else set()
        tiny = dict(model='SmolLM2-135M', per_device_train_batch_size=1, max_length=16, use_liger_kernel=False)
        def asked(runs): return [r | tiny for r in runs[:2]] if args.tiny else runs
        def missing(runs): return [r for r in asked(runs) if key_of(args.machine, r) not in there]
        if not (args.resume and card.exists()): apart(args, '--jobs', 'calibrate', seconds=120)
        if not torch.cuda.is_available(): plain, compiled = cpu, []
        for some,more in ((plain[:10], compiled[:4]), (plain[10:], compiled[4:])):
            if missing(some): apart(args, '--jobs', json.dumps(missing(some)), seconds=400)
            for one in missing(more): apart(args, '--jobs', json.dumps([one]), seconds=200)
