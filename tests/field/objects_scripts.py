"""Trainers as people build them, each before its first step."""
import random, tempfile
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from tokenizers.processors import TemplateProcessing
from transformers import (AutoTokenizer, DataCollatorWithPadding, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification,
    PrinterCallback, Trainer, TrainingArguments, default_data_collator)
from trl import (DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig,
    SFTTrainer)
from ftcook.doctor.callback import watched
from ftcook.doctor.toy import calm
from ftcook.runtime import model_path, quiet
quiet()
calm()

def tokenizer(): return AutoTokenizer.from_pretrained(model_path('embedded'))

def config(tok, **more):
    ids = {k: getattr(tok, k) for k in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    return LlamaConfig(vocab_size=len(tok), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, **(ids | more))

def toy(**more): return LlamaForCausalLM(config(tokenizer(), **more))
def lora(): return LoraConfig(r=4, task_type='CAUSAL_LM')

def args(cls, **more):
    return cls(**(dict(output_dir=tempfile.mkdtemp(), report_to='none', use_cpu=True, bf16=False, save_strategy='no', max_steps=2,
        disable_tqdm=True) | more))

def turn(role, content): return dict(role=role, content=content)
def rows(make, n=8): return Dataset.from_list([make(i) for i in range(n)])
def chats():
    return rows(lambda i: dict(messages=[turn('user', f'How far is town {i}?'), turn('assistant', f'{i} kilometres by train.')]))
def pairs(): return rows(lambda i: dict(prompt=[turn('user', f'How far is town {i}?')], chosen=[turn('assistant', f'{i} km')],
    rejected=[turn('assistant', 'no idea')]))
def completions():
    return rows(lambda i: dict(prompt=[turn('user', f'How far is town {i}?')], completion=[turn('assistant', f'{i} km.')]))
def prompts(): return rows(lambda i: dict(prompt=[turn('user', f'Say {i}')]))
def judged(label): return rows(lambda i: dict(prompt='a', completion=f' b{i}', label=label(i)))
def ids(**more): return rows(lambda i: dict(input_ids=[1, 5, 6, 7, 8 + i], attention_mask=[1]*5, **more))

def sft(data=None, model=None, tok=None, peft=None, **more):
    return SFTTrainer(model or toy(), args(SFTConfig, **more), train_dataset=data or chats(), processing_class=tok or tokenizer(),
        peft_config=peft)
def plain(data, **more): return Trainer(toy(), args(TrainingArguments), train_dataset=data, data_collator=default_data_collator,
    processing_class=tokenizer(), **more)
def kto(label): return KTOTrainer(toy(), ref_model=toy(), args=args(KTOConfig, per_device_train_batch_size=4),
    train_dataset=judged(label), processing_class=tokenizer())
def lengths(completions, **kwargs): return [float(len(c[0]['content'])) for c in completions]
def grpo(reward=lengths, **more):
    given = dict(per_device_train_batch_size=4, num_generations=4, max_completion_length=8) | more
    return GRPOTrainer(toy(), reward_funcs=reward, args=args(GRPOConfig, **given), train_dataset=prompts(),
        processing_class=tokenizer())

def to_the_end(trainer):
    "What the callback says of a run, which it must not stop."
    trainer.remove_callback(PrinterCallback)
    found = watched(trainer)
    assert trainer.state.global_step == trainer.args.max_steps, f'stopped at step {trainer.state.global_step}'
    return found

# Sick

def a12t():
    tok = tokenizer()
    tok.bos_token = '<|endoftext|>'
    special = [(tok.bos_token, tok.convert_tokens_to_ids(tok.bos_token))]
    tok.backend_tokenizer.post_processor = TemplateProcessing(single=f'{tok.bos_token} $A', special_tokens=special)
    tok.chat_template = '{{bos_token}}' + tok.chat_template
    texts = chats().map(lambda r: dict(text=tok.apply_chat_template(r['messages'], tokenize=False)), remove_columns=['messages'])
    return sft(texts, tok=tok)

def a36t(): return sft(completions(), model=prepare_model_for_kbit_training(get_peft_model(toy(), lora())))
def a37t():
    folder = tempfile.mkdtemp()
    get_peft_model(toy(), lora()).save_pretrained(folder)
    return sft(completions(), model=PeftModel.from_pretrained(toy(), folder))
def a60b():
    def row(i): return dict(prompt=[turn('user', 'word '*40 if i else 'hi')], completion=[turn('assistant', f'{i} km')])
    return sft(rows(row, 9), max_length=40)
def a60d(): return kto(lambda i: True)
def t_kto_bad_only(): return kto(lambda i: False)
def t_pads(): return plain(rows(lambda i: dict(input_ids=[1, 5, 6, 7 + i, 2, 2, 2], attention_mask=[1]*4 + [0]*3,
    labels=[1, 5, 6, 7 + i, 2, 2, 2])))
def t_shifted():
    return plain(rows(lambda i: dict(input_ids=[1, 5, 6, 7 + i, 2], attention_mask=[1]*5, labels=[5, 6, 7 + i, 2, -100])))
def t_no_labels(): return plain(ids())
def t_sharegpt():
    return sft(rows(lambda i: dict(conversations=[{'from': 'human', 'value': f'q {i}'}, {'from': 'gpt', 'value': f'a {i}'}])))
def a61s():
    return to_the_end(grpo(lambda completions, **kwargs: [1.]*len(completions), max_steps=12, logging_steps=1))
def t_cold(): return grpo(temperature=1e-6)
def t_cut(): return sft(rows(lambda i: dict(text=f'town {i} '*60)), max_length=32)

# Healthy

def h15_chats(): return sft()
def h15_lora(): return sft(completions(), peft=lora())
def h15_packing(): return sft(completions(), packing=True, max_length=64)
def h15_dpo():
    return DPOTrainer(toy(), ref_model=toy(), args=args(DPOConfig), train_dataset=pairs(), processing_class=tokenizer())
def h15_dpo_lora():
    return DPOTrainer(toy(), args=args(DPOConfig), train_dataset=pairs(), processing_class=tokenizer(), peft_config=lora())
def h15_grpo(): return grpo()
def h15_reward():
    tok = tokenizer()
    def row(i): return dict(chosen=[turn('user', 'a'), turn('assistant', f'b{i}')],
        rejected=[turn('user', 'a'), turn('assistant', 'c')])
    data = rows(row)
    model = LlamaForSequenceClassification(config(tok, num_labels=1))
    return RewardTrainer(model, args=args(RewardConfig), train_dataset=data, processing_class=tok)
def h15_kto(): return kto(lambda i: bool(i % 2))
def h15_classes():
    tok = tokenizer()
    return Trainer(LlamaForSequenceClassification(config(tok, num_labels=2)), args(TrainingArguments),
        train_dataset=rows(lambda i: dict(input_ids=[1, 5, 6], attention_mask=[1]*3, labels=i % 2)),
        data_collator=DataCollatorWithPadding(tok))
def h15_stream(): return sft(chats().to_iterable_dataset())
def h15_plain():
    return plain(rows(lambda i: dict(input_ids=[1, 5, 6, 7 + i, 2], attention_mask=[1]*5, labels=[-100, 5, 6, 7 + i, 2])))
def h15_texts(): return sft(rows(lambda i: dict(text=f'town {i} '*9)), max_length=64)
def h15_some_long():
    def row(i): return dict(prompt=[turn('user', 'word '*40 if i == 3 else 'hi')], completion=[turn('assistant', f'{i} km')])
    return sft(rows(row, 12), max_length=40)
def a61():
    rng, steps = random.Random(0), iter(range(12))
    def late(completions, **kwargs):
        begins = next(steps) < 4
        return [0. if begins else rng.random() for _ in completions]
    return to_the_end(grpo(late, max_steps=12, logging_steps=1))
