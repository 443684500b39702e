"""Ends the reading of a synchronous response from another thread.

A thread that waits for a body's next bytes can't look whether somebody still needs them, and a service may send a byte
now and then, so that the client's own timeout never passes. Closing a socket does not wake a thread that reads it, but
shutting it down does.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Interrupt:
    """Ends the reading of one response, which may not have arrived yet."""

    def __init__(self) -> None:
        #: Whether the response is no longer needed. Its reader asks this after each chunk, because the connection of
        #: some clients can't be shut down.
        self.is_set = False
        self._response: Any = None

    def watch(self, response: Any) -> None:
        """Take the response that `set` ends."""
        self._response = response
        if self.is_set:
            shut_down(response)

    def set(self) -> None:
        """End the reading of the response. A response that has been read is left alone."""
        self.is_set = True
        if self._response is not None:
            shut_down(self._response)


def shut_down(response: Any) -> None:
    """Shut down the connection of a response of httpx or httpx2, unless the response is closed.

    A connection of HTTP/2 is left open, because other requests may use it.
    """
    if response.is_closed or response.extensions.get("http_version") == b"HTTP/2":
        return
    with suppress(Exception):  # The client may use a transport of its own, or the connection has just ended.
        connection = response.extensions["network_stream"].get_extra_info("socket")
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # The method of `SSLSocket` would disturb its reader.


@contextmanager
def time_limit(response: Any, seconds: float) -> Iterator[Interrupt]:
    """End the reading of a response after some time.

    Yields:
        The `Interrupt` that is then set.
    """
    interrupt = Interrupt()
    interrupt.watch(response)
    timer = threading.Timer(seconds, interrupt.set)
    timer.daemon = True
    timer.start()
    try:
        yield interrupt
    finally:
        timer.cancel()
