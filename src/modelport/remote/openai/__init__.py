"""OpenAI, Azure OpenAI and every OpenAI-compatible server.

Requests go through modelport's own HTTP transport, or through the `openai` package (`sdk`) where the caller passes a
client or settings for one.
"""
