"""LiteLLM and its Router, in the process.

Bodies and responses are chat completions. `errors` classifies LiteLLM's exceptions, and `isolation` keeps the HTTP
clients that LiteLLM caches for the whole process separate for each model and event loop.
"""
