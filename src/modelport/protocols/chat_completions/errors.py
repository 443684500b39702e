"""The errors of services that speak chat completions, and the waits they ask for. Pure functions."""

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

_CONTEXT_CODES = {
    "context_length_exceeded",
    "exceed_context_size_error",
    "context_window_exceeded",
    "string_above_max_length",
}
_CONTEXT_WORDS = re.compile(
    r"maximum context length|context (?:length|window|size)|max_model_len|too many tokens"
    r"|`inputs` (?:tokens \+ `max_new_tokens` must be|must have less than)",
    re.I,
)
_FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked"}
_UNKNOWN_MODEL_CODES = {"model_not_found", "model_not_supported"}
_UNSUPPORTED_CODES = {"unsupported_parameter", "unsupported_value"}
#: How services that give no code name a parameter they do not know: OpenAI, xAI, Fireworks, Groq, DeepSeek.
_UNSUPPORTED_WORDS = re.compile(
    r"""(?:
        (?:unsupported|unknown|unrecognized)\ (?:request\ )?(?:parameter|argument|field|property)s?(?:\ supplied)?[:\s]+
        | argument\ not\ supported\ on\ this\ model:\s*
        | does\ not\ support\ (?:the\ )?(?:parameter|argument|field)s?[:\s]+
        | extra\ inputs\ are\ not\ permitted,\ field:\s*
    )['"`]?([a-z_]+)
    | ['"`]([a-z_]+)['"`]\ is\ (?:unsupported|not\ (?:supported|permitted|allowed))
    | \ ([a-z_]+)\ type\ is\ unavailable""",
    re.IGNORECASE | re.VERBOSE,
)


def error_from(
    status: Any, payload: Any, headers: Mapping[str, str] | None = None, *, engine: bool = False
) -> ModelError:
    """The error that a service's answer means, by its status and its own code.

    Args:
        status: The HTTP status, or the code of an error frame inside a stream (which may be any value).
        payload: The parsed body, or its text.
        headers: With names in lower case.
        engine: Whether it is an engine in this process, whose statuses are no one's business.
    """
    inner = payload.get("error", payload) if isinstance(payload, dict) else payload
    fields: Mapping[str, Any] = inner if isinstance(inner, dict) else {}
    text = _said(str(fields.get("message") or fields.get("detail") or inner or "no reason given").strip())
    said = str(status)  # of an error frame: whatever the service likes
    status = int(said) if said.isascii() and said.isdecimal() and len(said) <= 4 else None
    codes = {str(fields.get("code")), str(fields.get("type"))}
    message = f"{text.rstrip('.')} (HTTP {status})." if status and not engine else f"{text.rstrip('.')}."
    who = "engine" if engine else "service"
    details: dict[str, Any] = {"status": None if engine else status, "retry_after": retry_after(headers or {})}
    if codes & _CONTEXT_CODES or (status in (400, 413, 422) and _CONTEXT_WORDS.search(text)):
        other = "make the model with a larger context_length=…" if engine else "lower max_tokens"
        option = "--set context_length=… makes the context larger" if engine else "--max-tokens limits the output"
        return ContextWindowExceeded(
            f"The prompt does not fit the model's context: {message} Shorten the messages, or {other}.",
            hint=f"The option {option}.",
            **details,
        )
    if codes & _FILTER_CODES:
        return ContentFiltered(f"The service's content policy refused it: {message}", **details)
    if status in (401, 403):
        what = "refused the key" if status == 401 else "does not allow this to the key"
        return AuthenticationError(f"The service {what}: {message}", **details)
    if status == 404 or (status == 400 and codes & _UNKNOWN_MODEL_CODES):
        return NotFoundError(
            f"The service does not know this model or path: {message} Check the model's name and the "
            "service's address, which often ends in /v1.",
            **details,
        )
    if status in (402, 429) or "insufficient_quota" in codes:
        spent = status == 402 or "insufficient_quota" in codes
        wait = details["retry_after"]
        asks = f" It asks for a wait of {wait:g} s." if wait else ""
        return RateLimited(
            f"{'The account has no quota left' if spent else 'Too many requests'}: {message}{asks}",
            retryable=not spent,
            **details,
        )
    if (status is not None and status >= 500) or status in (408, 409, 424, 425):
        return ServerError(f"The {who} failed: {message}", **details)
    if status is None and "rate_limit_exceeded" in codes:
        return RateLimited(f"Too many requests: {message}", **details)
    if (status is not None and 300 <= status < 500) or "invalid_request_error" in codes:
        return InvalidRequest(
            f"The {who} refused the request: {message}", parameter=_parameter(fields, text), **details
        )
    return ServerError(f"The {who} failed: {message}", **details)


def _said(text: str) -> str:
    """What a service said, in a line; of a proxy's web page its title."""
    if text.startswith("<"):
        title = re.search(r"<title[^>]*>(.*?)</title>", text[:5000], re.I | re.S)
        return f"it answered with a web page, {' '.join((title[1] if title else text[:80]).split())!r}"
    return text[:600]


def _parameter(fields: Mapping[str, Any], text: str) -> str | None:
    """The parameter that a refusal names as unsupported."""
    if text.startswith("Invalid schema"):  # It is the schema in it that is refused.
        return None
    named = fields.get("param")
    if isinstance(named, str) and (
        str(fields.get("code")) in _UNSUPPORTED_CODES or re.search(r"unsupported|not support", text, re.I)
    ):
        return named
    # Pydantic's words, which Mistral wraps once more.
    inner = fields["message"] if isinstance(fields.get("message"), dict) else fields
    for problem in inner["detail"] if isinstance(inner.get("detail"), list) else ():
        if isinstance(problem, dict) and problem.get("type") == "extra_forbidden":
            where = problem.get("loc")
            if isinstance(where, list) and where:
                return str(where[-1])
    found = _UNSUPPORTED_WORDS.search(text)
    return found[1] or found[2] or found[3] if found else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a service asks us to wait, from `retry-after-ms`, `retry-after`, `x-amz-retry-after` or `ratelimit`.

    See https://www.rfc-editor.org/rfc/rfc9110#field.retry-after and, for a limit whose remainder (r) is 0 for so many
    seconds (t), https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-09
    """
    for name, unit in (("retry-after-ms", 1000.0), ("x-amz-retry-after", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                date = email.utils.parsedate_to_datetime(value)
                # Its oldest form names no zone: an HTTP date is always GMT.
                seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds:  # not NaN
            return max(seconds, 0.0)
    spent = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return float(spent[1]) if spent else None
