"""JSON Schema, regular expressions and Python types. Nothing in this package depends on a language model.

`python_types` makes a schema from a type, `rules` rewrites a schema to the subset that a service enforces, and
`validation` checks a value against a schema in bounded time.
"""
