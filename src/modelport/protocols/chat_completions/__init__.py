"""OpenAI's chat completions, which many services and servers speak.

`request` writes the body of a request, `response` reads responses and chunks into deltas, and `errors` classifies
refusals. `output_format` says how a body asks for structured output.
"""
