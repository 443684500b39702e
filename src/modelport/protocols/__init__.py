"""Wire formats, without I/O: the packages `remote` and `local` send the requests and receive the responses.

Each package implements one wire format. It turns a request into a body, and a response or the events of a stream into
deltas. `output_text` is the format inside of a local model's text. The module `sse` splits a stream into server-sent events.
"""
