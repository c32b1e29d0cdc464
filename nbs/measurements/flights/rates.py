"""A sweep of the learning rate over three decades: whole runs in small, compared by the loss of the validation rows.

python nbs/measurements/flights/rates.py [--profile cpu] [--rows 64] [--batch_size 4] [--rates 2e-5 2e-4] [--seeds 0]
"""
import argparse, tempfile, time
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows, read_table
from ftcook.runtime import load_settings, quiet
from ftcook.tasks.flights import task

table = Path(__file__).parent/'rates.csv'
key = 'profile', 'rows', 'learning_rate', 'seed'
rates = [2e-5, 6.3e-5, 2e-4, 6.3e-4, 2e-3, 6.3e-3, 2e-2]
sizes = dict(cpu=dict(rows=64, validation=24), gpu=dict(rows=16384, validation=200))

def measure(settings, size, rate, seed):
    "One run, and the loss of the validation rows after it, as a row of rates.csv."
    import torch
    from ftcook.lora import lora_config
    from ftcook.quantization import load_model
    from ftcook.runtime import load_tokenizer
    from ftcook.sft import sft_config, sft_trainer
    torch.manual_seed(seed)
    train, validation = task.rows(size['rows'], 'train', seed), task.rows(size['validation'], 'validation', 0)
    model = load_model(settings.model, quantize=settings.quantize, dtype=settings.dtype)
    lora = lora_config(r=settings.rank, lora_alpha=int(settings.alpha_over_rank*settings.rank))
    with tempfile.TemporaryDirectory() as folder:
        args = sft_config(settings, folder, learning_rate=rate, seed=seed, logging_steps=1, disable_tqdm=True)
        trainer = sft_trainer(model, load_tokenizer(settings.model), train, args, lora, validation)
        start = time.perf_counter()
        trainer.train()
        minutes = (time.perf_counter() - start)/60
        losses = [log['loss'] for log in trainer.state.log_history if 'loss' in log]
        return label(profile=settings.profile, rows=size['rows'], learning_rate=f'{rate:g}', seed=seed, model=settings.model,
                     batch_size=settings.batch_size, steps=len(losses), training_loss=round(sum(losses[-4:])/len(losses[-4:]), 4),
                     validation_loss=round(trainer.evaluate()['eval_loss'], 4), validation_rows=len(validation),
                     minutes=round(minutes, 2), device=device_name())

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--profile', default='')
    parser.add_argument('--rows', type=int, help='training rows')
    parser.add_argument('--batch_size', type=int, help='rows of a step; by default that of settings.ini')
    parser.add_argument('--rates', type=float, nargs='+', default=rates)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    args = parser.parse_args()
    quiet()
    settings = load_settings(args.profile)
    size = sizes[settings.profile] | ({'rows': args.rows} if args.rows else {})
    if args.batch_size: settings.batch_size = args.batch_size
    known = {tuple(row[k] for k in key) for row in read_table(table)}
    for rate,seed in ((rate, seed) for seed in args.seeds for rate in args.rates):
        if (settings.profile, str(size['rows']), f'{rate:g}', str(seed)) in known: continue
        row = measure(settings, size, rate, seed)
        print(row, flush=True)
        merge_rows(table, [row], key)
