"""MLX in this process, through the `mlx-lm` package.

`model` translates requests. One thread loads the model (`loading`) and computes its changing batch (`batch`). Each
request is a row (`rows`) with its own sampling (`sampling`). The prefix cache (`prefixes`) keeps the keys and values of
earlier rows.
"""
