"""Backends for remote services.

Each package except `http` implements the backends for one kind of service. The backends in `openai` and `huggingface`,
whose services have OpenAI's chat-completions API, derive from the class in `chat_model`. They send requests through
modelport's HTTP transport (`http`) or through a vendor's client.

`unconstrained_reasoning` adapts grammars for llama.cpp's server. `profiles` holds what is known about models by name
(`bedrock` has its own profiles), and `schema_subsets` which part of JSON Schema each service enforces.
"""
