"""Backends for remote services.

Each package except `http` implements the backends for one kind of service. `openai` and `huggingface`, whose services
have OpenAI's chat-completions API, derive their backends from the class in `chat_model`. These backends send requests
through modelport's HTTP transport (`http`) or through a vendor's client. `unconstrained_reasoning` helps `chat_model` with
llama.cpp's server. `profiles` holds what is known about models by name (`bedrock` has its own), and `schema_subsets`
which part of JSON Schema each service enforces.
"""
