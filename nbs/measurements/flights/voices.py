"""Teach the brand's voice with DPO and its relatives, from the same sentences and the same start, and keep a row for each.

    python nbs/measurements/flights/voices.py [--profile cpu] [--methods kto orpo]
"""
import argparse, json, os, random, tempfile, time
from pathlib import Path
os.environ.setdefault('TRL_EXPERIMENTAL_SILENCE', '1')
import torch
from datasets import Dataset
from ftcook.bench import device_name, label, merge_rows
from ftcook.dpo import dpo_config, dpo_trainer, train_on_rows
from ftcook.inference import load_adapter
from ftcook.runtime import load_settings, load_tokenizer, no_telemetry, quiet, run_folder
from ftcook.sft import generate_batch, sft_config, sft_trainer, train_in_float32, trainer_defaults
from ftcook.tasks.flights import confirmation, task, voice_of, voices

here = Path(__file__).parent
methods = dict(start=0, sft=5, dpo=1, kto=2, orpo=5)  # rate as a multiple of DPO's: losses differ in their scale

def voice_pair(row, rng):
    chosen, rejected = (confirmation(row, voice, rng.randrange(2))['messages'] for voice in ('brand', 'neutral'))
    return dict(prompt=chosen[:-1], chosen=chosen[-1:], rejected=rejected[-1:])

def own_trainer(kind, config, model, tokenizer, rows, settings, folder, **kwargs):
    "KTO's and ORPO's trainer, with the arguments that they share with DPO's."
    model.set_adapter('default')
    start = {name: p.detach().clone() for name,p in model.named_parameters() if p.requires_grad}
    no_telemetry()
    own = dict(beta=settings.beta, max_length=settings.max_length, num_train_epochs=1, warmup_steps=3)
    args = config(**{**trainer_defaults(settings, folder), **own, **kwargs})
    trainer = kind(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    train_in_float32(trainer.model, start)
    return trainer

def trainer_for(method, model, tokenizer, pairs, settings, folder):
    size = dict(learning_rate=methods[method]*settings.dpo_learning_rate, per_device_train_batch_size=settings.dpo_batch_size,
                disable_tqdm=True)
    if method == 'dpo': return dpo_trainer(model, tokenizer, pairs, dpo_config(settings, folder, **size))
    if method == 'sft':
        model.set_adapter('default')
        rows = [dict(messages=p['prompt'] + p['chosen']) for p in pairs]
        return sft_trainer(model, tokenizer, rows, sft_config(settings, folder, **size))
    if method == 'orpo':
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
        return own_trainer(ORPOTrainer, ORPOConfig, model, tokenizer, pairs, settings, folder, **size)
    from trl import KTOConfig, KTOTrainer
    thumbs = [dict(prompt=p['prompt'], completion=p[side], label=side == 'chosen')
              for p in pairs for side in ('chosen', 'rejected')]
    random.Random(settings.seed).shuffle(thumbs)
    size['per_device_train_batch_size'] *= 2  # as many answers in a step as DPO has
    return own_trainer(KTOTrainer, KTOConfig, model, tokenizer, thumbs, settings, folder, **size)

def shares(model, tokenizer, settings):
    "How many sampled answers have the brand's voice, and how many both cities right."
    torch.manual_seed(settings.seed)
    asked = task.rows(settings.voice_requests, 'test', settings.seed)
    conversations = [confirmation(row, 'brand')['messages'][:-1] for row in asked]
    answers = generate_batch(model, tokenizer, conversations, 24, settings.generation_batch_size, do_sample=True, top_k=0)
    def right(answer, row):
        form = json.loads(row['messages'][-1]['content'])
        return f"from {form['origin']} to {form['destination']}".casefold() in answer.casefold()
    return dict(brand=sum(voice_of(a) == 'brand' for a in answers), right=sum(map(right, answers, asked)), requests=len(asked))

def measure(method, start, tokenizer, pairs, settings, folder):
    "One method, as a row of voices.csv."
    model = load_adapter(settings.model, start, quantize=settings.quantize, dtype=settings.dtype)
    row = dict(profile=settings.profile, device=device_name(), method=method, learning_rate='', pairs=0, steps=0,
               train_minutes='')
    if method != 'start':
        torch.manual_seed(settings.seed)
        trainer = trainer_for(method, model, tokenizer, pairs, settings, folder)
        begun = time.perf_counter()
        trainer.train()
        row |= dict(train_minutes=round((time.perf_counter() - begun)/60, 2), steps=trainer.state.global_step, pairs=len(pairs),
                    learning_rate=f'{trainer.args.learning_rate:g}')
        model = trainer.model
    return label(**row, **shares(model, tokenizer, settings))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--profile', default='')
    parser.add_argument('--methods', nargs='+', default=list(methods), choices=methods)
    parser.add_argument('--table', type=Path, default=here/'voices.csv', help='where the rows go')
    args = parser.parse_args()
    quiet()
    settings = load_settings(args.profile)
    tokenizer, rng = load_tokenizer(settings.model), random.Random(settings.seed)
    mixed = [confirmation(row, rng.choice(list(voices)), rng.randrange(2))
             for row in task.rows(settings.voice_rows, 'train', settings.seed + 11)]
    rng = random.Random(settings.seed)
    pairs = [voice_pair(row, rng) for row in task.rows(settings.voice_pairs, 'train', settings.seed + 12)]
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder)/'mixed'
        flights = run_folder(settings.profile)/'adapters'/task.name
        model = load_adapter(settings.model, flights, quantize=settings.quantize, dtype=settings.dtype)
        train_on_rows(model, tokenizer, mixed, settings, start, max_steps=settings.voice_steps, per_device_train_batch_size=4,
                      warmup_steps=2, logging_steps=4, disable_tqdm=True)
        for method in args.methods:
            row = measure(method, start, tokenizer, pairs, settings, folder)
            print(row, flush=True)
            merge_rows(args.table, [row], ('profile', 'method'))
