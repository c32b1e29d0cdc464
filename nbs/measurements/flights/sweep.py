"""Repeat the methods of lesson 08 with three seeds at three learning rates: what their order owes to chance and to the rate.

    python nbs/measurements/flights/sweep.py [--cards 4] [--minutes 8]

One run at a time on each card, so that times and memory are its own. What sweep.csv has without an error is not measured
again, unless --again is given; what is missing after `--minutes` is measured by the next call, on this machine or another.
DPO, GRPO and distillation start from the LoRA model of their seed: where its adapter is not at hand, it is trained again, and
its row is kept as it was."""
import argparse, functools, gc, itertools, json, os, statistics, subprocess, sys, time
from pathlib import Path
from fastcore.basics import AttrDict
from ftcook.bench import device_name, label, merge_rows, read_table
from ftcook.outputs import ends_cleanly, write_output
from ftcook.runtime import load_settings, quiet, run_folder
from ftcook.tasks import get_task, parse_answer
import methods as single

key = 'profile', 'method', 'factor', 'seed'
columns = (*key, *('learning_rate rows validation validation_requests exact_match requests forgetting minutes peak_gib step_ms '
                   'error device versions date').split())
sizes = dict(cpu=dict(rows=24, test=16, validation=8, batch_size=4, grpo_steps=2, grpo={}),
             gpu=dict(rows=1024, test=400, validation=200, batch_size=16, grpo_steps=12,
                      grpo=dict(per_device_train_batch_size=64, num_generations=8)))
repeated = 'lora full qlora ia3 adalora dpo grpo'.split()  # those whose rates are varied
once = 'base', 'prompt'  # nothing is trained
starts = dict(single.starts, distilled='lora')  # whose adapter it goes on from, or learns from

def all_jobs(methods, factors, seeds):
    "What there is to do, the usual rate first, and nothing before what it starts from."
    jobs = [(m, 1, 0) for m in once] + [(m, 1, s) for m in [*repeated, 'distilled'] for s in seeds]
    jobs += [(m, f, s) for f in factors if f != 1 for m in repeated for s in seeds]
    return [job for job in jobs if job[0] in methods]

def folder_of(work, job):
    "Where a run works. At the usual rate it has the name of its method, by which `methods.py` finds what to go on from."
    method, factor, seed = job
    return work/f'seed-{seed}'/(method if factor == 1 else f'{method}-{factor:g}')

def step_ms(model, tokens=20):
    "Median time of one forward pass over one token, adapters in place: what a user feels, in milliseconds."
    import torch
    one, times = torch.tensor([[1]], device=model.device), []
    with torch.inference_mode():
        for _ in range(tokens + 5):
            begin = time.perf_counter()
            model(one).logits.sum().item()
            times.append(time.perf_counter() - begin)
    return 1000*statistics.median(times[5:])

def taught(work, seed, settings, size, tokenizer):
    "Requests whose answers nobody wrote: the LoRA model of this seed answers them, right or wrong; what breaks the schema goes."
    import torch
    from ftcook.inference import load_adapter
    from ftcook.sft import generate_batch
    teacher = load_adapter(settings.model, folder_of(work, ('lora', 1, seed)), dtype=settings.dtype)
    task = get_task('flights')
    rows = task.rows(size['rows'], 'train', seed + 100)
    asked = [row['messages'][:-1] for row in rows]
    answers = generate_batch(teacher, tokenizer, asked, settings.max_new_tokens, settings.generation_batch_size)
    del teacher
    gc.collect()
    if torch.cuda.is_available(): torch.cuda.empty_cache()
    return [dict(row, messages=[*a, dict(role='assistant', content=text)]) for row,a,text in zip(rows, asked, answers)
            if not parse_answer(text, task.schema).errors]

def trained(job, model, tokenizer, rows, settings, size, work):
    "The model after training."
    method, folder = job[0], folder_of(work, job)
    what = model, tokenizer, rows, settings, folder
    if method == 'grpo': trainer = single.train_grpo(method, *what, size)
    elif method == 'dpo': trainer = single.train_dpo(method, *what)
    else: trainer = single.train_sft('lora' if method == 'distilled' else method, *what)
    trainer.train()
    if method == 'lora': trainer.model.save_pretrained(folder)
    return trainer.model

def with_examples(rows, examples):
    "The requests of `rows`, behind a few answered ones."
    shots = [turn for row in examples for turn in row['messages'][1:]]
    return [dict(row, messages=[row['messages'][0], *shots, *row['messages'][1:]]) for row in rows]

base_perplexity = {} # of each storage, which is the same for all runs

def measure(job, settings, size, work):
    "One run, from loading the model to its score."
    import torch
    from ftcook.quantization import load_model, perplexity
    from ftcook.runtime import load_tokenizer
    from ftcook.sft import score
    method, factor, seed = job
    task, tokenizer = get_task('flights'), load_tokenizer(settings.model)
    rows = task.rows(size['rows'], 'train', seed)
    # Chosen on requests like those of training, reported on other phrasings and cities.
    splits = dict(validation=task.rows(size['validation'], 'train', seed + 1000), test=task.rows(size['test'], 'test', 0))
    quantize = settings.quantize if method == 'qlora' else 'none'
    if method == 'distilled': rows = taught(work, seed, settings, size, tokenizer)
    torch.manual_seed(seed)
    model = load_model(settings.model, quantize=quantize, dtype=settings.dtype)
    def general(): return perplexity(model, tokenizer, single.general_text(), settings.perplexity_tokens)
    if quantize not in base_perplexity: base_perplexity[quantize] = general()
    if torch.cuda.is_available(): torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    if method not in once: model = trained(job, model, tokenizer, rows, settings, size, work)
    minutes, peak = (time.perf_counter() - begin)/60, single.peak_gib()
    model.eval()
    if method == 'prompt': splits = {k: with_examples(v, rows[:3]) for k,v in splits.items()}
    found = {k: score(model, tokenizer, v, settings, task)['exact_match'] for k,v in splits.items()}
    return dict(rows=0 if method in once else len(rows), learning_rate=0 if method in once else rate(method, settings),
        validation=round(found['validation'], 4), validation_requests=size['validation'], exact_match=round(found['test'], 4),
        requests=size['test'], forgetting=round(general()/base_perplexity[quantize], 3), minutes=round(minutes, 3),
        peak_gib=round(peak, 2), step_ms=round(step_ms(model), 2))

def rate(method, settings):
    "The learning rate that a run has, in `settings` that carry its factor."
    return float(f'{settings.learning_rate*single.rates.get(method, 1):.3g}')

def for_job(settings, size, job):
    "The settings of one run."
    _, factor, seed = job
    return AttrDict(settings | dict(learning_rate=settings.learning_rate*factor, seed=seed, batch_size=size['batch_size']))

def row_file(work, job): return work/'rows'/f'{job[0]}-{job[1]:g}-{job[2]}.json'

def claim(work, job):
    "Take a run for this process, unless another has it."
    try: os.close(os.open(row_file(work, job).with_suffix('.claim'), os.O_CREAT | os.O_EXCL))
    except FileExistsError: return False
    return True

def ready(work, job):
    "Is what it starts from there?"
    method, _, seed = job
    return method not in starts or row_file(work, (starts[method], 1, seed)).exists()

def to_do(jobs, done, profile, work):
    "The jobs that are not done yet, and before them the runs that they start from where the adapter is not at hand."
    left = [job for job in jobs if (profile, job[0], f'{job[1]:g}', str(job[2])) not in done]
    starting = {(starts[method], 1, seed) for method,_,seed in left if method in starts} - set(left)
    return sorted(job for job in starting if not row_file(work, job).exists()), left

def lane(profile, jobs, work, seconds):
    "Measure one run after the other, until none is left or the time is over."
    import torch
    quiet()
    settings, size, begin = load_settings(profile), sizes[profile], time.perf_counter()
    for job in itertools.chain(jobs, jobs): # twice: what was not ready the first time may be the second
        if time.perf_counter() - begin > seconds: return
        if not ready(work, job) or not claim(work, job): continue
        method, factor, seed = job
        row = dict.fromkeys(columns, '') | dict(profile=profile, method=method, factor=f'{factor:g}', seed=seed)
        try: row |= measure(job, for_job(settings, size, job), size, work)
        except Exception as e: row |= dict(error=f'{type(e).__name__}: {e}'.splitlines()[0][:200])
        gc.collect()
        if torch.cuda.is_available(): torch.cuda.empty_cache()
        row = label(**{k: v for k,v in row.items() if k not in ('device', 'versions', 'date')}, device=device_name())
        print(*job, row['exact_match'], row['minutes'], row['error'], flush=True)
        write_output(row_file(work, job), json.dumps(row))

def collect(work, table, jobs):
    "The rows of these jobs, as far as they were measured, into the table."
    rows = [json.loads(f.read_text()) for f in map(functools.partial(row_file, work), jobs) if f.exists()]
    merge_rows(table, rows, key)
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--profile', default='')
    parser.add_argument('--cards', type=int, default=1, help='GPUs to spread the runs over')
    parser.add_argument('--minutes', type=float, default=8, help='no run is begun after so long')
    parser.add_argument('--methods', nargs='+', default=[*once, *repeated, 'distilled'])
    parser.add_argument('--factors', type=float, nargs='+', default=[1, 1/3, 3], help='of the usual learning rate')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--table', type=Path, default=Path(__file__).parent/'sweep.csv')
    parser.add_argument('--again', action='store_true', help='measure what the table has already, too')
    parser.add_argument('--lane', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    profile = load_settings(args.profile).profile
    work, jobs = run_folder(profile)/'sweep', all_jobs(args.methods, [round(f, 3) for f in args.factors], args.seeds)
    (work/'rows').mkdir(parents=True, exist_ok=True)
    done = set() if args.again else {tuple(r[k] for k in key) for r in read_table(args.table) if not r['error']}
    starting, left = to_do(jobs, done, profile, work)
    if args.lane: lane(profile, starting + left, work, 60*args.minutes)
    else:
        if args.again:
            for f in (row_file(work, job) for job in left): f.unlink(missing_ok=True)
        for f in work.glob('rows/*.claim'): # of runs that were stopped, or failed
            row = f.with_suffix('.json')
            if not row.exists() or json.loads(row.read_text())['error']: f.unlink()
        own = [sys.executable, __file__, *sys.argv[1:], '--lane']
        def seeing(card): return os.environ | (dict(CUDA_VISIBLE_DEVICES=str(card)) if args.cards > 1 else {})
        def on(card): return subprocess.Popen(own, env=seeing(card))
        lanes = [on(card) for card in range(args.cards)]
        try:
            with ends_cleanly():
                for process in lanes: process.wait()
        finally: # of those that a signal leaves running
            for process in lanes: process.terminate()
        rows = collect(work, args.table, left)
        failed = [r for r in rows if r['error']]
        print(f'{len(rows)} runs measured, {len(failed)} failed', *(f"{r['method']}: {r['error']}" for r in failed), sep='\n')
