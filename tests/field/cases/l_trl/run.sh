trl sft --model_name_or_path Qwen/Qwen3-0.6B --dataset_name trl-lib/Capybara \
  --max_seq_length 1024 --learning_rate 2e-5 --output_dir o
