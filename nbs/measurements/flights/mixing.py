"""Train the flight task with general rows mixed in, in another order, or with wrong labels: what is learned and forgotten.

    python nbs/measurements/flights/mixing.py [--profile cpu] [--variants none mix10] [--seeds 0 1 2] [--gpus 4 --at-once 2]

Rows that are in mixing.csv already are not measured again, unless --again is given.
"""
import argparse, json, os, sys, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows, read_table, run_apart
from ftcook.runtime import load_settings, quiet
from ftcook.tasks import get_task

here = Path(__file__).parent
variants = dict(none={}, mix10=dict(general=.1), mix30=dict(general=.3), own10=dict(general=.1, own=True),
    slow=dict(rate=.25), slow_mix10=dict(rate=.25, general=.1), easy_first=dict(order='easy'), hard_first=dict(order='hard'),
    small=dict(part=.25), small_again=dict(part=.25, epochs=4), noisy10=dict(noise=.1), noisy30=dict(noise=.3))
sizes = dict(cpu=dict(rows=32, batch_size=4, test_rows=10, tokens=256),
             gpu=dict(rows=2048, batch_size=16, test_rows=400, tokens=16384))
columns = ('variant seed rows general noise order epochs steps learning_rate minutes exact_match low high requests test_loss '
           'faq_before faq prose_before prose model error profile device versions date').split()

def training_rows(variant, size, seed, model, tokenizer):
    "The rows of a variant, in the order in which they are to be read."
    from ftcook.mixing import answer_losses, easy_first, general_rows, mix, own_answers, with_noise
    rows = get_task('flights').rows(round(size['rows']*variant.get('part', 1)), 'train', seed)
    if share := variant.get('noise'): rows = with_noise(rows, share, seed)
    if order := variant.get('order'):
        rows = easy_first(rows, answer_losses(model, tokenizer, rows))
        return rows if order == 'easy' else rows[::-1]
    if not (share := variant.get('general')): return rows
    general = general_rows('train')
    if variant.get('own'):
        wanted = round(len(rows)*share/(1 - share))
        general = own_answers(model, tokenizer, general[:wanted])
    return mix(rows, general, share, seed)

def general_texts():
    "The two texts that forgetting is measured on."
    from ftcook.mixing import general_rows, plain_text
    prose = (here.parents[1]/'data'/'plain_prose.jsonl').read_text(encoding='utf-8').splitlines()
    return dict(faq=plain_text(general_rows('test')), prose='\n\n'.join(json.loads(line)['text'] for line in prose))

def measure(name, seed, settings):
    "One run, from loading the model to its scores, as a row of mixing.csv."
    quiet()
    import torch
    from ftcook.lora import lora_config
    from ftcook.mixing import answer_losses
    from ftcook.quantization import load_model, perplexity
    from ftcook.runtime import load_tokenizer
    from ftcook.sft import score, sft_config, sft_trainer
    variant, size, task = variants[name], sizes[settings.profile], get_task('flights')
    tokenizer, model = load_tokenizer(settings.model), load_model(settings.model, dtype=settings.dtype)
    texts = general_texts()
    def forgetting(suffix=''):
        return {k + suffix: round(perplexity(model, tokenizer, text, size['tokens']), 3) for k,text in texts.items()}
    before = forgetting('_before')
    rows = training_rows(variant, size, seed, model, tokenizer)
    rate, start = settings.learning_rate*variant.get('rate', 1), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        args = sft_config(settings, folder, seed=seed, per_device_train_batch_size=size['batch_size'], learning_rate=rate,
            num_train_epochs=variant.get('epochs', 1), disable_tqdm=True,
            train_sampling_strategy='sequential' if 'order' in variant else 'random')
        torch.manual_seed(seed)
        lora = lora_config(settings.rank, int(settings.alpha_over_rank*settings.rank))
        trainer = sft_trainer(model, tokenizer, rows, args, lora)
        trainer.train()
    minutes, model = (time.perf_counter() - start)/60, trainer.model.eval()
    test = task.rows(size['test_rows'], 'test', settings.seed)
    result = score(model, tokenizer, test, settings, task)
    loss = sum(answer_losses(model, tokenizer, test))/len(test)
    figures = {k: round(result[k], 3) for k in ('exact_match', 'low', 'high')}
    figures |= dict(requests=result['n'], test_loss=round(loss, 4))
    changed = {k: variant.get(k, usual) for k,usual in dict(general=0, noise=0, order='shuffled', epochs=1).items()}
    return dict(changed, rows=len(rows), steps=trainer.state.global_step, learning_rate=rate, minutes=round(minutes, 2),
                **figures, **before, **forgetting())

def apart(name, seed, settings, card):
    "One run in a process of its own; a run that fails leaves a row that says why."
    said = label(variant=name, seed=seed, model=settings.model, profile=settings.profile, device=device_name())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)/'row.json'
        command = [sys.executable, __file__, '--profile', settings.profile, '--worker', name, str(seed), str(out)]
        env = os.environ | ({} if card is None else dict(CUDA_VISIBLE_DEVICES=str(card)))
        why = run_apart(command, env=env)
        return dict.fromkeys(columns, '') | said | (dict(error=why) if why else json.loads(out.read_text()))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--profile', default='')
    parser.add_argument('--variants', nargs='+', default=list(variants), choices=variants)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--gpus', type=int, default=0, help='cards to share the runs between; 0: leave it to torch')
    parser.add_argument('--at-once', type=int, default=1, help='runs on each card at the same time')
    parser.add_argument('--table', type=Path, default=here/'mixing.csv', help='where the rows go')
    parser.add_argument('--again', action='store_true', help='measure what is known already, too')
    parser.add_argument('--worker', nargs=3, metavar=('VARIANT', 'SEED', 'FILE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = load_settings(args.profile)
    if args.worker:
        name, seed, out = args.worker
        Path(out).write_text(json.dumps(measure(name, int(seed), settings)))
        sys.exit()
    known = set() if args.again else {(r['profile'], r['variant'], r['seed']) for r in read_table(args.table) if not r['error']}
    jobs = [(v, s) for s in args.seeds for v in args.variants if (settings.profile, v, str(s)) not in known]
    keep = threading.Lock()
    def work(place):
        for name,seed in jobs[place::workers]:
            row = apart(name, seed, settings, place % args.gpus if args.gpus else None)
            with keep: merge_rows(args.table, [row], ('profile', 'variant', 'seed'))
            shown = 'variant seed minutes exact_match test_loss faq prose error'.split()
            print({k: row[k] for k in shown}, flush=True)
    workers = max(1, args.gpus)*args.at_once
    with ThreadPoolExecutor(workers) as pool: list(pool.map(work, range(workers)))
