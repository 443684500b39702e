"""Backends that run a model in this process.

`engine` manages the lifetime of an engine, `token_model` is the base of backends that exchange token ids,
`chat_template` renders prompts, and `grammar_matching` computes token masks for constrained decoding.
"""
