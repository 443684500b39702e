"""Estimates the tokens of a request."""

from __future__ import annotations

from modelport.types.messages import (
    ChatMessage,
)


def json_size(message: ChatMessage) -> int:
    """Bytes of text in a message, tool calls included: the basis of token estimates."""
    text = message.text
    size = len(text) if text.isascii() else len(text.encode())
    return (
        size
        if not message.tool_calls
        else size
        + sum(len(call.function.name) + len(call.function.arguments_json()) for call in message.tool_calls or ())
    )
