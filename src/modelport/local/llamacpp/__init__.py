"""llama.cpp in this process, through the `xllamacpp` package.

`weights` finds or downloads the default model's weights, and `model` sends chat-completions bodies to the engine.
"""
