"""A server whose responses are as large as its client reads: endless bodies, gzip bombs, and much JSON in few bytes.

with HostileServer() as server:
    server.attack = ATTACKS["endless body"]
    ...  # A client talks to server.url.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from .process import HOST

CHUNK = 2**16
EVENT_STREAM, AMAZON_STREAM = "text/event-stream", "application/vnd.amazon.eventstream"
#: The header of gzip. Any number of blocks without content may follow it.
EMPTY_GZIP = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
MALFORMED, REFUSED = "MalformedResponse", "InvalidRequest"


@dataclass(frozen=True)
class Attack:
    """One response.

    Args:
        body: Makes the body, in chunks.
        error: The class of the error that a client of it must raise.
        status: The HTTP status.
        streamed: Whether it answers a call that streams.
        encoding: The header `Content-Encoding`.
    """

    body: Callable[[], Iterator[bytes]]
    error: str = MALFORMED
    status: int = 200
    streamed: bool = False
    encoding: str | None = None


def endless(beginning: bytes = b"", chunk: bytes = b"x" * CHUNK) -> Callable[[], Iterator[bytes]]:
    """A body that ends when its client leaves, or after 4 GiB."""

    def body() -> Iterator[bytes]:
        yield beginning
        for _ in range(2**32 // len(chunk)):
            yield chunk

    return body


def bomb(beginning: bytes, size: int = 400 * 2**20) -> Callable[[], Iterator[bytes]]:
    """A body of gzip that is a thousand times as large when it is decompressed."""

    def body() -> Iterator[bytes]:
        compressor = zlib.compressobj(9, wbits=31)
        yield compressor.compress(beginning)
        for _ in range(size // CHUNK):
            yield compressor.compress(b"x" * CHUNK)
        yield compressor.flush()

    return body


def lists(beginning: bytes, end: bytes, size: int = 15 * 2**20) -> Callable[[], Iterator[bytes]]:
    """A body of empty lists."""
    return lambda: iter((beginning, *[b"[]," * (CHUNK // 3)] * (size // CHUNK), b"[]", end))


def event_prelude(payload: int) -> bytes:
    """The beginning of an event of Amazon's format, which announces so many bytes."""
    head = b"\x0b:event-type\x07\x00\x11contentBlockDelta\x0d:message-type\x07\x00\x05event"
    prelude = struct.pack("!II", len(head) + payload + 16, len(head))
    return prelude + struct.pack("!I", zlib.crc32(prelude)) + head


def tool_calls(beginning: bytes, item: str, end: bytes, count: int = 20_000) -> Callable[[], Iterator[bytes]]:
    """A body of one response with so many tool calls. `{0}` in the item is the number of the call."""
    return lambda: iter((beginning, ",".join(map(item.format, range(count))).encode(), end))


def streamed_tool_calls(count: int = 20_000) -> Iterator[bytes]:
    """Yield events with 500 tool calls each."""
    for start in range(0, count, 500):
        items = ",".join(map(_TOOL_CALL.format, range(start, start + 500)))
        yield b'data: {"choices": [{"delta": {"tool_calls": [%b]}}]}\n\n' % items.encode()
    yield b"data: [DONE]\n\n"


def amazons_streamed_tool_calls(count: int = 2_000) -> Iterator[bytes]:
    """Yield the events of a stream with so many tool calls."""
    from .bedrock import frame

    yield frame(b'{"role": "assistant"}', event_type="messageStart", message_type="event")
    for index in range(count):
        begin = b'{"contentBlockIndex": %d, "start": {"toolUse": {"toolUseId": "c%d", "name": "f"}}}' % (index, index)
        yield frame(begin, event_type="contentBlockStart", message_type="event")
        yield frame(b'{"contentBlockIndex": %d}' % index, event_type="contentBlockStop", message_type="event")


_TOOL_CALL = '{{"index": {0}, "id": "c{0}", "type": "function", "function": {{"name": "f", "arguments": "{{}}"}}}}'
ATTACKS: dict[str, Attack] = {
    "endless body": Attack(endless(b'{"a": "')),
    "gzip bomb": Attack(bomb(b'{"a": "'), encoding="gzip"),
    "empty gzip": Attack(endless(EMPTY_GZIP, b"\0\0\0\xff\xff" * (CHUNK // 5)), encoding="gzip"),
    "empty gzip, streamed": Attack(
        endless(EMPTY_GZIP, b"\0\0\0\xff\xff" * (CHUNK // 5)), streamed=True, encoding="gzip"
    ),
    "lists": Attack(lists(b'{"choices": [{"message": {"content": "a"}}], "a": [', b"]}")),
    "deep lists": Attack(lambda: iter((b"[" * 2**19,))),
    "tool calls": Attack(
        tool_calls(b'{"choices": [{"message": {"tool_calls": [', _TOOL_CALL, b']}, "finish_reason": "tool_calls"}]}')
    ),
    "tool calls, streamed": Attack(streamed_tool_calls, "StreamInterrupted", streamed=True),
    "endless error": Attack(endless(b'{"error": "'), REFUSED, 400),
    "error bomb": Attack(bomb(b'{"error": "'), REFUSED, 400, encoding="gzip"),
    "endless error, streamed": Attack(endless(b'{"error": "'), REFUSED, 400, streamed=True),
    "endless event": Attack(endless(b"data: "), streamed=True),
    "event bomb": Attack(bomb(b"data: "), streamed=True, encoding="gzip"),
    "event of lists": Attack(lists(b'data: {"choices": [], "a": [', b"]}\n\n"), streamed=True),
    "event of short lines": Attack(lambda: iter((*[b"data:\n" * 10_000] * 256, b"\n")), streamed=True),
    "endless body, streamed": Attack(endless(b'{"a": "'), streamed=True),
}  # fmt: skip
#: Attacks in Amazon's format; the others are the same.
_AMAZON: dict[str, Attack | None] = {
    "lists": Attack(lists(b'{"output": {"message": {"role": "assistant", "content": [', b"]}}}")),
    "tool calls": Attack(
        tool_calls(
            b'{"output": {"message": {"role": "assistant", "content": [',
            '{{"toolUse": {{"toolUseId": "c{0}", "name": "f", "input": {{}}}}}}',
            b']}}, "stopReason": "tool_use"}',
        )
    ),
    "tool calls, streamed": Attack(amazons_streamed_tool_calls, "StreamInterrupted", streamed=True),
    "endless event": Attack(endless(event_prelude(2**31)), streamed=True),
    "event bomb": Attack(endless(event_prelude(23 * 2**20)), streamed=True),
    "event of lists": Attack(lists(event_prelude(240 * (CHUNK - 1) + 2), b"\0" * 4), streamed=True),
    "event of short lines": None,
    "endless body, streamed": None,
}


#: Backends of the tests whose streams have Amazon's format.
AMAZON = ("bedrock", "boto3 client")


def attacks(backend: str) -> dict[str, Attack]:
    """The attacks on a backend, in its wire format."""
    changed: dict[str, Attack | None] = _AMAZON if backend in AMAZON else {}
    if backend.startswith("litellm"):
        changed = {"tool calls": None}  # LiteLLM itself takes seconds to convert and to redact them.
    return {name: attack for name in ATTACKS if (attack := changed.get(name, ATTACKS[name])) is not None}


class HostileServer:
    """The server. It listens between `__enter__` and `__exit__`.

    Args:
        amazon: Whether its streams have Amazon's format.
    """

    def __init__(self, amazon: bool = False) -> None:
        self.attack = ATTACKS["endless body"]
        self.stream_type = AMAZON_STREAM if amazon else EVENT_STREAM
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                attack = outer.attack
                self.send_response(attack.status)
                streams = attack.streamed and attack.status == 200
                self.send_header("Content-Type", outer.stream_type if streams else "application/json")
                if attack.encoding:
                    self.send_header("Content-Encoding", attack.encoding)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.close_connection = True
                try:
                    for chunk in attack.body():
                        if chunk:
                            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    pass  # The client left.

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The URL of the server, without a path."""
        return f"http://{HOST}:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
