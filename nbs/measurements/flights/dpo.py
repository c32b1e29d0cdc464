"""Train the flight model to ask for what is missing, and keep the run's rates.

python nbs/measurements/flights/dpo.py [--profile cpu] [--mistakes 200] [--complete 240] [--loss sft]
"""
import argparse, tempfile, time
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows
from ftcook.dpo import invention_rate, train_preferences
from ftcook.inference import load_adapter
from ftcook.runtime import load_settings, load_tokenizer, run_folder
from ftcook.sft import generate_batch
from ftcook.tasks import is_clarification
from ftcook.tasks.flights import task

here = Path(__file__).parent

losses = {'sigmoid+sft': {}, 'sft': dict(loss_type=['sft'], loss_weights=[1.0])} # the lesson's; the chosen answers alone

def measure(settings, folder, loss='sigmoid+sft'):
    "One run, as a row of dpo.csv."
    adapter = run_folder(settings.profile)/'adapters'/task.name
    model = load_adapter(settings.model, adapter, quantize=settings.quantize, dtype=settings.dtype)
    gaps = task.incomplete_rows(settings.incomplete_rows, 'test', settings.seed, task.request_fields[:settings.gap_fields])
    complete = task.rows(settings.test_rows, 'test', settings.seed)
    def answers(model, tokenizer, rows):
        return generate_batch(model, tokenizer, [row['messages'][:-1] for row in rows], 56, settings.generation_batch_size)
    def rates(model, tokenizer):
        asked, filled = answers(model, tokenizer, gaps), answers(model, tokenizer, complete)
        return invention_rate(asked, gaps), task.score(filled, complete), sum(map(is_clarification, filled))
    before = rates(model, load_tokenizer(settings.model))
    start = time.perf_counter()
    trainer = train_preferences(task, settings, folder, model=model, **losses[loss])
    minutes = (time.perf_counter() - start)/60
    inventions, score, needless = rates(trainer.model, trainer.processing_class)
    return label(profile=settings.profile, device=device_name(), pairs=len(trainer.train_dataset), gap_fields=settings.gap_fields,
                 loss=loss, beta=settings.beta, batch_size=settings.dpo_batch_size, learning_rate=settings.dpo_learning_rate,
                 train_minutes=round(minutes, 2), inventions_before=round(before[0]['invention_rate'], 3),
                 inventions_after=round(inventions['invention_rate'], 3), inventions_low=round(inventions['low'], 3),
                 inventions_high=round(inventions['high'], 3), asked_right=round(inventions['asked_right'], 3),
                 requests=len(gaps), exact_match_before=round(before[1]['exact_match'], 3),
                 exact_match_after=round(score['exact_match'], 3), exact_match_low=round(score['low'], 3),
                 exact_match_high=round(score['high'], 3), needless=needless, complete_requests=len(complete))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--profile', default='')
    parser.add_argument('--mistakes', type=int, default=200, help='pairs from incomplete requests')
    parser.add_argument('--complete', type=int, default=240, help='pairs from complete requests')
    parser.add_argument('--learning-rate', type=float, help='peak rate (default: dpo_learning_rate of settings.ini)')
    parser.add_argument('--gap-fields', type=int, help='how many fields may be missing (default: gap_fields of settings.ini)')
    parser.add_argument('--beta', type=float, help='default: beta of settings.ini')
    parser.add_argument('--loss', choices=losses, default='sigmoid+sft', help='sft: the chosen answers alone, no preference')
    parser.add_argument('--table', type=Path, default=here/'dpo.csv', help='where the row goes')
    args = parser.parse_args()
    settings = load_settings(args.profile)
    settings.update(mistake_pairs=args.mistakes, complete_pairs=args.complete, beta=args.beta or settings.beta,
                    dpo_learning_rate=args.learning_rate or settings.dpo_learning_rate,
                    gap_fields=args.gap_fields or settings.gap_fields)
    with tempfile.TemporaryDirectory() as folder: row = measure(settings, folder, args.loss)
    print(row, flush=True)
    merge_rows(args.table, [row], ('device', 'pairs', 'gap_fields', 'loss', 'beta', 'learning_rate'))
