"""The exceptions of `modelport.errors`, and the one for a refusal of an HTTP service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelport.errors import AuthenticationError as AuthenticationError
from modelport.errors import ConnectionFailed as ConnectionFailed
from modelport.errors import ContentFiltered as ContentFiltered
from modelport.errors import ContextWindowExceeded as ContextWindowExceeded
from modelport.errors import DeadlineExceeded as DeadlineExceeded
from modelport.errors import InvalidOutput as InvalidOutput
from modelport.errors import InvalidRequest as InvalidRequest
from modelport.errors import InvalidToolCall as InvalidToolCall
from modelport.errors import MalformedResponse as MalformedResponse
from modelport.errors import MissingDependency as MissingDependency
from modelport.errors import ModelClosed as ModelClosed
from modelport.errors import ModelError as ModelError
from modelport.errors import NotFoundError as NotFoundError
from modelport.errors import RateLimited as RateLimited
from modelport.errors import ServerError as ServerError
from modelport.errors import StreamInterrupted as StreamInterrupted
from modelport.errors import UnsupportedFeature as UnsupportedFeature
from modelport.protocols.chat_completions.errors import error_from
from modelport.schema.json_text import json_size_problem

__all__ = [
    "AuthenticationError", "ConnectionFailed", "ContentFiltered", "ContextWindowExceeded", "DeadlineExceeded",
    "InvalidOutput", "InvalidRequest", "InvalidToolCall", "MalformedResponse", "MissingDependency", "ModelClosed",
    "ModelError", "NotFoundError", "RateLimited", "ServerError", "StreamInterrupted", "UnsupportedFeature",
    "from_status",
]  # fmt: skip


def __dir__() -> list[str]:
    """Return the names for backends, so that an editor or a prompt does not suggest this module's imports."""
    return __all__


def from_status(status: Any, body: Any = "", headers: Mapping[str, str] | None = None) -> ModelError:
    """Return the error for a refusal of an HTTP service: for backends of other authors.

    401 and 403 become `AuthenticationError`, 404 `NotFoundError`, 402 and 429 `RateLimited` (402 is not retried), 408,
    409, 424, 425 and 500 or more `ServerError`, and other statuses `InvalidRequest`. The service's own codes and words
    can say more: then the error is `ContextWindowExceeded` or `ContentFiltered`, or has the rejected `parameter`.

    Args:
        status: The HTTP status. For an error inside a stream: the service's code, which may be any value, or `None` for
            the `code` in the body.
        body: The body of the response, as text, bytes or parsed JSON. The error's message quotes the text in `error`,
            `message` or `detail` of a JSON object, or else all of the body. So pass only the service's text if its JSON
            has other names.
        headers: The headers of the response. `Retry-After` and similar headers become `retry_after` (in seconds).

    Examples:
        >>> error = from_status(429, '{"error": {"message": "Slow down"}}', {"Retry-After": "2"})
        >>> type(error).__name__, error.retryable, error.retry_after
        ('RateLimited', True, 2.0)
    """
    if isinstance(body, bytes):
        body = body.decode(errors="replace")
    if isinstance(body, str) and json_size_problem(body) is None:
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            pass  # The body is plain text, a web page, or JSON that is nested too deeply.
    if status is None and isinstance(body, dict) and isinstance(body.get("error"), dict):
        status = body["error"].get("code")
    return error_from(status, body, {name.lower(): value for name, value in (headers or {}).items()})
