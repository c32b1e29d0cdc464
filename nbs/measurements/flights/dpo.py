"""Teach the flight model to ask for what is missing, any of four fields, and keep each run's rates.

    python nbs/measurements/flights/dpo.py [--profile gpu] [--seeds 0 1 2] [--ask-rows 64 8192] [--losses sft] [--jobs 3]

Each seed, size and loss is a run in a process of its own; they share the GPUs, `jobs` on each.
"""
import argparse, itertools, json, os, subprocess, sys, tempfile, time
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows
from ftcook.runtime import load_settings, load_tokenizer, quiet, run_folder
from ftcook.tasks.flights import request_fields, task

here = Path(__file__).parent
losses = {'sigmoid+sft': {}, 'sft': dict(loss_type=['sft'], loss_weights=[1.0])} # lesson 06b's; the chosen answers alone
key = ('device', 'gap_fields', 'ask_rows', 'loss', 'seed', 'beta', 'learning_rate')

def tuned(settings):
    "Lesson 04's adapter; trained if it is not there."
    folder = run_folder(settings.profile)/'adapters'/task.name
    if not (folder/'adapter_config.json').exists():
        code = ('from ftcook.runtime import load_settings; from ftcook.sft import train_task; '
                'from ftcook.tasks.flights import task; '
                f'train_task(task, load_settings({settings.profile!r}), {str(folder)!r}, disable_tqdm=True)')
        # on one card: with several, the trainer would split each batch over them
        subprocess.run([sys.executable, '-c', code], env=os.environ | dict(CUDA_VISIBLE_DEVICES='0'), check=True)
    return folder

def rates(model, tokenizer, settings):
    "Inventions on incomplete requests; score and needless questions on complete ones."
    from ftcook.asking import invention_rate
    from ftcook.sft import generate_batch
    from ftcook.tasks import is_clarification
    gaps, complete = task.incomplete_rows(settings.incomplete_rows, 'test'), task.rows(settings.test_rows, 'test')
    def answers(rows):
        return generate_batch(model, tokenizer, [row['messages'][:-1] for row in rows], 56, settings.generation_batch_size)
    filled = answers(complete)
    return invention_rate(answers(gaps), gaps), task.score(filled, complete), sum(map(is_clarification, filled))

def measure(settings, loss, folder):
    "One run, as two rows of dpo.csv: after the SFT rows, and after the pairs."
    quiet()
    from ftcook.asking import asking_config, asking_rows, preference_pairs, teach_asking
    from ftcook.dpo import dpo_trainer
    from ftcook.inference import load_adapter
    model = load_adapter(settings.model, tuned(settings), quantize=settings.quantize, dtype=settings.dtype)
    tokenizer, found = load_tokenizer(settings.model), []
    before = rates(model, tokenizer, settings)
    def keep(loss, pairs, minutes, batch_size):
        inventions, score, needless = rates(model, tokenizer, settings)
        def three(d, *names): return [round(d[name], 3) for name in names]
        after, low, high, right = three(inventions, 'invention_rate', 'low', 'high', 'asked_right')
        match, match_low, match_high = three(score, 'exact_match', 'low', 'high')
        found.append(label(profile=settings.profile, device=device_name(), seed=settings.seed, ask_rows=settings.ask_rows,
            pairs=pairs, gap_fields=len(request_fields), loss=loss, beta=settings.beta, batch_size=batch_size,
            learning_rate=settings.asking_learning_rate, train_minutes=round(minutes, 2),
            inventions_before=round(before[0]['invention_rate'], 3), inventions_after=after, inventions_low=low,
            inventions_high=high, asked_right=right, requests=inventions['n'],
            exact_match_before=round(before[1]['exact_match'], 3), exact_match_after=match, exact_match_low=match_low,
            exact_match_high=match_high, needless=needless, complete_requests=score['n']))
        print(found[-1], flush=True)
    pairs = preference_pairs(model, tokenizer, settings, task)
    start = time.perf_counter()
    if settings.ask_rows:
        trainer = teach_asking(model, tokenizer, asking_rows(task, settings), settings, folder, disable_tqdm=True)
        model = trainer.model
        keep('rows alone', 0, (time.perf_counter() - start)/60, trainer.args.per_device_train_batch_size)
    trainer = dpo_trainer(model, tokenizer, pairs, asking_config(settings, folder, disable_tqdm=True, **losses[loss]))
    start = time.perf_counter()
    trainer.train()
    model = trainer.model
    keep(loss, len(pairs), (time.perf_counter() - start)/60, settings.asking_batch_size)
    return found

def measure_all(args, profile):
    "Every combination, a process each, spread over the GPUs; rows are kept as they come."
    import torch
    waiting, running = list(itertools.product(args.ask_rows, args.losses, args.seeds)), []
    cards = max(1, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            busy = [card for *_,card in running]
            free = min(range(cards), key=busy.count)
            if waiting and busy.count(free) < args.jobs:
                what = rows, loss, seed = waiting.pop(0)
                out = Path(folder)/f'{rows}-{loss}-{seed}.json'
                command = [sys.executable, __file__, '--profile', profile, '--worker', str(out), '--ask-rows', str(rows),
                           '--losses', loss, '--seeds', str(seed)]
                process = subprocess.Popen(command, env=os.environ | dict(CUDA_VISIBLE_DEVICES=str(free)))
                running.append((process, what, out, free))
                continue
            time.sleep(1)
            for one in [o for o in running if o[0].poll() is not None]:
                running.remove(one)
                if one[2].exists(): merge_rows(args.table, json.loads(one[2].read_text()), key)
                else: print(f'failed: {one[1]}', file=sys.stderr)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--profile', default='')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of rows, pairs and training; the test stays')
    parser.add_argument('--ask-rows', type=int, nargs='+', default=[64, 8192], help='SFT rows before the pairs')
    parser.add_argument('--losses', nargs='+', choices=losses, default=list(losses), help='sft: the chosen answers alone')
    parser.add_argument('--jobs', type=int, default=3, help='runs at once on each GPU')
    parser.add_argument('--table', type=Path, default=here/'dpo.csv', help='where the rows go')
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = load_settings(args.profile)
    if args.worker:
        settings.update(seed=args.seeds[0], ask_rows=args.ask_rows[0])
        with tempfile.TemporaryDirectory() as folder: rows = measure(settings, args.losses[0], folder)
        args.worker.write_text(json.dumps(rows))
    else:
        tuned(settings)
        measure_all(args, settings.profile)
