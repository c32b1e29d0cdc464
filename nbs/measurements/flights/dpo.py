"""Teach the flight model to ask for what is missing, any of four fields, and keep each run's rates.

    python nbs/measurements/flights/dpo.py [--profile gpu] [--recipes joint free twins] [--losses sigmoid+sft] [--jobs 3]

A recipe says which rows teach asking; the pairs of each loss, if any, go on from that model. Each recipe and seed is a run in
a process of its own; they share the GPUs, `jobs` on each. Rows go to dpo.csv as they come.
The mixed recipe was measured with --ask-rows 64 and 8192, --rate 5e-4 --pair-rate 5e-4 --mistakes 1024.
"""
import argparse, itertools, json, os, random, subprocess, sys, tempfile, time
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows
from ftcook.runtime import load_settings, load_tokenizer, quiet, run_folder
from ftcook.tasks.flights import request_fields, task

here = Path(__file__).parent
losses = {'sigmoid+sft': {}, 'sft': dict(loss_type=['sft'], loss_weights=[1.0])} # lesson 06b's; the chosen answers alone
recipes = dict(mixed='incomplete rows beside other, complete ones', twins='twins of the plain grammar',
               free='twins, most of them built freely', joint="free twins among lesson 04's rows, from the base model")
key = ('device', 'gap_fields', 'recipe', 'ask_rows', 'loss', 'seed', 'beta', 'learning_rate')

def tuned(settings):
    "Lesson 04's adapter; trained if it is not there."
    folder = run_folder(settings.profile)/'adapters'/task.name
    if not (folder/'adapter_config.json').exists():
        code = ('from ftcook.runtime import load_settings; from ftcook.sft import train_task; '
                'from ftcook.tasks.flights import task; '
                f'train_task(task, load_settings({settings.profile!r}), {str(folder)!r}, disable_tqdm=True)')
        # on one card: with several, the trainer would split each batch over them
        one = dict(CUDA_VISIBLE_DEVICES=os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0])
        subprocess.run([sys.executable, '-c', code], env=os.environ | one, check=True)
    return folder

def adapted(settings, folder):
    from ftcook.inference import load_adapter
    return load_adapter(settings.model, folder, quantize=settings.quantize, dtype=settings.dtype)

def rates(model, tokenizer, settings, answers_file=None):
    "Inventions on incomplete requests; score and needless questions on complete ones. For test and validation."
    from ftcook.asking import invention_rate
    from ftcook.sft import generate_batch
    from ftcook.tasks import is_clarification
    sets = [(split, some) for split,n in (('test', settings.test_rows), ('validation', settings.validation_rows))
            for some in (task.incomplete_rows(settings.incomplete_rows, split), task.rows(n, split))]
    asked = [row['messages'][:-1] for _,some in sets for row in some]
    answers = iter(generate_batch(model, tokenizer, asked, 56, 5*settings.generation_batch_size))
    found, kept = {}, []
    for (split, gaps), (_, complete) in zip(sets[::2], sets[1::2]):
        on_gaps, filled = ([next(answers) for _ in some] for some in (gaps, complete))
        kept += [(split, row['messages'][1]['content'], answer, row['messages'][-1]['content'])
                 for row,answer in zip(gaps + complete, on_gaps + filled)]
        found[split] = dict(asked=invention_rate(on_gaps, gaps), score=task.score(filled, complete),
                            needless=sum(map(is_clarification, filled)))
    if answers_file: Path(answers_file).write_text(json.dumps(kept, ensure_ascii=False))
    return found

def before(settings, tokenizer):
    "The rates of lesson 04's model, measured once."
    found = run_folder(settings.profile)/'asking_before.json'
    if not found.exists():
        some = rates(adapted(settings, tuned(settings)), tokenizer, settings)['test']
        found.write_text(json.dumps([some['asked']['invention_rate'], some['score']['exact_match']]))
    return json.loads(found.read_text())

def rows_of(recipe, settings):
    "What the first stage reads, but for the joint one."
    n, seed = settings.ask_rows, settings.seed
    from ftcook.asking import asking_rows
    if recipe == 'free': return asking_rows(task, settings)
    if recipe == 'twins': return task.twin_rows(n, 'train', seed + 5, free=0)
    rows = task.incomplete_rows(n//2, 'train', seed + 5) + task.rows(n - n//2, 'train', seed + 6) # mixed
    random.Random(seed).shuffle(rows)
    return rows

def first_stage(recipe, tokenizer, settings, folder):
    "The trainer of the rows, after training; its adapter is in `folder`."
    from ftcook.asking import teach_asking, train_asking
    if recipe == 'joint': return train_asking(task, settings, folder, disable_tqdm=True)
    model = adapted(settings, tuned(settings))
    return teach_asking(model, tokenizer, rows_of(recipe, settings), settings, folder, disable_tqdm=True)

def pairs_of(recipe, model, tokenizer, settings):
    "Preference pairs, from the mistakes of lesson 04's model: of lesson 06b, or made of twins."
    from ftcook.asking import invention_pairs, needless_questions, preference_pairs
    if recipe == 'mixed': return preference_pairs(model, tokenizer, settings, task)
    free = dict(free=0) if recipe == 'twins' else {}
    twins = task.twin_rows(2*settings.mistake_pairs, 'train', settings.seed + 100, **free)
    pairs = invention_pairs(model, tokenizer, twins[1::2], settings)
    pairs += needless_questions(twins[::2], task.request_fields, settings.seed)
    random.Random(settings.seed).shuffle(pairs)
    return pairs

def measure(settings, args, recipe, folder):
    "One run, as rows of dpo.csv: after the rows, and after the pairs of each loss. They are written as they come."
    quiet()
    from ftcook.asking import asking_config
    from ftcook.dpo import dpo_trainer
    tokenizer, found = load_tokenizer(settings.model), []
    def keep(model, loss, pairs, seconds, batch_size, rate):
        answers = args.answers and args.answers/f'{recipe}-{loss}-{settings.seed}.json'
        after = rates(model.eval(), tokenizer, settings, answers)
        def three(d, *names): return [round(d[name], 3) for name in names]
        test, validation, (inventions, match) = after['test'], after['validation'], before(settings, tokenizer)
        row = label(profile=settings.profile, device=device_name(), seed=settings.seed, recipe=recipe,
            ask_rows=settings.ask_rows, pairs=pairs, gap_fields=len(request_fields), loss=loss, beta=settings.beta,
            batch_size=batch_size, learning_rate=rate, train_minutes=round(seconds/60, 2), inventions_before=round(inventions, 3))
        row |= zip(('inventions_after', 'inventions_low', 'inventions_high', 'asked_right'),
                   three(test['asked'], 'invention_rate', 'low', 'high', 'asked_right'))
        row |= dict(requests=test['asked']['n'], exact_match_before=round(match, 3))
        row |= zip(('exact_match_after', 'exact_match_low', 'exact_match_high'),
                   three(test['score'], 'exact_match', 'low', 'high'))
        row |= dict(needless=test['needless'], complete_requests=test['score']['n'],
            inventions_validation=round(validation['asked']['invention_rate'], 3),
            exact_match_validation=round(validation['score']['exact_match'], 3), needless_validation=validation['needless'])
        found.append({k: v for k,v in row.items() if k not in ('versions', 'date')} | {k: row[k] for k in ('versions', 'date')})
        print({k: v for k,v in found[-1].items() if k not in ('versions', 'device', 'profile')}, flush=True)
        args.worker.with_suffix('.part').write_text(json.dumps(found))
        args.worker.with_suffix('.part').replace(args.worker)
    start = time.perf_counter()
    trainer = first_stage(recipe, tokenizer, settings, folder)
    keep(trainer.model, 'rows alone', 0, time.perf_counter() - start, trainer.args.per_device_train_batch_size,
         trainer.args.learning_rate)
    if args.losses: pairs = pairs_of(recipe, adapted(settings, tuned(settings)), tokenizer, settings)
    for loss in args.losses:
        how = dict(losses[loss], learning_rate=args.pair_rate, disable_tqdm=True)
        with tempfile.TemporaryDirectory() as logs:
            trainer = dpo_trainer(adapted(settings, folder), tokenizer, pairs, asking_config(settings, logs, **how))
            start = time.perf_counter()
            trainer.train()
        keep(trainer.model, loss, len(pairs), time.perf_counter() - start, settings.asking_batch_size, how['learning_rate'])

def measure_all(args, own):
    "Every combination, a process each, spread over the GPUs; rows are kept as they come."
    import torch
    waiting, running, seen = list(itertools.product(args.recipes, args.seeds)), [], {}
    cards = os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(max(1, torch.cuda.device_count()))))).split(',')
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            busy = [card for *_,card in running]
            free = min(cards, key=busy.count)
            if waiting and busy.count(free) < args.jobs:
                what = recipe, seed = waiting.pop(0)
                out = Path(folder)/f'{recipe}-{seed}.json'
                command = [sys.executable, __file__, *own, '--worker', str(out), '--recipes', recipe, '--seeds', str(seed)]
                process = subprocess.Popen(command, env=os.environ | dict(CUDA_VISIBLE_DEVICES=free))
                running.append((process, what, out, free))
                continue
            time.sleep(1)
            for one in list(running):
                process, what, out, _ = one
                ended = process.poll() is not None
                if out.exists() and (rows := json.loads(out.read_text())) != seen.get(out):
                    seen[out] = rows
                    merge_rows(args.table, rows, key)
                if ended:
                    running.remove(one)
                    if process.returncode: print(f'failed: {what}', file=sys.stderr)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--profile', default='')
    parser.add_argument('--recipes', nargs='+', default=['joint'], choices=recipes,
                        help='; '.join(f'{k}: {v}' for k,v in recipes.items()))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of rows, pairs and training; the test stays')
    parser.add_argument('--ask-rows', type=int, default=16384, help='rows that teach asking, half of them incomplete')
    parser.add_argument('--rate', type=float, default=1e-3, help="peak learning rate of the rows; joint has lesson 04's")
    parser.add_argument('--pair-rate', type=float, default=2e-4, help='the same of the pairs')
    parser.add_argument('--mistakes', type=int, default=256, help='incomplete requests to make pairs of; twins: as many complete')
    parser.add_argument('--losses', nargs='*', choices=losses, default=[], help='of the pairs; sft: the chosen answers alone')
    parser.add_argument('--jobs', type=int, default=3, help='runs at once on each GPU')
    parser.add_argument('--table', type=Path, default=here/'dpo.csv', help='where the rows go')
    parser.add_argument('--answers', type=Path, help='a folder for what the models wrote')
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = load_settings(args.profile)
    settings.update(ask_rows=args.ask_rows, asking_learning_rate=args.rate, mistake_pairs=args.mistakes)
    if args.answers: args.answers.mkdir(parents=True, exist_ok=True)
    if args.worker:
        settings.update(seed=args.seeds[0])
        with tempfile.TemporaryDirectory() as folder: measure(settings, args, args.recipes[0], folder)
    else:
        before(settings, load_tokenizer(settings.model))
        measure_all(args, sys.argv[1:])
