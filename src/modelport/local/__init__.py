"""Backends that run a model in this process.

`engine` manages the lifetime of an engine, the object that computes a model's output. `token_engine` defines how an
engine that takes and returns token ids is called. `token_engine_model` contains the base class of the backends with
such an engine: it renders the prompt (`chat_template`), checks the grammar (`grammar_matching`), and turns token ids
into deltas (`detokenizer`, and `protocols.output_text` for reasoning and calls).
"""
