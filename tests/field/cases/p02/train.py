from datasets import load_dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

corpus = load_dataset("json", data_files="pages.jsonl", split="train", streaming=True)
tokens = corpus.shuffle(buffer_size=1000, seed=0)
model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-360M")
args = TrainingArguments(output_dir="o", num_train_epochs=1, bf16=True)
Trainer(model=model, args=args, train_dataset=tokens).train()
