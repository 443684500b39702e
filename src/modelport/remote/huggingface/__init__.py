"""Hugging Face Inference Providers and endpoints.

The `huggingface_hub` package builds each request for its provider; modelport's HTTP transport sends it.
"""
