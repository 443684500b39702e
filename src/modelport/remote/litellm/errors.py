"""Classification of LiteLLM's exceptions as modelport's errors.

LiteLLM turns everything into exceptions of its own, with a status of its own where the service sent none (500 for a
connection that broke). So `model_error_from` looks at the exceptions that led to LiteLLM's, the nearest first: a
response of the service, a fault of the connection, or an error of modelport's own. LiteLLM's own classification counts
only if there is none of these.
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
from modelport.remote.http.errors import error_from_aiohttp, error_from_httpx, is_encoding_error
from modelport.remote.http.redaction import redact, secrets_in
from modelport.remote.litellm.package import litellm_package
from modelport.secrets import names_secret

#: The class names with which LiteLLM's messages begin.
_CLASS_NAME = re.compile(r"^(?:litellm\.)?\w+(?:Error|Exception|Timeout)?(?: - |: )(?=\S)")


def model_error_from(error: Exception, secrets: Iterable[str]) -> ModelError:
    """The error for an exception of LiteLLM's.

    Args:
        error: The exception.
        secrets: Values that are redacted in the message, in addition to the keys in the environment.
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
        if isinstance(cause, ModelError):  # The guard of the HTTP client raised this error.
            return cause.with_traceback(None)  # The traceback's frames hold the headers.
        if isinstance(cause, aiohttp.ClientError):
            return error_from_aiohttp(cause)
        if isinstance(cause, httpx.TransportError) and not isinstance(_cause_of(cause), aiohttp.ClientError):
            return error_from_httpx(cause)
        if is_encoding_error(cause):
            return InvalidRequest(f"The request has a value that can't be sent ({type(cause).__name__}: {cause}).")
        if isinstance(cause, json.JSONDecodeError | UnicodeDecodeError):
            return MalformedResponse(f"The service sent broken JSON ({type(cause).__name__}).")
        if isinstance(cause, ImportError):
            return InvalidRequest(f"LiteLLM needs another package for this provider: {cause}")
        response = getattr(cause, "response", None)
        if isinstance(response, httpx.Response) and response.headers and response.status_code >= 300:
            return _refine(error_from(response.status_code, _payload(causes, response), response.headers), error)
        if type(cause) is openai.APIError and cause.body:  # An error event of a stream.
            return error_from(getattr(cause, "code", None), {"error": cause.body})
        if type(cause) is openai.OpenAIError:  # The openai package raises this class itself only if there is no key.
            return AuthenticationError(f"No key was given: {cause}")
        if type(cause) is Exception and hasattr(cause, "status_code"):  # An error in a body with status 200.
            body = {"message": getattr(cause, "message", ""), "code": cause.status_code}
            return error_from(cause.status_code, {"error": body})
    return _from_litellms_class(error, litellm_package().exceptions)


def _from_litellms_class(error: Exception, exceptions: Any) -> ModelError:
    """The error for an exception that neither a service nor a connection caused."""
    text, status = _text(error), getattr(error, "status_code", None)
    if (wait := getattr(error, "cooldown_time", None)) is not None:  # The Router's exception.
        return RateLimited(f"No deployment is available at the moment: {text}", retry_after=float(wait))
    if isinstance(error, exceptions.UnsupportedParamsError):
        return UnsupportedFeature(text)
    if isinstance(error, exceptions.BudgetExceededError):
        return RateLimited(text, retryable=False)
    if isinstance(error, exceptions.Timeout):
        return ConnectionFailed("The service did not respond within LiteLLM's time-out.")
    if isinstance(error, exceptions.MidStreamFallbackError):
        return ServerError(f"The service failed: {text}", status=status)
    if isinstance(status, int) and 400 <= status < 500:
        return _refine(error_from(status, text), error)
    if isinstance(status, int):
        return MalformedResponse(f"LiteLLM can't read the service's response: {text}")
    return InvalidRequest(f"LiteLLM can't carry out the request ({type(error).__name__}): {text}")


def _refine(result: ModelError, error: Exception) -> ModelError:
    """The error with the more precise class that LiteLLM derives from a service's own message."""
    exceptions = litellm_package().exceptions
    for litellms, kind in (
        (exceptions.ContextWindowExceededError, ContextWindowExceeded),
        (exceptions.ContentPolicyViolationError, ContentFiltered),
    ):
        if isinstance(error, litellms) and not isinstance(result, kind):
            return kind(result.message, status=result.status, retry_after=result.retry_after)
    return result


def _chain_of(error: BaseException) -> Iterator[Any]:
    """The exception and those that led to it, the nearest first."""
    pending: list[BaseException | None] = [error]
    visited: set[int] = set()
    while pending:
        cause = pending.pop()
        if cause is None or id(cause) in visited:
            continue
        visited.add(id(cause))
        yield cause
        pending += [cause.__context__, cause.__cause__, getattr(cause, "original_exception", None)]


def _cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _payload(causes: list[Any], response: Any) -> Any:
    """The body of the service's response, parsed if it is JSON."""
    for cause in causes:
        if isinstance(getattr(cause, "body", None), Mapping):
            return {"error": cause.body.get("error", cause.body)}
    try:
        text = response.text
    except Exception:  # Nobody has read the body of this streamed response.
        text = str(getattr(causes[min(1, len(causes) - 1)], "message", ""))
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(error: Exception) -> str:
    """The first line of LiteLLM's message, without the class names at its beginning."""
    text = str(getattr(error, "message", None) or error)
    while (shorter := _CLASS_NAME.sub("", text, count=1)) != text:
        text = shorter
    return text.partition("\n")[0][:600]
