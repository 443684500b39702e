"""Wire formats, without I/O: the packages `remote` and `local` send the requests and receive the responses.

Each package implements one wire format. It turns a request into a body, and a response or the events of a stream into
deltas. `output_text` reads what a model has written as text: its reasoning and its tool calls. The module `sse` splits
a stream into server-sent events.
"""
