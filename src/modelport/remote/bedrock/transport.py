"""A boto3 client for async code: its blocking calls in threads, and a way to break one off."""

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
from typing import Any

from modelport.errors import ConnectionFailed
from modelport.remote.bedrock.errors import translated
from modelport.remote.http.bodies import DRAIN_TIMEOUT, ERROR_BODY_TIMEOUT, MAX_ERROR_BODY_SIZE
from modelport.runtime.threads import in_thread, iterate_in_thread


class Connection:
    """The connection of one call, so that a caller who leaves can break it off while a thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False
        #: Whether the request went over a kept connection and not one byte came back: the service may have closed it
        #: meanwhile, and another attempt is free.
        self.stale = False
        #: Whether the request must not go over a kept connection.
        self.fresh = False

    def connected(self, connection: socket.socket | None) -> None:
        """Notes the socket on which the request was sent; in the thread of the call."""
        with self._lock:
            self._socket = connection
            if self._cut:
                self._shut()

    @property
    def known(self) -> bool:
        """Whether the socket is."""
        return self._socket is not None

    def release(self) -> None:
        """The call is over: its connection may be another's by now."""
        with self._lock:
            self._socket = None

    def hurry(self, seconds: float) -> None:
        """What is still to be read matters little: no read takes longer."""
        with self._lock:
            if self._socket is not None:
                self._socket.settimeout(seconds)

    def cut(self) -> None:
        """Wakes the thread that waits for the connection, by its end; nothing where the call is over."""
        with self._lock:
            self._cut = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # under TLS as well
            except OSError:
                pass  # It has ended by itself.


_connection: ContextVar[Connection | None] = ContextVar("modelport_line", default=None)


class Boto:
    """A client of `bedrock-runtime`, made again in a forked child, whose connections would be its parent's too.

    Args:
        client: Of the user's; it is used as it is, and left open.
        make: Makes one, where there is no `client`.
    """

    def __init__(self, client: Any = None, make: Callable[[], Any] | None = None) -> None:
        self._theirs, self._make = client, make
        self._made = self._make_here() if make is not None else None

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """The parsed answer of a method. A caller who leaves breaks the connection."""
        connection = Connection()

        def work() -> Any:
            _connection.set(connection)
            try:
                return self._sent(method, arguments, connection)
            finally:
                connection.release()

        try:
            return await in_thread(work)
        except Exception as error:
            raise _ours(error) from None
        finally:
            connection.cut()

    async def stream(self, method: str, arguments: Mapping[str, Any], last: str) -> AsyncGenerator[Any, None]:
        """The events of a streamed answer, read to the true end of the response.

        Args:
            method: Of the client.
            arguments: Of the method.
            last: The event after which nothing more is of interest.
        """
        connection = Connection()

        def work(emit: Callable[[Any], bool]) -> None:
            _connection.set(connection)
            try:
                _read(self._sent(method, arguments, connection)["stream"], connection, emit, last)
            finally:
                connection.release()

        try:
            async with aclosing(iterate_in_thread(work)) as events:
                try:
                    async for event in events:
                        yield event
                finally:
                    connection.cut()
        except Exception as error:
            raise _ours(error) from None

    def close(self) -> None:
        """Closes the connections that no call uses; new ones are made when they are needed."""
        if self._made is None:
            return
        _, client, pools = self._made
        client.close()
        for pool in list(pools):  # which the client would leave to the garbage collector
            pool.close()

    def _sent(self, method: str, arguments: Mapping[str, Any], connection: Connection) -> Any:
        """The client's answer; in the thread of the call."""
        while True:
            try:
                return getattr(self._client(), method)(**arguments)
            except Exception as error:
                if connection.fresh or not (connection.stale and isinstance(translated(error), ConnectionFailed)):
                    raise
                connection.fresh = (
                    True  # only once: a server that reads each request and hangs up would get one for each
                )

    def _client(self) -> Any:
        if self._made is None:
            return self._theirs
        if self._made[0] != os.getpid():
            self._made = self._make_here()
        return self._made[1]

    def _make_here(self) -> tuple[int, Any, weakref.WeakSet[Any]]:
        assert self._make is not None
        client = self._make()
        return os.getpid(), client, _note_connections(client)


def _read(stream: Any, connection: Connection, emit: Callable[[Any], bool], last: str) -> None:
    if not connection.known:  # a client of the user's, whose connections note nothing
        raw = getattr(stream, "_raw_stream", None)
        connection.connected(getattr(getattr(raw, "_connection", None), "sock", None))
    try:
        for event in stream:
            if emit(event):
                return
            if last in event:
                break
        else:
            return
        # Read on to the true end, or the connection could not be kept; but nothing can fail any more.
        connection.hurry(DRAIN_TIMEOUT)
        try:
            for _ in stream:
                pass
        except Exception:
            pass
    finally:
        stream.close()


def _ours(error: Exception) -> Exception:
    return translated(error) or error


def _note_connections(client: Any) -> weakref.WeakSet[Any]:
    """Has the client's connections tell which call uses them, and its pools be known.

    Where boto3 has changed inside, calls that are left and pools that are closed just end later.
    """
    known: weakref.WeakSet[Any] = weakref.WeakSet()
    http_session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pools = getattr(http_session, "_pool_classes_by_scheme", None)
    if isinstance(pools, dict):  # the one that its pool managers look into
        pools.update({scheme: _noting(pool, known) for scheme, pool in pools.items()})
    return known


def _noting(pool: Any, known: weakref.WeakSet[Any]) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        used = False

        def connect(self) -> None:
            super().connect()
            self.used = False

        def request(self, *args: Any, **kwargs: Any) -> Any:
            if (connection := _connection.get()) is None:
                return super().request(*args, **kwargs)
            if connection.fresh and self.used and not getattr(self, "_tunnel_host", None):
                self.close()  # It connects anew by itself, but for the way through a proxy's tunnel.
            connection.stale = self.used and self.sock is not None
            result = super().request(*args, **kwargs)
            self.used = True
            connection.connected(self.sock)
            return result

        def getresponse(self) -> Any:
            response = super().getresponse()
            if (connection := _connection.get()) is not None:
                connection.stale = False
            return response

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            known.add(self)

        def urlopen(self, *args: Any, **kwargs: Any) -> Any:
            response = super().urlopen(*args, **kwargs)
            return response if response.status < 300 else _with_what_comes(response)

    return Pool


def _with_what_comes(response: Any) -> Any:
    """A refusal with as much of its body as comes: of one that is cut, broken or stalled boto3 forgets the status."""
    if (connection := _connection.get()) is not None:
        connection.hurry(ERROR_BODY_TIMEOUT)
    body, ends = bytearray(), time.monotonic() + ERROR_BODY_TIMEOUT
    try:
        for piece in response.stream(1):  # of a larger piece, what has come when it breaks would be lost
            body += piece
            if len(body) >= MAX_ERROR_BODY_SIZE or time.monotonic() > ends:
                break
    except Exception:  # Whatever broke it, its status is known.
        pass
    response.close()
    about = {"status": response.status, "reason": response.reason, "headers": response.headers}
    how = dict.fromkeys(("preload_content", "decode_content", "enforce_content_length"), False)
    return type(response)(io.BytesIO(bytes(body)), **about, **how)
