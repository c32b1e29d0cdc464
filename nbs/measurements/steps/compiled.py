"""Measure compiled layers, budgets and what else might raise speed, a row per run, each in a process of its own.

    python nbs/measurements/steps/compiled.py --part 1/4"""
import argparse, json, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
from ftcook.bench import device_name, known_rows, label, merge_rows, pinned, run_apart
from ftcook.runs import Run, run_fields

here = Path(__file__).parent
started = time.perf_counter()
libraries = (*pinned, 'liger-kernel', 'flash-attn', 'triton')
found_here = ('step_s tokens_per_s peak_allocated_gib peak_reserved_gib busy_s kernels gaps compile_s graphs breaks losses '
              'launch_us status note seconds').split()
key = ('gpu', 'switches', *run_fields)
learned, warm, timed = 20, 5, 10 # steps whose loss is kept, left out, timed

# Switches beside the fields of a run: what each does is in `make_settings` and `measure`
switches = dict(
    nowait='the trainer does not look for NaN in each loss, and copies batches without waiting',
    lean="nowait, and metrics are looked at when they are logged",
    costs='the partitioner is told what a 4-bit product costs',
    unpacked="LoRA's sum inside the product, and weights unpacked in plain PyTorch, compiled",
    fused='earlier: as unpacked, with weights unpacked by bitsandbytes',
    autotune='inductor tries out kernels for every product',
    clipless='gradients are not clipped',
    padded='packed rows are filled up to the same length in every step')

keep_all, again = dict(gradient_checkpointing='none'), dict(gradient_checkpointing='full')
def compiled(share=1., rows=4, how='layers', **more):
    return keep_all | dict(compiled=how, activation_memory_budget=share, per_device_train_batch_size=rows) | more
def run(names='', **fields): return dict(switches=names, **fields)

held, long_rows, twice = dict(limit_gib=12), dict(max_length=8192), dict(gradient_accumulation_steps=2)
varied = dict(lengths='exponential-400', packing='bfd', attn_implementation='flash_attention_2')
usual = 'lean unpacked costs' # what `step_trainer` puts on where a run is compiled
plan = [ # the most important first
    run(usual, **compiled(.7)), run(usual, **compiled(.7, how='graphs')), run(usual, **compiled(.2, 3), **held),
    run(**compiled(.7)),
    run(usual, **compiled(.5)), run(usual, **compiled(.3)), run(usual, **compiled(.1)), run(usual, **compiled(1.)),
    run(usual, **compiled(.7, 1, how='graphs'), **held), run(usual, **compiled(.3, 3), **held), run('lean', **compiled(.7)),
    run(usual, **compiled(.15), **held), run(**keep_all), run(use_liger_kernel=True, **keep_all), run(),
    run(usual, **compiled(.4)),
    run('lean', use_liger_kernel=True, **keep_all), run('lean', **compiled(.5)), run('lean costs', **compiled(.5)),
    run('lean', **compiled(.3)), run('lean costs', **compiled(.3)), run('lean', **compiled(.1)),
    run('lean costs', **compiled(.1)),
    run('lean', **compiled(1.)), run('nowait', **compiled(.7)), run('lean', **compiled(.7, how='graphs')),
    run(usual + ' padded', **compiled(.7, **varied)), run(usual, **compiled(.7, 1, **long_rows)),
    run(use_liger_kernel=True, **keep_all, **varied), run('lean', **compiled(.7, 1, **long_rows)),
    run(usual, **compiled(.2, 3, how='graphs'), **held), run(usual, **compiled(.3, 2), **held),
    run(usual, **compiled(.1), **held),
    run(usual, **compiled() | again), run('lean', **compiled() | again), run('lean unpacked', **compiled(.7)),
    run(usual, **compiled(.7, 6)), run(usual, **compiled(.7, 8)), run(usual, **compiled(.7, 2)), run(usual, **compiled(.7, 1)),
    run(usual, **compiled(.7, 1, how='graphs')), run('lean unpacked clipless', **compiled(.7)),
    run('lean autotune', **compiled(.7)),
    run(usual, **compiled(.7, 2, **twice)), run(usual, **compiled(.7, 2, how='graphs', **twice)),
    run(usual, **compiled(.7, method='lora')), run('lean', **compiled(.7, method='lora')), run(method='lora', **keep_all),
    run('lean padded', **compiled(.7, **varied)), run('lean', use_liger_kernel=True, **keep_all, **varied), run('lean'),
    run('lean unpacked', **keep_all), run(usual + ' autotune', **compiled(.7))]

def complete(job): return Run(**{k: v for k,v in job.items() if k != 'switches'})
def key_of(job): return job['switches'], *complete(job).key()

def make_settings(run, on):
    "Settings of torch and arguments of the trainer that switches ask for."
    import torch
    if 'autotune' in on: torch._inductor.config.max_autotune_gemm = True
    args = dict(logging_steps=1, learning_rate=2e-4, lr_scheduler_type='constant')
    if on & {'nowait', 'lean'}: args |= dict(logging_nan_inf_filter=False, accelerator_config=dict(non_blocking=True))
    if 'clipless' in on: args |= dict(max_grad_norm=0.)
    if 'padded' in on: args |= dict(pad_to_multiple_of=run.tokens)
    return args

lean_loss = None # for a script that still imports it

def make_watch(shown):
    "A callback that keeps losses, then times steps without looking at them, then profiles two."
    import torch
    from transformers import TrainerCallback
    def now():
        if torch.cuda.is_available(): torch.cuda.synchronize()
        return time.perf_counter()
    class Watch(TrainerCallback):
        losses, at, profiler = [], {}, None
        def on_log(self, args, state, control, logs=None, **kwargs):
            if 'loss' in logs and len(self.losses) < shown: self.losses.append(logs['loss'])
        def on_step_begin(self, args, state, control, **kwargs):
            step = state.global_step
            if step == shown: state.logging_steps = 10**9
            if step in (0, 1, shown + warm, shown + warm + timed): self.at[step] = now()
            if step == shown + warm + timed and torch.cuda.is_available():
                self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
                self.profiler.__enter__()
        def on_step_end(self, args, state, control, **kwargs):
            if self.profiler and state.global_step == shown + warm + timed + 2:
                now()
                self.profiler.__exit__(None, None, None)
    return Watch()

def look(profiler):
    "How long the GPU was at work, in two steps, how many kernels it ran, and before which of them it waited longest."
    from torch.autograd import DeviceType
    events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    events = sorted((e.time_range.start, e.time_range.end, e.name) for e in events)
    busy, end, last, gaps = 0, events[0][0], '', []
    for start,stop,name in events:
        if start > end: gaps.append((start - end, last, name))
        busy += max(0, stop - max(start, end))
        if stop > end: end, last = stop, name
    def lasting(low, high): return sum(gap for gap,*_ in gaps if low <= gap < high)/2e3
    waits = [f'{lasting(low, high):.1f} ms from {low} us' for low,high in ((0, 10), (10, 100), (100, 1e9))]
    for gap,before,after in sorted(gaps)[-12:]: print(f'    {gap/1e3:7.2f} ms  {before[:60]} | {after[:60]}', flush=True)
    total = {}
    for start,stop,name in events: total[name[:90]] = total.get(name[:90], 0) + (stop - start)/2e3
    for name in sorted(total, key=total.get)[-18:]: print(f'    {total[name]:7.1f} ms a step  {name}', flush=True)
    return dict(busy_s=round(busy/2e6, 4), kernels=len(events)//2, gaps=', '.join(waits))

def measure(job, folder):
    import torch
    from torch._dynamo.utils import counters
    from ftcook.compiled import compile_layers, fuse_lora, wait_less
    from ftcook.memory import _memory_limit, _peaks, launch_us
    from ftcook.runs import random_model, step_trainer
    run, on = complete(job), set(job['switches'].split())
    shown = learned if run.per_device_train_batch_size == 4 and run.lengths == 'fixed' else 4
    args, watch, cuda = make_settings(run, on), make_watch(shown), torch.cuda.is_available()
    torch.manual_seed(0)
    with _memory_limit(run.limit_gib):
        model = random_model(run.config, run.quantize, run.dtype, run.attn_implementation)
        torch.manual_seed(1)
        plain = replace(run, compiled='none', activation_memory_budget=1.)
        trainer = step_trainer(plain, folder, model, callbacks=[watch], max_steps=shown + warm + timed + 2, **args)
        if 'unpacked' in on: fuse_lora(trainer.model)
        if run.compiled != 'none':
            compile_layers(trainer.model, run.activation_memory_budget, run.compiled == 'graphs', fuse=False)
        torch._functorch.config.is_non_builtin_to_include = 'costs' in on
        if 'lean' in on: wait_less(trainer)
        slow = round(launch_us(), 1)
        if cuda: torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
        try: trainer.train()
        finally: print('    peaks', _peaks(), 'losses', watch.losses[:2], flush=True)
    first, last = shown + warm, shown + warm + timed
    step = (watch.at[last] - watch.at[first])/timed
    rows = trainer.train_dataset['input_ids']
    tokens = sum(map(len, rows))/len(rows)*run.per_device_train_batch_size*run.gradient_accumulation_steps
    found = dict(step_s=round(step, 4), tokens_per_s=round(tokens/step, 1),
        compile_s=round(watch.at[1] - watch.at[0], 1), losses=' '.join(f'{x:.5f}' for x in watch.losses), launch_us=slow)
    found |= dict(graphs=counters['stats']['unique_graphs'], breaks=sum(counters['graph_break'].values()))
    if watch.profiler: found |= look(watch.profiler)
    return found | _peaks() | dict(status='ok')

def keep(path, job, found):
    run = complete(job)
    row = dict(gpu=device_name(), switches=job['switches']) | run.to_dict() | dict.fromkeys(found_here, '')
    row |= found | label(libraries)
    merge_rows(path, [row], key)
    print(f"{time.perf_counter()-started:5.0f} s  {row['switches'] or '-'}: {run.changes()}: {row['status']}, "
        f"{row['tokens_per_s']} tokens/s, {row['peak_allocated_gib']} GiB, {row['step_s']} s a step, busy {row['busy_s']}, "
        f"compiled in {row['compile_s']}, waits {row['gaps']}, {row['note']}", flush=True)

def run_one(job, path):
    from ftcook.memory import _peaks
    from ftcook.runs import is_oom
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder: found = measure(job, folder)
    except Exception as e:
        import traceback
        if not is_oom(e): traceback.print_exc(limit=-6, file=sys.stdout)
        found = _peaks() | dict(status='oom' if is_oom(e) else 'error', note=f'{type(e).__name__}: {e}'.split('\n')[0][:200])
    keep(path, job, found | dict(seconds=round(time.perf_counter() - began, 1)))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=here/'compiled.csv')
    parser.add_argument('--part', default='1/1', help='2/4: every fourth run, from the second on')
    parser.add_argument('--budget', type=float, default=540., help='seconds; no run goes on longer')
    parser.add_argument('--resume', action='store_true', help='leave out what the table already has')
    parser.add_argument('--model', help='use this model for every run, such as SmolLM2-135M to try the script out')
    parser.add_argument('--max-length', type=int, help='and rows of so many tokens')
    parser.add_argument('--job', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        run_one(json.loads(args.job), args.out)
        sys.exit()
    which, parts = map(int, args.part.split('/'))
    smaller = {k: v for k,v in dict(model=args.model, max_length=args.max_length).items() if v}
    jobs = [job | smaller for job in plan][which-1::parts]
    there = known_rows(args.out, key[1:]) if args.resume else ()
    for job in jobs:
        left = args.budget - (time.perf_counter() - started)
        if key_of(job) in there or left < 60: continue
        most = min(left, 300 if 'autotune' in job['switches'] else 170)
        why = run_apart([sys.executable, __file__, '--out', str(args.out), '--job', json.dumps(job)], most)
        if why and key_of(job) not in known_rows(args.out, key[1:]): keep(args.out, job, dict(status='error', note=why))
