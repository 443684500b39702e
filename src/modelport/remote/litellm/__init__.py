"""Models behind the package LiteLLM and its Router, which run in this process.

`model` and `router` translate a request to a chat completion and call LiteLLM. `responses` reads LiteLLM's responses,
`errors` classifies its exceptions, `capabilities` looks models up in its tables, and `secrets` finds the keys in its
parameters. `package` imports LiteLLM, and `isolation` separates what LiteLLM shares within a process (HTTP clients and
callbacks) for each model and event loop.
"""
