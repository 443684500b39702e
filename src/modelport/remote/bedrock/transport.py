"""Runs a boto3 client's blocking calls in threads, so that asynchronous code can use the client and interrupt a call.

boto3 itself can't cancel a call. How a call is interrupted:

1. Each call has an `InterruptibleCall`. The code that runs in the call's thread finds it in the context variable
   `current_call` (`interruption`).
2. In a client that modelport created, `_track_connections` replaces the classes of the connection pools and
   connections. The new classes attach the socket on which a request was sent to the `InterruptibleCall`. The caller's
   own client is not changed, so a call can be interrupted only when the response begins: `BoundedSession` attaches the
   socket.
3. When the caller stops waiting, `InterruptibleCall.interrupt` shuts the socket down. The thread that reads from the
   socket then ends at once with an error, which is ignored.

The new classes also notice whether a request failed because the service had closed an idle connection; such a request
is sent once more on a new connection. `bodies.BoundedSession` reads the bodies of responses within limits of size.

If a later boto3 has other internals, the classes are not replaced. Calls still work, but an interrupted call ends only
when the service has responded.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from modelport.errors import ConnectionFailed
from modelport.remote.bedrock.bodies import BoundedSession
from modelport.remote.bedrock.errors import model_error_from
from modelport.remote.bedrock.interruption import InterruptibleCall, current_call
from modelport.remote.http.bodies import DRAIN_TIMEOUT
from modelport.runtime.threads import in_thread, iterate_in_thread

#: The thread that reads a stream waits when the caller has so many events to read.
_MAX_UNREAD_EVENTS = 64


class _OwnClient(NamedTuple):
    """A client that modelport created.

    Args:
        process_id: The process that created the client. A forked child process must not use its parent's connections.
        client: The boto3 client.
        pools: The client's connection pools.
    """

    process_id: int
    client: Any
    pools: weakref.WeakSet[Any]


class BotoTransport:
    """Sends calls through a client of `bedrock-runtime`.

    Args:
        client: A client of the caller's. It is not changed, and not closed.
        make_client: Creates a client, if there is no `client`. It is called again in a forked child process.
    """

    def __init__(self, client: Any = None, make_client: Callable[[], Any] | None = None) -> None:
        self._callers_client, self._make_client = _with_bounded_session(client), make_client
        self._own_client = self._make_own_client() if make_client is not None else None

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """The parsed response of a method of the client. If the caller is cancelled, the call is interrupted.

        Raises:
            ModelError: The call failed.
        """
        call = InterruptibleCall()

        def work() -> Any:
            current_call.set(call)
            try:
                return self._send(method, arguments, call)
            finally:
                call.detach()

        try:
            return await in_thread(work)
        except Exception as error:
            raise model_error_from(error) or error from None
        finally:
            call.interrupt()

    async def stream(self, method: str, arguments: Mapping[str, Any], last_event: str) -> AsyncGenerator[Any, None]:
        """The events of a streamed response.

        The response is read up to its end, so that its connection can be used again.

        Args:
            method: The name of the client's method.
            arguments: The arguments of the method.
            last_event: The type of the last event that is yielded. The rest of the response is read and dropped.

        Yields:
            Each event, parsed.

        Raises:
            ModelError: The call failed.
        """
        call = InterruptibleCall()

        def work(emit: Callable[[Any], bool]) -> None:
            current_call.set(call)
            try:
                _read_events(self._send(method, arguments, call)["stream"], call, emit, last_event)
            finally:
                call.detach()

        try:
            async with aclosing(iterate_in_thread(work, max_items=_MAX_UNREAD_EVENTS)) as events:
                try:
                    async for event in events:
                        yield event
                finally:
                    call.interrupt()
        except Exception as error:
            raise model_error_from(error) or error from None

    def close(self) -> None:
        """Close the connections that no call uses. A later call opens new ones."""
        if self._own_client is None:
            return
        self._own_client.client.close()
        for pool in list(self._own_client.pools):  # boto3's client leaves its pools to the garbage collector.
            pool.close()

    def _send(self, method: str, arguments: Mapping[str, Any], call: InterruptibleCall) -> Any:
        """Call a method of the client. This method runs in the thread of the call."""
        while True:
            try:
                return getattr(self._client(), method)(**arguments)
            except Exception as error:
                was_stale = call.may_be_stale and isinstance(model_error_from(error), ConnectionFailed)
                if call.needs_new_connection or not was_stale:
                    raise
                # The request is sent again only once. Otherwise a server that reads each request and then closes the
                # connection would receive the request endlessly.
                call.needs_new_connection = True

    def fields_of(self, operation: str) -> frozenset[str]:
        """Return the names of the fields that an operation of the service has, as boto3 describes it."""
        try:
            return frozenset(self._client().meta.service_model.operation_model(operation).input_shape.members)
        except AttributeError:  # A client of the caller that has no description, such as one for tests.
            return frozenset()

    def _client(self) -> Any:
        if self._own_client is None:
            return self._callers_client
        if self._own_client.process_id != os.getpid():
            self._own_client = self._make_own_client()
        return self._own_client.client

    def _make_own_client(self) -> _OwnClient:
        assert self._make_client is not None
        client = self._make_client()
        return _OwnClient(os.getpid(), _with_bounded_session(client), _track_connections(client))


def _with_bounded_session(client: Any) -> Any:
    """Return a copy of a boto3 client whose HTTP session reads bodies within limits. It shares everything else.

    The client itself is returned if it has no session: it is a fake for tests, or boto3's internals have changed.
    """
    endpoint = getattr(client, "_endpoint", None)
    if (session := getattr(endpoint, "http_session", None)) is None:
        return client
    endpoint = _shallow_copy(endpoint)
    endpoint.http_session = BoundedSession(session)
    client = _shallow_copy(client)
    client._endpoint = endpoint
    return client


def _shallow_copy(original: Any) -> Any:
    copy = object.__new__(type(original))  # `copy.copy` calls the client's `__getattr__`, which needs its attributes.
    copy.__dict__.update(original.__dict__)
    return copy


def _read_events(stream: Any, call: InterruptibleCall, emit: Callable[[Any], bool], last_event: str) -> None:
    """Emit the events of a stream up to the last event, and read the rest of the response.

    If `emit` returns True, nobody reads the events any more, and the function returns at once.
    """
    try:
        for event in stream:
            if emit(event):
                return
            if last_event in event:  # An event is a dict whose only key is its type.
                break
        else:
            return
        # The connection can be used again only if the response has been read to its end. An error does not matter here,
        # because the last event has been emitted.
        call.limit_reads(DRAIN_TIMEOUT)
        try:
            for _ in stream:
                pass
        except Exception:
            pass
    finally:
        stream.close()


# --- changes to boto3's connection pools ------------------------------------------------------------------------------


def _track_connections(client: Any) -> weakref.WeakSet[Any]:
    """Replace the client's pool classes by subclasses whose connections attach their socket to the current call.

    If boto3's internals have changed, nothing is replaced.

    Returns:
        The client's pools, which are added to the set when they are created.
    """
    pools: weakref.WeakSet[Any] = weakref.WeakSet()
    http_session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pool_classes = getattr(http_session, "_pool_classes_by_scheme", None)
    if isinstance(pool_classes, dict):
        # The dict itself is changed, because the client's pool managers hold a reference to it.
        pool_classes.update({scheme: _tracking_pool(pool_class, pools) for scheme, pool_class in pool_classes.items()})
    return pools


def _tracking_pool(pool_class: Any, pools: weakref.WeakSet[Any]) -> Any:
    """A subclass of a urllib3 pool class whose connections attach their socket to the current call."""

    class TrackedConnection(pool_class.ConnectionCls):  # type: ignore[misc]
        was_used = False  # Whether a request has been sent since the connection was made.

        def connect(self) -> None:
            super().connect()
            self.was_used = False

        def request(self, *args: Any, **kwargs: Any) -> Any:
            if (call := current_call.get()) is None:
                return super().request(*args, **kwargs)
            if call.needs_new_connection and self.was_used and not getattr(self, "_tunnel_host", None):
                # After `close`, urllib3 connects again by itself, except through the tunnel of a proxy.
                self.close()
            call.may_be_stale = self.was_used and self.sock is not None
            result = super().request(*args, **kwargs)
            self.was_used = True
            call.attach(self.sock)
            return result

        def getresponse(self) -> Any:
            response = super().getresponse()
            if (call := current_call.get()) is not None:
                call.may_be_stale = False
            return response

    class TrackedPool(pool_class):  # type: ignore[misc]
        ConnectionCls = TrackedConnection

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            pools.add(self)

    return TrackedPool
