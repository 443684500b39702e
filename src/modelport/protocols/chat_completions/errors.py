"""Classifies the errors of services that implement chat completions, and reads how long they ask clients to wait.

An error is classified by its HTTP status and by the service's own code. Where these do not decide, the phrases in
`error_phrases` do. All functions are pure.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from modelport.errors import (
    AuthenticationError,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from modelport.protocols.chat_completions.error_phrases import (
    means_context_exceeded,
    means_invalid_schema,
    means_param_is_unsupported,
    unsupported_parameter_in,
)

_CONTEXT_EXCEEDED_CODES = {
    "context_length_exceeded",
    "exceed_context_size_error",
    "context_window_exceeded",
    "string_above_max_length",
}
_CONTENT_FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked"}
_UNKNOWN_MODEL_CODES = {"model_not_found", "model_not_supported"}
_UNSUPPORTED_PARAMETER_CODES = {"unsupported_parameter", "unsupported_value"}


def error_from(
    status: Any, payload: Any, headers: Mapping[str, str] | None = None, *, from_engine: bool = False
) -> ModelError:
    """Return the exception for an error response.

    Args:
        status: The HTTP status, or the code of an error event inside a stream (which may be any value).
        payload: The parsed body, or the body as text.
        headers: The response's headers, with names in lower case.
        from_engine: Whether a local engine, and not a service, sent the error. The exception then shows no status,
            because no HTTP was involved.
    """
    error = payload.get("error", payload) if isinstance(payload, dict) else payload
    fields: Mapping[str, Any] = error if isinstance(error, dict) else {}
    text = _readable(str(fields.get("message") or fields.get("detail") or error or "no reason given").strip())
    status_text = str(status)
    status = int(status_text) if status_text.isascii() and status_text.isdecimal() and len(status_text) <= 4 else None
    codes = {str(fields.get("code")), str(fields.get("type"))}
    message = f"{text.rstrip('.')} (HTTP {status})." if status and not from_engine else f"{text.rstrip('.')}."
    source = "engine" if from_engine else "service"
    details: dict[str, Any] = {"status": None if from_engine else status, "retry_after": retry_after(headers or {})}
    if codes & _CONTEXT_EXCEEDED_CODES or (status in (400, 413, 422) and means_context_exceeded(text)):
        alternative = "make the model with a larger context_length=…" if from_engine else "lower max_tokens"
        cli_option = (
            "--set context_length=… makes the context larger" if from_engine else "--max-tokens limits the output"
        )
        return ContextWindowExceeded(
            f"The prompt does not fit the model's context: {message} Shorten the messages, or {alternative}.",
            hint=f"The option {cli_option}.",
            **details,
        )
    if codes & _CONTENT_FILTER_CODES:
        return ContentFiltered(f"The service's content policy refused the prompt or the response: {message}", **details)
    if status in (401, 403):
        problem = "refused the key" if status == 401 else "does not allow this request with this key"
        return AuthenticationError(f"The service {problem}: {message}", **details)
    if status == 404 or (status == 400 and codes & _UNKNOWN_MODEL_CODES):
        return NotFoundError(
            f"The service does not know this model or path: {message} Check the model's name and the "
            "service's address, which often ends in /v1.",
            **details,
        )
    if status in (402, 429) or "insufficient_quota" in codes:
        no_quota = status == 402 or "insufficient_quota" in codes
        wait = details["retry_after"]
        requested_wait = f" The service asks to wait {wait:g} s." if wait else ""
        problem = "The account has no quota left" if no_quota else "Too many requests"
        return RateLimited(f"{problem}: {message}{requested_wait}", retryable=not no_quota, **details)
    # 408, 409, 424 and 425 denote temporary faults, so they count as server errors, which are retried.
    if (status is not None and status >= 500) or status in (408, 409, 424, 425):
        return ServerError(f"The {source} failed: {message}", **details)
    if status is None and "rate_limit_exceeded" in codes:
        return RateLimited(f"Too many requests: {message}", **details)
    if (status is not None and 300 <= status < 500) or "invalid_request_error" in codes:
        return InvalidRequest(
            f"The {source} refused the request: {message}", parameter=_rejected_parameter(fields, text), **details
        )
    return ServerError(f"The {source} failed: {message}", **details)


def _readable(text: str) -> str:
    """Return the beginning of an error text. If the text is a web page, which proxies send, return its title."""
    if text.startswith("<"):
        title = re.search(r"<title[^>]*>(.*?)</title>", text[:5000], re.I | re.S)
        return f"the response is a web page, {' '.join((title[1] if title else text[:80]).split())!r}"
    return text[:600]


def _rejected_parameter(fields: Mapping[str, Any], text: str) -> str | None:
    """Return the parameter that an error names as not accepted, or `None`."""
    if means_invalid_schema(text):
        return None  # The service accepts the parameter, but not the schema in it.
    param = fields.get("param")
    if isinstance(param, str) and (
        str(fields.get("code")) in _UNSUPPORTED_PARAMETER_CODES or means_param_is_unsupported(text)
    ):
        return param
    # Servers that validate with pydantic send pydantic's list of problems as `detail`. Mistral sends it in `message`.
    holder = fields["message"] if isinstance(fields.get("message"), dict) else fields
    for problem in holder["detail"] if isinstance(holder.get("detail"), list) else ():
        if isinstance(problem, dict) and problem.get("type") == "extra_forbidden":
            location = problem.get("loc")
            if isinstance(location, list) and location:
                return str(location[-1])
    return unsupported_parameter_in(text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a service asks the client to wait, or `None`.

    The first of these headers that the response has, and that is valid, is used:

    - `retry-after-ms` and `x-amz-retry-after`: milliseconds.
    - `retry-after`: seconds or a date, see https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    - `ratelimit`: after `t` seconds the quota is renewed. It is used only if the remaining quota `r` is 0, see
      https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-09

    Args:
        headers: The response's headers, with names in lower case.
    """
    for name, units_per_second in (("retry-after-ms", 1000.0), ("x-amz-retry-after", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / units_per_second
        except ValueError:
            try:
                date = email.utils.parsedate_to_datetime(value)
                # The oldest format of HTTP dates has no time zone, but HTTP dates are always in GMT.
                seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds:  # This is false for NaN.
            return max(seconds, 0.0)
    exhausted = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return float(exhausted[1]) if exhausted else None
