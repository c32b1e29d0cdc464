"""Specialise, instruct, prefer: the stages one behind the other on the flight task, measured after each.

    python nbs/measurements/flights/chain.py [--profile cpu] [--paths chain direct] [--seeds 0 1 2] [--gpus 4 --at-once 2]

Paths that are in chain.csv already are not run again, unless --again is given.
"""
import argparse, json, os, sys, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows, read_table, run_apart
from ftcook.runtime import load_settings, quiet
from ftcook.tasks import get_task

here = Path(__file__).parent
paths = dict(chain=('specialise', 'instruct', 'prefer'), direct=('instruct', 'prefer'), preference_first=('prefer', 'instruct'))
sizes = dict(cpu=dict(texts=96, rows=24, confirmed=16, pairs=16, test_rows=12, tokens=512, batch_size=4),
             gpu=dict(texts=4096, rows=512, confirmed=256, pairs=192, test_rows=400, tokens=16384, batch_size=16))
columns = ('path position stage seed rows minutes domain prose json_loss brand brand_said exact_match low high requests '
           'model error profile device versions date').split()

def stage_trainer(stage, model, tokenizer, size, settings, seed, folder):
    "The trainer of a stage, and how many rows it gets."
    from ftcook.chain import instruction_rows, join_texts, text_trainer, voice_pairs
    from ftcook.dpo import dpo_config, dpo_trainer
    from ftcook.sft import sft_config, sft_trainer
    task, how = get_task('flights'), dict(seed=seed, disable_tqdm=True)
    if stage == 'prefer':
        pairs = voice_pairs(task.rows(size['pairs'], 'train', seed + 200))
        return dpo_trainer(model, tokenizer, pairs, dpo_config(settings, folder, **how)), len(pairs)
    how |= dict(per_device_train_batch_size=size['batch_size'])
    if stage == 'instruct':
        rows = instruction_rows(task.rows(size['rows'], 'train', seed + 100), size['confirmed'], seed)
        return sft_trainer(model, tokenizer, rows, sft_config(settings, folder, **how)), len(rows)
    texts = join_texts([row['messages'][1]['content'] for row in task.rows(size['texts'], 'train', seed)])
    args = sft_config(settings, folder, learning_rate=settings.learning_rate/4, max_length=256, **how)
    return text_trainer(model, tokenizer, texts, args), len(texts)

def figures(model, tokenizer, size, settings):
    "What the model can do, with what it writes."
    import torch
    from ftcook.chain import stage_figures
    from ftcook.sft import generate_batch, score
    from ftcook.tasks.flights import confirmation, voice_of
    task = get_task('flights')
    rows = task.rows(size['test_rows'], 'test', settings.seed)
    lines = (here.parents[1]/'data'/'plain_prose.jsonl').read_text(encoding='utf-8').splitlines()
    found = stage_figures(model, tokenizer, rows, '\n\n'.join(json.loads(line)['text'] for line in lines), size['tokens'])
    result = score(model, tokenizer, rows, settings, task)
    asked = [confirmation(row, 'brand')['messages'][:-1] for row in rows]
    torch.manual_seed(0)
    said = generate_batch(model, tokenizer, asked, 24, settings.generation_batch_size, do_sample=True, top_k=0)
    brand = sum(voice_of(answer) == 'brand' for answer in said)/len(said)
    return ({k: round(v, 4) for k,v in found.items()} | {k: round(result[k], 3) for k in ('exact_match', 'low', 'high')}
            | dict(brand_said=round(brand, 3), requests=result['n']))

def measure(path, seed, settings):
    "All stages of a path, one row each, and one before the first."
    quiet()
    import torch
    from peft import get_peft_model
    from ftcook.lora import lora_config
    from ftcook.quantization import load_model
    from ftcook.runtime import load_tokenizer
    size, tokenizer = sizes[settings.profile], load_tokenizer(settings.model)
    torch.manual_seed(seed)
    lora = lora_config(settings.rank, int(settings.alpha_over_rank*settings.rank))
    model = get_peft_model(load_model(settings.model, dtype=settings.dtype), lora)
    out = [dict(position=0, stage='nothing', rows=0, minutes=0) | figures(model, tokenizer, size, settings)]
    for position,stage in enumerate(paths[path], 1):
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trainer, rows = stage_trainer(stage, model, tokenizer, size, settings, seed, folder)
            trainer.train()
        minutes, model = round((time.perf_counter() - begin)/60, 2), trainer.model
        if 'ref' in model.peft_config: model.delete_adapter('ref')
        out.append(dict(position=position, stage=stage, rows=rows, minutes=minutes) | figures(model, tokenizer, size, settings))
    return out

def apart(path, seed, settings, card):
    "One path in a process of its own; one that fails leaves a row that says why."
    said = label(path=path, seed=seed, model=settings.model, profile=settings.profile, device=device_name())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)/'rows.json'
        command = [sys.executable, __file__, '--profile', settings.profile, '--worker', path, str(seed), str(out)]
        why = run_apart(command, env=os.environ | ({} if card is None else dict(CUDA_VISIBLE_DEVICES=str(card))))
        found = [dict(position=0, error=why)] if why else json.loads(out.read_text())
    return [dict.fromkeys(columns, '') | said | row for row in found]

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--profile', default='')
    parser.add_argument('--paths', nargs='+', default=list(paths), choices=paths)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--gpus', type=int, default=0, help='cards to share the runs between; 0: leave it to torch')
    parser.add_argument('--at-once', type=int, default=1, help='runs on each card at the same time')
    parser.add_argument('--table', type=Path, default=here/'chain.csv', help='where the rows go')
    parser.add_argument('--again', action='store_true', help='run what is known already, too')
    parser.add_argument('--worker', nargs=3, metavar=('PATH', 'SEED', 'FILE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = load_settings(args.profile)
    if args.worker:
        path, seed, out = args.worker
        Path(out).write_text(json.dumps(measure(path, int(seed), settings)))
        sys.exit()
    known = set() if args.again else {(r['profile'], r['path'], r['seed']) for r in read_table(args.table) if not r['error']}
    jobs = [(p, s) for s in args.seeds for p in args.paths if (settings.profile, p, str(s)) not in known]
    keep = threading.Lock()
    def work(place):
        for path,seed in jobs[place::workers]:
            rows = apart(path, seed, settings, place % args.gpus if args.gpus else None)
            with keep: merge_rows(args.table, rows, ('profile', 'path', 'seed', 'position'))
            for row in rows: print({k: v for k,v in row.items() if k not in ('versions', 'model', 'device', 'date')}, flush=True)
    workers = max(1, args.gpus)*args.at_once
    with ThreadPoolExecutor(workers) as pool: list(pool.map(work, range(workers)))
