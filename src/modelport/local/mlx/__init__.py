"""MLX in this process, through the `mlx-lm` package.

One thread loads the model and runs its batch of requests; `model` translates requests into rows of that batch.
"""
