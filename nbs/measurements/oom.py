"""Run out of memory on purpose and complete the run by the first cure that suffices: python nbs/measurements/oom.py [--limits 12 6 4]"""
import argparse, datetime, gc, random, tempfile, time
from pathlib import Path
import torch
from ftcook.runtime import quiet, versions
quiet()

import bitsandbytes as bnb
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer
from ftcook.cli import device_name, merge_rows
from ftcook.doctor import oom_fixes, train_within
from ftcook.lora import lora_config, shapes

here = Path(__file__).parent
device = 'cuda' if torch.cuda.is_available() else 'cpu'
start = dict(per_device_train_batch_size=8, gradient_accumulation_steps=1, max_length=1024, gradient_checkpointing=False, fused=False, quantize='none', optim='adamw_torch', activation_offloading=False)

def four_bit(layer, dtype):
    "A linear layer with random weights, quantized to NF4 with quantized scales."
    out = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type='nf4', device='meta')
    weight = torch.empty(layer.out_features, layer.in_features, dtype=dtype, device=device).normal_(std=.02)
    out.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type='nf4', compress_statistics=True).to(device)
    if device == 'cpu': out.support_avx512bf16_for_cpu = False
    return out

def random_model(config, quantize, dtype):
    "The shapes of a real model with random weights, made layer by layer so that the whole is never there unquantized."
    with torch.device('meta'): model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    head = model.get_output_embeddings()
    if quantize != 'none':
        for parent in list(model.modules()):
            for name,layer in parent.named_children():
                if isinstance(layer, nn.Linear) and layer is not head: setattr(parent, name, four_bit(layer, dtype))
        model.is_loaded_in_4bit = True
    for module in model.modules():
        for name,p in module.named_parameters(recurse=False):
            if p.is_meta: setattr(module, name, nn.Parameter((torch.ones if p.ndim == 1 else torch.empty)(p.shape, dtype=dtype, device=device), requires_grad=False))
            if p.is_meta and p.ndim > 1: getattr(module, name).data.normal_(std=.02)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    return model

def tokens(config, n=48, long=1024, usual=512):
    "Rows of random tokens; one in sixteen is twice as long as the others."
    rng = random.Random(0)
    return Dataset.from_list([dict(input_ids=[rng.randrange(1, config.vocab_size) for _ in range(long if i % 16 == 3 else usual)]) for i in range(n)])

def plain_loss(outputs, labels, num_items_in_batch=None):
    "The loss as scripts wrote it for years: all logits at once, in float32."
    loss = F.cross_entropy(outputs.logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction='sum')
    return loss/(num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum())

def train(config, steps, folder, *, fused, quantize, **args):
    "A few steps of LoRA; the seconds per step, after the first, and the trainer."
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == 'cuda' else torch.float32
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({'<pad>': 0, '<eos>': 1}, '<pad>')), pad_token='<pad>', eos_token='<eos>')
    trainer = SFTTrainer(model=random_model(config, quantize, dtype), processing_class=tokenizer, train_dataset=tokens(config), peft_config=lora_config(r=16), compute_loss_func=None if fused else plain_loss,
        args=SFTConfig(output_dir=folder, max_steps=steps, report_to='none', save_strategy='no', disable_tqdm=True, logging_steps=1, bf16=device == 'cuda', use_cpu=device == 'cpu', dataloader_pin_memory=False, **args))
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
    return (times[-1] - times[0])/max(1, len(times) - 1)*args['gradient_accumulation_steps']

def measure(limit, config, model, steps=3):
    "One limit of memory: a row for each attempt until one completes."
    if device == 'cuda': torch.cuda.set_per_process_memory_fraction(limit*2**30/torch.cuda.get_device_properties(0).total_memory)
    rows, common = [], dict(gpu=device_name(), limit_gib=limit, model=model, date=datetime.date.today().isoformat(), versions=' '.join(f'{k}-{v}' for k,v in versions(['torch', 'transformers', 'peft', 'trl', 'bitsandbytes']).items()))
    def attempt(**settings):
        if device == 'cuda': torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder: return train(config, steps, folder, **settings)
    def note(tried):
        peak = (torch.cuda.max_memory_allocated()/2**30, torch.cuda.max_memory_reserved()/2**30) if device == 'cuda' else (0, 0)
        row = dict(common, cure=tried['fix'], outcome=tried['outcome'], error=tried['error'][:160], step_s=round(tried['result'] or 0, 3), peak_allocated_gib=round(peak[0], 2), peak_reserved_gib=round(peak[1], 2))
        print(row, flush=True)
        merge_rows(here/'oom.csv', [row], ('gpu', 'model', 'limit_gib', 'cure'))
    try: train_within(attempt, start, fixes=oom_fixes, on_attempt=note)
    except Exception as e: note(dict(fix='all', outcome='failed', error=f'{type(e).__name__}: {e}', result=None))
    gc.collect()
    if device == 'cuda': torch.cuda.empty_cache()

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--limits', type=float, nargs='+', default=[12, 7, 5, 3.5, 2.5, 1.5], help='GiB that the process may use')
    parser.add_argument('--model', default='Llama-3.2-1B', choices=list(shapes))
    args = parser.parse_args()
    for limit in args.limits: measure(limit, AutoConfig.for_model(**shapes[args.model]), args.model)
