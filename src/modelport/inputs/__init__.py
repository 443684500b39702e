"""Translates what callers write into the types of `modelport.types`.

Callers can pass OpenAI's dicts, transformers' parts, pydantic models, Python functions or objects of other libraries.
Each mistake becomes an `InvalidRequest` that names the path of the wrong value, before anything is sent.
"""
