"""How open models write reasoning and tool calls in the text of their output.

A local engine returns text. `ReasoningReader` takes it in parts, and separates the reasoning from the content, by a
`ReasoningFormat`. `read_output` then finds the tool calls in the content, by a `CallFormat`. The formats of today's
models are tables (`reasoning_formats`, `call_formats`). Which of them a model uses is not known from its name: the
package `local` renders a call with the model's chat template, and chooses the format that reads it back.
"""
