"""Tasks: rows, prompt, schema, score, reward and rubric of what a model is to learn, one module each.

A face of `ftcook.tasks.base`."""
from .base import *
