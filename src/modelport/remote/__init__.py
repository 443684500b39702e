"""Backends for remote services.

Each package is one kind of service. They share the HTTP transport in `http`, and `chat_model`, which holds what all
backends with chat completions have in common.
"""
