"""llama.cpp in this process, through the `xllamacpp` package.

`weights` finds or downloads the weights, `model` sends chat-completions bodies to the engine, and `events` turns the
engine's events into deltas.
"""
