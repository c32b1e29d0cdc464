"""Search learning rate, rank and alpha for the flight task: TPE with the median rule, random draws, then seeds and the test.

    python nbs/measurements/flights/search.py [--profile cpu] [--trials 24] [--gpus 4 --at-once 2]

The studies are kept in runs/<profile>/search/*.log and go on where they stopped; rows in search.csv are replaced.
"""
import argparse, json, os, subprocess, sys, tempfile
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows, pinned
from ftcook.runtime import load_settings, quiet, run_folder
from ftcook.tasks import get_task

here = Path(__file__).parent
sizes = dict(cpu=dict(rows=16, batch_size=4, validation_rows=8, test_rows=8, evaluations=2),
             gpu=dict(rows=1024, batch_size=16, validation_rows=200, test_rows=400, evaluations=4))
columns = ('study number state learning_rate r alpha_over_rank seed steps validation_loss exact_match low high requests rows '
           'model error profile device versions date').split()

def train(settings, chosen, seed, callbacks=None):
    "One run with the chosen settings, evaluated on the validation split as it goes."
    import torch
    from ftcook.lora import lora_config
    from ftcook.quantization import load_model
    from ftcook.runtime import load_tokenizer
    from ftcook.sft import sft_config, sft_trainer
    task, size = get_task('flights'), sizes[settings.profile]
    tokenizer, model = load_tokenizer(settings.model), load_model(settings.model, dtype=settings.dtype)
    rows, steps = task.rows(size['rows'], 'train', settings.seed), size['rows']//size['batch_size']
    held_out = task.rows(size['validation_rows'], 'validation', settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        args = sft_config(settings, folder, seed=seed, learning_rate=chosen['learning_rate'], disable_tqdm=True,
            per_device_train_batch_size=size['batch_size'], per_device_eval_batch_size=50, eval_strategy='steps',
            eval_steps=steps//size['evaluations'])
        torch.manual_seed(seed)
        trainer = sft_trainer(model, tokenizer, rows, args, lora_config(chosen['r'], chosen['lora_alpha']), validation=held_out,
                              callbacks=callbacks)
        trainer.train()
    return trainer

def losses(trainer): return {o['step']: o['eval_loss'] for o in trainer.state.log_history if 'eval_loss' in o}

def work(name, path, trials, settings, worker):
    "Take trials from a study until it has enough of them."
    quiet()
    from ftcook.search import PruneCallback, go_on, open_study, search_space
    seed = settings.seed + 1000*worker + 500*(name == 'random') # else both studies begin with the same draws
    study = open_study(path, name, seed, random=name == 'random', alone=False)
    def objective(trial):
        chosen = search_space(trial, settings.learning_rate)
        return list(losses(train(settings, chosen, settings.seed, [PruneCallback(trial)])).values())[-1]
    go_on(study, objective, trials)

def final(chosen, seed, out, settings):
    "Train with chosen settings and a seed, and read the test split."
    quiet()
    from ftcook.sft import score
    trainer, size = train(settings, chosen, seed), sizes[settings.profile]
    test = get_task('flights').rows(size['test_rows'], 'test', settings.seed)
    result = score(trainer.model.eval(), trainer.processing_class, test, settings, 'flights')
    figures = {k: round(result[k], 3) for k in ('exact_match', 'low', 'high')}
    Path(out).write_text(json.dumps(dict(figures, requests=result['n'], steps=trainer.state.global_step,
        validation_loss=round(list(losses(trainer).values())[-1], 4))))

def start(settings, card, *args):
    "This script again, as a worker on one card."
    env = os.environ | ({} if card is None else dict(CUDA_VISIBLE_DEVICES=str(card)))
    return subprocess.Popen([sys.executable, __file__, '--profile', settings.profile, *map(str, args)], env=env)

def row(settings, **more):
    said = label((*pinned, 'optuna'), rows=sizes[settings.profile]['rows'], model=settings.model, profile=settings.profile,
                 device=device_name())
    return dict.fromkeys(columns, '') | said | more

def study_rows(name, study, settings):
    "Its trials as rows."
    for t in study.trials:
        if t.state.name not in ('COMPLETE', 'PRUNED', 'FAIL') or 'alpha_over_rank' not in t.params: continue
        steps, loss = max(t.intermediate_values.items(), default=(0, ''))
        yield row(settings, study=name, number=t.number, state=t.state.name, seed=settings.seed, steps=steps,
            validation_loss=loss and round(loss, 4), error='failed' if t.state.name == 'FAIL' else '', **t.params)

def run_study(name, args, settings, cards):
    "A whole study, shared between the cards."
    from ftcook.search import open_study
    path = run_folder(settings.profile)/'search'/f'{name}.log'
    open_study(path, name, settings.seed, random=name == 'random')  # closes what was killed
    jobs = [start(settings, card, '--trials', args.trials, '--work', name, path, i) for i,card in enumerate(cards)]
    if failed := [job.wait() for job in jobs if job.wait()]: print(f'{name}: {len(failed)} of {len(jobs)} workers failed')
    study = open_study(path, name, settings.seed, random=name == 'random')
    merge_rows(args.table, list(study_rows(name, study, settings)), ('profile', 'study', 'number'))
    return study

def run_finals(study, args, settings, cards):
    "The best settings and the usual ones, with three seeds each."
    usual = dict(learning_rate=settings.learning_rate, r=settings.rank, alpha_over_rank=settings.alpha_over_rank)
    jobs = [(name, seed, p) for seed in args.seeds for name,p in (('best', study.best_params), ('usual', usual))]
    with tempfile.TemporaryDirectory() as folder:
        for at in range(0, len(jobs), len(cards)):
            running = []
            for card,(name,seed,p) in zip(cards, jobs[at:at + len(cards)]):
                chosen = dict(learning_rate=p['learning_rate'], r=p['r'], lora_alpha=int(p['r']*p['alpha_over_rank']))
                out = Path(folder)/f'{name}-{seed}.json'
                running.append((start(settings, card, '--final', json.dumps(chosen), seed, out), out, name, seed, p))
            for job,out,name,seed,p in running:
                found = json.loads(out.read_text()) if job.wait() == 0 else dict(error=f'ended with {job.returncode}')
                state = 'FAIL' if 'error' in found else 'COMPLETE'
                one = row(settings, study=name, number=seed, seed=seed, state=state, **p, **found)
                print(one, flush=True)
                merge_rows(args.table, [one], ('profile', 'study', 'number'))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--profile', default='')
    parser.add_argument('--trials', type=int, default=24, help='of each study')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='of the runs that read the test')
    parser.add_argument('--gpus', type=int, default=0, help='cards to share the trials between; 0: leave it to torch')
    parser.add_argument('--at-once', type=int, default=1, help='trials on each card at the same time')
    parser.add_argument('--table', type=Path, default=here/'search.csv', help='where the rows go')
    parser.add_argument('--work', nargs=3, metavar=('STUDY', 'FILE', 'WORKER'), help=argparse.SUPPRESS)
    parser.add_argument('--final', nargs=3, metavar=('SETTINGS', 'SEED', 'FILE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = load_settings(args.profile)
    if args.work: work(args.work[0], args.work[1], args.trials, settings, int(args.work[2]))
    elif args.final: final(json.loads(args.final[0]), int(args.final[1]), args.final[2], settings)
    else:
        quiet()
        cards = [i % args.gpus for i in range(args.gpus*args.at_once)] or [None]*args.at_once
        studies = {name: run_study(name, args, settings, cards) for name in ('tpe', 'random')}
        if not any(t.state.name == 'COMPLETE' for t in studies['tpe'].trials): sys.exit('no trial came to its end')
        run_finals(studies['tpe'], args, settings, cards)
