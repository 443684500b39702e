"""What both LiteLLM backends share: the package, its clients, what it knows of models, and its errors."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from modelport.capabilities import Capabilities
from modelport.chat_completions import error_from
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    MissingDependency,
    ModelError,
    RateLimited,
    ServerError,
    UnsupportedFeature,
)
from modelport.grammar import JSONSchema
from modelport.normalise import KNOWN_PARAMETERS
from modelport.remote.pools import PerLoop
from modelport.remote.profiles import PROFILES
from modelport.remote.sdk import connection_error
from modelport.remote.transport import fault_of

# --- the package ------------------------------------------------------------------------------------------------------


def require_litellm() -> None:
    """Looks whether LiteLLM is installed, without its import, which takes seconds.

    Raises:
        MissingDependency: It is not.
    """
    if find_spec("litellm") is None:
        raise MissingDependency("litellm", "litellm")


@functools.cache
def litellm_package() -> Any:
    """LiteLLM, imported on first use: nothing is fetched, printed or reported, and its own log is silent.

    What the user has set stays: `LITELLM_LOCAL_MODEL_COST_MAP`, `LITELLM_LOG`, or the level of a logger of its.
    """
    require_litellm()
    # Or its import, and its first call of some services, would fetch tables that the package brings along.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    import litellm

    litellm.suppress_debug_info = True  # "Give Feedback / Get Help", printed at every error
    if hasattr(litellm, "telemetry"):  # of versions up to 1.9x
        litellm.telemetry = False
    for name in ("LiteLLM", "LiteLLM Router"):
        if logging.getLogger(name).level == logging.NOTSET and "LITELLM_LOG" not in os.environ:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # every error is raised
    return litellm


_leases: dict[asyncio.AbstractEventLoop, int] = {}


def leases() -> PerLoop[asyncio.AbstractEventLoop]:
    """One model's use of LiteLLM's HTTP clients, which all models of a process share, on each loop that asks.

    The clients of a loop are closed when the last model that used them there is, or with the loop.
    """
    return PerLoop(_give_back)


def lease() -> asyncio.AbstractEventLoop:
    """A use of the clients on the running loop."""
    loop = asyncio.get_running_loop()
    _leases[loop] = _leases.get(loop, 0) + 1
    return loop


async def _give_back(loop: asyncio.AbstractEventLoop) -> None:
    _leases[loop] -= 1
    if _leases[loop]:
        return
    del _leases[loop]
    cache = litellm_package().in_memory_llm_clients_cache
    # The loop's id is the end of each key: https://github.com/BerriAI/litellm, caching/llm_caching_handler.py
    for key in [key for key in list(cache.cache_dict) if str(key).endswith(f"-{id(loop)}")]:
        client = cache.cache_dict.pop(key, None)
        cache.ttl_dict.pop(key, None)
        close = getattr(client, "aclose", None) or getattr(client, "close", None)
        if close is None:
            continue
        try:
            closing = close()
            if asyncio.iscoroutine(closing):
                await closing
        except Exception:
            pass  # It is going anyway.


_workers: dict[asyncio.AbstractEventLoop, asyncio.Task[Any]] = {}


def keep_worker() -> None:
    """Keeps the task by which LiteLLM calls its callbacks; to be called before each request.

    There is one for the process. A call on another loop makes a new one and forgets the old, which asyncio would then
    complain of ("Task was destroyed but it is pending").
    """
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    task = getattr(GLOBAL_LOGGING_WORKER, "_worker_task", None)
    if task is None or task.done():
        return
    loop = task.get_loop()
    old = _workers.get(loop)
    if old is task:
        return
    _workers[loop] = task
    for ended in [loop for loop in list(_workers) if loop.is_closed()]:
        _workers.pop(ended, None)
    if old is not None and not loop.is_closed():
        loop.call_soon_threadsafe(old.cancel)


# --- what it knows of models ------------------------------------------------------------------------------------------


def known_capabilities(base: Capabilities, model_id: str, provider: str | None, api_base: str | None) -> Capabilities:
    """What LiteLLM's tables say that a model can do; nothing is asked of the service.

    A model that its tables do not know, such as one on a server of your own, is taken to do what its provider does.

    Raises:
        InvalidRequest: It knows no such provider.
    """
    litellm = litellm_package()
    try:
        model, provider, *_ = litellm.get_llm_provider(model_id, custom_llm_provider=provider, api_base=api_base)
    except Exception:
        raise InvalidRequest(
            f"model_id={model_id!r}: LiteLLM knows no such provider or model. Write 'provider/model', as "
            "'anthropic/claude-sonnet-4-5'; 'openai/NAME' with api_base for a compatible server. See "
            "https://docs.litellm.ai/docs/providers"
        ) from None
    takes = set(litellm.get_supported_openai_params(model, custom_llm_provider=provider) or ())
    if not takes:
        return base.profiled(model_id, PROFILES)
    names = (model_id, f"{provider}/{model}", model)
    rows = (row for name in names if (row := litellm.model_cost.get(name)))
    told = next((row for row in rows if row.get("litellm_provider") == provider), None)

    def can(feature: str) -> bool:
        # Absent is no. The Router adds rows for its deployments that say None: nobody knows.
        return told is None or told.get(f"supports_{feature}", False) is not False

    kinds = {"image": "vision", "audio": "audio_input", "file": "pdf_input"}
    changes: dict[str, Any] = {
        "stop": "stop" in takes,
        "tools": "tools" in takes,
        "tool_choices": base.tool_choices if "tool_choice" in takes else frozenset({"auto", "none"}),
        "grammars": frozenset({JSONSchema}) if "response_format" in takes and can("response_schema") else frozenset(),
        "inputs": frozenset({"text", *(kind for kind, feature in kinds.items() if can(feature))}),
        "logprobs": "logprobs" in takes,
        "seed": "seed" in takes,
        "reasoning": can("reasoning"),
        "system_role": told is None or told.get("supports_system_messages") is not False,
        # LiteLLM itself refuses others of OpenAI's that the provider does not take; `user` it would drop.
        "refused": ((KNOWN_PARAMETERS & set(litellm.OPENAI_CHAT_COMPLETION_PARAMS)) | {"user"}) - takes - _TIMES,
    }
    result = base.but(**changes).profiled(model_id, PROFILES)
    return result if "max_completion_tokens" in takes else result.but(renamed={})


_TIMES = {"timeout", "first_token_timeout", "idle_timeout"}


def in_common(all_of_them: Iterable[Capabilities]) -> Capabilities:
    """What each of several models can do."""
    first, *others = all_of_them
    for other in others:
        changes: dict[str, Any] = {}
        for field in fields(Capabilities):
            a, b = getattr(first, field.name), getattr(other, field.name)
            if field.name == "refused":
                changes[field.name] = a | b
            elif isinstance(a, bool):
                changes[field.name] = a and b
            elif isinstance(a, frozenset) and isinstance(b, frozenset):
                changes[field.name] = a & b
            elif field.name == "renamed":
                changes[field.name] = a if a == b else {}
        first = first.but(**changes)
    return first


# --- errors -----------------------------------------------------------------------------------------------------------

_SECRET_NAME = re.compile("auth|key|token|secret|password|credential", re.I)
_PREFIX = re.compile(r"^(?:litellm\.)?\w+(?:Error|Exception|Timeout)?(?: - |: )(?=\S)")


def error_of(error: Exception, secrets: Iterable[str]) -> ModelError:
    """What an exception of LiteLLM's means; its text without any key.

    LiteLLM makes exceptions of its own of everything, with a status of its own where the service gave none (500 for a
    connection that broke). What happened is in what it was made from.
    """
    ours = _meaning(error)
    text = ours.message
    known = [value for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    for secret in {*secrets, *known}:
        if len(secret) >= 8:
            text = text.replace(secret, "***")
    ours.args = (text,)
    return ours


def _meaning(error: Exception) -> ModelError:
    import aiohttp
    import httpx
    import openai

    litellm = litellm_package()
    links = list(_links(error))
    for link in links:
        if isinstance(link, aiohttp.ClientError):
            return fault_of(link)
        if isinstance(link, httpx.TransportError) and not isinstance(_origin(link), aiohttp.ClientError):
            return connection_error(link)
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
