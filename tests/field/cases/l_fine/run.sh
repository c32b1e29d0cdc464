#!/bin/bash
set -e
# two cards
export CUDA_VISIBLE_DEVICES=0,1
torchrun --nproc_per_node 2 train.py --fp16 False --bf16 True --learning_rate 1e-4
