"""Classifies the errors of services that implement chat completions, and reads how long they ask clients to wait.

`error_bodies` reads the body. The HTTP status and the service's own codes then classify the error. Where these do not
decide, the phrases in `error_phrases` and `parameter_phrases` do. All functions are pure.
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
    InvalidOutput,
    InvalidRequest,
    InvalidToolCall,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from modelport.protocols.chat_completions.error_bodies import ErrorBody, read_error_body, status_from
from modelport.protocols.error_phrases import means_content_refused, means_context_exceeded, means_wrong_key
from modelport.protocols.parameter_phrases import (
    incompatible_parameters_in,
    means_invalid_schema,
    means_param_is_unsupported,
    snake_case,
    unsupported_parameter_in,
)

#: Codes are compared in lower case. Some are GLM's (1261, see https://docs.z.ai/api-reference/api-code), GitHub Models'
#: (`tokens_limit_reached`, see https://github.com/eslint/tsc-meetings/pull/593) and GitHub Copilot's
#: (`model_max_prompt_tokens_exceeded`, see https://github.com/ericc-ch/copilot-api/issues/65).
_CONTEXT_EXCEEDED_CODES = {
    "context_length_exceeded", "exceed_context_size_error", "context_window_exceeded", "1261", "tokens_limit_reached",
    "model_max_prompt_tokens_exceeded",
}  # fmt: skip
#: 1301 is GLM's, see https://docs.z.ai/api-reference/api-code; `data_inspection_failed` and `datainspectionfailed` are
#: DashScope's, see https://www.alibabacloud.com/help/model-studio/error-code; `invalid_prompt` is OpenAI's, see
#: https://github.com/openai/codex/issues/7250
_CONTENT_FILTER_CODES = {
    "content_filter", "content_policy_violation", "moderation_blocked", "data_inspection_failed",
    "datainspectionfailed", "invalid_prompt", "1301",
}  # fmt: skip
_WRONG_KEY_CODES = {"invalid_api_key", "api_key_invalid"}
_UNKNOWN_MODEL_CODES = {"model_not_found", "model_not_supported"}
_UNSUPPORTED_PARAMETER_CODES = {"unsupported_parameter", "unsupported_value"}
#: Groq's codes for output of the model that it could not use -> the error. See https://console.groq.com/docs/errors and
#: https://console.groq.com/docs/structured-outputs
_UNUSABLE_OUTPUT_CODES: dict[str, type[InvalidToolCall] | type[InvalidOutput]] = {
    "tool_use_failed": InvalidToolCall, "json_validate_failed": InvalidOutput,
}  # fmt: skip
#: A text that means that the prompt is too long, or that content is refused, counts with these statuses. `None` is the
#: status of an error inside a stream.
_TEXT_STATUSES = (None, 400, 413, 422)
#: 408, 409, 424 and 425 denote temporary faults, so they count as server errors, which are retried. 498 is Groq's
#: status for a lack of capacity, see https://console.groq.com/docs/flex-processing
TEMPORARY_STATUSES = (408, 409, 424, 425, 498)


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
    body = read_error_body(payload)
    codes = body.codes
    if (http_status := status_from(status)) is None:
        http_status = body.status
    status = http_status
    text = _readable(body.text.strip())
    message = f"{text.rstrip('.')} (HTTP {status})." if status and not from_engine else f"{text.rstrip('.')}."
    source = "engine" if from_engine else "service"
    wait = retry_after(headers or {})
    details: dict[str, Any] = {
        "status": None if from_engine else status, "retry_after": body.retry_delay if wait is None else wait
    }  # fmt: skip
    if codes & _CONTEXT_EXCEEDED_CODES or (status in _TEXT_STATUSES and means_context_exceeded(body.text)):
        alternative = "make the model with a larger context_length=…" if from_engine else "lower max_tokens"
        cli_option = (
            "--set context_length=… makes the context larger" if from_engine else "--max-tokens limits the output"
        )
        return ContextWindowExceeded(
            f"The prompt does not fit the model's context: {message} Shorten the messages, or {alternative}.",
            hint=f"The option {cli_option}.",
            **details,
        )
    refused_by_text = status in (*_TEXT_STATUSES, 403) and means_content_refused(body.text)
    if codes & _CONTENT_FILTER_CODES or body.is_moderated or refused_by_text:
        return ContentFiltered(f"The service's content policy refused the prompt or the response: {message}", **details)
    for code, error_class in _UNUSABLE_OUTPUT_CODES.items():
        if code in codes:
            return _unusable_output(error_class, message, body, details)
    is_wrong_key = status in (400, 401) and (bool(codes & _WRONG_KEY_CODES) or means_wrong_key(body.text))
    if status in (401, 403) or is_wrong_key:
        problem = "does not allow this request with this key" if status == 403 else "refused the key"
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
    if (status is not None and status >= 500) or status in TEMPORARY_STATUSES:
        return ServerError(f"The {source} failed: {message}", **details)
    if status is None and "rate_limit_exceeded" in codes:
        return RateLimited(f"Too many requests: {message}", **details)
    if (status is not None and 300 <= status < 500) or "invalid_request_error" in codes:
        parameter, other = _rejected_parameter(body)
        refusal = InvalidRequest(f"The {source} refused the request: {message}", parameter=parameter, **details)
        refusal.incompatible_with = other
        return refusal
    return ServerError(f"The {source} failed: {message}", **details)


def _unusable_output(
    error_class: type[InvalidToolCall] | type[InvalidOutput], message: str, body: ErrorBody, details: dict[str, Any]
) -> ModelError:
    generation = body.failed_generation or ""
    excerpt = f" The model wrote: {generation[:200]!r}." if generation else ""
    return error_class(f"The service could not use the model's output: {message}{excerpt}", text=generation, **details)


def _readable(text: str) -> str:
    """Return the beginning of an error text. If the text is a web page, which proxies send, return its title."""
    # DashScope's texts begin with "<400> ", which is no tag.
    if re.match(r"<[!?a-z]", text, re.IGNORECASE):
        title = re.search(r"<title[^>]*>(.*?)</title>", text[:5000], re.I | re.S)
        return f"the response is a web page, {' '.join((title[1] if title else text[:80]).split())!r}"
    return text[:600]


def _rejected_parameter(body: ErrorBody) -> tuple[str | None, str | None]:
    """Return the parameter that an error names as not accepted, and the one with which it is not accepted.

    Both are `None` if the error names no parameter, and the second one if the first is never accepted.
    """
    text, param = body.text, body.param
    if means_invalid_schema(text):
        return None, None  # The service accepts the parameter, but not the schema in it.
    if pair := incompatible_parameters_in(text):
        return pair[1], pair[0]
    if param and (body.codes & _UNSUPPORTED_PARAMETER_CODES or means_param_is_unsupported(text)):
        return snake_case(param), None
    for problem in body.problems:
        # Another kind of problem is a wrong value, which is the caller's mistake. Only the types of response formats
        # that a service accepts depend on the service.
        is_unknown_format = problem.kind == "literal_error" and problem.path[:1] == ("response_format",)
        if problem.path and (problem.kind == "extra_forbidden" or is_unknown_format):
            return ".".join(problem.path), None
    # OpenAI's error about a prompt that does not ask for JSON names `messages`, which is what the caller can change.
    return (None if param and param.startswith("messages") else unsupported_parameter_in(text)), None


#: A longer wait in a header is not valid, in seconds: it is infinite, or a time of day instead of a wait.
_LONGEST_WAIT = 1e9


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
        if seconds < _LONGEST_WAIT:  # This is false for NaN.
            return max(seconds, 0.0)
    exhausted = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})(?!\d)", headers.get("ratelimit", ""))
    return float(exhausted[1]) if exhausted else None
