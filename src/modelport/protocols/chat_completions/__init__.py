"""OpenAI's chat completions, which many services and servers implement.

`request` turns a request into a JSON body. `response` turns a response or its chunks into deltas. `errors` classifies
error responses by status and error code, and by the phrases in `error_phrases`. `output_format` writes the fields that
request structured output, and `dialects` describes how particular servers differ from OpenAI's API.

See https://platform.openai.com/docs/api-reference/chat
"""
