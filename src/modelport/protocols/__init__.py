"""Wire formats as pure functions; I/O stays in `remote` and `local`.

Each package implements one wire format. A request becomes a body, and a response or its events become deltas.
"""
