"""Ends a call of boto3 that another thread waits for, by shutting down the socket that its own thread reads from."""

from __future__ import annotations

import socket
import threading
from contextvars import ContextVar


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


#: The call that runs in this thread; `None` if modelport did not start it.
current_call: ContextVar[InterruptibleCall | None] = ContextVar("modelport_bedrock_call", default=None)
