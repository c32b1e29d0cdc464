"""Trace the runs of training.csv and oom.csv without a GPU, and fit the calibration: python nbs/measurements/cost/estimates.py

--again traces what has been traced before as well; --passes counts the table `passes` of ftcook.planning instead."""
import argparse, functools, itertools, sys, time
from pathlib import Path
from ftcook.bench import known_rows, label, merge_rows, pinned, read_table
from ftcook.cost import fit_calibration
from ftcook.planning import gpu_offers, passes
from ftcook.runs import Run, comparable_runs, run_fields
from ftcook.trace import GiB, reserved_bytes, trace_step

here = Path(__file__).resolve().parent
assets = here.parents[2]/'ftcook'/'assets'
table = here.parent/'steps'/'training.csv'

@functools.cache
def trace_of(run): return trace_step(run)

def need(trace):
    "What a run takes without a limit, in GiB."
    return dict(traced_gib=round(trace.peak/GiB, 4), reserved_gib=round(reserved_bytes(trace)/GiB, 4))

def traced(run):
    "What the trace says about a run, as a row of estimates.csv."
    trace = trace_of(run)
    phases = {f'{k}_gib': round(v/GiB, 4) for k,v in trace.phases.items()}
    found = need(trace)
    return run.to_dict() | dict(traced_gib=found['traced_gib']) | phases | dict(reserved_gib=found['reserved_gib']) | \
        {f'work_{k}': round(v) for k,v in trace.work.items()} | label(pinned)

def attempts(model):
    "The runs that oom.py tries one after the other, each with its loss."
    sys.path.append(str(Path(__file__).parents[1]/'oom'))
    from oom import ladder, plain_loss, start
    settings = itertools.accumulate(ladder, lambda settings, cure: settings | cure.change(settings), initial=start)
    same = 'per_device_train_batch_size', 'gradient_accumulation_steps', 'max_length', 'gradient_checkpointing', 'optim'
    for name,s in zip(['none', *(cure.name for cure in ladder)], settings):
        if s['activation_offloading']: continue
        run = Run(model, 'lora' if s['quantize'] == 'none' else 'qlora', **{k: s[k] for k in same})
        yield name, run, None if s['fused'] else plain_loss

def verdict(trace, limit):
    "What the allocator makes of a traced run within a limit in GiB."
    try: reserved_bytes(trace, limit=limit*GiB)
    except MemoryError: return 'out of memory'
    return 'completed'

def edges(measured, context_gib, out, again):
    "Predict the outcome of the runs that were measured close to a limit: torch's, or that of the card."
    keys = ('gpu', *run_fields)
    there = set() if again else known_rows(out, keys)
    for row,run in comparable_runs(measured):
        if row['purpose'] != 'limit' and not run.limit_gib or (row['gpu'], *run.key()) in there: continue
        room = run.limit_gib or next(o.usable_gib for o in gpu_offers() if o.gpu in row['gpu']) - context_gib
        trace = trace_of(run)
        found = dict(room_gib=round(room, 2), predicted=verdict(trace, room)) | need(trace)
        merge_rows(out, [dict(gpu=row['gpu']) | run.to_dict() | found | label(pinned)], keys)
        print(f"{row['status']}, predicted {found['predicted']}: {found['reserved_gib']:.2f} of {room:.2f} GiB", flush=True)

def judge(rows, out, again):
    "Predict the outcome of rows of oom.csv."
    keys = ('gpu', 'model', 'limit_gib', 'cure')
    there = set() if again else known_rows(out, keys)
    rows = [r for r in rows if tuple(r[k] for k in keys) not in there]
    for model in sorted({r['model'] for r in rows}):
        for cure,run,loss in attempts(model):
            mine = [r for r in rows if (r['model'], r['cure']) == (model, cure)]
            if not mine: continue
            trace = trace_step(run, loss)
            figures = need(trace) | label(pinned)
            merge_rows(out, [{k: r[k] for k in keys} | dict(predicted=verdict(trace, float(r['limit_gib']))) | figures
                for r in mine], keys)
            print(f'{model}, {cure}: {trace.peak/GiB:.2f} GiB', flush=True)

def count_passes():
    "Bytes that a layer moves per token and element of h, a, k and f, and its operations, from traces of small shapes."
    import numpy as np
    from transformers import AutoConfig
    shapes = [(512, 8, 2, 1024), (768, 8, 2, 1024), (512, 16, 2, 1024), (512, 8, 4, 1024), (512, 8, 2, 2048), (1024, 16, 4, 3072)]
    def work(kind, mode, liger, shape, layers, tokens):
        h, heads, kv, f = shape
        config = AutoConfig.for_model('llama', hidden_size=h, num_attention_heads=heads, num_key_value_heads=kv, head_dim=64,
            intermediate_size=f, num_hidden_layers=layers, vocab_size=512)
        return trace_step(Run(config, kind, per_device_train_batch_size=1, max_length=tokens, gradient_checkpointing=mode,
            use_liger_kernel=liger)).work
    def layer(*key):
        "Bytes per token and operations of one layer: of the difference between three layers and two, at two lengths."
        (long3, long2), (short3, short2) = (tuple(work(*key, n, tokens) for n in (3, 2)) for tokens in (1024, 512))
        moved = (long3['bytes'] - long2['bytes']) - (short3['bytes'] - short2['bytes'])
        return moved/512, long3['kernels'] - long2['kernels']
    for key,known in passes.items():
        found = [layer(*key, shape) for shape in shapes]
        sizes = [(h, 64*heads, 64*kv, f, 1) for h,heads,kv,f in shapes]
        counted = np.linalg.lstsq(np.array(sizes), np.array([moved for moved,_ in found]), rcond=None)[0]
        print(key, [round(v, 1) for v in counted[:4].tolist()], found[0][1], 'in the table', known, flush=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--measured', type=Path, default=table)
    parser.add_argument('--out', type=Path, default=here/'estimates.csv',
        help='where the traces go, and edges.csv and calibration.csv of a table of your own')
    parser.add_argument('--again', action='store_true', help='trace what has been traced before as well')
    parser.add_argument('--passes', action='store_true', help='count the table `passes` of ftcook.planning, and do nothing else')
    args = parser.parse_args()
    if args.passes: raise SystemExit(count_passes())
    there = set() if args.again else known_rows(args.out, run_fields)
    runs = {run.key(): run for _,run in comparable_runs(args.measured)}
    for key,run in runs.items():
        if key in there: continue
        start = time.perf_counter()
        row = traced(run)
        merge_rows(args.out, [row], run_fields)
        print(f"{time.perf_counter() - start:4.0f} s  {run}: {row['traced_gib']} GiB", flush=True)
    own = args.measured.resolve() != table
    if not own: judge(read_table(here.parent/'oom'/'oom.csv'), here/'limits.csv', args.again)
    calibration = fit_calibration(args.measured, args.out)
    merge_rows((args.out.parent if own else assets)/'calibration.csv', [calibration], ('gpu',))
    edges(args.measured, calibration['context_gib'], args.out.parent/'edges.csv', args.again)
