"""Trace every run of training.csv without a GPU, and fit what only a measurement can tell: python nbs/measurements/estimates.py"""
import argparse, csv, datetime, statistics, time
from pathlib import Path
from ftcook.cli import merge_rows
from ftcook.cost import GiB, MiB, comparable_runs, fit_calibration, model_config, reserved_bytes, trace_step
from ftcook.memory import run_defaults
from ftcook.runtime import versions

here = Path(__file__).parent

def label(): return dict(versions=' '.join(f'{k}-{v}' for k,v in versions('torch transformers trl peft bitsandbytes'.split()).items()), date=datetime.date.today().isoformat())

def traced(run):
    "What the trace says about a run, as a row."
    trace = trace_step(model_config(run['model']), run)
    return run | dict(traced_gib=round(trace.peak/GiB, 4), **{f'{k}_gib': round(v/GiB, 4) for k,v in trace.phases.items()}, reserved_gib=round(reserved_bytes(trace)/GiB, 4), **{f'work_{k}': round(v) for k,v in trace.work.items()}) | label()

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--measured', type=Path, default=here/'training.csv')
    parser.add_argument('--out', type=Path, default=here/'estimates.csv')
    parser.add_argument('--again', action='store_true', help='trace what has been traced before as well')
    args = parser.parse_args()
    known = {tuple(r[k] for k in run_defaults) for r in csv.DictReader(args.out.open())} if args.out.exists() and not args.again else set()
    runs = {tuple(map(str, run.values())): run for _,run in comparable_runs(args.measured)}
    for key,run in runs.items():
        if key in known: continue
        start = time.perf_counter()
        row = traced(run)
        merge_rows(args.out, [row], tuple(run_defaults))
        print(f"{time.perf_counter() - start:4.0f} s  {' '.join(f'{k}={v}' for k,v in run.items() if v != run_defaults[k])}: {row['traced_gib']} GiB", flush=True)
    merge_rows(here/'calibration.csv', [fit_calibration(args.measured, args.out)], ('gpu',))
