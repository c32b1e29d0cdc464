"""Train the flight task with several seeds and keep each run's score: python nbs/measurements/seeds.py [--profile cpu] [--seeds 0 1]"""
import argparse, csv, datetime, tempfile, time
from pathlib import Path
from fastcore.xtras import atomic_save
from ftcook.cli import device_name
from ftcook.data import flight_requests
from ftcook.runtime import load_settings

here = Path(__file__).parent
columns = 'seed profile device rows train_minutes exact_match low high requests date'.split()

def measure(settings, seed, folder):
    "One training run and its held-out score, as a row of seeds.csv."
    from ftcook.sft import score, train_flights
    start = time.perf_counter()
    trainer = train_flights(settings, folder, seed=seed)
    minutes = (time.perf_counter() - start)/60
    result = score(trainer.model, trainer.processing_class, flight_requests(settings.test_rows, 'test', settings.seed), settings)
    return dict(seed=seed, profile=settings.profile, device=device_name(), rows=settings.train_rows, train_minutes=round(minutes, 2), exact_match=round(result['exact_match'], 3),
        low=round(result['low'], 3), high=round(result['high'], 3), requests=result['n'], date=datetime.date.today().isoformat())

def keep(rows, path=here/'seeds.csv'):
    "Merge `rows` into the table; a row replaces the older one of the same profile and seed."
    old = list(csv.DictReader(path.open())) if path.exists() else []
    merged = {(r['profile'], str(r['seed'])): r for r in old + rows}
    with atomic_save(path, 'w', newline='') as f:
        writer = csv.DictWriter(f, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(merged[k] for k in sorted(merged))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--profile', default='')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    args = parser.parse_args()
    settings = load_settings(args.profile)
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder: row = measure(settings, seed, folder)
        print(row, flush=True)
        keep([row])
