"""What LiteLLM keeps of calls, kept apart for each model and loop: HTTP clients, and callbacks that still run.

LiteLLM keeps them once for the process: models share connections, which stay when one is closed; its one client of
Anthropic's streams goes from loop to loop and closes what another loop still reads; and its task that calls callbacks
fails, or stays behind, at each change of loops. So a call of ours says in a context variable whose it is, and LiteLLM
is made to ask there. For calls that the user makes of LiteLLM itself all is as it was.
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
_call: ContextVar[_IsolatedCall | None] = ContextVar("modelport_litellm_call", default=None)


class ClientIsolation:
    """One model's clients and callbacks on one loop."""

    def __init__(self) -> None:
        self._clients: WeakSet[Any] = WeakSet()  # also those that the cache replaces by itself, after an hour
        self.loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[Coroutine[Any, Any, Any]] = set()

    async def during(self, call: Awaitable[T]) -> T:
        """Awaits a call of LiteLLM's, whose clients and callbacks these are."""
        ours = _IsolatedCall(self)
        before = _call.set(ours)
        try:
            return await call
        except asyncio.CancelledError:
            ours.leave()
            raise
        finally:
            with suppress(ValueError):  # ended from outside of its own context
                _call.reset(before)

    @cached_property
    def _cache(self) -> Any:
        from litellm.caching.llm_caching_handler import LLMClientCache

        return LLMClientCache()

    def get_cache(self, *args: Any, **kwargs: Any) -> Any:
        """As LiteLLM's cache of clients."""
        return self._cache.get_cache(*args, **kwargs)

    def set_cache(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """As LiteLLM's cache of clients."""
        pool = getattr(value, "connection_pool", None)  # a Redis client's, which leaves it open
        if pool or kwargs.get("litellm_owned_client", True):  # else it is the user's: `litellm.aclient_session`
            with suppress(TypeError):  # no client
                self._clients.add(pool or value)
            _guard(value)
        return self._cache.set_cache(key, value, *args, **kwargs)

    def call_back(self, callback: Coroutine[Any, Any, Any]) -> None:
        """Runs a callback beside the call."""
        self._waiting.add(callback)
        task = self.loop.create_task(self._run(callback), context=context_without_caller())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, callback: Coroutine[Any, Any, Any]) -> None:
        if callback not in self._waiting:
            return
        self._waiting.discard(callback)
        with suppress(Exception):  # as LiteLLM does; it has logged it
            await self.during(asyncio.wait_for(callback, _worker().timeout))

    async def aclose(self) -> None:
        """Waits for the callbacks, which LiteLLM gives some seconds each, and closes the clients."""
        while self._waiting:  # a loop that ends has cancelled their tasks before those began
            await self._run(next(iter(self._waiting)))
        if running := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(running)
        clients = list(self._clients)
        self.__dict__.pop("_cache", None)
        for client in clients:
            # The last is that of a pool of redis before 5.1.
            names = ("aclose", "close", "disconnect")
            close = next((found for name in names if (found := getattr(client, name, None))), None)
            if close is None:
                continue
            with suppress(Exception):  # It is going anyway.
                closing = close()
                if asyncio.iscoroutine(closing):
                    await closing


def _guard(client: Any) -> None:
    """Guards the HTTP client within one of LiteLLM's or of the openai package's."""
    https: tuple[Any, Any] = getattr(client, "client", None), getattr(client, "_client", None)
    for http in https:
        if hasattr(http, "event_hooks") and hasattr(http, "aclose"):
            install_response_hook(http)
            if hasattr(client, "event_hooks"):  # what LiteLLM gives one that it makes after a lost connection
                client.event_hooks = http.event_hooks


class _IsolatedCall:
    """A call, and the requests that LiteLLM has made for it in a thread, which are coroutines until they are sent."""

    def __init__(self, kept: ClientIsolation) -> None:
        self.kept = kept
        self._requests: list[Coroutine[Any, Any, Any]] = []
        self._left = False

    def begin(self, request: Coroutine[Any, Any, Any]) -> None:
        """Notes a request; from a thread."""
        self._requests.append(request)
        if self._left:
            request.close()

    def leave(self) -> None:
        """Drops what nobody will send: Python would complain that it was never awaited."""
        self._left = True
        for request in self._requests:
            if getcoroutinestate(request) == CORO_CREATED:
                request.close()


def keep_apart(litellm: Any) -> None:
    """Has LiteLLM ask for clients, call its callbacks and make its requests through the call that wants them.

    Raises:
        AttributeError: This version of LiteLLM keeps them elsewhere.
        ImportError: Likewise.
    """
    cache, worker = litellm.in_memory_llm_clients_cache, _worker()
    shared, complete = litellm.module_level_aclient, litellm.main.completion
    cache.get_cache, cache.set_cache = _of_the_call(cache, "get_cache"), _of_the_call(cache, "set_cache")
    call_back = worker.ensure_initialized_and_enqueue

    @wraps(call_back)
    def called_back(async_coroutine: Coroutine[Any, Any, Any]) -> None:
        call = _call.get()
        ours = call is not None and call.kept.loop is asyncio.get_running_loop()
        (call.kept.call_back if call and ours else call_back)(async_coroutine)

    @wraps(complete)
    def begun(*args: Any, **kwargs: Any) -> Any:
        request, call = complete(*args, **kwargs), _call.get()
        if call and asyncio.iscoroutine(request):
            call.begin(request)
        return request

    worker.ensure_initialized_and_enqueue, litellm.main.completion = called_back, begun
    litellm.module_level_aclient = _ModuleClient(shared)


def _of_the_call(cache: Any, name: str) -> Any:
    method = getattr(cache, name)

    @wraps(method)
    def of_the_call(*args: Any, **kwargs: Any) -> Any:
        call = _call.get()
        return (getattr(call.kept, name) if call else method)(*args, **kwargs)

    return of_the_call


class _ModuleClient:
    """LiteLLM's one client for some services (streams of Anthropic's): for a call of ours, one of its own."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def __getattr__(self, name: str) -> Any:
        from litellm.llms.custom_httpx.http_handler import get_async_httpx_client

        of_the_call = _call.get() and get_async_httpx_client("modelport", {"timeout": self._shared.timeout})
        return getattr(of_the_call or self._shared, name)


def _worker() -> Any:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    return GLOBAL_LOGGING_WORKER
