"""Backends that run a model in this process.

`engine` manages the lifetime of an engine. `token_engine` defines how an engine that exchanges token ids is called, and
`token_engine_model` is the base class of the backends with such an engine: it renders the prompt (`chat_template`),
compiles the grammar (`grammar_matching`), and turns token ids into deltas (`detokenizer`, `reasoning_parser`).
"""
