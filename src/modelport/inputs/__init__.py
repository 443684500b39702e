"""Converts the arguments of callers to the types of `modelport.types`.

Callers can pass messages and tools in the formats of OpenAI and transformers, pydantic models, Python functions, and
objects of other libraries. A mistake raises `InvalidRequest` with the path of the wrong value, such as
`messages[2]['content'][0]`, before anything is sent.
"""
