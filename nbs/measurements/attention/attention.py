"""Time attention, alone and in training, at growing lengths.

    python nbs/measurements/attention/attention.py [kernels limits training] [--device cpu] [--small] [--out folder]

Each part is a list of jobs that a process of its own works through. A job that fails leaves a row that says why;
if it takes the process with it, the next job gets a new one."""
import argparse, gc, importlib.util, json, os, statistics, subprocess, sys, threading, time, warnings
from pathlib import Path
from types import SimpleNamespace

here = Path(__file__).parent
keys = dict(kernels=('gpu', 'implementation', 'head_dim', 'seq_len', 'pass'),
            limits=('gpu', 'implementation', 'case'),
            training=('gpu', 'implementation', 'case', 'checkpointing', 'seq_len'))
seconds = dict(kernels=100, limits=45, training=100)  # what each part may take
files = dict(kernels='attention.csv', limits='attention_limits.csv', training='attention_training.csv')
backends = dict(sdpa_flash='FLASH_ATTENTION', sdpa_efficient='EFFICIENT_ATTENTION', sdpa_cudnn='CUDNN_ATTENTION',
                sdpa_math='MATH')
to_fill = dict( # columns that a job which fails leaves empty
    kernels='pass dtype ms tflops ceiling_tflops copy_gb_s peak_mib kept_mib error'.split(),
    limits=['note'],
    training='step_ms tokens_per_s peak_gib'.split())
small_size = dict(tokens=1024, hidden=64, intermediate=128, heads=4, kv_heads=2, window=512)
mistral_size = dict(tokens=16384, hidden=4096, intermediate=14336, heads=32, kv_heads=8, window=4096)

def jobs(part, small, cuda):
    "What to measure: as dicts, the most telling first."
    lengths = [128, 256, 512, 1024] if small else [512, 1024, 2048, 4096, 8192, 16384]
    fused = ['flash_attention_2'] if importlib.util.find_spec('flash_attn') else []
    if importlib.util.find_spec('flash_attn_interface'): fused.append('flash_attention_3')
    sdpa = list(backends) if cuda else ['sdpa_flash', 'sdpa_math']
    if part == 'kernels':
        size = dict(tokens=1024, hidden=128) if small else dict(tokens=16384, hidden=2048)
        def kernel(implementation, d, n): return dict(implementation=implementation, head_dim=d, seq_len=n, **size)
        out = [kernel(i, d, n) for d in ([64] if small else [128, 64]) for i in [*fused, 'eager', *sdpa] for n in lengths]
        return out + [kernel('flex_attention', 128, n) for n in (2048, 8192) if cuda and not small]
    if part == 'limits':
        of_sdpa = ['as measured', 'float32', 'float16', 'explicit mask', 'dropout', 'grouped heads',
                   'head size 256', 'head size 320']
        of_fused = ['as measured', 'float32', 'dropout', 'head size 320']
        out = [dict(implementation=i, case=c) for i in ['sdpa', *sdpa] for c in of_sdpa]
        return out + [dict(implementation=i, case=c) for i in fused for c in of_fused]
    size = small_size if small else mistral_size
    def step(implementation, n, case='plain', checkpointing=False):
        return dict(implementation=implementation, case=case, checkpointing=checkpointing, seq_len=n, layers=2, **size)
    plain = [step(i, n, checkpointing=c) for c in (False, True) for i in ['eager', 'sdpa', *fused] for n in lengths]
    cudnn = [step('sdpa_cudnn', n) for n in lengths if cuda]
    padded = [step(i, n, 'one padding token') for i in ['sdpa', *fused] for n in lengths[1::2]]
    windows = [step(i, n, f"window {size['window']}") for i in ['sdpa', *fused] for n in lengths if n > size['window']]
    return plain + cudnn + padded + windows

# --- what a row needs besides its figures

def ceilings(cuda):
    "What this device does on plain work: TFLOP/s of a matrix product, GB/s of a copy (bytes read and written)."
    import torch
    n, size, device, dtype = (8192, 2**30, 'cuda', torch.bfloat16) if cuda else (512, 2**24, 'cpu', torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    product = timed(lambda mark: (mark(), a @ b, mark()), cuda)[0]
    x = torch.empty(size, device=device, dtype=torch.uint8)
    y = torch.empty_like(x)
    copied = timed(lambda mark: (mark(), y.copy_(x), mark()), cuda)[0]
    return dict(ceiling_tflops=round(2*n**3/product/1e9, 3), copy_gb_s=round(2*size/copied/1e6, 1))

def label(part, job, status=''):
    "What every row carries, also that of a job that failed."
    from ftcook.bench import device_name, label as dated
    asked = {k: v for k,v in job.items() if k in ('implementation', 'case', 'checkpointing', 'head_dim', 'seq_len', 'layers')}
    shape = {}
    if 'tokens' in job:
        shape = dict(batch=job['tokens']//job['seq_len'], heads=job.get('heads') or job['hidden']//job['head_dim'])
    return dict(gpu=device_name(), **asked, **shape, **dict.fromkeys(to_fill[part], ''),
                **dated(('torch', 'transformers', 'flash-attn'), status=status or 'measured'))

def failed(part, job, why):
    "The rows of a job that failed."
    row = label(part, job, why)
    return [row | {'pass': p} for p in ('forward', 'backward', 'both')] if part == 'kernels' else [row]

def reason(e):
    "An exception in a few words."
    if 'out of memory' in str(e).lower(): return 'out of memory'
    return f'{type(e).__name__}: {(str(e).strip().splitlines() or [""])[0][:160]}'

# --- time and memory

def timed(step, cuda, budget_ms=60, warm_up=2, at_most=20):
    "Median milliseconds from each `mark()` of `step(mark)` to the next, after warming up."
    import torch
    def once():
        marks = []
        def mark():
            marks.append(torch.cuda.Event(enable_timing=True) if cuda else time.perf_counter())
            if cuda: marks[-1].record()
        if cuda: torch.cuda._sleep(3_000_000)  # about 1.5 ms of head start for the CPU, or its launches would be timed
        step(mark)
        return marks
    def spans(marks): return [a.elapsed_time(b) if cuda else 1e3*(b - a) for a,b in zip(marks, marks[1:])]
    for _ in range(warm_up):
        first = once()
        if cuda: torch.cuda.synchronize()
    repeats = int(min(max(budget_ms/max(sum(spans(first)), 1e-3), 3), at_most))
    rounds = [once() for _ in range(repeats)]
    if cuda: torch.cuda.synchronize()
    return [statistics.median(s) for s in zip(*map(spans, rounds))]

def memory(step, cuda, base):
    "At each `mark()` of `step(mark)`: bytes held, and the most so far, above `base`."
    import torch
    marks = []
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step(lambda: marks.append((torch.cuda.memory_allocated() - base, torch.cuda.max_memory_allocated() - base)))
        return marks
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler tells of its start and end otherwise
    from torch.profiler import ProfilerActivity, profile, record_function
    def mark():
        with record_function(f'mark {len(marks)}'): marks.append(None)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p: step(mark)
    held, most, out = 0, 0, []
    for e in sorted(p.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if e.name() == '[memory]': held += e.nbytes(); most = max(most, held)
        if e.name().startswith('mark '): out.append((held, most))
    return out

# --- one job of each part

def implementation(name, seq_len, heads, device, dtype):
    "The attention called `name`, causal, as a function of q, k, v of shape (batch, heads, seq_len, head_dim)."
    import torch
    from torch.nn import functional as F
    if name == 'eager':
        from transformers.models.llama.modeling_llama import eager_attention_forward
        mask = torch.full((seq_len, seq_len), torch.finfo(dtype).min, device=device, dtype=dtype).triu(1)[None, None]
        module = SimpleNamespace(num_key_value_groups=1, training=True)
        return lambda q,k,v: eager_attention_forward(module, q, k, v, mask, q.shape[-1]**-.5)[0].transpose(1, 2)
    if name in backends:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        def call(q, k, v):
            with sdpa_kernel(getattr(SDPBackend, backends[name])): return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return call
    if name == 'flex_attention':
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        blocks = create_block_mask(lambda b,h,i,j: i >= j, None, None, seq_len, seq_len, device=device)
        compiled = torch.compile(flex_attention, dynamic=False)
        return lambda q,k,v: compiled(q, k, v, block_mask=blocks)
    if name == 'flash_attention_3': from flash_attn_interface import flash_attn_func
    else: from flash_attn import flash_attn_func
    def call(q, k, v):
        out = flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)), causal=True)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
    return call

def error(attend, q, k, v, g):
    "Output and gradients against standard attention in float32: root mean square of the difference over that of the result."
    import torch
    def results(attend, *inputs):
        q, k, v, g = (t.detach().requires_grad_() for t in inputs)
        out = attend(q, k, v)
        return [out.detach().float(), torch.cat([t.float() for t in torch.autograd.grad(out, (q, k, v), g)])]
    wanted = results(implementation('eager', *q.shape[2:0:-1], q.device, torch.float32), *(t.float() for t in (q, k, v, g)))
    relative = [((a - b).norm()/b.norm()).item() for a,b in zip(results(attend, q, k, v, g), wanted)]
    return {name: float(f'{e:.3g}') for name,e in zip(('forward', 'backward'), relative)}

def kernel(job, cuda, plain):
    "Forward and backward of one implementation at one size, as rows of attention.csv."
    import torch
    n, d, batch, heads = job['seq_len'], job['head_dim'], job['tokens']//job['seq_len'], job['hidden']//job['head_dim']
    device, dtype = ('cuda', torch.bfloat16) if cuda else ('cpu', torch.float32)
    # laid out as a model's projections leave them
    q, k, v, g = (torch.randn(batch, n, heads, d, device=device, dtype=dtype).transpose(1, 2) for _ in range(4))
    for t in (q, k, v): t.requires_grad_()
    base = torch.cuda.memory_allocated() if cuda else 0
    attend = implementation(job['implementation'], n, heads, device, dtype)
    def step(mark):
        mark()
        out = attend(q, k, v)
        mark()
        grads = torch.autograd.grad(out, (q, k, v), g)
        mark()
        del out, grads # they count until here
    forward, backward = timed(step, cuda)
    (_, _), (kept, most_forward), (_, most) = memory(step, cuda, base)
    errors = error(attend, *(t[:1].detach() for t in (q, k, v, g))) if n <= 4096 else {}
    operations = 4*n**2*d*heads*batch/2
    row = label('kernels', job) | dict(dtype=str(dtype).removeprefix('torch.')) | plain
    def of_pass(name, ms, work, peak):
        return row | {'pass': name, 'ms': round(ms, 4), 'tflops': round(work*operations/ms/1e9, 3),
                      'peak_mib': round(peak/2**20, 2), 'kept_mib': round(kept/2**20, 2), 'error': errors.get(name, '')}
    return [of_pass('forward', forward, 1, most_forward), of_pass('backward', backward, 2.5, most),
            of_pass('both', forward + backward, 3.5, most)]

def limit(job, cuda, plain):
    "Does an implementation accept a case? For plain sdpa: which backend it takes."
    import torch
    from torch.nn import functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    name, case, device = job['implementation'], job['case'], 'cuda' if cuda else 'cpu'
    dtype = dict(float32=torch.float32, float16=torch.float16).get(case, torch.bfloat16)
    d = int(case.split()[-1]) if case.startswith('head size') else 64
    kv_heads = 2 if case == 'grouped heads' else 4
    q, k, v = (torch.randn(2, h, 256, d, device=device, dtype=dtype, requires_grad=True) for h in (4, kv_heads, kv_heads))
    options = dict(is_causal=True)
    if case == 'explicit mask': options = dict(attn_mask=torch.ones(2, 1, 256, 256, dtype=torch.bool, device=device).tril())
    if case == 'dropout': options |= dict(dropout_p=.1)
    if case == 'grouped heads': options |= dict(enable_gqa=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try:
            if name == 'sdpa': status = SDPBackend(torch._fused_sdp_choice(q, k, v, **options)).name
            else:
                if name in backends:
                    backend = getattr(SDPBackend, backends[name])
                    with sdpa_kernel(backend): out = F.scaled_dot_product_attention(q, k, v, **options)
                else:
                    if name == 'flash_attention_3': from flash_attn_interface import flash_attn_func
                    else: from flash_attn import flash_attn_func
                    dropout = dict(dropout_p=.1) if case == 'dropout' else {}
                    out = flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)), causal=True, **dropout)
                    out = out[0] if isinstance(out, tuple) else out
                out.sum().backward()
                status = 'runs'
        except Exception as e: status = reason(e)
    notes = [str(w.message).split(' (Triggered')[0].strip().splitlines()[0] for w in said]
    notes = [n for n in dict.fromkeys(notes) if ' not used because' not in n and 'disabled' not in n]
    return [label('limits', job) | dict(status=status, note='; '.join(notes)[:300] if status != 'runs' else '')]

_built = {}

def body(job, cuda):
    "A decoder without its head, random weights; made once."
    import torch
    from transformers import AutoModel, MistralConfig
    if 'model' not in _built:
        torch.manual_seed(0)
        config = MistralConfig(hidden_size=job['hidden'], intermediate_size=job['intermediate'], num_hidden_layers=job['layers'],
            num_attention_heads=job['heads'], num_key_value_heads=job['kv_heads'], vocab_size=32768,
            max_position_embeddings=32768, sliding_window=None, use_cache=False)
        device, dtype = ('cuda', torch.bfloat16) if cuda else ('cpu', torch.float32)
        with torch.device(device): _built['model'] = AutoModel.from_config(config, dtype=dtype, trust_remote_code=False).train()
    return _built['model']

def training(job, cuda, plain):
    "Forward and backward of a few decoder layers, as a row of attention_training.csv."
    import contextlib, torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    model, n, device = body(job, cuda), job['seq_len'], 'cuda' if cuda else 'cpu'
    model.set_attn_implementation(job['implementation'].removesuffix('_cudnn'))
    model.config.sliding_window = job['window'] if job['case'].startswith('window') else None
    if job['checkpointing']: model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    else: model.gradient_checkpointing_disable()
    ids = torch.randint(0, 32768, (job['tokens']//n, n), device=device)
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    options = dict(attention_mask=mask) if job['case'] == 'one padding token' else {}
    g = torch.randn(*ids.shape, job['hidden'], device=device, dtype=model.dtype)
    def kernels():
        if job['implementation'] != 'sdpa_cudnn': return contextlib.nullcontext()
        return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True)
    def step(mark):
        mark()
        with kernels(): model(input_ids=ids, **options).last_hidden_state.backward(g)
        mark()
        model.zero_grad()
    try:
        (ms,) = timed(step, cuda, budget_ms=400, warm_up=1, at_most=5)
        peak = memory(step, cuda, 0)[1][1]
    finally: model.zero_grad()
    figures = dict(step_ms=round(ms, 2), tokens_per_s=round(job['tokens']/ms*1e3), peak_gib=round(peak/2**30, 3))
    return [label('training', job) | figures]

# --- the process that measures, and the one that watches it

def worker(part, device):
    "Work through the jobs on stdin, one line each; answer each with a line of rows."
    import torch
    cuda, work = device == 'cuda', dict(kernels=kernel, limits=limit, training=training)[part]
    if not cuda: torch.set_num_threads(1)
    plain = ceilings(cuda) if part == 'kernels' else {}
    for line in sys.stdin:
        job = json.loads(line)
        try: rows = work(job, cuda, plain)
        except Exception as e: rows = failed(part, job, reason(e))
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.synchronize()  # raises if the context is lost, which ends this process
        print('ROWS ' + json.dumps(rows), flush=True)

def run(part, todo, device, keep, seconds, limit=30, command=None):
    "Measure `todo`, handing each job's rows to `keep`; jobs that `seconds` leave no time for are returned."
    end, todo = time.monotonic() + seconds, list(todo)
    while todo and time.monotonic() < end:
        own = [sys.executable, __file__, part, '--device', device, '--worker']
        p = subprocess.Popen(command or own, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=os.environ | dict(TORCHINDUCTOR_COMPILE_THREADS='1'))  # no grandchildren that outlive a kill
        errors, watch = [], None
        reader = threading.Thread(target=errors.extend, args=(p.stderr,), daemon=True)
        reader.start()
        def restart_watch(limit=limit, p=p):
            nonlocal watch
            if watch: watch.cancel()
            watch = threading.Timer(max(1, min(limit, end - time.monotonic())), p.kill)
            watch.start()
        restart_watch(3*limit)  # imports, and the first use of a GPU
        try:
            p.stdin.write(''.join(json.dumps(job) + '\n' for job in todo))
            p.stdin.close()
        except BrokenPipeError: pass
        for line in p.stdout:
            if not line.startswith('ROWS '): continue
            keep(json.loads(line[5:]))
            todo.pop(0)
            restart_watch()
        watch.cancel()
        code = p.wait()
        reader.join(5)  # what it said last is read by now, unless a grandchild holds the pipe
        if todo and time.monotonic() < end:
            last = next((l.strip() for l in reversed(errors) if l.strip()), 'no message')
            keep(failed(part, todo.pop(0), f'no answer in {limit} s' if code == -9 else last[:160]))
    return todo

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('parts', nargs='*', default=list(files), help=f"any of {', '.join(files)}; all by default")
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--small', action='store_true', help='sizes for a CPU')
    usual = ', '.join(f'{v} for {k}' for k,v in seconds.items())
    parser.add_argument('--seconds', type=float, help=f'time for each part; by default {usual}')
    parser.add_argument('--only', nargs='+', help='implementations to measure')
    parser.add_argument('--out', type=Path, default=here, help='folder of the CSV files')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(files): parser.error(f"unknown part {', '.join(sorted(unknown))}; use {', '.join(files)}")
    if args.worker: worker(args.parts[0], args.device)
    else:
        from ftcook.bench import merge_rows
        args.out.mkdir(parents=True, exist_ok=True)
        for part in args.parts:
            start, todo = time.perf_counter(), jobs(part, args.small, args.device == 'cuda')
            if args.only: todo = [j for j in todo if j['implementation'] in args.only]
            def keep(rows, part=part, start=start):
                merge_rows(args.out/files[part], rows, keys[part])
                last = rows[-1]
                what, ms = [last[k] for k in keys[part][1:]], last.get('ms', last.get('step_ms', ''))
                print(f'{time.perf_counter() - start:5.1f} s', *what, ms, last['status'], flush=True)
            left = run(part, todo, args.device, keep, args.seconds or seconds[part])
            print(f'{part}: {len(todo) - len(left)} of {len(todo)} jobs in {time.perf_counter() - start:.0f} s', flush=True)
