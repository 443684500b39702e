"""llama.cpp in this process, through the `xllamacpp` package.

`weights` finds or downloads the model's weights, `model` passes chat-completions requests to the engine, and `events`
turns the engine's events into deltas.
"""
