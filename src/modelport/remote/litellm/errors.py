"""Turns LiteLLM's exceptions into modelport's errors.

LiteLLM wraps every fault in an exception of its own. If the service sent no HTTP status, as when the connection broke,
LiteLLM makes one up (500). So `model_error_from` follows the chain of causes of LiteLLM's exception, and uses the first
cause that shows the fault itself: a response of the service, a fault of the connection, or an error of modelport's own.
LiteLLM's own classification is used only if the chain has none of these.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
    UnsupportedFeature,
)
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.error_phrases import means_string_too_long
from modelport.protocols.parameter_phrases import unsupported_parameter_in
from modelport.remote.http.errors import error_from_aiohttp, error_from_httpx, is_encoding_error
from modelport.remote.http.redaction import redact, secrets_in
from modelport.remote.litellm.package import litellm_package
from modelport.schema.json_text import json_size_problem
from modelport.secrets import names_secret

#: A class name at the beginning of LiteLLM's message, such as `litellm.BadRequestError: `. There may be several.
_CLASS_NAME = re.compile(r"^(?:litellm\.)?\w+(?:Error|Exception|Timeout)?(?: - |: )(?=\S)")


def model_error_from(error: Exception, secrets: Iterable[str]) -> ModelError:
    """The error for an exception of LiteLLM's.

    Args:
        error: The exception.
        secrets: Values to redact in the message. Secrets in environment variables are redacted too.
    """
    result = _classify(error)
    in_environment = secrets_in({name: value for name, value in os.environ.items() if names_secret(name)})
    result.args = (redact(result.message, {*secrets, *in_environment}),)
    return result


def _classify(error: Exception) -> ModelError:
    import aiohttp
    import httpx
    import openai

    causes = list(_chain_of(error))
    for cause in causes:
        # The hook that modelport's module `isolation` adds to LiteLLM's HTTP clients raises a `ModelError`.
        if isinstance(cause, ModelError):
            return cause.with_traceback(None)  # The frames of the traceback hold headers, and so API keys.
        if isinstance(cause, aiohttp.ClientError):
            return error_from_aiohttp(cause)
        # LiteLLM runs aiohttp below httpx. If an error of aiohttp caused the error of httpx, this error is skipped,
        # because the one of aiohttp, which comes later in the chain, says more.
        if isinstance(cause, httpx.TransportError) and not isinstance(_cause_of(cause), aiohttp.ClientError):
            return error_from_httpx(cause)
        if is_encoding_error(cause):
            return InvalidRequest(f"The request has a value that can't be sent ({type(cause).__name__}: {cause}).")
        if isinstance(cause, json.JSONDecodeError | UnicodeDecodeError):
            return MalformedResponse(f"The service sent broken JSON ({type(cause).__name__}).")
        if isinstance(cause, ImportError):
            return InvalidRequest(f"LiteLLM needs another package for this provider: {cause}")
        # A response without headers is one that LiteLLM made up.
        response = getattr(cause, "response", None)
        if isinstance(response, httpx.Response) and response.headers and response.status_code >= 300:
            return _refine(error_from(response.status_code, _payload(causes, response), response.headers), error)
        if type(cause) is openai.APIError and cause.body:  # The stream contained an error event.
            return error_from(getattr(cause, "code", None), {"error": cause.body})
        if type(cause) is openai.OpenAIError:  # The openai package raises this base class only if there is no API key.
            return AuthenticationError(f"No key was given: {cause}")
        # LiteLLM raises a plain `Exception` if the body of a response with status 200 contains an error.
        if type(cause) is Exception and hasattr(cause, "status_code"):
            body = {"message": getattr(cause, "message", ""), "code": cause.status_code}
            return error_from(cause.status_code, {"error": body})
    return _classify_by_class(error, litellm_package().exceptions)


def _classify_by_class(error: Exception, exceptions: Any) -> ModelError:
    """The error for an exception whose causes do not show the fault, by the exception's own class and status.

    Args:
        error: LiteLLM's exception.
        exceptions: LiteLLM's module of exception classes.
    """
    text, status = _text(error), getattr(error, "status_code", None)
    if (wait := getattr(error, "cooldown_time", None)) is not None:
        # The Router raises this exception while all deployments are cooling down.
        return RateLimited(f"No deployment is available at the moment: {text}", retry_after=float(wait))
    if isinstance(error, exceptions.UnsupportedParamsError):
        return UnsupportedFeature(text, parameter=unsupported_parameter_in(text))
    if isinstance(error, exceptions.BudgetExceededError):
        return RateLimited(text, retryable=False)
    if isinstance(error, exceptions.Timeout):
        return ConnectionFailed("The service did not respond within LiteLLM's time-out.")
    if isinstance(error, exceptions.MidStreamFallbackError):
        return ServerError(f"The service failed: {text}", status=status)
    if isinstance(status, int) and 400 <= status < 500:
        return _refine(error_from(status, text), error)
    if isinstance(status, int):  # LiteLLM failed while it read the response, and made up a status of 500 or more.
        return MalformedResponse(f"LiteLLM can't read the service's response: {text}")
    return InvalidRequest(f"LiteLLM can't carry out the request ({type(error).__name__}): {text}")


def _refine(result: ModelError, error: Exception) -> ModelError:
    """The error in a more precise class, if LiteLLM's class means that the prompt is too long or was filtered."""
    exceptions = litellm_package().exceptions
    if means_string_too_long(result.message):  # LiteLLM takes this for a prompt that is too long.
        return result
    for litellm_class, error_class in (
        (exceptions.ContextWindowExceededError, ContextWindowExceeded),
        (exceptions.ContentPolicyViolationError, ContentFiltered),
    ):
        if isinstance(error, litellm_class) and not isinstance(result, error_class):
            return error_class(result.message, status=result.status, retry_after=result.retry_after)
    return result


def _chain_of(error: BaseException) -> Iterator[Any]:
    """The exception and those that caused it. Each one precedes its own causes."""
    pending: list[BaseException | None] = [error]
    visited: set[int] = set()
    while pending:
        cause = pending.pop()
        if cause is None or id(cause) in visited:
            continue
        visited.add(id(cause))
        yield cause
        # `original_exception` is an attribute of LiteLLM's exceptions.
        pending += [cause.__context__, cause.__cause__, getattr(cause, "original_exception", None)]


def _cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _payload(causes: list[Any], response: Any) -> Any:
    """The body of the service's response, parsed if it is JSON."""
    for cause in causes:  # Exceptions of the openai package have the parsed body.
        if isinstance(getattr(cause, "body", None), Mapping):
            return {"error": cause.body.get("error", cause.body)}
    try:
        text = response.text
    except Exception:
        # The body of a streamed response has not been read. The exception that LiteLLM wrapped, the second in the list,
        # may quote the body.
        text = str(getattr(causes[min(1, len(causes) - 1)], "message", ""))
    if json_size_problem(text) is not None:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(error: Exception) -> str:
    """The first line of LiteLLM's message, without the class names at its beginning."""
    text = str(getattr(error, "message", None) or error)
    while (shorter := _CLASS_NAME.sub("", text, count=1)) != text:
        text = shorter
    return text.partition("\n")[0][:600]
