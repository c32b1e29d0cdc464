import torch
from transformers import AutoModelForCausalLM, top_k_top_p_filtering

model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
logits = top_k_top_p_filtering(model(torch.tensor([[1, 2]])).logits[:, -1], top_k=20)
