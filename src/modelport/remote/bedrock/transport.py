"""Runs a boto3 client's blocking calls in threads, so that asynchronous code can use the client and interrupt a call.

boto3 itself can't cancel a call. How a call is interrupted:

1. Each call has an `InterruptibleCall`. The code that runs in the call's thread finds it in the context variable
   `_current_call`.
2. In a client that modelport created, `_track_connections` replaces the classes of the connection pools and
   connections. The new classes attach the socket on which a request was sent to the `InterruptibleCall`. The caller's
   own client is not changed, so only its streams can be interrupted: `_read_events` attaches their sockets.
3. When the caller stops waiting, `InterruptibleCall.interrupt` shuts the socket down. The thread that reads from the
   socket then ends at once with an error, which is ignored.

The new classes have two more tasks. They notice whether a request failed because the service had closed an idle
connection; such a request is sent once more on a new connection. They also read the body of an error response as far as
it arrives.

If a later boto3 has other internals, the classes are not replaced. Calls still work, but an interrupted call ends only
when the service has responded.
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


class InterruptibleCall:
    """One call, with the socket that its thread reads from. Another thread can interrupt the call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: `None` before the request is sent, and after the call.
        self._socket: socket.socket | None = None
        self._is_interrupted = False
        #: Whether the request was sent on an idle connection, and not one byte came back. The service may have closed
        #: the connection earlier, so the request can be sent again without counting as an attempt.
        self.may_be_stale = False
        #: Whether the request must be sent on a new connection.
        self.needs_new_connection = False

    def attach(self, connected_socket: socket.socket | None) -> None:
        """Set the socket on which the request was sent. This method is called in the thread of the call."""
        with self._lock:
            self._socket = connected_socket
            if self._is_interrupted:
                self._shut_down()

    @property
    def has_socket(self) -> bool:
        """Whether a socket is attached."""
        return self._socket is not None

    def detach(self) -> None:
        """Forget the socket at the end of the call, because another call may use the socket from then on."""
        with self._lock:
            self._socket = None

    def limit_reads(self, seconds: float) -> None:
        """Set the timeout of each further read from the socket."""
        with self._lock:
            if self._socket is not None:
                self._socket.settimeout(seconds)

    def interrupt(self) -> None:
        """Shut the socket down, which wakes the thread that reads from it. After the end of the call, do nothing."""
        with self._lock:
            self._is_interrupted = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            try:
                # The `shutdown` of a TLS socket would also drop the TLS state, which the call's thread still uses.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass  # The connection has already ended.


_current_call: ContextVar[InterruptibleCall | None] = ContextVar("modelport_bedrock_call", default=None)


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
        self._callers_client, self._make_client = client, make_client
        self._own_client = self._make_own_client() if make_client is not None else None

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """The parsed response of a method of the client. If the caller is cancelled, the call is interrupted.

        Raises:
            ModelError: The call failed.
        """
        call = InterruptibleCall()

        def work() -> Any:
            _current_call.set(call)
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
            _current_call.set(call)
            try:
                _read_events(self._send(method, arguments, call)["stream"], call, emit, last_event)
            finally:
                call.detach()

        try:
            async with aclosing(iterate_in_thread(work)) as events:
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
        return _OwnClient(os.getpid(), client, _track_connections(client))


def _read_events(stream: Any, call: InterruptibleCall, emit: Callable[[Any], bool], last_event: str) -> None:
    """Emit the events of a stream up to the last event, and read the rest of the response.

    If `emit` returns True, nobody reads the events any more, and the function returns at once.
    """
    if not call.has_socket:  # The caller's own client does not attach its socket, so the socket is looked up here.
        raw = getattr(stream, "_raw_stream", None)
        call.attach(getattr(getattr(raw, "_connection", None), "sock", None))
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
            if (call := _current_call.get()) is None:
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
            if (call := _current_call.get()) is not None:
                call.may_be_stale = False
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
    """A copy of an error response, with as much of its body as arrives in time.

    boto3 loses the status of an error response whose body is truncated, broken or stalled. It can read the copy's body
    completely.
    """
    if (call := _current_call.get()) is not None:
        call.limit_reads(ERROR_BODY_TIMEOUT)
    body, deadline = bytearray(), time.monotonic() + ERROR_BODY_TIMEOUT
    try:
        for chunk in response.stream(1):  # If a larger read fails, the bytes that it has received are lost.
            body += chunk
            if len(body) >= MAX_ERROR_BODY_SIZE or time.monotonic() > deadline:
                break
    except Exception:
        pass  # The status and the bytes that have arrived are used, whatever broke the body.
    response.close()
    properties = {"status": response.status, "reason": response.reason, "headers": response.headers}
    options = dict.fromkeys(("preload_content", "decode_content", "enforce_content_length"), False)
    return type(response)(io.BytesIO(bytes(body)), **properties, **options)
