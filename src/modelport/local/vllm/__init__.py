"""Models on vLLM, in this process and the processes that it starts."""
