"""Gives each model its own HTTP clients on each event loop, and runs LiteLLM's callbacks in tasks of that loop.

LiteLLM itself has one set of clients and one task for callbacks in the whole process. This would have three effects:

- Models share connections, and closing a model leaves its connections open.
- All event loops use the same client for Anthropic's streams. A call on one loop closes connections that another loop
  still reads.
- The task that runs callbacks belongs to one event loop. If the next call runs on another loop, the task fails, or its
  callbacks never run.

How modelport prevents this:

1. A `ClientIsolation` holds the clients and callbacks of one model on one event loop.
2. `ClientIsolation.run` sets the context variable `_current_call` while it awaits a call of LiteLLM. The variable is
   not set while the code of modelport's caller runs.
3. `isolate_clients` replaces four functions and one client of LiteLLM. If `_current_call` is set, the replacements use
   the call's `ClientIsolation`. When the user calls LiteLLM directly, the variable is not set, and the replacements do
   what the originals do.
4. `observe_chunks` replaces the method by which LiteLLM reads a chunk of chat completions, so that `responses` sees
   what LiteLLM leaves out of its own chunks.

LiteLLM's parameters `client` and `shared_session` can't do this: `client` needs a different type for each provider, and
`shared_session` has no effect on a client that is already in LiteLLM's cache.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
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
        #: The clients that `aclose` closes. Some are no longer in the cache: LiteLLM replaces a client after an hour.
        self._clients: WeakSet[Any] = WeakSet()
        self.loop = asyncio.get_running_loop()
        self._callback_tasks: set[asyncio.Task[None]] = set()
        #: Callbacks whose task has not started. `aclose` runs those whose task was cancelled because the loop ends.
        self._callbacks_not_started: set[Coroutine[Any, Any, Any]] = set()

    async def run(
        self, call: Awaitable[T], *, streams: bool = False, on_chunk: Callable[[Any], None] | None = None
    ) -> T:
        """Await a call of LiteLLM. The call uses the clients and callbacks of this object.

        Args:
            call: The call.
            streams: Whether LiteLLM reads responses as streams.
            on_chunk: A function that receives each chunk of chat completions before LiteLLM reads it.
        """
        current = _IsolatedCall(self, streams, on_chunk)
        previous = _current_call.set(current)
        try:
            return await call
        except asyncio.CancelledError:
            current.cancel()
            raise
        finally:
            # `reset` raises if this coroutine is closed in another context, in which the variable was not set.
            with suppress(ValueError):
                _current_call.reset(previous)

    @cached_property
    def _cache(self) -> Any:
        from litellm.caching.llm_caching_handler import LLMClientCache

        return LLMClientCache()

    def get_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Look a client up in this object's cache. The arguments are those of LiteLLM's client cache."""
        return self._cache.get_cache(*args, **kwargs)

    def set_cache(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Store a client in this object's cache. The arguments are those of LiteLLM's client cache."""
        # For a Redis client, `aclose` closes the connection pool, because closing the client leaves its pool open.
        pool = getattr(value, "connection_pool", None)
        # `litellm_owned_client` is false for clients of the user, such as `litellm.aclient_session`. They stay open.
        if pool or kwargs.get("litellm_owned_client", True):
            with suppress(TypeError):  # The cache also stores values that are no clients and allow no weak reference.
                self._clients.add(pool or value)
            _install_response_hooks(value)
        return self._cache.set_cache(key, value, *args, **kwargs)

    def start_callback(self, callback: Coroutine[Any, Any, Any]) -> None:
        """Run a callback of LiteLLM's in a task, while the call continues."""
        self._callbacks_not_started.add(callback)
        # Blocking work of the callback must not run in the thread of a synchronous caller.
        task = self.loop.create_task(self._run_callback(callback), context=context_without_caller())
        self._callback_tasks.add(task)
        task.add_done_callback(self._callback_tasks.discard)

    async def _run_callback(self, callback: Coroutine[Any, Any, Any]) -> None:
        """Run a callback, unless it has already been started."""
        if callback not in self._callbacks_not_started:
            return
        self._callbacks_not_started.discard(callback)
        with suppress(Exception):  # LiteLLM logs exceptions of callbacks, and then ignores them.
            await self.run(asyncio.wait_for(callback, _callback_worker().timeout))

    async def aclose(self) -> None:
        """Wait for the callbacks, each up to LiteLLM's time limit of some seconds, and close the clients."""
        while self._callbacks_not_started:  # An event loop that ends has cancelled the tasks of these callbacks.
            await self._run_callback(next(iter(self._callbacks_not_started)))
        if running := self._callback_tasks - {asyncio.current_task()}:
            await asyncio.wait(running)
        clients = list(self._clients)
        self.__dict__.pop("_cache", None)  # The next use of the cached property makes a new cache.
        for client in clients:
            # Pools of redis before 5.1 have only `disconnect`.
            names = ("aclose", "close", "disconnect")
            close = next((found for name in names if (found := getattr(client, name, None))), None)
            if close is None:
                continue
            with suppress(Exception):  # If a client can't be closed, nothing is lost: it is not used again.
                closing = close()
                if asyncio.iscoroutine(closing):
                    await closing


def _install_response_hooks(client: Any) -> None:
    """Add modelport's hook to the HTTP client inside a client of LiteLLM's or of the openai package.

    The hook refuses redirects, limits the size of bodies, and reads the bodies of error responses. If a connection
    breaks, it keeps the part that has arrived.
    """
    inner: tuple[Any, Any] = getattr(client, "client", None), getattr(client, "_client", None)
    for http_client in inner:
        if hasattr(http_client, "event_hooks"):
            install_response_hook(http_client, bound_body=_reads_stream)
            if hasattr(client, "create_client"):
                client.event_hooks = (
                    http_client.event_hooks
                )  # LiteLLM passes these hooks to a client that it makes anew.
                client.create_client = _without_resending(client.create_client)


def _without_resending(create_client: Callable[..., Any]) -> Callable[..., Any]:
    """A replacement for a method by which LiteLLM makes an HTTP client.

    After a lost connection, LiteLLM makes another client, sends the request once more, and closes this client before
    the response has been read: a streaming response ends too early. The replacement raises the error of the connection
    again, and `retry` decides whether the request is sent again.
    """

    @wraps(create_client)
    def create(*args: Any, **kwargs: Any) -> Any:
        import httpx

        error = sys.exc_info()[1]
        if isinstance(error, httpx.RemoteProtocolError | httpx.ConnectError):
            raise error
        return create_client(*args, **kwargs)

    return create


def _reads_stream() -> bool:
    """Return whether LiteLLM reads the response of the running call as a stream."""
    call = _current_call.get()
    return call is not None and call.streams


class _IsolatedCall:
    """A call of LiteLLM, and the requests that LiteLLM prepares for it.

    LiteLLM prepares a request in a thread, as a coroutine. It sends the request by awaiting the coroutine on the event
    loop.
    """

    def __init__(
        self, isolation: ClientIsolation, streams: bool, on_chunk: Callable[[Any], None] | None = None
    ) -> None:
        self.isolation, self.streams, self.on_chunk = isolation, streams, on_chunk
        self._requests: list[Coroutine[Any, Any, Any]] = []
        self._is_cancelled = False

    def add_request(self, request: Coroutine[Any, Any, Any]) -> None:
        """Add a request. This method is called in a thread of LiteLLM's."""
        self._requests.append(request)
        if self._is_cancelled:
            request.close()

    def cancel(self) -> None:
        """Close the coroutines of requests that were not sent. Otherwise Python warns that they were never awaited."""
        self._is_cancelled = True
        for request in self._requests:
            if getcoroutinestate(request) == CORO_CREATED:
                request.close()


def isolate_clients(litellm: Any) -> None:
    """Replace LiteLLM's shared client and its functions that look clients up, start callbacks and prepare requests.

    Raises:
        AttributeError: This version of LiteLLM has other internals.
        ImportError: This version of LiteLLM has other internals.
    """
    cache, worker = litellm.in_memory_llm_clients_cache, _callback_worker()
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


def observe_chunks(litellm: Any) -> None:
    """Replace the method by which LiteLLM reads a chunk of chat completions, to pass it to the call's `on_chunk` too.

    Raises:
        AttributeError: This version of LiteLLM has other internals.
    """
    wrapper = litellm.CustomStreamWrapper
    read_chunk = wrapper.handle_openai_chat_completion_chunk

    @wraps(read_chunk)
    def observed(self: Any, chunk: Any, *args: Any, **kwargs: Any) -> Any:
        call = _current_call.get()
        if call is not None and call.on_chunk is not None:
            call.on_chunk(chunk)
        return read_chunk(self, chunk, *args, **kwargs)

    wrapper.handle_openai_chat_completion_chunk = observed


def _isolated_method(cache: Any, name: str) -> Any:
    """A replacement for a method of LiteLLM's client cache. During a call of modelport's, it uses the call's cache."""
    method = getattr(cache, name)

    @wraps(method)
    def isolated(*args: Any, **kwargs: Any) -> Any:
        call = _current_call.get()
        return (getattr(call.isolation, name) if call else method)(*args, **kwargs)

    return isolated


class _ModuleLevelClient:
    """Replaces `litellm.module_level_aclient`, the client that LiteLLM uses, for example, for Anthropic's streams.

    During a call of modelport's, the object's attributes are those of a client in the call's cache. Otherwise they are
    those of LiteLLM's client.
    """

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def __getattr__(self, name: str) -> Any:
        from litellm.llms.custom_httpx.http_handler import get_async_httpx_client

        # LiteLLM's function looks the client up in the cache, which is that of the current call.
        isolated = _current_call.get() and get_async_httpx_client("modelport", {"timeout": self._shared.timeout})
        return getattr(isolated or self._shared, name)


def _callback_worker() -> Any:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    return GLOBAL_LOGGING_WORKER
