"""Runs a boto3 client's blocking calls in threads, so that async code can use it and can interrupt a call.

How a call is interrupted:

1. Each call has a `Connection`, which a context variable makes available to the code that runs in the call's thread.
2. `_track_connections` replaces the connection classes of the client's pools. The new classes attach the socket that a
   request was sent on to the call's `Connection`.
3. When the caller stops waiting, `Connection.interrupt` shuts the socket down. The thread that waits for the socket
   wakes up at once and ends with an error, which nobody receives. boto3 itself can't cancel a call.

The same classes find out whether a request failed because the service had closed an idle connection. Such a request is
sent once more on a new connection. They also read the body of an error response as far as it arrives.

If a later boto3 has other internals, nothing is tracked: calls still work, but an interrupted call ends later.
"""

from __future__ import annotations

import io
import os
import socket
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, NamedTuple

from modelport.errors import ConnectionFailed
from modelport.remote.bedrock.errors import model_error_from
from modelport.remote.http.bodies import DRAIN_TIMEOUT, ERROR_BODY_TIMEOUT, MAX_ERROR_BODY_SIZE
from modelport.runtime.threads import in_thread, iterate_in_thread


class Connection:
    """The socket of one call, so that a caller that stops waiting can interrupt the thread that reads from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._interrupted = False
        #: Whether the request was sent on an idle connection and not one byte came back. The service may have closed
        #: the connection before, so the request can be sent again without counting as an attempt.
        self.stale = False
        #: Whether the request must be sent on a new connection.
        self.must_be_new = False

    def attach(self, connected: socket.socket | None) -> None:
        """Sets the socket on which the request was sent. Called in the thread of the call."""
        with self._lock:
            self._socket = connected
            if self._interrupted:
                self._shut_down()

    @property
    def has_socket(self) -> bool:
        """Whether the socket is known."""
        return self._socket is not None

    def release(self) -> None:
        """Forgets the socket at the end of the call, because another call may use it from now on."""
        with self._lock:
            self._socket = None

    def limit_reads(self, seconds: float) -> None:
        """Sets the time-out of each further read, for data that is not worth a long wait."""
        with self._lock:
            if self._socket is not None:
                self._socket.settimeout(seconds)

    def interrupt(self) -> None:
        """Shuts the socket down, which wakes the thread that waits for it. Does nothing after the end of the call."""
        with self._lock:
            self._interrupted = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            try:
                # The method of the base class shuts the connection down under TLS too.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass  # The connection has already ended.


_current_connection: ContextVar[Connection | None] = ContextVar("modelport_bedrock_connection", default=None)


class _OwnClient(NamedTuple):
    """A client that modelport created.

    Args:
        process_id: The process that created the client. A forked child must not use its parent's connections.
        client: The boto3 client.
        pools: The client's connection pools.
    """

    process_id: int
    client: Any
    pools: weakref.WeakSet[Any]


class BotoTransport:
    """Sends calls through a client of `bedrock-runtime`.

    Args:
        client: A client of the caller's. It is used as it is, and not closed.
        make: Creates a client, if there is no `client`. It is called again in a forked child process.
    """

    def __init__(self, client: Any = None, make: Callable[[], Any] | None = None) -> None:
        self._callers_client, self._make = client, make
        self._own = self._make_client() if make is not None else None

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """The parsed response of a method of the client. A cancelled caller interrupts the call.

        Raises:
            ModelError: The call failed.
        """
        connection = Connection()

        def work() -> Any:
            _current_connection.set(connection)
            try:
                return self._send(method, arguments, connection)
            finally:
                connection.release()

        try:
            return await in_thread(work)
        except Exception as error:
            raise model_error_from(error) or error from None
        finally:
            connection.interrupt()

    async def stream(self, method: str, arguments: Mapping[str, Any], last_event: str) -> AsyncGenerator[Any, None]:
        """The events of a streamed response.

        The response is read up to its end, so that its connection can be used again.

        Args:
            method: The name of the client's method.
            arguments: The arguments of the method.
            last_event: The type of the event after which nothing of interest follows.

        Yields:
            Each event, parsed.

        Raises:
            ModelError: The call failed.
        """
        connection = Connection()

        def work(emit: Callable[[Any], bool]) -> None:
            _current_connection.set(connection)
            try:
                _read_events(self._send(method, arguments, connection)["stream"], connection, emit, last_event)
            finally:
                connection.release()

        try:
            async with aclosing(iterate_in_thread(work)) as events:
                try:
                    async for event in events:
                        yield event
                finally:
                    connection.interrupt()
        except Exception as error:
            raise model_error_from(error) or error from None

    def close(self) -> None:
        """Closes the connections that no call uses. A later call opens new ones."""
        if self._own is None:
            return
        self._own.client.close()
        for pool in list(self._own.pools):  # The client would leave the pools to the garbage collector.
            pool.close()

    def _send(self, method: str, arguments: Mapping[str, Any], connection: Connection) -> Any:
        """Calls a method of the client. Runs in the thread of the call."""
        while True:
            try:
                return getattr(self._client(), method)(**arguments)
            except Exception as error:
                was_stale = connection.stale and isinstance(model_error_from(error), ConnectionFailed)
                if connection.must_be_new or not was_stale:
                    raise
                # The request is sent again only once. Otherwise a server that reads each request and then closes the
                # connection would receive it without end.
                connection.must_be_new = True

    def _client(self) -> Any:
        if self._own is None:
            return self._callers_client
        if self._own.process_id != os.getpid():
            self._own = self._make_client()
        return self._own.client

    def _make_client(self) -> _OwnClient:
        assert self._make is not None
        client = self._make()
        return _OwnClient(os.getpid(), client, _track_connections(client))


def _read_events(stream: Any, connection: Connection, emit: Callable[[Any], bool], last_event: str) -> None:
    """Emits the events of a stream, until the receiver wants no more or the response ends."""
    if not connection.has_socket:  # The connections of a client of the caller's are not tracked.
        raw = getattr(stream, "_raw_stream", None)
        connection.attach(getattr(getattr(raw, "_connection", None), "sock", None))
    try:
        for event in stream:
            if emit(event):
                return
            if last_event in event:
                break
        else:
            return
        # The connection can be used again only if the response has been read to its end. Everything of interest has
        # been received, so an error no longer matters.
        connection.limit_reads(DRAIN_TIMEOUT)
        try:
            for _ in stream:
                pass
        except Exception:
            pass
    finally:
        stream.close()


# --- changes to boto3's connection pools ------------------------------------------------------------------------------


def _track_connections(client: Any) -> weakref.WeakSet[Any]:
    """Replaces the client's pool classes by subclasses that attach sockets to calls, and returns the set of pools.

    Nothing is replaced if boto3's internals have changed.
    """
    pools: weakref.WeakSet[Any] = weakref.WeakSet()
    http_session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pool_classes = getattr(http_session, "_pool_classes_by_scheme", None)
    if isinstance(pool_classes, dict):
        # The client's pool managers look classes up in this very dict.
        pool_classes.update({scheme: _tracking_pool(pool_class, pools) for scheme, pool_class in pool_classes.items()})
    return pools


def _tracking_pool(pool_class: Any, pools: weakref.WeakSet[Any]) -> Any:
    """A subclass of a urllib3 pool class whose connections attach their socket to the current call."""

    class TrackedConnection(pool_class.ConnectionCls):  # type: ignore[misc]
        was_used = False

        def connect(self) -> None:
            super().connect()
            self.was_used = False

        def request(self, *args: Any, **kwargs: Any) -> Any:
            if (connection := _current_connection.get()) is None:
                return super().request(*args, **kwargs)
            if connection.must_be_new and self.was_used and not getattr(self, "_tunnel_host", None):
                # urllib3 connects again by itself, except through a proxy's tunnel.
                self.close()
            connection.stale = self.was_used and self.sock is not None
            result = super().request(*args, **kwargs)
            self.was_used = True
            connection.attach(self.sock)
            return result

        def getresponse(self) -> Any:
            response = super().getresponse()
            if (connection := _current_connection.get()) is not None:
                connection.stale = False
            return response

    class TrackedPool(pool_class):  # type: ignore[misc]
        ConnectionCls = TrackedConnection

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            pools.add(self)

        def urlopen(self, *args: Any, **kwargs: Any) -> Any:
            response = super().urlopen(*args, **kwargs)
            return response if response.status < 300 else _with_body_read(response)

    return TrackedPool


def _with_body_read(response: Any) -> Any:
    """An error response with as much of its body as arrives in time.

    boto3 discards the status of a response whose body is truncated, broken or stalled.
    """
    if (connection := _current_connection.get()) is not None:
        connection.limit_reads(ERROR_BODY_TIMEOUT)
    body, deadline = bytearray(), time.monotonic() + ERROR_BODY_TIMEOUT
    try:
        for chunk in response.stream(1):  # A read of more bytes would lose those received before the connection breaks.
            body += chunk
            if len(body) >= MAX_ERROR_BODY_SIZE or time.monotonic() > deadline:
                break
    except Exception:
        pass  # The status is known, whatever broke the body.
    response.close()
    properties = {"status": response.status, "reason": response.reason, "headers": response.headers}
    options = dict.fromkeys(("preload_content", "decode_content", "enforce_content_length"), False)
    return type(response)(io.BytesIO(bytes(body)), **properties, **options)
