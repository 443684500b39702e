"""vLLM in this process and in the processes that it starts.

`loading` makes the engine, `core` runs it on an event loop of its own, and `model` translates requests into its
parameters.
"""
