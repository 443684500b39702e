"""The transformers library in this process.

`model` contains the public class, `loading` loads the model, and `engine` computes its requests in one thread. Each
request is a row of a batch (`rows`) with its own sampling (`sampling`). One forward pass computes all rows (`packing`).
The prefix cache (`prefixes`) keeps the attention keys and values (`caches`) of earlier rows.
"""
