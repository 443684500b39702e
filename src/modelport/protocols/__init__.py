"""Wire formats as pure functions; I/O stays in `remote` and `local`.

A request becomes a body, and a response or its events become deltas. Each package is one wire format.
"""
