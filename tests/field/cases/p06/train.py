from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

def placeholder(completions, **kwargs):
    return [0.5] * len(completions)

args = GRPOConfig(output_dir="o", per_device_train_batch_size=8, num_generations=8, learning_rate=1e-6)
GRPOTrainer(model="Qwen/Qwen3-0.6B", reward_funcs=placeholder, args=args,
    train_dataset=load_dataset("json", data_files="prompts.jsonl", split="train")).train()
