"""Backends for remote services.

Each package implements one kind of service. A backend with chat completions derives from `chat_model`, whose requests
go through a transport (`http`, or a vendor's client). `profiles` and `schema_subsets` are data about models and
services.
"""
