"""vLLM in this process and in the processes that it starts.

`loading` makes vLLM's engine, `processes` and `process_main` control how its processes start and end, `shared_engine`
runs it on its own event loop, and `model` translates requests into vLLM's parameters.
"""
