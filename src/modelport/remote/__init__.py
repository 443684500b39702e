"""Backends for remote services.

Each package except `http` implements the backends for one kind of service. Backends for OpenAI's chat-completions API
derive from the class in `chat_model`. They send requests through modelport's HTTP transport (`http`) or through a
vendor's client. `profiles` holds what is known about models by name, and `schema_subsets` which part of JSON Schema
each service enforces.
"""
