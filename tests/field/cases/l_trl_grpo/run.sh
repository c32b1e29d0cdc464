trl grpo --model_name_or_path Qwen/Qwen3-0.6B --dataset_name d --per_device_train_batch_size 2 --num_generations 8 --output_dir o
