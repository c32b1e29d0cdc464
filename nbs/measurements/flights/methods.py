"""Measure the methods of lesson 08 on the flight task, each in its own process.

    python nbs/measurements/flights/methods.py [--profile cpu] [--methods lora dpo]
"""
import argparse, gc, json, os, sys, tempfile, time
from pathlib import Path
from ftcook.bench import device_name, label, merge_rows, run_apart
from ftcook.runtime import load_settings, quiet, run_folder
from ftcook.tasks import exact_reward, get_task

here = Path(__file__).parent
methods = 'base prompt full lora lora_slow qlora ia3 adalora dpo grpo grpo_fast'.split()
columns = ('method start trainable peak_gib minutes artifact_mib exact_match low high requests perplexity_before perplexity rows '
           'model quantize error note profile device versions date').split()
sizes = dict(cpu=dict(rows=160, batch_size=4, shots=3, grpo_steps=12, grpo=dict()),
             gpu=dict(rows=4096, batch_size=16, shots=3, grpo_steps=60,
                      grpo=dict(per_device_train_batch_size=64, num_generations=8)))
# learning rate as a multiple of LoRA's
rates = dict(full=.1, lora_slow=.25, ia3=5, dpo=1/3, grpo=.01, grpo_fast=.1)
starts = dict(dpo='lora', grpo='lora', grpo_fast='lora')  # the method whose adapter it goes on from

def peak_gib():
    "Most memory so far: of the GPU if there is one, else of this process."
    import torch
    if torch.cuda.is_available(): return torch.cuda.max_memory_allocated()/2**30
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 2**10)/2**30

def busy():
    "A remark for the row if other work slowed this run down; its minutes are then too high."
    return 'timed on a busy machine' if hasattr(os, 'getloadavg') and os.getloadavg()[0] > 1.5*os.cpu_count() else ''

def general_text():
    import zaragoza_construction_faq as faq
    return '\n\n'.join(f"{row['q']}\n{row['a']}" for row in faq.load(lang='en'))

def train_sft(method, model, tokenizer, rows, settings, folder):
    from ftcook.methods import MoveRanksCallback, peft_config_for
    from ftcook.sft import sft_config, sft_trainer
    steps = -(-len(rows)//settings.batch_size)
    args = sft_config(settings, folder, learning_rate=settings.learning_rate*rates.get(method, 1), disable_tqdm=True)
    peft_config = peft_config_for(method.removesuffix('_slow'), settings, steps)
    callbacks = [MoveRanksCallback()] if method == 'adalora' else None
    return sft_trainer(model, tokenizer, rows, args, peft_config, callbacks=callbacks)

def started(model, folder):
    "The model with the adapter of an earlier stage, ready to train on."
    from ftcook.inference import load_adapter
    if not folder.exists():
        raise FileNotFoundError(f'{folder.name}: this method goes on from it, so measure `{folder.name}` first')
    model = load_adapter(model, folder)
    model.set_adapter('default')
    return model.train()

def train_grpo(method, model, tokenizer, rows, settings, folder, size):
    from ftcook.methods import grpo_trainer
    model = started(model, folder.parent/starts[method])
    return grpo_trainer(model, tokenizer, rows, settings, folder, get_task('flights').reward, max_steps=size['grpo_steps'],
        learning_rate=settings.learning_rate*rates[method], disable_tqdm=True, **size['grpo'])

def sampled_pairs(model, tokenizer, rows, settings):
    "Preference pairs: the wanted answer, and a wrong one that the model sampled for the same request."
    from ftcook.sft import generate_batch
    conversations = [row['messages'][:-1] for row in rows]
    answers = generate_batch(model, tokenizer, conversations, settings.max_new_tokens, settings.generation_batch_size,
                             do_sample=True, temperature=1.)
    right = exact_reward(answers, [row['messages'][-1]['content'] for row in rows])
    def pair(row, answer):
        return dict(prompt=row['messages'][:-1], chosen=row['messages'][-1:], rejected=[dict(role='assistant', content=answer)])
    return [pair(row, answer) for row,answer,ok in zip(rows, answers, right) if not ok]

def train_dpo(method, model, tokenizer, rows, settings, folder):
    from ftcook.asking import asking_config
    from ftcook.dpo import dpo_trainer
    model = started(model, folder.parent/starts[method])
    pairs = sampled_pairs(model, tokenizer, rows, settings)
    print(len(pairs), 'pairs', flush=True)
    rate = settings.learning_rate*rates[method]
    return dpo_trainer(model, tokenizer, pairs, asking_config(settings, folder, learning_rate=rate, disable_tqdm=True))

def measure(method, settings, size):
    "One method, from loading the model to its score, as a row of methods.csv."
    quiet()
    import torch
    from ftcook.quantization import load_model, perplexity
    from ftcook.runtime import load_tokenizer
    from ftcook.sft import generate_batch, score
    task, quantize = get_task('flights'), settings.quantize if method == 'qlora' else 'none'
    folder = run_folder(settings.profile)/'methods'/method
    rows, test = task.rows(size['rows'], 'train', settings.seed), task.rows(settings.test_rows, 'test', settings.seed)
    tokenizer = load_tokenizer(settings.model)
    def base(): return load_model(settings.model, quantize=quantize, dtype=settings.dtype)
    torch.manual_seed(settings.seed)
    model, row = base(), dict(method=method, start=starts.get(method, 'base'), trainable=0, minutes=0, artifact_mib=0)
    if method not in ('base', 'prompt'):
        start = time.perf_counter()
        what = method, model, tokenizer, rows, settings, folder
        if method.startswith('grpo'): trainer = train_grpo(*what, size)
        elif method == 'dpo': trainer = train_dpo(*what)
        else: trainer = train_sft(*what)
        trainer.train()
        model = trainer.model
        row |= dict(minutes=round((time.perf_counter() - start)/60, 2), peak_gib=round(peak_gib(), 2), note=busy(),
                    trainable=sum(p.numel() for p in model.parameters() if p.requires_grad))
        saved = {} if method == 'full' else dict(selected_adapters=['default']) # without the reference of DPO
        model.save_pretrained(folder, **saved)
        row['artifact_mib'] = round(sum(f.stat().st_size for f in folder.glob('*.safetensors'))/2**20, 2)
        del trainer
    if method == 'prompt':
        shots = [turn for example in rows[:size['shots']] for turn in example['messages'][1:]]
        asked = [[row['messages'][0], *shots, row['messages'][1]] for row in test]
        result = task.score(generate_batch(model, tokenizer, asked, settings.max_new_tokens, batch_size=20), test)
    else: result = score(model, tokenizer, test, settings, task)
    row.setdefault('peak_gib', round(peak_gib(), 2))
    text = general_text()
    after = perplexity(model, tokenizer, text, settings.perplexity_tokens)
    del model
    gc.collect()
    before = after if method in ('base', 'prompt') else perplexity(base(), tokenizer, text, settings.perplexity_tokens)
    figures = {k: round(result[k], 3) for k in ('exact_match', 'low', 'high')}
    used = dict(base=0, prompt=size['shots']).get(method, size['rows'])
    return row | dict(figures, requests=result['n'], perplexity_before=round(before, 2), perplexity=round(after, 2),
                      rows=used, quantize=quantize)

def empty_row(method, settings):
    "What every row carries, also that of a method that failed."
    said = label(method=method, model=settings.model, profile=settings.profile, device=device_name())
    return dict.fromkeys(columns, '') | said

def apart(method, settings, command=None):
    "Measure `method` in a process of its own; a process that fails leaves a row that says why."
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)/'row.json'
        own = [sys.executable, __file__, '--profile', settings.profile, '--worker', method, str(out)]
        why = run_apart(command or own)
        return empty_row(method, settings) | (dict(error=why) if why else json.loads(out.read_text()))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--profile', default='')
    parser.add_argument('--methods', nargs='+', default=methods, choices=methods)
    parser.add_argument('--table', type=Path, default=here/'methods.csv', help='where the rows go')
    parser.add_argument('--note', default='', help='a remark for the rows')
    parser.add_argument('--worker', nargs=2, metavar=('METHOD', 'FILE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = load_settings(args.profile)
    size = sizes[settings.profile]
    settings.batch_size = size['batch_size']
    if args.worker: Path(args.worker[1]).write_text(json.dumps(measure(args.worker[0], settings, size)))
    else:
        for method in args.methods:
            row = apart(method, settings)
            if args.note and not row['note']: row['note'] = args.note
            print(row, flush=True)
            merge_rows(args.table, [row], ('profile', 'method'))
