"""Finds errors, usage and messages where some services put them in a response or in the chunks of a stream."""

from __future__ import annotations

from typing import Any

#: The fields of a message that hold text.
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "refusal")


def unwrap_error_list(data: Any) -> Any:
    """Return the error in a list, which Gemini sends, or else the data."""
    is_error = isinstance(data, list) and data and isinstance(data[0], dict) and "error" in data[0]
    return data[0] if is_error else data


def error_in(data: Any) -> Any:
    """Return the error of a response or a chunk, or `None`.

    Groq names it in `x_groq` if it stops a stream early; see
    https://github.com/groq/groq-python/blob/main/src/groq/types/chat/chat_completion_chunk.py
    """
    return data.get("error") or _field(data.get("x_groq"), "error")


def usage_in(data: Any) -> Any:
    """Return the token usage of a response or a chunk, or `None`.

    Groq's streams have it in `x_groq`, and Kimi's in the first choice; see
    https://platform.moonshot.ai/docs/guide/utilize-the-streaming-output-feature-of-kimi-api
    """
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return data.get("usage") or _field(data.get("x_groq"), "usage") or _field(first, "usage")


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


class MessageParts:
    """Returns the new part of the message in each choice.

    A chunk has the new part in `delta`. If that is empty, a chunk may have a complete message in `message`: the whole
    answer, if the service does not stream, or all of it so far (Perplexity). What has come before is then left out; see
    https://docs.perplexity.ai/guides/chat-completions-guide
    """

    def __init__(self) -> None:
        self._lengths = dict.fromkeys(_TEXT_FIELDS, 0)
        self._has_calls = False

    def read(self, choice: Any, message_key: str) -> Any:
        """Return the new part of the message.

        Args:
            choice: A choice of a response or a chunk.
            message_key: `message` for a non-streaming response, and `delta` for a chunk.
        """
        part = choice.get(message_key) or choice.get("message") or {}
        if message_key == "message" or not isinstance(part, dict):
            return part
        if not choice.get(message_key):
            part = self._new_part(part)
        for name in _TEXT_FIELDS:
            if text := part.get(name):
                self._lengths[name] += len(text) if isinstance(text, str) else 1
        self._has_calls = self._has_calls or bool(part.get("tool_calls"))
        return part

    def _new_part(self, message: dict[str, Any]) -> dict[str, Any]:
        part = dict(message)
        for name, length in self._lengths.items():
            if isinstance(text := part.get(name), str):
                part[name] = text[length:]
            elif length:
                part.pop(name, None)
        if self._has_calls:
            part.pop("tool_calls", None)
        return part
