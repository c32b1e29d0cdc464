"""Trace every run of training.csv and every attempt of oom.csv without a GPU, say what would fit where it is close, and fit what only a measurement can tell: python nbs/measurements/estimates.py"""
import argparse, csv, datetime, functools, itertools, time
from pathlib import Path
from ftcook.cli import merge_rows
from ftcook.cost import GiB, comparable_runs, fit_calibration, gpu_offers, model_config, reserved_bytes, trace_step
from ftcook.doctor import oom_fixes
from ftcook.memory import run_defaults, training_run
from ftcook.runtime import versions

here = Path(__file__).parent

def label(): return dict(versions=' '.join(f'{k}-{v}' for k,v in versions('torch transformers trl peft bitsandbytes'.split()).items()), date=datetime.date.today().isoformat())

def known(path, keys, again):
    "What a table has already, unless all is to be done again."
    return {tuple(r[k] for k in keys) for r in csv.DictReader(path.open())} if path.exists() and not again else set()

@functools.cache
def trace_of(*values): return trace_step(model_config(values[0]), dict(zip(run_defaults, values)))

def traced(run):
    "What the trace says about a run, as a row."
    trace = trace_of(*run.values())
    return run | dict(traced_gib=round(trace.peak/GiB, 4), **{f'{k}_gib': round(v/GiB, 4) for k,v in trace.phases.items()}, reserved_gib=round(reserved_bytes(trace)/GiB, 4), **{f'work_{k}': round(v) for k,v in trace.work.items()}) | label()

def attempts(model):
    "The runs that oom.py tries one after the other, each with its loss."
    from oom import plain_loss, start
    settings = itertools.accumulate(oom_fixes, lambda settings, cure: settings | cure.change(settings), initial=start)
    for name,s in zip(['none', *(cure.name for cure in oom_fixes)], settings):
        if not s['activation_offloading']: yield name, training_run(model=model, method='lora' if s['quantize'] == 'none' else 'qlora', batch=s['per_device_train_batch_size'], accumulation=s['gradient_accumulation_steps'], seq=s['max_length'],
            checkpointing='full' if s['gradient_checkpointing'] else 'none', optimizer=s['optim']), None if s['fused'] else plain_loss

def need(trace):
    "What a run takes without a limit, in GiB."
    return dict(traced_gib=round(trace.peak/GiB, 4), reserved_gib=round(reserved_bytes(trace)/GiB, 4))

def verdict(trace, limit):
    "What the allocator makes of a traced run within a limit in GiB."
    try: reserved_bytes(trace, limit=limit*GiB)
    except MemoryError: return 'out of memory'
    return 'completed'

def edges(measured, context_gib, out, again):
    "Predict the outcome of the runs that were measured close to a limit: torch's, or that of the card."
    keys = ('gpu', *run_defaults)
    there = known(out, keys, again)
    for row,run in comparable_runs(measured):
        if row['purpose'] != 'limit' and not run['limit_gib'] or (row['gpu'], *map(str, run.values())) in there: continue
        room = run['limit_gib'] or next(o.usable_gib for o in gpu_offers() if o.gpu in row['gpu']) - context_gib
        trace = trace_of(*run.values())
        found = dict(room_gib=round(room, 2), predicted=verdict(trace, room)) | need(trace)
        merge_rows(out, [dict(gpu=row['gpu']) | run | found | label()], keys)
        print(f"{row['status']}, predicted {found['predicted']}: {found['reserved_gib']:.2f} of {room:.2f} GiB", flush=True)

def judge(rows, out, again):
    "Predict the outcome of rows of oom.csv."
    keys = ('gpu', 'model', 'limit_gib', 'cure')
    there = known(out, keys, again)
    rows = [r for r in rows if tuple(r[k] for k in keys) not in there]
    for model in sorted({r['model'] for r in rows}):
        for cure,run,loss in attempts(model):
            mine = [r for r in rows if (r['model'], r['cure']) == (model, cure)]
            if not mine: continue
            trace = trace_step(model_config(model), run, loss)
            figures = need(trace) | label()
            merge_rows(out, [dict(gpu=r['gpu'], model=model, limit_gib=r['limit_gib'], cure=cure, predicted=verdict(trace, float(r['limit_gib']))) | figures for r in mine], keys)
            print(f'{model}, {cure}: {trace.peak/GiB:.2f} GiB', flush=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--measured', type=Path, default=here/'training.csv')
    parser.add_argument('--out', type=Path, default=here/'estimates.csv', help='where the traces go; calibration.csv and edges.csv are written beside it')
    parser.add_argument('--again', action='store_true', help='trace what has been traced before as well')
    args = parser.parse_args()
    there = known(args.out, run_defaults, args.again)
    runs = {tuple(map(str, run.values())): run for _,run in comparable_runs(args.measured)}
    for key,run in runs.items():
        if key in there: continue
        start = time.perf_counter()
        row = traced(run)
        merge_rows(args.out, [row], tuple(run_defaults))
        print(f"{time.perf_counter() - start:4.0f} s  {' '.join(f'{k}={v}' for k,v in run.items() if v != run_defaults[k])}: {row['traced_gib']} GiB", flush=True)
    if args.measured.parent == here: judge(list(csv.DictReader((here/'oom.csv').open())), here/'limits.csv', args.again)
    calibration = fit_calibration(args.measured, args.out)
    merge_rows(args.out.parent/'calibration.csv', [calibration], ('gpu',))
    edges(args.measured, calibration['context_gib'], args.out.parent/'edges.csv', args.again)
