"""Make sick and healthy runs, scripts, data sets and machines, and see what the doctor says: python nbs/measurements/doctor_cases.py [--seed 0]"""
import argparse, csv, functools, gc, json, math, random, re, shutil, sys, tempfile, time, warnings
from collections import namedtuple
from pathlib import Path
from ftcook.runtime import quiet
quiet()

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from ftcook.data import from_messages
from ftcook.tasks.flights import flight_requests
from ftcook.doctor import Doctor, diagnose, diagnose_answers, diagnose_environment, diagnose_prompt, diagnose_trainer, environment_facts

here = Path(__file__).parent
torch.set_num_threads(1)  # the toy is too small to gain from more, and a busy machine makes more a loss
gc.freeze()  # a trainer collects garbage when it ends, and what was imported is none
Case = namedtuple('Case', 'kind planted name make')  # `make` takes a random generator and a folder, and returns a Diagnosis
cases = []

def case(kind, planted, name=''):
    "Register a generator; `planted` is the code that the doctor should name first, '' for a healthy one."
    def add(f):
        cases.append(Case(kind, planted, name or f.__name__.replace('_', ' '), f))
        return f
    return add

# A toy world: twelve words, a model that walks on from a word by up to three words each time, and the task of walking by exactly one.

words = [f'w{i}' for i in range(12)]
vocabulary = {t: i for i,t in enumerate(['<pad>', '<eos>', '<user>', '<assistant>', '<unk>', *words])}
template = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% if m['role'] == 'assistant' %}{% generation %}<eos>{% endgeneration %} {% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"

def toy_tokenizer(**kwargs):
    inner = Tokenizer(models.WordLevel(vocabulary, '<unk>'))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **{'pad_token': '<pad>', 'eos_token': '<eos>', 'unk_token': '<unk>', 'chat_template': template, **kwargs})

def toy_rows(n, rng, step=1, length=8, noise=0.):
    "A word, and the walk from it: `step` words on each time, or up to three where it is None; a share `noise` of the words is random."
    def row():
        walk = [rng.randrange(12)]
        for _ in range(length): walk.append((walk[-1] + (rng.randrange(4) if step is None else step))%12 if rng.random() >= noise else rng.randrange(12))
        asked, *said = [5 + w for w in walk]
        return dict(input_ids=[2, asked, 3, *said, 1], labels=[-100]*3 + said + [1])
    return Dataset.from_list([row() for _ in range(n)])

@functools.cache
def _base():
    "What the base model has learned, as a state dict."
    torch.manual_seed(0)
    rng, model = random.Random(0), _plain()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        rows = toy_rows(32, rng, None)
        loss = model(input_ids=torch.tensor(rows['input_ids']), labels=torch.tensor(rows['labels'])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()

def _plain(): return LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0))
def toy_model():
    model = _plain()
    model.load_state_dict(_base())
    return model

def toy_trainer(rng, folder, rows=None, model=None, lora=dict(r=8, lora_alpha=16), steps=30, lr=1e-2, callbacks=(), cls=SFTTrainer, tokenizer=None, **kwargs):
    torch.manual_seed(rng.randrange(10**6))
    rows, model = toy_rows(8*steps, rng) if rows is None else rows, model or toy_model()
    extra = {k: kwargs.pop(k) for k in ('eval_dataset', 'compute_loss_func', 'data_collator') if k in kwargs}
    args = dict(output_dir=str(folder), max_steps=steps, learning_rate=lr, logging_steps=1, lr_scheduler_type='linear', report_to='none', use_cpu=True, bf16=False, disable_tqdm=True, save_strategy='no',
        per_device_train_batch_size=8, gradient_checkpointing=False, dataloader_pin_memory=False, seed=rng.randrange(10**6))
    if issubclass(cls, SFTTrainer):
        args = SFTConfig(**{**args, 'dataset_kwargs': dict(skip_prepare_dataset=True), **kwargs})
        extra['peft_config'] = LoraConfig(**{'task_type': 'CAUSAL_LM', 'target_modules': 'all-linear', **lora}) if isinstance(lora, dict) else lora
    else: args = TrainingArguments(**{**args, **kwargs})
    trainer = cls(model=model, args=args, train_dataset=rows, processing_class=tokenizer or toy_tokenizer(), callbacks=list(callbacks), **extra)
    trainer.remove_callback(PrinterCallback)
    return trainer

def finished(trainer, folder):
    "The run folder as a user finds it."
    trainer.train()
    trainer.save_model(str(folder))
    trainer.save_state()
    return diagnose(folder)

def watched(rng, folder, **kwargs):
    "What the callback says about the first ten steps."
    doctor = Doctor(show=None)
    trainer = toy_trainer(rng, folder, **{'steps': 10, **kwargs}, callbacks=[doctor])
    trainer.train()
    doctor.findings.named = doctor.named
    return doctor.findings

def lora(**kwargs): return {'r': 8, 'lora_alpha': 16, **kwargs}
def plain_loss(outputs, labels, num_items_in_batch=None): return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())  # 0/0 where no label counts
def with_row(rows, place, **columns): return Dataset.from_list([{**r, **columns} if i == place else r for i,r in enumerate(rows)])
def outlier(rng, length=8): return dict(input_ids=[2, 5, 3, *(16 - (i*7)%11 for i in range(length)), 1], labels=[-100]*3 + [16 - (i*7)%11 for i in range(length)] + [1])
class InOrder:
    "Rows in the order of the data set, so that a case knows when its row comes."
    def _get_train_sampler(self, *args, **kwargs): return torch.utils.data.SequentialSampler(self.train_dataset)
class Own(InOrder, SFTTrainer): pass
class OwnPlain(InOrder, Trainer): pass

def broken_word(model, i=16):
    "A model whose embedding has a row that was never written."
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.get_input_embeddings().weight.data[i] = float('nan')
    return model

# Healthy runs

for _name,_kwargs in {'LoRA': {}, 'LoRA, another rate': dict(lr=6e-3), 'LoRA, rank 2': dict(lora=lora(r=2, lora_alpha=4), lr=2e-2, steps=40), 'all weights': dict(lora=None, lr=1e-3), 'cosine with warmup': dict(lr_scheduler_type='cosine', warmup_steps=4),
                      'noisy data': dict(noise=.1), 'batches of 2': dict(per_device_train_batch_size=2, steps=40, lr=5e-3), 'accumulation': dict(per_device_train_batch_size=2, gradient_accumulation_steps=4), 'held-out rows': dict(eval_strategy='steps', eval_steps=5)}.items():
    @case('run', '', _name)
    def _(rng, folder, kwargs=_kwargs):
        kwargs = dict(kwargs)
        rows = toy_rows(320, rng, noise=kwargs.pop('noise', 0.))
        if 'eval_steps' in kwargs: kwargs['eval_dataset'] = toy_rows(64, rng)
        return finished(toy_trainer(rng, folder, rows, **kwargs), folder)

@case('live', '', 'LoRA')
def _(rng, folder): return watched(rng, folder, steps=20)
@case('live', '', 'all weights')
def _(rng, folder): return watched(rng, folder, steps=20, lora=None, lr=1e-3)
@case('live', '', 'noisy data')
def _(rng, folder): return watched(rng, folder, rows=toy_rows(160, rng, noise=.15), steps=20)
@case('live', '', "transformers' Trainer")
def _(rng, folder): return watched(rng, folder, cls=Trainer, lr=1e-3, data_collator=DataCollatorForSeq2Seq(toy_tokenizer()), steps=20)

# Sick runs, seen afterwards

@case('run', 'lr_too_high')
def ten_times_the_rate(rng, folder): return finished(toy_trainer(rng, folder, lr=1e-1), folder)
@case('run', 'lr_too_high')
def all_weights_with_the_rate_of_LoRA(rng, folder): return finished(toy_trainer(rng, folder, lora=None, lr=3e-2), folder)
@case('run', 'lr_too_low')
def a_tenth_of_the_rate(rng, folder): return finished(toy_trainer(rng, folder, lr=1e-3), folder)
@case('run', 'lr_too_low')
def LoRA_with_the_rate_of_all_weights(rng, folder): return finished(toy_trainer(rng, folder, lr=1e-5), folder)
@case('run', 'flat')
def answers_at_random(rng, folder): return finished(toy_trainer(rng, folder, toy_rows(240, rng, step=None), lr=1e-4), folder)
@case('run', 'nan_loss')
def a_rate_that_breaks_the_weights(rng, folder): return finished(toy_trainer(rng, folder, lora=None, lr=1e5, max_grad_norm=0), folder)
@case('run', 'nan_loss')
def a_word_without_an_embedding(rng, folder):
    rows = toy_rows(240, rng).filter(lambda r: 16 not in r['input_ids'])
    rows = Dataset.from_list([dict(r) for r in rows][:160])
    return finished(toy_trainer(rng, folder, with_row(rows, 40, **outlier(rng)), broken_word(toy_model()), cls=Own, steps=12), folder)
@case('run', 'all_masked')
def every_label_masked(rng, folder): return finished(toy_trainer(rng, folder, toy_rows(80, rng).map(lambda r: dict(labels=[-100]*len(r['labels']))), steps=8), folder)
@case('run', 'frozen')
def alpha_of_zero(rng, folder): return finished(toy_trainer(rng, folder, lora=lora(lora_alpha=0), steps=10), folder)
@case('run', 'overfitting')
def eight_rows_for_many_epochs(rng, folder): return finished(toy_trainer(rng, folder, toy_rows(8, rng, step=None), lora=None, lr=2e-3, steps=60, lr_scheduler_type='constant', eval_dataset=toy_rows(64, rng, step=None), eval_strategy='steps', eval_steps=6), folder)
@case('run', 'spike')
def one_row_of_nonsense(rng, folder):
    rows = with_row(toy_rows(240, rng), 160, **outlier(rng, 60))
    return finished(toy_trainer(rng, folder, rows, cls=Own, lr=6e-3), folder)
@case('run', 'erratic')
def one_row_at_a_time_of_two_kinds(rng, folder):
    easy, hard = toy_rows(40, rng), toy_rows(40, rng, noise=1.)
    return finished(toy_trainer(rng, folder, Dataset.from_list([r for pair in zip(easy, hard) for r in pair]), per_device_train_batch_size=1, lr=4e-3, steps=40), folder)
@case('run', 'rank_too_small')
def rank_one_on_one_kind_of_layer(rng, folder): return finished(toy_trainer(rng, folder, lora=lora(r=1, lora_alpha=2, target_modules=['gate_proj']), lr=2e-2, steps=40), folder)
@case('run', 'adapter_untrained')
def an_adapter_saved_before_training(rng, folder):
    toy_trainer(rng, folder).save_model(str(folder))
    return diagnose(folder)
@case('run', 'adapter_nan')
def an_adapter_with_NaN(rng, folder):
    trainer = toy_trainer(rng, folder, steps=2)
    trainer.train()
    next(p for p in trainer.model.parameters() if p.requires_grad).data[0] = float('nan')
    trainer.save_model(str(folder))
    return diagnose(folder)
@case('run', 'unreadable')
def weights_cut_off(rng, folder):
    trainer = toy_trainer(rng, folder, steps=12)
    finished(trainer, folder)
    path = folder/'adapter_model.safetensors'
    path.write_bytes(path.read_bytes()[:rng.randrange(20, path.stat().st_size)])
    return diagnose(folder)
@case('run', 'unreadable')
def an_optimizer_cut_off(rng, folder):
    toy_trainer(rng, folder, steps=12, save_strategy='steps', save_steps=6).train()
    path = folder/'checkpoint-12'/'optimizer.pt'
    path.write_bytes(path.read_bytes()[:-rng.randrange(100, 2000)])
    return diagnose(folder)
@case('run', 'embedding_mismatch')
def a_tokenizer_with_more_tokens(rng, folder):
    tokenizer, model = toy_tokenizer(), toy_model()
    tokenizer.add_tokens([f'<new{i}>' for i in range(rng.randrange(1, 9))])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return diagnose(folder)
@case('run', 'eos_not_in_template')
def another_end_than_the_template(rng, folder):
    tokenizer = toy_tokenizer(eos_token=rng.choice(['<pad>', 'w3']))
    finished(toy_trainer(rng, folder, steps=12), folder)
    tokenizer.save_pretrained(folder)
    return diagnose(folder)

# Sick runs, watched: the callback has ten steps

for _code,_name,_kwargs in [('lr_too_high', 'ten times the rate', dict(lr=1e-1)), ('lr_too_low', 'a tenth of the rate', dict(lr=1e-3, steps=30)), ('nan_loss', 'a rate that breaks the weights', dict(lora=None, lr=1e5, max_grad_norm=0)), ('frozen', 'alpha of zero', dict(lora=lora(lora_alpha=0)))]:
    @case('live', _code, _name)
    def _(rng, folder, kwargs=_kwargs): return watched(rng, folder, rows=toy_rows(240, rng), **kwargs)

@case('live', 'nan_loss', 'a word without an embedding')
def _(rng, folder):
    rows = Dataset.from_list([r for r in toy_rows(240, rng) if 16 not in r['input_ids']][:80])
    return watched(rng, folder, rows=with_row(rows, 40, **outlier(rng)), model=broken_word(toy_model()), cls=Own)
@case('live', 'nan_loss', 'a division by zero labels')
def _(rng, folder):
    rows = toy_rows(40, rng)
    return watched(rng, folder, rows=with_row(rows, 9, labels=[-100]*12), cls=OwnPlain, data_collator=DataCollatorForSeq2Seq(toy_tokenizer()), per_device_train_batch_size=1, lr=1e-3)
@case('live', 'nan_loss', 'float16 that overflows')
def _(rng, folder):
    model = toy_model().half()
    model.model.layers[1].mlp.down_proj.weight.data *= 4000
    return watched(rng, folder, model=model, lora=None)
@case('live', 'spike', 'one row of nonsense')
def _(rng, folder): return watched(rng, folder, rows=with_row(toy_rows(80, rng), 60, **outlier(rng, 60)), cls=Own, lr=6e-3)
@case('live', 'all_masked', 'every label masked')
def _(rng, folder): return watched(rng, folder, rows=toy_rows(80, rng).map(lambda r: dict(labels=[-100]*len(r['labels']))))

# Preferences

def pairs(rng, n, chosen=1, rejected=2):
    def walk(w, step): return ' '.join(f'w{(w + step*(i + 1))%12}' for i in range(8))
    def row(w): return dict(prompt=[dict(role='user', content=f'w{w}')], chosen=[dict(role='assistant', content=walk(w, chosen))], rejected=[dict(role='assistant', content=walk(w, rejected))])
    return Dataset.from_list([row(rng.randrange(12)) for _ in range(n)])

def prefer(rng, folder, rows=None, ref=None, held_out=None, steps=16, lr=2e-3, **kwargs):
    torch.manual_seed(rng.randrange(10**6))
    model = toy_model() if ref else get_peft_model(toy_model(), LoraConfig(task_type='CAUSAL_LM', target_modules='all-linear', **lora()))
    args = DPOConfig(output_dir=str(folder), max_steps=steps, learning_rate=lr, logging_steps=1, report_to='none', use_cpu=True, bf16=False, disable_tqdm=True, save_strategy='no', per_device_train_batch_size=8, gradient_checkpointing=False,
        dataloader_pin_memory=False, seed=rng.randrange(10**6), **{'loss_type': ['sigmoid', 'sft'], 'loss_weights': [.2, 1.], **kwargs})
    trainer = DPOTrainer(model=model, ref_model=ref, args=args, train_dataset=rows or pairs(rng, 128), eval_dataset=held_out, processing_class=toy_tokenizer())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_state()
    return diagnose(folder)

@case('run', '', 'DPO')
def _(rng, folder): return prefer(rng, folder)
@case('run', 'dpo_margins')
def chosen_and_rejected_swapped_in_training(rng, folder): return prefer(rng, folder, pairs(rng, 128, 2, 1), held_out=pairs(rng, 32), eval_strategy='steps', eval_steps=4)
@case('run', 'dpo_reference')
def another_reference(rng, folder): return prefer(rng, folder, ref=_plain(), lr=1e-4)
@case('run', 'dpo_collapse')
def the_gap_alone_in_haste(rng, folder): return prefer(rng, folder, pairs(rng, 128, 2, 3), lr=3e-2, steps=20, loss_type=['sigmoid'], loss_weights=[1.])

# Before the first step

@case('trainer', '', 'LoRA')
def _(rng, folder): return diagnose_trainer(toy_trainer(rng, folder))
@case('trainer', '', "transformers' Trainer")
def _(rng, folder): return diagnose_trainer(toy_trainer(rng, folder, cls=Trainer, data_collator=DataCollatorForSeq2Seq(toy_tokenizer())))
@case('trainer', 'eos_masked')
def pad_is_eos_and_the_collator_masks_it(rng, folder):
    tokenizer = toy_tokenizer(pad_token='<eos>')
    return diagnose_trainer(toy_trainer(rng, folder, toy_rows(80, rng).remove_columns('labels'), cls=Trainer, tokenizer=tokenizer, data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)))
@case('trainer', 'eos_not_trained')
def answers_cut_off(rng, folder): return diagnose_trainer(toy_trainer(rng, folder, toy_rows(80, rng).map(lambda r: {k: v[:-2] for k,v in r.items()})))
@case('trainer', 'rows_masked')
def some_rows_masked(rng, folder): return diagnose_trainer(toy_trainer(rng, folder, with_row(toy_rows(80, rng), rng.randrange(8), labels=[-100]*12)))
@case('trainer', 'frozen')
def a_frozen_adapter(rng, folder):
    get_peft_model(toy_model(), LoraConfig(task_type='CAUSAL_LM', **lora())).save_pretrained(folder/'adapter')
    return diagnose_trainer(toy_trainer(rng, folder, model=PeftModel.from_pretrained(toy_model(), folder/'adapter'), lora=None))
@case('trainer', 'embedding_mismatch')
def tokens_added_and_not_resized(rng, folder):
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(['<call>', '</call>'])
    return diagnose_trainer(toy_trainer(rng, folder, tokenizer=tokenizer))
@case('trainer', 'added_untrained')
def tokens_added_and_frozen(rng, folder):
    tokenizer, model = toy_tokenizer(), toy_model()
    tokenizer.add_tokens(['<call>'])
    model.resize_token_embeddings(len(tokenizer))
    new = tokenizer.convert_tokens_to_ids('<call>')
    return diagnose_trainer(toy_trainer(rng, folder, toy_rows(80, rng).map(lambda r: dict(input_ids=[*r['input_ids'][:3], new, *r['input_ids'][4:]], labels=[*r['labels'][:3], new, *r['labels'][4:]])), model, tokenizer=tokenizer))
@case('trainer', 'label_outside')
def another_tokenizers_ids(rng, folder): return diagnose_trainer(toy_trainer(rng, folder, with_row(toy_rows(80, rng), rng.randrange(8), input_ids=[2, 5, 3, *[rng.randrange(100, 999)]*8, 1])))
@case('trainer', 'fp16_weights')
def trained_weights_in_float16(rng, folder):
    trainer = toy_trainer(rng, folder, model=toy_model().half(), lora=None)
    trainer.args.fp16 = True
    return diagnose_trainer(trainer)

# Exceptions, raised for real

def raised(f):
    try: f()
    except Exception as e: return diagnose(e)
    raise AssertionError('nothing was raised')

@case('exception', 'oom_training')
def more_memory_than_there_is(rng, folder): return raised(lambda: torch.empty(2**rng.randrange(50, 55), dtype=torch.uint8))
@case('exception', 'oom_loading')
def a_model_larger_than_memory(rng, folder):
    def from_pretrained(): return torch.empty(2**rng.randrange(50, 55), dtype=torch.uint8)
    return raised(from_pretrained)
@case('exception', 'unknown_argument')
def an_old_argument(rng, folder): return raised(lambda: SFTTrainer(model=toy_model(), **{rng.choice(['tokenizer', 'max_seq_length', 'packing']): None}))
@case('exception', 'pad_missing')
def a_batch_without_a_pad_token(rng, folder):
    tokenizer = toy_tokenizer(pad_token=None)
    return raised(lambda: tokenizer(['w1', 'w1 w2'], padding=True))
@case('exception', 'label_outside')
def an_id_without_a_row(rng, folder): return raised(lambda: toy_model()(input_ids=torch.tensor([[rng.randrange(100, 999)]])))
@case('exception', 'frozen')
def nothing_to_train(rng, folder): return raised(lambda: toy_model().requires_grad_(False)(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward())
@case('exception', 'wrong_modules')
def layers_of_another_model(rng, folder): return raised(lambda: get_peft_model(toy_model(), LoraConfig(target_modules=[rng.choice(['query_key_value', 'c_attn', 'Wqkv'])])))
@case('exception', 'wrong_base')
def an_adapter_of_another_base(rng, folder):
    get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=17, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)), LoraConfig(task_type='CAUSAL_LM', target_modules='all-linear')).save_pretrained(folder)
    return raised(lambda: PeftModel.from_pretrained(toy_model(), folder))
@case('exception', 'double_adapter')
def an_adapter_twice(rng, folder): return raised(lambda: toy_trainer(rng, folder, model=get_peft_model(toy_model(), LoraConfig(task_type='CAUSAL_LM'))))
@case('exception', 'disk_full')
def a_full_disk(rng, folder):
    def save():
        with open('/dev/full', 'wb', buffering=0) as f: f.write(bytes(rng.randrange(1, 99)))
    return raised(save)
@case('exception', 'no_system_role')
def a_template_without_system(rng, folder):
    tokenizer = toy_tokenizer(chat_template="{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + template)
    return raised(lambda: tokenizer.apply_chat_template([dict(role='system', content='w1'), dict(role='user', content='w2')]))
@case('exception', 'no_marks')
def a_template_without_marks(rng, folder):
    tokenizer = toy_tokenizer(chat_template=re.sub(r'{% (end)?generation %}', '', template))
    return raised(lambda: toy_trainer(rng, folder, Dataset.from_list([dict(messages=[dict(role='user', content='w1'), dict(role='assistant', content='w2')])]*4), tokenizer=tokenizer, assistant_only_loss=True, dataset_kwargs=None))
@case('exception', 'bad_rows')
def malformed_json(rng, folder):
    (folder/'rows.jsonl').write_text('{"a": 1}\n{"a": ' + rng.choice('x]:') + '\n')
    def load():
        from datasets import load_dataset
        from datasets.utils import logging
        logging.set_verbosity(logging.CRITICAL)
        return load_dataset('json', data_files=str(folder/'rows.jsonl'), cache_dir=str(folder/'cache'))
    return raised(load)

# Scripts: a sound one, and one with a single thing changed

def script(rng, folder, old='', new='', extra='', end=''):
    names = {f'NAME{i}': rng.choice(['model', 'base', 'llm', 'net']) + str(rng.randrange(9)) for i in range(2)}
    text = f"""import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer
{extra}
tok = AutoTokenizer.from_pretrained("some/model")
NAME0 = AutoModelForCausalLM.from_pretrained("some/model", dtype=torch.bfloat16)
data = load_dataset("json", data_files="train.jsonl")["train"].train_test_split({rng.choice([.05, .1, .2])})
lora = LoraConfig(r={rng.choice([8, 16, 32])}, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
args = SFTConfig(output_dir="out", max_length={rng.choice([512, 1024])}, learning_rate={rng.choice(['1e-4', '2e-4', '5e-4'])}, num_train_epochs=1, warmup_steps=10, bf16=True, eval_strategy="steps")
trainer = SFTTrainer(model=NAME0, args=args, train_dataset=data["train"], eval_dataset=data["test"], processing_class=tok, peft_config=lora)
trainer.train()
trainer.save_model("out")
{end}
"""
    assert not old or old in text, old
    text = text.replace(old, new) if old else text
    for name,value in names.items(): text = text.replace(name, value)
    (folder/'train.py').write_text(text)
    return diagnose(folder/'train.py')

_scripts = [
    ('', 'LoRA', {}), ('', 'generation afterwards', dict(end='tok.padding_side = "left"\nNAME0.generate(**tok(["a", "b"], padding=True, return_tensors="pt"))')),
    ('', 'merge in 16 bits', dict(end='merged = trainer.model.merge_and_unload()')), ('', 'QLoRA', dict(old='dtype=torch.bfloat16', new='quantization_config=BitsAndBytesConfig(load_in_4bit=True)')),
    ('', 'new tokens, trained', dict(old='lora_alpha=32', new='lora_alpha=32, trainable_token_indices=[49152]', end='tok.add_tokens(["<call>"]); NAME0.resize_token_embeddings(len(tok))')),
    ('unknown_argument', 'tokenizer=', dict(old='processing_class=tok', new='tokenizer=tok')), ('unknown_argument', 'max_seq_length= of the trainer', dict(old='processing_class=tok', new='processing_class=tok, max_seq_length=512')),
    ('unknown_argument', 'max_seq_length= of the config', dict(old='max_length=', new='max_seq_length=')), ('unknown_argument', 'warmup_ratio=', dict(old='warmup_steps=10', new='warmup_ratio=.1')),
    ('unknown_argument', 'evaluation_strategy=', dict(old='eval_strategy', new='evaluation_strategy')), ('unknown_argument', 'group_by_length=', dict(old='bf16=True', new='bf16=True, group_by_length=True')),
    ('unknown_argument', 'load_in_4bit= at loading', dict(old='dtype=torch.bfloat16', new='load_in_4bit=True')), ('unknown_argument', 'a misspelling', dict(old='learning_rate', new='learning_rte')),
    ('unknown_argument', 'arguments in a dictionary', dict(old='args = SFTConfig(', new='old = dict(warmup_ratio=.1)\nargs = SFTConfig(**old, ')), ('old_argument', 'torch_dtype=', dict(old='dtype=torch', new='torch_dtype=torch')),
    ('text_field', 'chat columns as text', dict(old='bf16=True', new='bf16=True, dataset_text_field="messages"')), ('double_adapter', 'get_peft_model and peft_config', dict(old='trainer = SFTTrainer(model=NAME0', new='NAME1 = get_peft_model(NAME0, lora)\ntrainer = SFTTrainer(model=NAME1')),
    ('merge_4bit', 'a merge into 4 bits', dict(old='dtype=torch.bfloat16', new='quantization_config=BitsAndBytesConfig(load_in_4bit=True)', end='merged = trainer.model.merge_and_unload()')),
    ('eval_is_train', 'evaluation on the training rows', dict(old='eval_dataset=data["test"]', new='eval_dataset=data["train"]')), ('eos_masked', 'pad is eos, and transformers\' collator', dict(extra='from transformers import DataCollatorForLanguageModeling, Trainer', end='tok.pad_token = tok.eos_token\ncollator = DataCollatorForLanguageModeling(tok, mlm=False)')),
    ('not_resized', 'tokens added', dict(end='tok.add_tokens(["<call>"])')), ('added_untrained', 'tokens added, embedding frozen', dict(end='tok.add_tokens(["<call>"]); NAME0.resize_token_embeddings(len(tok))')),
    ('two_precisions', 'fp16 and bf16', dict(old='bf16=True', new='bf16=True, fp16=True')), ('lr_too_low', 'the rate of all weights for LoRA', dict(old='num_train_epochs', new='num_train_epochs')),
    ('syntax', 'a bracket missing', dict(old='trainer.train()', new='trainer.train(')), ('padding_side', 'padding on the right', dict(old='trainer = SFTTrainer(model=NAME0, args=args, train_dataset=data["train"], eval_dataset=data["test"], processing_class=tok, peft_config=lora)\ntrainer.train()\ntrainer.save_model("out")', new='tok.padding_side = "right"\nNAME0.generate(**tok(["a", "b"], padding=True, return_tensors="pt"))'))]
for _code,_name,_kwargs in _scripts:
    @case('script', _code, _name)
    def _(rng, folder, kwargs=_kwargs, name=_name):
        if name.startswith('the rate of'):
            with_rate = rng.choice(['1e-6', '5e-6', '2e-5'])
            rng.choice = lambda options, pick=rng.choice: with_rate if options[0] == '1e-4' else pick(options)
        return script(rng, folder, **kwargs)

# Data

def written(rows, folder, name='train.jsonl'):
    (folder/name).write_text(''.join((r if isinstance(r, str) else json.dumps(r)) + '\n' for r in rows))
    return folder/name

def flights(rng, n=60): return flight_requests(n, 'train', rng.randrange(10**6))
def spoiled(rng, folder, spoil, n=1):
    rows = flights(rng)
    for i in rng.sample(range(len(rows)), n): rows[i] = spoil(rows[i])
    return diagnose(written(rows, folder))
def last(row, text): return dict(messages=[*row['messages'][:-1], dict(role='assistant', content=text)])
def choices(rng, n=40, long='same'):
    rows, rest = flights(rng, n), flights(rng, n)
    def rejected(r, o): return o['messages'][-1]['content'] if long == 'same' else 'No.'
    return [dict(prompt=r['messages'][:-1], chosen=r['messages'][-1:], rejected=[dict(role='assistant', content=rejected(r, o))]) for r,o in zip(rows, rest)]

@case('data', '', 'conversations')
def _(rng, folder): return diagnose(written(flights(rng, 300), folder))
@case('data', '', 'instructions')
def _(rng, folder): return diagnose(written([from_messages(r, 'alpaca') for r in flights(rng)], folder))
@case('data', '', 'ShareGPT')
def _(rng, folder): return diagnose(written([from_messages(r, 'sharegpt') for r in flights(rng)], folder))
@case('data', '', 'preference pairs')
def _(rng, folder): return diagnose(written(choices(rng), folder))
@case('data', '', 'training and test')
def _(rng, folder): return diagnose(written(flights(rng), folder), written(flight_requests(60, 'test', rng.randrange(99)), folder, 'test.jsonl'))
@case('data', '', 'with a tokenizer and a window')
def _(rng, folder): return diagnose(written([dict(messages=[dict(role='user', content=f'w{i % 12} {i} {rng.randrange(99)}'), dict(role='assistant', content=f'w{i % 7}')]) for i in range(40)], folder), tokenizer=toy_tokenizer(), max_length=16)

@case('data', 'bad_rows')
def a_line_of_broken_JSON(rng, folder): return spoiled(rng, folder, lambda r: json.dumps(r)[:-rng.randrange(3, 40)])
@case('data', 'bad_rows')
def wrong_columns(rng, folder): return spoiled(rng, folder, lambda r: dict(question=r['messages'][1]['content'], reply='x'), 60)
@case('data', 'bad_rows')
def an_unknown_role(rng, folder): return spoiled(rng, folder, lambda r: dict(messages=[*r['messages'][:-1], dict(role='bot', content='x')]))
@case('data', 'bad_rows')
def an_empty_answer(rng, folder): return spoiled(rng, folder, lambda r: last(r, ' '))
@case('data', 'bad_rows')
def a_file_cut_off(rng, folder):
    path = written(flights(rng), folder)
    path.write_bytes(path.read_bytes()[:-rng.randrange(5, 60)])
    return diagnose(path)
@case('data', 'bad_rows')
def not_UTF_8(rng, folder):
    path = folder/'train.jsonl'
    path.write_bytes(b''.join(json.dumps(last(r, 'Zürich'), ensure_ascii=False).encode('latin-1', 'replace') + b'\n' for r in flights(rng, 20)))
    return diagnose(path)
@case('data', 'duplicates')
def rows_twice(rng, folder):
    rows = flights(rng)
    return diagnose(written(rows + rng.sample(rows, 10), folder))
@case('data', 'contradictions')
def one_question_two_answers(rng, folder):
    rows = flights(rng)
    return diagnose(written(rows + [last(r, rows[0]['messages'][-1]['content'] + ' ') for r in rng.sample(rows[1:], 10)], folder))
@case('data', 'leak')
def test_rows_in_training(rng, folder):
    rows = flights(rng)
    return diagnose(written(rows, folder), written(rng.sample(rows, 5) + flight_requests(40, 'test', 1), folder, 'test.jsonl'))
@case('data', 'secrets')
def addresses_in_the_text(rng, folder):
    from faker import Faker
    fake = Faker()
    fake.seed_instance(rng.randrange(10**6))
    return spoiled(rng, folder, lambda r: last(r, f'Write to {fake.user_name()}@{fake.domain_name()}'), 6)
@case('data', 'secrets')
def a_key_in_the_text(rng, folder): return spoiled(rng, folder, lambda r: last(r, 'use hf_' + ''.join(rng.choices('abcdefghijklmnopqrstuvwxyzABCDEFGHIJ', k=34))))
@case('data', 'baked_template')
def rendered_twice(rng, folder): return spoiled(rng, folder, lambda r: last(r, rng.choice(['<|im_start|>assistant\n{}<|im_end|>', '[INST] {} [/INST]', '### Response:\n{}']).format(r['messages'][-1]['content'])), 60)
@case('data', 'outlier_row')
def a_whole_book(rng, folder): return spoiled(rng, folder, lambda r: last(r, ' '.join(rng.choices(['sea', 'whale', 'ship'], k=9000))))
@case('data', 'dpo_length')
def the_longer_one_is_chosen(rng, folder): return diagnose(written(choices(rng, long='no'), folder))
@case('data', 'nothing_left')
def prompts_that_fill_the_window(rng, folder): return diagnose(written([dict(messages=[dict(role='user', content=' '.join(rng.choices(words, k=30)) + f' {i}'), dict(role='assistant', content='w1')]) for i in range(20)], folder), tokenizer=toy_tokenizer(), max_length=24)
@case('data', 'too_long')
def answers_longer_than_the_window(rng, folder): return diagnose(written([dict(messages=[dict(role='user', content=f'w1 {i}'), dict(role='assistant', content=' '.join(rng.choices(words, k=30)))]) for i in range(20)], folder), tokenizer=toy_tokenizer(), max_length=24)
@case('data', 'no_system_role')
def system_messages_for_a_template_without(rng, folder):
    return diagnose(written(flights(rng, 20), folder), tokenizer=toy_tokenizer(chat_template="{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + template))

# Answers and prompts

def sentence(rng, n=12): return ' '.join(rng.choices('the flight from Oslo to Rome leaves at nine on Monday and costs less than two hundred euros'.split(), k=n))
@case('answers', '', 'sentences')
def _(rng, folder): return diagnose_answers([sentence(rng) for _ in range(12)])
@case('answers', '', 'JSON')
def _(rng, folder): return diagnose_answers([r['messages'][-1]['content'] for r in flights(rng, 12)])
@case('answers', 'repeats')
def loops(rng, folder): return diagnose_answers([sentence(rng, 5) + ' ' + (sentence(rng, 4) + ' ')*15 for _ in range(8)])
@case('answers', 'repeats')
def loops_of_characters(rng, folder): return diagnose_answers(['{"'*rng.randrange(20, 60) for _ in range(8)])
@case('answers', 'speaks_for_user')
def the_next_turn(rng, folder): return diagnose_answers([f'{sentence(rng)}\nuser\n{sentence(rng)}\nassistant\n{sentence(rng)}' for _ in range(8)])
@case('answers', 'wrong_template')
def marks_of_another_template(rng, folder): return diagnose_answers([f'{sentence(rng)} [/INST] {sentence(rng)}' for _ in range(8)])
@case('answers', 'never_stops')
def the_whole_limit(rng, folder): return diagnose_answers([' '.join(rng.choices(words, k=40)) for _ in range(8)], toy_tokenizer(), 40)
@case('answers', 'gibberish')
def no_words(rng, folder): return diagnose_answers([''.join(chr(rng.randrange(0x2500, 0x2bff)) for _ in range(60)) for _ in range(8)])
@case('prompt', '', 'the same')
def _(rng, folder): return diagnose_prompt(toy_tokenizer(), [dict(role='user', content='w1 w2')], '<user> w1 w2 <assistant>')
@case('prompt', 'prompt_differs')
def without_the_generation_prompt(rng, folder): return diagnose_prompt(toy_tokenizer(), [dict(role='user', content=' '.join(rng.choices(words, k=3)))], [2, 5, 6, 7])
@case('prompt', 'prompt_differs')
def another_template(rng, folder): return diagnose_prompt(toy_tokenizer(), [dict(role='user', content='w1 w2')], '<user> w1 w2 <eos> <assistant>')

# Machines: the facts of this one, with one thing changed

def machine(**changes):
    "A diagnosis of this machine with other facts; where torch has another CUDA, bitsandbytes has its library too."
    if built := changes.get('torch_cuda'): changes = dict(bnb_libraries=[f"libbitsandbytes_cuda{built.replace('.', '')}.so"]) | changes
    return diagnose_environment(facts() | changes)
@functools.cache
def facts(): return environment_facts() | dict(free_gib=500.)
@case('environment', '', 'this machine')
def _(rng, folder): return machine()
@case('environment', '', 'an H100 with all libraries')
def _(rng, folder): return machine(torch_cuda='12.8', driver=(13, 0), capability=(9, 0), architectures=['sm_80', 'sm_90', 'sm_100'])
@case('environment', 'incompatible')
def an_old_transformers(rng, folder): return machine(versions=facts()['versions'] | dict(transformers=f'4.{rng.randrange(30, 56)}.0'))
@case('environment', 'incompatible')
def an_old_tokenizers(rng, folder): return machine(versions=facts()['versions'] | dict(tokenizers=f'0.{rng.randrange(13, 22)}.0'))
@case('environment', 'bnb_cuda')
def no_CUDA_library(rng, folder): return machine(torch_cuda='12.8', driver=(13, 0), capability=(9, 0), architectures=['sm_90'], bnb_libraries=['libbitsandbytes_cpu.so'])
@case('environment', 'driver')
def an_old_driver(rng, folder): return machine(torch_cuda='13.0', driver=(12, rng.randrange(9)))
@case('environment', 'cpu_torch')
def the_CPU_build_on_a_GPU(rng, folder): return machine(torch_cuda=None, driver=(13, 0))
@case('environment', 'bf16')
def a_card_before_Ampere(rng, folder): return machine(torch_cuda='12.8', driver=(12, 8), capability=rng.choice([(7, 0), (7, 5)]), architectures=['sm_70', 'sm_75', 'sm_90'])
@case('environment', 'no_kernel')
def a_card_unknown_to_torch(rng, folder): return machine(torch_cuda='12.8', driver=(13, 0), capability=(12, 0), architectures=['sm_80', 'sm_90'])
@case('environment', 'flash_abi')
def flash_attn_for_another_torch(rng, folder): return machine(imports=dict(flash_attn_2_cuda=undefined_symbol(rng, folder)))
@case('environment', 'disk_low')
def a_disk_almost_full(rng, folder): return machine(free_gib=rng.random())

def undefined_symbol(rng, folder):
    "The loader's own words about a library whose symbol torch does not have: an empty library is asked for one."
    import ctypes
    name = f'_ZN3c105ErrorC2ENS_14SourceLocationE{rng.randrange(99)}'
    try: ctypes.CDLL(None)[name]
    except AttributeError as e: return f'ImportError: flash_attn_2_cuda.so: {e}'
@case('log', 'flash_abi')
def a_log_with_an_undefined_symbol(rng, folder): return logged(folder, undefined_symbol(rng, folder))
@case('log', 'disk_full')
def a_log_with_a_full_disk(rng, folder):
    def save():
        with open('/dev/full', 'wb', buffering=0) as f: f.write(b'x')
    return logged(folder, trace(save))
@case('log', 'oom_training')
def a_log_with_no_memory_left(rng, folder): return logged(folder, trace(lambda: torch.empty(2**rng.randrange(50, 55), dtype=torch.uint8)))
@case('log', '', 'progress lines')
def _(rng, folder): return logged(folder, '\n'.join(str(dict(loss=round(1/(i + 1), 3), grad_norm=.5, epoch=i)) for i in range(50)))

def trace(f):
    import traceback
    try: f()
    except Exception: return traceback.format_exc()
def logged(folder, text):
    (folder/'train.log').write_text('\n'.join(f"{{'loss': {1/(i + 1):.3f}}}" for i in range(20)) + '\n' + text + '\n')
    return diagnose(folder/'train.log')

def examine_case(case, seed=0):
    "Make one case and ask the doctor."
    rng = random.Random(f'{case.kind}-{case.name}-{seed}')
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        start = time.perf_counter()
        found = case.make(rng, Path(folder))
        seconds = time.perf_counter() - start
    right = found.first == case.planted if case.planted else not found
    return dict(kind=case.kind, case=case.name, planted=case.planted or 'healthy', first=found.first or 'none', certainty=found[0].certainty if found else '', right=right, where=found[0].place if found else '', seconds=round(seconds, 2), evidence=found[0].evidence[:160] if found else '', named=getattr(found, 'named', {}).get(found.first, ''))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', default='', help='cases whose kind or name holds this')
    args = parser.parse_args()
    rows = [examine_case(c, args.seed) for c in cases if args.only in f'{c.kind} {c.name}']
    for r in rows:
        if not r['right'] or args.only: print(r)
    print(sum(r['right'] for r in rows), 'of', len(rows), 'right,', round(sum(r['seconds'] for r in rows)), 's')
    if not args.only:
        with (here/'doctor_cases.csv').open('w', newline='') as f:
            writer = csv.DictWriter(f, [k for k in rows[0] if k not in ('seconds', 'evidence', 'named')], lineterminator='\n', extrasaction='ignore')
            writer.writeheader()
            writer.writerows(rows)
