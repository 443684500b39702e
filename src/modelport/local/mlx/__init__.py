"""MLX in this process, through the `mlx-lm` package.

`model` translates requests for the engine. One thread loads the model (`loading`) and computes all requests in one
batch, which requests join and leave at any time (`batch`). Each request is a row of the batch (`rows`) with its own
sampling (`sampling`). The prefix cache (`prefixes`) stores the keys and values of earlier rows.
"""
