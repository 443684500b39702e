"""Backends behind an API."""
