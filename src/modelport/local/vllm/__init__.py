"""vLLM as an engine of this process. vLLM computes in further processes, which it starts itself.

`loading` makes vLLM's engine, `processes` and `process_main` control how vLLM's processes start and end,
`shared_engine` runs the engine on an event loop in a thread, and `model` translates requests into vLLM's parameters.
"""
