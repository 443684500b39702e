"""Translates what callers write into the types of `modelport.types`.

Callers may use OpenAI's dicts, transformers' parts, pydantic models, Python functions or objects of other libraries.
Each mistake becomes an `InvalidRequest` that names its path, before anything is sent.
"""
