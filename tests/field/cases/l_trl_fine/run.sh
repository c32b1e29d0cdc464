trl sft --model_name_or_path Qwen/Qwen3-0.6B --dataset_name trl-lib/Capybara --use_peft --lora_r 16 \
  --max_length 1024 --learning_rate 2e-5 --output_dir o --eval_strategy steps --config base.yaml
