"""What LiteLLM's exceptions mean.

LiteLLM makes exceptions of its own of everything, with a status of its own where the service gave none (500 for a
connection that broke). What happened is in what they were made from.
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

_PREFIX = re.compile(r"^(?:litellm\.)?\w+(?:Error|Exception|Timeout)?(?: - |: )(?=\S)")


def error_of(error: Exception, secrets: Iterable[str]) -> ModelError:
    """What an exception of LiteLLM's means; its text without these secrets, or any that the environment holds."""
    ours = _meaning(error)
    known = secrets_in({name: value for name, value in os.environ.items() if names_secret(name)})
    ours.args = (redact(ours.message, {*secrets, *known}),)
    return ours


def _meaning(error: Exception) -> ModelError:
    import aiohttp
    import httpx
    import openai

    litellm = litellm_package()
    links = list(_links(error))
    for link in links:
        if isinstance(link, ModelError):  # of our own response hook
            return link.with_traceback(None)  # whose frames hold the headers
        if isinstance(link, aiohttp.ClientError):
            return error_from_aiohttp(link)
        if isinstance(link, httpx.TransportError) and not isinstance(_origin(link), aiohttp.ClientError):
            return error_from_httpx(link)
        if is_encoding_error(link):
            return InvalidRequest(f"The request holds what can't be sent ({type(link).__name__}: {link}).")
        if isinstance(link, json.JSONDecodeError | UnicodeDecodeError):
            return MalformedResponse(f"The service sent broken JSON ({type(link).__name__}).")
        if isinstance(link, ImportError):
            return InvalidRequest(f"LiteLLM lacks a package for this provider: {link}")
        response = getattr(link, "response", None)
        if isinstance(response, httpx.Response) and response.headers and response.status_code >= 300:
            return _refined(error_from(response.status_code, _payload(links, response), response.headers), error)
        if type(link) is openai.APIError and link.body:  # an error frame inside a stream
            return error_from(getattr(link, "code", None), {"error": link.body})
        if type(link) is openai.OpenAIError:  # which is what that package says where no key is set
            return AuthenticationError(f"No key was given: {link}")
        if type(link) is Exception and hasattr(link, "status_code"):  # an error in the place of an answer
            inner = {"message": getattr(link, "message", ""), "code": link.status_code}
            return error_from(link.status_code, {"error": inner})
    return _without_response(error, litellm)


def _without_response(error: Exception, litellm: Any) -> ModelError:
    """What LiteLLM's own judgement means, where no service and no connection is behind it."""
    text, status = _text(error), getattr(error, "status_code", None)
    if (wait := getattr(error, "cooldown_time", None)) is not None:  # the Router's
        return RateLimited(f"No deployment is available at the moment: {text}", retry_after=float(wait))
    if isinstance(error, litellm.exceptions.UnsupportedParamsError):
        return UnsupportedFeature(text)
    if isinstance(error, litellm.exceptions.BudgetExceededError):
        return RateLimited(text, retryable=False)
    if isinstance(error, litellm.exceptions.Timeout):
        return ConnectionFailed("The service did not answer within LiteLLM's time-out.")
    if isinstance(error, litellm.exceptions.MidStreamFallbackError):
        return ServerError(f"The service failed: {text}", status=status)
    if isinstance(status, int) and 400 <= status < 500:
        return _refined(error_from(status, text), error)
    if isinstance(status, int):
        return MalformedResponse(f"LiteLLM can't make an answer of what the service sent: {text}")
    return InvalidRequest(f"LiteLLM can't carry out the request ({type(error).__name__}): {text}")


def _refined(ours: ModelError, error: Exception) -> ModelError:
    """Ours, where LiteLLM knows from a service's own words what its status does not say."""
    exceptions = litellm_package().exceptions
    for theirs, kind in (
        (exceptions.ContextWindowExceededError, ContextWindowExceeded),
        (exceptions.ContentPolicyViolationError, ContentFiltered),
    ):
        if isinstance(error, theirs) and not isinstance(ours, kind):
            return kind(ours.message, status=ours.status, retry_after=ours.retry_after)
    return ours


def _links(error: BaseException) -> Iterator[Any]:
    """The exception and those it was made from, the nearest first."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__context__, link.__cause__, getattr(link, "original_exception", None)]


def _origin(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _payload(links: list[Any], response: Any) -> Any:
    """What the service said."""
    for link in links:
        if isinstance(getattr(link, "body", None), Mapping):
            return {"error": link.body.get("error", link.body)}
    try:
        text = response.text
    except Exception:  # a streamed response that nobody has read
        text = str(getattr(links[min(1, len(links) - 1)], "message", ""))
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(error: Exception) -> str:
    """LiteLLM's words without its names of classes."""
    text = str(getattr(error, "message", None) or error)
    while (shorter := _PREFIX.sub("", text, count=1)) != text:
        text = shorter
    return text.partition("\n")[0][:600]
