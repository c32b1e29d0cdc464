"""Tasks: rows, schema, prompt, score and reward of what a model is to learn, one module each."""
