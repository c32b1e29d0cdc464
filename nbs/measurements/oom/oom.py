"""Run out of memory on purpose, and complete the run by the first cure that suffices.

    python nbs/measurements/oom/oom.py --limits 12 6"""
import argparse, csv, gc, random, tempfile, time
from pathlib import Path
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer
from ftcook.bench import device_name, label, merge_rows, pinned, read_table
from ftcook.doctor import half_the_length, oom_fixes, train_within
from ftcook.lora import lora_config
from ftcook.outputs import output
from ftcook.runs import random_model, word_tokenizer
from ftcook.runtime import model_config, quiet, shapes

here = Path(__file__).parent
device = 'cuda' if torch.cuda.is_available() else 'cpu'
ladder = [*oom_fixes, half_the_length]
start = dict(bf16=device == 'cuda', per_device_train_batch_size=8, gradient_accumulation_steps=1, max_length=1024,
    gradient_checkpointing=False, fused=False, quantize='none', optim='adamw_torch', activation_offloading=False)

def tokens(config, n=48, long=1024, usual=512):
    "Rows of random tokens; one in sixteen is twice as long as the others."
    rng = random.Random(0)
    def row(length): return dict(input_ids=[rng.randrange(1, config.vocab_size) for _ in range(length)])
    return Dataset.from_list([row(long if i % 16 == 3 else usual) for i in range(n)])

def plain_loss(outputs, labels, num_items_in_batch=None):
    "The loss as scripts wrote it for years: all logits at once, in float32."
    logits = outputs.logits[:, :-1].float().flatten(0, 1)
    loss = F.cross_entropy(logits, labels[:, 1:].flatten(), reduction='sum')
    return loss/(num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum())

def train(config, steps, folder, *, fused, quantize, bf16, **args):
    "A few steps of LoRA; the seconds per step, after the first, and the trainer."
    torch.manual_seed(0)
    gpu = device == 'cuda'
    args = SFTConfig(output_dir=folder, max_steps=steps, report_to='none', save_strategy='no', disable_tqdm=True, logging_steps=1,
        bf16=bf16 and gpu, use_cpu=not gpu, dataloader_pin_memory=False, **args)
    model = random_model(config, quantize, 'bfloat16' if gpu else 'float32')
    trainer = SFTTrainer(model=model, processing_class=word_tokenizer(), train_dataset=tokens(config),
        peft_config=lora_config(r=16), compute_loss_func=None if fused else plain_loss, args=args)
    trainer.remove_callback(PrinterCallback)
    times = []
    step = trainer.training_step
    def timed(*a, **k):
        out = step(*a, **k)
        out.item()
        times.append(time.perf_counter())
        return out
    trainer.training_step = timed
    trainer.train()
    return (times[-1] - times[0])/max(1, len(times) - 1)*args.gradient_accumulation_steps

columns = 'gpu limit_gib model date versions cure outcome error step_s peak_allocated_gib peak_reserved_gib'.split()
def order(row): return {k: row[k] for k in columns}

def forget(run):
    "Drop the rows of an earlier ladder under the same limit."
    same = tuple(str(run[k]) for k in ('gpu', 'model', 'limit_gib'))
    rows = read_table(here/'oom.csv')
    kept = [r for r in rows if (r['gpu'], r['model'], r['limit_gib']) != same]
    with output(here/'oom.csv') as f:
        writer = csv.DictWriter(f, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(kept)

def measure(limit, config, model, steps=3):
    "One limit of memory: a row for each attempt until one completes."
    if device == 'cuda':
        torch.cuda.set_per_process_memory_fraction(limit*2**30/torch.cuda.get_device_properties(0).total_memory)
    common = label(pinned, gpu=device_name(), limit_gib=limit, model=model)
    forget(common)
    def attempt(**settings):
        if device == 'cuda': torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder: return train(config, steps, folder, **settings)
    def note(tried):
        allocated = reserved = 0
        if device == 'cuda': allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        found = dict(cure=tried['fix'], outcome=tried['outcome'], error=tried['error'][:160],
            step_s=round(tried['result'] or 0, 3))
        peaks = dict(peak_allocated_gib=round(allocated/2**30, 2), peak_reserved_gib=round(reserved/2**30, 2))
        row = order(common | found | peaks)
        print(row, flush=True)
        merge_rows(here/'oom.csv', [row], ('gpu', 'model', 'limit_gib', 'cure'))
    try: train_within(attempt, start, fixes=ladder, on_attempt=note)
    except Exception as e: note(dict(fix='all', outcome='failed', error=f'{type(e).__name__}: {e}', result=None))
    gc.collect()
    if device == 'cuda': torch.cuda.empty_cache()

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--limits', type=float, nargs='+', default=[12, 7, 5, 3.5, 2.5, 1.5], help='GiB that the process may use')
    parser.add_argument('--model', default='Llama-3.2-1B', choices=list(shapes))
    args = parser.parse_args()
    quiet()
    for limit in args.limits: measure(limit, model_config(args.model), args.model)
