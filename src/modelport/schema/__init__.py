"""JSON Schema, regular expressions and Python types; nothing here knows a model.

`python_types` makes a schema from a type, `rules` rewrites a schema to the subset that a service enforces, and
`validators` with `mismatch` check a value against a schema in bounded time.
"""
