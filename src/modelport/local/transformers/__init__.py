"""transformers in this process.

`model` translates settings, `loading` loads the model, and `engine` computes its requests in one thread. Each request
is a row (`rows`) with its own sampling (`sampling`); rows share packed forward passes (`packing`), and the prefix cache
(`prefixes`) keeps the keys and values (`caches`) of earlier rows.
"""
