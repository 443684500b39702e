"""The HTTP transport: aiohttp sessions, request checks, parsed responses, and errors without secrets.

A backend passes a body and headers to `transport.HTTPTransport` and receives parsed JSON or parsed events.
"""
