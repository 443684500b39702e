"""Finds errors, usage and messages where some services put them in a response or in the chunks of a stream."""

from __future__ import annotations

from typing import Any

#: MiniMax's codes in responses without a choice, whose HTTP status is 200 -> the HTTP status that they mean. Any other
#: code is 400. See https://platform.minimax.io/docs/api-reference/errorcode and, for the status 200,
#: https://github.com/CherryHQ/cherry-studio/issues/11287
_MINIMAX_STATUSES = {
    **dict.fromkeys((1000, 1001, 1013, 1024, 1033), 500), **dict.fromkeys((1002, 1039, 1041, 2045, 2056), 429),
    1004: 401, 2049: 401, 1008: 402,
}  # fmt: skip


def minimax_failure_in(data: Any) -> tuple[int, dict[str, Any]] | None:
    """Return the HTTP status and the error in the field `base_resp` of a response without a choice, or `None`."""
    code = _field(data["base_resp"], "status_code")
    if not isinstance(code, int) or code == 0:
        return None
    text = _field(data["base_resp"], "status_msg") or "no reason given"
    return _MINIMAX_STATUSES.get(code, 400), {"message": f"{text} ({code})", "code": code}


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
    https://github.com/northes/go-moonshot/issues/17
    """
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return data.get("usage") or _field(data.get("x_groq"), "usage") or _field(first, "usage")


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def count_reasoning(part: Any, lengths: dict[str, int]) -> None:
    """Count the characters of reasoning in a part of a message; see `new_part`."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := part.get(name), str):
            lengths[name] += len(text)
    if part.get("reasoning_details"):
        lengths["reasoning_details"] += 1


def new_part(choice: Any, lengths: dict[str, int], has_calls: bool) -> Any:
    """Return the new part of the message in a choice without `delta`.

    Such a choice may have a complete message in `message`: the whole answer, if the service does not stream, or all of
    it so far (Perplexity). What has come before is then left out; see
    https://docs.perplexity.ai/docs/sonar/pro-search/stream-mode

    Args:
        choice: The choice.
        lengths: The number of characters that have come of each field of text.
        has_calls: Whether a tool call has come.
    """
    message = choice.get("message") or {}
    if not isinstance(message, dict):
        return message
    part = dict(message)
    for name, length in lengths.items():
        if length and isinstance(text := part.get(name), str):
            part[name] = text[length:]
        elif length:
            part.pop(name, None)
    if has_calls:
        part.pop("tool_calls", None)
    return part
