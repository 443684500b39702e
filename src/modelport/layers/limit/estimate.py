"""Estimates how many tokens a request will use, before it is sent."""

from __future__ import annotations

from modelport.errors import InvalidRequest
from modelport.types.messages import ChatMessage
from modelport.types.request import Request

#: Tokens that are assumed for the output if `max_tokens` is not set and no output has been received yet.
UNKNOWN_OUTPUT_TOKENS = 1024
#: Bytes of text that are assumed for one token. Most tokenizers put more bytes into a token, so the real number of
#: tokens is usually smaller than the estimate.
BYTES_PER_TOKEN = 2


def estimate_tokens(request: Request, limit: float, longest_output: int) -> int:
    """Estimate the tokens of a request, input and output together.

    Args:
        request: The request. `max_tokens`, if it is set, is the estimate of the output.
        limit: The limit of tokens per minute. A larger estimate is reduced to this limit, because otherwise the request
            could never be sent. It is then sent when no other request is in the window.
        longest_output: The tokens of the longest output that has been received so far; 0 if none has been received.

    Raises:
        InvalidRequest: `max_tokens` is above the limit.
    """
    max_tokens = request.parameters.get("max_tokens")
    if max_tokens is not None and max_tokens > limit:
        raise InvalidRequest(
            f"max_tokens={max_tokens} is above tokens_per_minute={limit:g}, so the request could never be sent: "
            "lower max_tokens or raise tokens_per_minute"
        )
    prompt_tokens = sum(map(text_size, request.messages)) // BYTES_PER_TOKEN + 1
    return int(min(prompt_tokens + (max_tokens or longest_output or UNKNOWN_OUTPUT_TOKENS), limit))


def text_size(message: ChatMessage) -> int:
    """Return the size of a message's text in bytes, the names and arguments of its tool calls included."""
    text = message.text
    size = len(text) if text.isascii() else len(text.encode())
    if message.tool_calls:
        size += sum(len(call.function.name) + len(call.function.arguments_json()) for call in message.tool_calls)
    return size
