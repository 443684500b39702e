"""Separates, for each model and event loop, what LiteLLM shares within the process: HTTP clients and callbacks.

LiteLLM keeps both once per process. Models therefore share connections, which stay open when one of the models is
closed. Its one client for Anthropic's streams moves from loop to loop, and closes what another loop still reads. Its
one task that runs callbacks fails, or is left behind, when the loop changes.

How the separation works:

1. A `ClientIsolation` holds the clients and callbacks of one model on one event loop.
2. `ClientIsolation.run` awaits a call of LiteLLM with a context variable set to that call. The variable is never set
   while control is with modelport's caller.
3. `isolate_clients` replaces four functions of LiteLLM. The replacements read the context variable: for a call of
   modelport's they use its `ClientIsolation`, and for LiteLLM calls of the user's they do what they did before.

LiteLLM's own parameters do not help: `client` has a different type for each provider, and `shared_session` reaches only
clients that are not cached yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from functools import cached_property, wraps
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, TypeVar
from weakref import WeakSet

from modelport.remote.http.httpx_clients import install_response_hook
from modelport.runtime.portal import context_without_caller

T = TypeVar("T")
_current_call: ContextVar[_IsolatedCall | None] = ContextVar("modelport_litellm_call", default=None)


class ClientIsolation:
    """The HTTP clients and running callbacks of one model on one event loop."""

    def __init__(self) -> None:
        #: All clients. They include those that LiteLLM's cache has replaced, which it does after an hour.
        self._clients: WeakSet[Any] = WeakSet()
        self.loop = asyncio.get_running_loop()
        self._callback_tasks: set[asyncio.Task[None]] = set()
        self._callbacks_not_started: set[Coroutine[Any, Any, Any]] = set()

    async def run(self, call: Awaitable[T]) -> T:
        """Awaits a call of LiteLLM with these clients and callbacks."""
        current = _IsolatedCall(self)
        previous = _current_call.set(current)
        try:
            return await call
        except asyncio.CancelledError:
            current.cancel()
            raise
        finally:
            with suppress(ValueError):  # The call was ended from another context.
                _current_call.reset(previous)

    @cached_property
    def _cache(self) -> Any:
        from litellm.caching.llm_caching_handler import LLMClientCache

        return LLMClientCache()

    def get_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces the method of LiteLLM's client cache."""
        return self._cache.get_cache(*args, **kwargs)

    def set_cache(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Replaces the method of LiteLLM's client cache."""
        # Closing a Redis client leaves its pool open, so the pool is closed instead.
        pool = getattr(value, "connection_pool", None)
        # LiteLLM does not own the user's `litellm.aclient_session`, which must stay open.
        if pool or kwargs.get("litellm_owned_client", True):
            with suppress(TypeError):  # The value is not a client.
                self._clients.add(pool or value)
            _guard_http_clients(value)
        return self._cache.set_cache(key, value, *args, **kwargs)

    def start_callback(self, callback: Coroutine[Any, Any, Any]) -> None:
        """Runs a callback of LiteLLM's concurrently with the call."""
        self._callbacks_not_started.add(callback)
        task = self.loop.create_task(self._run_callback(callback), context=context_without_caller())
        self._callback_tasks.add(task)
        task.add_done_callback(self._callback_tasks.discard)

    async def _run_callback(self, callback: Coroutine[Any, Any, Any]) -> None:
        if callback not in self._callbacks_not_started:
            return
        self._callbacks_not_started.discard(callback)
        with suppress(Exception):  # LiteLLM ignores exceptions of callbacks too, after it has logged them.
            await self.run(asyncio.wait_for(callback, _logging_worker().timeout))

    async def aclose(self) -> None:
        """Waits for the callbacks, for each of which LiteLLM allows some seconds, and closes the clients."""
        while self._callbacks_not_started:  # A loop that ends has cancelled their tasks before they started.
            await self._run_callback(next(iter(self._callbacks_not_started)))
        if running := self._callback_tasks - {asyncio.current_task()}:
            await asyncio.wait(running)
        clients = list(self._clients)
        self.__dict__.pop("_cache", None)
        for client in clients:
            # Pools of redis before 5.1 have only `disconnect`.
            names = ("aclose", "close", "disconnect")
            close = next((found for name in names if (found := getattr(client, name, None))), None)
            if close is None:
                continue
            with suppress(Exception):  # A client that can't be closed is not used again either.
                closing = close()
                if asyncio.iscoroutine(closing):
                    await closing


def _guard_http_clients(client: Any) -> None:
    """Guards the HTTP client inside a client of LiteLLM's or of the openai package's."""
    inner: tuple[Any, Any] = getattr(client, "client", None), getattr(client, "_client", None)
    for http_client in inner:
        if hasattr(http_client, "event_hooks") and hasattr(http_client, "aclose"):
            install_response_hook(http_client)
            if hasattr(client, "event_hooks"):
                # LiteLLM passes these hooks to the HTTP client that it makes after a lost connection.
                client.event_hooks = http_client.event_hooks


class _IsolatedCall:
    """A call, and the requests that LiteLLM prepares for it in a thread; they are coroutines until they are sent."""

    def __init__(self, isolation: ClientIsolation) -> None:
        self.isolation = isolation
        self._requests: list[Coroutine[Any, Any, Any]] = []
        self._is_cancelled = False

    def add_request(self, request: Coroutine[Any, Any, Any]) -> None:
        """Adds a request. Called in a thread of LiteLLM's."""
        self._requests.append(request)
        if self._is_cancelled:
            request.close()

    def cancel(self) -> None:
        """Closes requests that will never be sent. Otherwise Python warns that they were never awaited."""
        self._is_cancelled = True
        for request in self._requests:
            if getcoroutinestate(request) == CORO_CREATED:
                request.close()


def isolate_clients(litellm: Any) -> None:
    """Replaces the functions of LiteLLM that use its clients, its callbacks and its requests in threads.

    Raises:
        AttributeError: This version of LiteLLM has other internals.
        ImportError: This version of LiteLLM has other internals.
    """
    cache, worker = litellm.in_memory_llm_clients_cache, _logging_worker()
    shared_client, completion = litellm.module_level_aclient, litellm.main.completion
    enqueue = worker.ensure_initialized_and_enqueue

    @wraps(enqueue)
    def isolated_enqueue(async_coroutine: Coroutine[Any, Any, Any]) -> None:
        call = _current_call.get()
        on_its_loop = call is not None and call.isolation.loop is asyncio.get_running_loop()
        (call.isolation.start_callback if call and on_its_loop else enqueue)(async_coroutine)

    @wraps(completion)
    def isolated_completion(*args: Any, **kwargs: Any) -> Any:
        request, call = completion(*args, **kwargs), _current_call.get()
        if call and asyncio.iscoroutine(request):
            call.add_request(request)
        return request

    cache.get_cache, cache.set_cache = _isolated_method(cache, "get_cache"), _isolated_method(cache, "set_cache")
    worker.ensure_initialized_and_enqueue, litellm.main.completion = isolated_enqueue, isolated_completion
    litellm.module_level_aclient = _ModuleLevelClient(shared_client)


def _isolated_method(cache: Any, name: str) -> Any:
    """A method of LiteLLM's client cache that uses the current call's cache, if there is a current call."""
    method = getattr(cache, name)

    @wraps(method)
    def isolated(*args: Any, **kwargs: Any) -> Any:
        call = _current_call.get()
        return (getattr(call.isolation, name) if call else method)(*args, **kwargs)

    return isolated


class _ModuleLevelClient:
    """Replaces LiteLLM's one client for some services, such as Anthropic's streams, by a client per isolated call."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def __getattr__(self, name: str) -> Any:
        from litellm.llms.custom_httpx.http_handler import get_async_httpx_client

        isolated = _current_call.get() and get_async_httpx_client("modelport", {"timeout": self._shared.timeout})
        return getattr(isolated or self._shared, name)


def _logging_worker() -> Any:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    return GLOBAL_LOGGING_WORKER
