from trl import SFTConfig, SFTTrainer
from datasets import load_dataset
rows = load_dataset("json", data_files="a.jsonl", split="train")
args = SFTConfig(output_dir="o", learning_rate=1e-5, bf16=True)
trainer = SFTTrainer("Qwen/Qwen3-0.6B", tokenizer=tok, train_dataset=rows)
trainer.train()