"""Models of the transformers library in this process.

One thread computes all responses. Requests share packed forward passes, and prefixes of earlier prompts are reused.
"""
