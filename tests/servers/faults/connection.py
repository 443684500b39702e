"""A connection of the fault server: it reads requests, and sends responses with their faults."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Mapping
from typing import Any

from .fault import Fault, Recorded

#: The wait between the last byte and a reset, in which the client reads what was sent.
_SETTLE_S = 0.05
_POLL_S = 0.005


class Connection:
    """A connection from a client.

    Args:
        number: The number of the connection, from 1.
        reader: Reads what the client sends.
        writer: Writes to the client.
    """

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self._opened, self._requests = time.monotonic(), 0
        # With this limit, drain() returns only when the kernel has everything.
        writer.transport.set_write_buffer_limits(high=0)

    def __str__(self) -> str:
        return f"number {self.number}, {self._requests} requests, opened {time.monotonic() - self._opened:.2f} s ago"

    async def read_request(self) -> Recorded | None:
        """Return the next request, or None when the client has closed the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self._requests += 1
            request_line, *lines = head.strip().split("\r\n")
            method, target, _ = request_line.split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self._read_body(headers)
        except asyncio.IncompleteReadError:
            return None
        return Recorded(method, target, headers, body, self.number, time.monotonic())

    async def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length", "0")))
        body = bytearray()
        while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass  # Trailers are ignored.
        return bytes(body)

    async def respond(self, request: Recorded, fault: Fault) -> bool:
        """Send the response to a request, and return whether the connection stays open."""
        if not await self._pause(request, fault.delay_s):
            return False
        if fault.before_headers and fault.end is not None:
            await self._end(request, fault)
            return False
        streamed, pieces = fault.payload(request)
        framing = fault.framing
        if framing == "auto":
            framing = "chunked" if streamed else "length"
        length = sum(map(len, pieces))
        limit = fault.end_position(streamed, pieces) if fault.end is not None else length
        if fault.split is not None:
            whole = b"".join(pieces)
            pieces = [whole[start : start + fault.split] for start in range(0, length, fault.split)]
        await self._send(fault.head(streamed, framing, limit if fault.end == "finish" else length))
        if not await self._pause(request, fault.body_delay_s):
            return False
        for number, piece in enumerate(pieces):
            part = piece[: limit - request.body_bytes_sent]
            if not part:
                break
            if number and not await self._pause(request, fault.pace_s):
                return False
            await self._send(b"%x\r\n%s\r\n" % (len(part), part) if framing == "chunked" else part)
            request.body_bytes_sent += len(part)
        if fault.end not in (None, "finish"):
            await self._end(request, fault)
            return False
        if framing == "chunked":
            await self._send(b"0\r\n\r\n")
        return framing != "close" and request.headers.get("connection", "").lower() != "close"

    async def _end(self, request: Recorded, fault: Fault) -> None:
        if fault.end == "reset":
            if request.body_bytes_sent:
                await self._wait_until_delivered()
                await self._pause(request, _SETTLE_S)
            self.reset()
        elif fault.end == "stall":
            await self._pause(request, fault.stall_s)

    async def _send(self, data: bytes) -> None:
        if self._client_left():
            raise ConnectionResetError("the client left")
        self.writer.write(data)
        await self.writer.drain()

    async def _wait_until_delivered(self) -> None:
        """Wait until the client's kernel has everything, because an RST discards what is still on the way."""
        connected = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError, ValueError):
            while not self._client_left() and _count_unacknowledged(connected):  # noqa: ASYNC110  # The kernel sends no event for it.
                await asyncio.sleep(_POLL_S)

    async def _pause(self, request: Recorded, seconds: float) -> bool:
        """Wait, and return True; return False at once when the client leaves."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._client_left():
                request.client_left = True
                return False
            await asyncio.sleep(min(left, _POLL_S))
        return True

    def _client_left(self) -> bool:
        return self.reader.at_eof() or self.reader.exception() is not None or self.writer.is_closing()

    def reset(self) -> None:
        """Close the connection with an RST."""
        connected = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # The socket is closed, because the client closed the connection first.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection with a FIN."""
        self.writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self.writer.wait_closed()


def _count_unacknowledged(connected: Any) -> int:
    """Return the number of bytes in the socket's send queue that the other side has not acknowledged."""
    (queued,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, struct.pack("i", 0)))
    return int(queued)
