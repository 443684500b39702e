"""Models that are called through the package LiteLLM: one model, or several deployments behind LiteLLM's Router.

LiteLLM runs in this process. It takes a request in OpenAI's format and translates it for the service.

- `model` and `router` hold the two model classes, which call LiteLLM.
- `responses` reads LiteLLM's responses, and `errors` turns LiteLLM's exceptions into modelport's errors.
- `capabilities` looks up in LiteLLM's tables what a model can do.
- `secrets` finds API keys and other secrets in the parameters for LiteLLM.
- `package` imports LiteLLM.
- `isolation` gives each model its own HTTP clients and callbacks on each event loop. LiteLLM itself has one set of them
  for the whole process.
"""
