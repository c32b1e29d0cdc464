from trl import SFTTrainer, TrainingArguments

SFTTrainer("Qwen/Qwen3-0.6B", args=TrainingArguments(output_dir="o")).train()
