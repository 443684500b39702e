"""Reads errors inside of responses and streams.

The exception itself is made by the caller's function, because the services that have this API classify its errors like
those of chat completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Codes of `response.error` that say that the request was wrong. All begin with one of these, see `ResponseError.code`
#: in https://github.com/openai/openai-python/blob/main/src/openai/types/responses/response_error.py
_REQUEST_ERROR_CODES = ("invalid_", "image_", "empty_image", "unsupported_", "failed_to_download", "data_residency")


def error_payload(error: Any) -> tuple[Any, dict[str, Any]]:
    """Return the code and the body of an error, as the function that classifies HTTP errors takes them.

    Args:
        error: The value of `error` in a response, or an event of type `error`.
    """
    if not isinstance(error, Mapping):
        return None, {"error": error or "no reason given"}
    fields = {key: error.get(key) for key in ("message", "code", "param")}
    kind, code = error.get("type"), str(error.get("code") or "")
    if kind in (None, "error", "response.failed"):
        kind = "invalid_request_error" if code.startswith(_REQUEST_ERROR_CODES) else None
    return error.get("code"), {"error": {**fields, "type": kind}}
