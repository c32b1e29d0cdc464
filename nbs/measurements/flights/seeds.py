"""Train the flight task with several seeds and keep each run's score.

python nbs/measurements/flights/seeds.py [--profile cpu] [--seeds 0 1]
"""
import argparse, tempfile, time
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows
from ftcook.runtime import load_settings
from ftcook.tasks.flights import task

here = Path(__file__).parent

def measure(settings, seed, folder):
    "One training run and its held-out score, as a row of seeds.csv."
    from ftcook.sft import score, train_task
    start = time.perf_counter()
    trainer = train_task(task, settings, folder, seed=seed)
    minutes = (time.perf_counter() - start)/60
    rows = task.rows(settings.test_rows, 'test', settings.seed)
    result = score(trainer.model, trainer.processing_class, rows, settings, task)
    return label(seed=seed, profile=settings.profile, device=device_name(), rows=settings.train_rows,
                 train_minutes=round(minutes, 2), exact_match=round(result['exact_match'], 3),
                 low=round(result['low'], 3), high=round(result['high'], 3), requests=result['n'])

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--profile', default='')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    args = parser.parse_args()
    settings = load_settings(args.profile)
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder: row = measure(settings, seed, folder)
        print(row, flush=True)
        merge_rows(here/'seeds.csv', [row], ('profile', 'seed'))
