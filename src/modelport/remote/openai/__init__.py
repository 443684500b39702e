"""OpenAI, Azure OpenAI and every OpenAI-compatible server.

Requests go through modelport's own HTTP transport. If the caller passes a client or settings for one, requests go
through the `openai` package (`sdk`).
"""
