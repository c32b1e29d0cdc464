"""Variants of the field cases: the same fault written otherwise, and the healthy twin of each."""
import pytest
from ftcook.doctor.scripts import diagnose_script

head = '''
import torch
from datasets import load_dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
tok = AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B")
rows = load_dataset("json", data_files="a.jsonl", split="train")
held = load_dataset("json", data_files="b.jsonl", split="train")
lora = LoraConfig(r=8, task_type="CAUSAL_LM")
'''
four = 'BitsAndBytesConfig(load_in_4bit=True)'
def load(more=''): return f'm = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B"{more})\n'
def grpo(**given):
    given = dict(output_dir='"o"', per_device_train_batch_size=8) | given
    return f"a = GRPOConfig({', '.join(f'{k}={v}' for k,v in given.items())})\n"
def rewarded(function, name='r'):
    return f'{function}\nGRPOTrainer(model="x/y", reward_funcs={name}, args=GRPOConfig("o"), train_dataset=rows)\n'
run_grpo = 'GRPOTrainer("x/y", reward_funcs=[], args=a, train_dataset=rows)\n'
llama = 'tok = AutoTokenizer.from_pretrained("meta-llama/Llama-3.2-1B-Instruct")\n'

variants = [ # source, codes
    # names
    ('import trl\nt = trl.ORPOTrainer(model="x")', ['gone_name']),
    ('from transformers.trainer_utils import EvalPrediction\nfrom transformers import EarlyStoppingCallback, set_seed', []),
    ('from datasets import load_metric as lm\nlm("bleu")', ['gone_name']),
    ('try: from trl import ORPOTrainer\nexcept ImportError: from trl.experimental.orpo import ORPOTrainer', []),
    ('import trl\nfrom packaging.version import parse\n'
        'if parse(trl.__version__) < parse("0.20"): from trl import setup_chat_format',
        []),
    ('from trl.experimental.orpo import ORPOConfig, ORPOTrainer\nORPOTrainer(model="x", args=ORPOConfig("o", max_length=9))', []),
    ('from trl import SFTConfg', ['gone_name']),
    ('from torch.optim import AdamW\nAdamW([], lr=1e-4)', []),
    ('from mylib import ORPOTrainer, AdamW\nORPOTrainer(tokenizer=1)', []),
    # where a name comes from
    ('class SFTTrainer:\n    def __init__(self, tokenizer): pass\nSFTTrainer(tokenizer=1)', []),
    ('class Mine(SFTTrainer):\n    def __init__(self, tokenizer, **kw): super().__init__(**kw)\nMine(tokenizer=1)', []),
    ('class Mine(SFTTrainer):\n    def log(self, logs): pass\nMine("x/y", tokenizer=1)', ['unknown_argument']),
    ('from trl import SFTTrainer as Fit\nFit("x/y", tokenizer=1)', ['unknown_argument']),
    ('T = SFTTrainer\nT("x/y", tokenizer=1)', ['unknown_argument']),
    ('from pytorch_lightning import Trainer\nTrainer(max_epochs=1, tokenizer=2)', []),
    ('from diffusers import DiffusionPipeline\n'
        'DiffusionPipeline.from_pretrained("x", torch_dtype=torch.float16, load_in_4bit=True)',
        []),
    ('from vllm import LLM\nllm = LLM("x")\ntok.padding_side = "right"\nllm.generate("hi")', []),
    ('from gensim import Vocab\nv = Vocab()\nv.add_tokens(["a"])', []),
    # values
    ('TrainingArguments("o", lr_scheduler_type="cosin")', ['unknown_value']),
    ('SFTConfig("o", optim="adamw_8_bit")', ['unknown_value']),
    ('how = "epochs"\nSFTConfig("o", save_strategy=how)', ['unknown_value']),
    ('SFTConfig("o", lr_scheduler_type="cosine_with_min_lr", optim="paged_adamw_8bit", save_strategy="best")', []),
    # settings that exclude each other
    (load() + 'a = SFTConfig("o", eval_strategy="epoch")\nSFTTrainer(m, a, train_dataset=rows)', ['clash']),
    (load() + 'a = SFTConfig("o", eval_strategy="epoch")\nSFTTrainer(m, a, train_dataset=rows, eval_dataset=held)', []),
    (load() + 'a = SFTConfig("o", eval_strategy="epoch")\nt = SFTTrainer(m, a, train_dataset=rows)\nt.eval_dataset = held', []),
    (load() + 'a = SFTConfig("o")\na.eval_strategy = "steps"\nTrainer(m, a, train_dataset=rows)', ['clash']),
    (load() + 'a = SFTConfig("o", eval_strategy="steps")\nSFTTrainer(m, a, train_dataset=rows, **more)', []),
    ('a = SFTConfig("o", load_best_model_at_end=True, eval_strategy="epoch")\n'
        'SFTTrainer("x/y", a, train_dataset=rows, eval_dataset=held)',
        ['clash']),
    ('a = SFTConfig("o", load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")\n'
        'SFTTrainer("x/y", a, train_dataset=rows, eval_dataset=held)', []),
    ('a = SFTConfig("o", load_best_model_at_end=True, eval_strategy="steps", eval_steps=50, save_steps=100)\n'
        'SFTTrainer("x/y", a, train_dataset=rows, eval_dataset=held)', []),
    ('s = load_dataset("c4", streaming=True, split="train")\nSFTTrainer("x/y", SFTConfig("o"), train_dataset=s)', ['clash']),
    ('s = load_dataset("c4", streaming=True)\nSFTTrainer("x/y", SFTConfig("o"), train_dataset=s["train"].shuffle(1))', ['clash']),
    ('s = load_dataset("c4", streaming=True)["train"]\nSFTTrainer("x/y", SFTConfig("o", max_steps=9), train_dataset=s)', []),
    ('SFTTrainer("x/y", SFTConfig("o", completion_only_loss=True), train_dataset=rows, formatting_func=f)', ['clash']),
    ('SFTTrainer("x/y", SFTConfig("o", completion_only_loss=False), train_dataset=rows, formatting_func=f)', []),
    ('SFTTrainer("x/y", SFTConfig("o", padding_free=True), train_dataset=rows)', ['clash']),
    ('SFTTrainer("x/y", SFTConfig("o", padding_free=True, packing=True), train_dataset=rows)', []),
    ('SFTTrainer("x/y", SFTConfig("o", packing=True, max_length=None), train_dataset=rows)', ['clash']),
    (load() + 'DPOTrainer(m, m, DPOConfig("o"), train_dataset=rows)', ['clash']),
    (load() + 'DPOTrainer(m, None, DPOConfig("o"), train_dataset=rows)', []),
    ('d = rows.map(lambda r: {"text": r["q"]})\nSFTTrainer("x/y", SFTConfig("o", assistant_only_loss=True), train_dataset=d)',
        ['clash']),
    ('d = rows.map(lambda r: {"messages": r["q"]})\nSFTTrainer("x/y", SFTConfig("o", assistant_only_loss=True), train_dataset=d)',
        []),
    # GRPO
    (grpo(num_generations=6) + run_grpo, ['group_size']),
    (grpo(num_generations=4) + run_grpo, []),
    (grpo(per_device_train_batch_size=2, gradient_accumulation_steps=4) + run_grpo, []),
    ('# accelerate launch --num_processes 4 train.py\n' + grpo(per_device_train_batch_size=2) + run_grpo, []),
    (grpo(per_device_train_batch_size='args.batch', num_generations=6) + run_grpo, []),
    (grpo(generation_batch_size=10) + run_grpo, ['group_size']),
    (grpo(num_generations=1) + run_grpo, ['clash']),
    (grpo(generation_batch_size=16, steps_per_generation=2) + run_grpo, ['clash']),
    (grpo(temperature=0) + run_grpo, ['same_samples']), (grpo(temperature=.7, top_k=50) + run_grpo, []),
    (rewarded('def r(completions, **kw):\n    return float(len(completions))'), ['reward_shape']),
    (rewarded('def r(completions, **kw):\n    if completions: return 1.0\n    return 0'), ['reward_shape']),
    (rewarded('def r(completions, **kw):\n    def one(c): return 1.0\n    return [one(c) for c in completions]'), []),
    (rewarded('r = lambda completions, **kw: 1.0'), ['reward_shape']),
    (rewarded('def r(completions): return [1. for c in completions]'), ['reward_arguments']),
    (rewarded('def r(prompts, completions, **kwargs): return [score(c) for c in completions]'), []),
    (rewarded('def r(completions, **kw): return [1.0]*len(completions)'), ['same_rewards']),
    (rewarded('def r(completions, **kw):\n    out = []\n    return out'), []),
    # weights
    (load(', dtype="float16"') + 'Trainer(m, TrainingArguments("o", fp16=True), train_dataset=rows)', ['fp16_weights']),
    (load() + 'm = m.half()\nTrainer(m, TrainingArguments("o", fp16=True), train_dataset=rows)', ['fp16_weights']),
    (load() + 'm.half()\nTrainer(m, TrainingArguments("o", fp16=True), train_dataset=rows)', ['fp16_weights']),
    (load(', dtype=torch.float16') + 'SFTTrainer(m, SFTConfig("o", fp16=True), train_dataset=rows, peft_config=lora)', []),
    (load(', dtype=torch.bfloat16') + 'SFTTrainer(m, SFTConfig("o", fp16=True), train_dataset=rows)', []),
    ('SFTTrainer("x/y", SFTConfig("o", fp16=True, model_init_kwargs={"dtype": "float16"}), train_dataset=rows)',
        ['fp16_weights']),
    (load(f', quantization_config={four}') + 'SFTTrainer(m, SFTConfig("o"), train_dataset=rows)', ['quantized_base']),
    (f'q = {four}\n' + load(', quantization_config=q') + 'm = get_peft_model(m, lora)\n'
        'SFTTrainer(m, SFTConfig("o"), train_dataset=rows)',
        []),
    (f'q = {four}\n' + load(', quantization_config=q') + 'm.add_adapter(lora)\n'
        'Trainer(m, TrainingArguments("o"), train_dataset=rows)',
        []),
    (load() + 'm = PeftModel.from_pretrained(m, "a")\nTrainer(m, TrainingArguments("o"), train_dataset=rows)', ['frozen']),
    ('m = AutoPeftModelForCausalLM.from_pretrained("a")\nSFTTrainer(m, SFTConfig("o"), train_dataset=rows)', ['frozen']),
    ('m = AutoPeftModelForCausalLM.from_pretrained("a", is_trainable=True)\nSFTTrainer(m, SFTConfig("o"), train_dataset=rows)',
        []),
    (load() + 'm = PeftModel.from_pretrained(m, "a").merge_and_unload()\nSFTTrainer(m, SFTConfig("o"), train_dataset=rows, '
        'peft_config=lora)', []),
    (load() + 'SFTTrainer(m, SFTConfig("o"), train_dataset=rows)\nn = PeftModel.from_pretrained(m, "a")', []),
    (load() + 'm = get_peft_model(m, lora)\nm = prepare_model_for_kbit_training(m)', ['frozen']),
    (load() + 'm = prepare_model_for_kbit_training(m)\nm = get_peft_model(m, lora)', []),
    # what the model reads
    (llama + 'd = rows.map(lambda r: {"text": tok.apply_chat_template(r["m"], tokenize=False)})\n'
        'SFTTrainer("meta-llama/Llama-3.2-1B-Instruct", SFTConfig("o"), train_dataset=d, processing_class=tok)', ['double_bos']),
    ('d = rows.map(lambda r: {"text": tok.apply_chat_template(r["m"], tokenize=False)})\n'
        'SFTTrainer("Qwen/Qwen3-0.6B", SFTConfig("o"), train_dataset=d)', []),
    (llama + 's = tok.apply_chat_template(x, tokenize=False, add_generation_prompt=True)\n' + 'i = tok(s)', ['double_bos']),
    (llama + 's = tok.apply_chat_template(x, tokenize=False, add_generation_prompt=True)\n'
        '' + 'i = tok(s, add_special_tokens=False)',
        []),
    ('i = tok.apply_chat_template(x, return_tensors="pt")\n' + load() + 'm.generate(i)', ['no_generation_prompt']),
    ('i = tok.apply_chat_template(x, add_generation_prompt=True)\n' + load() + 'm.generate(i)', []),
    # evaluation, reference, saving
    ('SFTTrainer("x/y", SFTConfig("o"), train_dataset=rows, eval_dataset=rows.shuffle(1).select(range(9)))', ['eval_is_train']),
    ('e = rows.select(range(9))\nSFTTrainer("x/y", SFTConfig("o"), train_dataset=rows, eval_dataset=e)', ['eval_is_train']),
    ('e = rows.select(range(9))\nrows = rows.select(range(9, 99))\n'
        'SFTTrainer("x/y", SFTConfig("o"), train_dataset=rows, eval_dataset=e)',
        []),
    ('d = rows.train_test_split(.1)\nSFTTrainer("x/y", SFTConfig("o"), train_dataset=d["train"], eval_dataset=d["test"])', []),
    ('d = rows.train_test_split(.1)\n'
        'SFTTrainer("x/y", SFTConfig("o"), train_dataset=d["train"], eval_dataset=d["train"].take(9))',
        ['eval_is_train']),
    ('e = load_dataset("json", data_files="a.jsonl", split="train[:5%]")\n'
        'SFTTrainer("x/y", SFTConfig("o"), train_dataset=rows, eval_dataset=e)', ['eval_is_train']),
    ('SFTTrainer("x/y", SFTConfig("o"), train_dataset=rows, eval_dataset=held)', []),
    ('SFTTrainer("x/y", SFTConfig("o"), train_dataset=rows.select(range(9, 99)), eval_dataset=rows.select(range(9)))', []),
    (load() + 'Trainer(m, TrainingArguments("o"), train_dataset=rows, compute_metrics=f)', ['logits_kept']),
    ('m = AutoModelForSequenceClassification.from_pretrained("x")\nTrainer(m, TrainingArguments("o"), compute_metrics=f)', []),
    ('SFTTrainer("x/y", SFTConfig("o"), train_dataset=rows, compute_metrics=f, preprocess_logits_for_metrics=g)', []),
    (load() + 'r = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")\nDPOTrainer(m, r, DPOConfig("o"), train_dataset=rows)',
        []),
    ('a = SFTConfig("o", fsdp="full_shard")\nt = SFTTrainer("x/y", a, train_dataset=rows)\nw = t.model.state_dict()\n'
        'torch.save(w, "m.pt")',
        ['sharded_save']),
    ('a = SFTConfig("o", deepspeed={"zero_optimization": {"stage": 3}})\nt = SFTTrainer("x/y", a, train_dataset=rows)\n'
        'torch.save(t.model.state_dict(), "m.pt")', ['sharded_save']),
    ('a = SFTConfig("o", deepspeed="zero2.json")\nt = SFTTrainer("x/y", a, train_dataset=rows)\n'
        'torch.save(t.model.state_dict(), "m.pt")',
        []),
    # loading
    ('AutoModelForCausalLM.from_pretrained("x/y", load_in_8bit=True)', ['unknown_argument']),
    ('AutoModelForCausalLM.from_pretrained("x/y", load_in_8bit=False, dtype="auto")', [])]

@pytest.mark.parametrize('source,wanted', variants, ids=[s[:60] for s,_ in variants])
def test_variant(tmp_path, source, wanted):
    (tmp_path/'train.py').write_text(head + source)
    found = diagnose_script(tmp_path/'train.py')
    assert list(dict.fromkeys(found.codes)) == wanted, found
