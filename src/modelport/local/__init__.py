"""Backends in this process."""
