"""Strategies: bodies that are large or odd, compressed or endless, and the lines of event streams.

An input is a short description, from which the bytes are made when it is played.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.chat_targets import RESPONSES, STREAMS
from tests.fuzz.junk import encode
from tests.servers.faults import Fault

MIB = 2**20
#: The sizes of what is repeated in a body, in bytes after decompression. Few inputs are large, because they are slow.
_sizes = st.sampled_from((10, 1000, 1000, 10_000, 10_000, 100_000, MIB, MIB, 4 * MIB, 17 * MIB, 40 * MIB))
_REPEATED = (
    b"[],", b"{},", b"0,", b"[", b'{"a":', b'"a",', b"\n", b" ", b"x", b"\xff", b"null,", b"1e9,", b'"\\ud800",',
    b'{"index":0},', b"[[[[[[]]]]]],",
)  # fmt: skip
#: Where the repeated bytes stand. `%` is their place.
_BODIES = (
    b"%", b"[%0]", b'{"choices": [%0]}', b'{"choices": [{"message": {"content": "%"}}]}',
    b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok", "tool_calls": [%0]}, '
    b'"finish_reason": "stop"}]}',
    b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, '
    b'"finish_reason": "stop"}], "x": [%0]}',
    b'{"error": {"message": "%"}}', b'{"error": [%0]}', b'{"output": {"message": {"content": [%0]}}}',
    b'{"usage": [%0]}', b'{"message": "%"}',
)  # fmt: skip
_TOOL_CALL = b'{"id":"c","type":"function","function":{"name":"get_weather","arguments":"{}"}},'


@dataclass(frozen=True)
class Body:
    """A body.

    Args:
        template: The bytes around what is repeated.
        repeated: The repeated bytes.
        size: The size of the repetitions.
        encoding: The name of the compression; empty for none.
        truncated: Whether the end of the compressed bytes is missing.
    """

    template: bytes
    repeated: bytes
    size: int
    encoding: str = ""
    truncated: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Encoding": self.encoding} if self.encoding else {}

    def data(self) -> bytes:
        """Return the bytes of the body, compressed."""
        return _bytes_of(self)


@lru_cache(4)
def _bytes_of(body: Body) -> bytes:
    plain = body.template.replace(b"%", body.repeated * (body.size // len(body.repeated)))
    if body.encoding == "gzip":
        data = gzip.compress(plain, 6, mtime=0)
    elif body.encoding == "gzip, gzip":
        data = gzip.compress(gzip.compress(plain, 6, mtime=0), 6, mtime=0)
    elif body.encoding == "deflate":
        data = zlib.compress(plain)
    else:  # For zstd and br the bytes are no valid compression: a client must refuse them or pass them on.
        data = plain
    return data[: len(data) // 2] if body.truncated else data


bodies = st.builds(
    Body,
    template=st.sampled_from(_BODIES),
    repeated=st.sampled_from((*_REPEATED, _TOOL_CALL)),
    size=_sizes,
    encoding=st.sampled_from(("", "gzip", "gzip", "deflate", "gzip, gzip", "zstd", "br", "identity", "nonsense")),
    truncated=st.sampled_from((False,) * 9 + (True,)),
)


@dataclass(frozen=True)
class BodyFault(Fault):
    """A response with a generated body; a stream gets it too."""

    body: Body = Body(b"", b"x", 0)

    def payload(self, request: Any) -> tuple[bool, list[bytes]]:
        return False, [self.body.data()]


@dataclass(frozen=True)
class EndlessFault(Fault):
    """A body or a stream that does not end before the client leaves: the same megabyte, two hundred times."""

    repeated: bytes = b"x"

    def payload(self, request: Any) -> tuple[bool, list[bytes]]:
        return bool(request.stream), [self.repeated * (MIB // len(self.repeated))] * 200


def body_faults(statuses: st.SearchStrategy[int]) -> st.SearchStrategy[Fault]:
    """Generate responses with odd bodies; one in forty does not end."""
    usual = st.builds(
        lambda status, body: BodyFault(status_code=status, headers=body.headers, body=body), statuses, bodies
    )
    endless = st.builds(
        lambda status, repeated: EndlessFault(status_code=status, repeated=repeated, framing="chunked"),
        statuses, st.sampled_from((b"x", b"[],", b" ", b"data: x\n", b"data: {}\n\n", b": x\n\n", b"\n")),
    )  # fmt: skip
    return st.integers(0, 39).flatmap(lambda number: usual if number else endless)


# --- lines of event streams -------------------------------------------------------------------------------------------

_EVENT = b"data: " + encode(STREAMS[0][1])
_LINES = (
    b"data", b"data:", b"data: ", b"data: x", b"data:{}", b"data: []", b"data: null", b"data: [DONE]", b"data: [DONE] ",
    b": comment", b":", b"event: error", b"event: ping", b"event: message", b"id: 7", b"retry: 1", b"retry: x",
    b"unknown: x",
    b" data: x", b"DATA: {}", b"\xef\xbb\xbfdata: {}", b"\x00", b"\xff", b"data: \xff", b"data: {", b"data: }", b"",
    _EVENT, _EVENT, _EVENT, b"data: " + encode(STREAMS[1][-1]), b'data: {"error": {"message": "no"}}',
    b'data: {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}}]}',
)  # fmt: skip
_ENDS = (b"\n", b"\r", b"\r\n", b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"")
_repeats = st.sampled_from((1,) * 12 + (2, 30, 1000, 30_000, 300_000))
_lengths = st.sampled_from((0,) * 12 + (10, 1000, 100_000, 5 * MIB, 17 * MIB))


@dataclass(frozen=True)
class Line:
    """A line of an event stream: its text, some letters, and its end, a number of times."""

    text: bytes
    letters: int
    end: bytes
    repeats: int

    def data(self) -> bytes:
        line = self.text + b"x" * self.letters + self.end
        return line * (self.repeats if self.letters < 1000 else 1)


_lines = st.lists(st.builds(Line, st.sampled_from(_LINES), _lengths, st.sampled_from(_ENDS), _repeats), max_size=12)
_COMPLETE = [Line(b"data: " + encode(event), 0, b"\n\n", 1) for event in STREAMS[0]]
#: The lines of a stream; in half of the streams a complete response follows.
lines = st.builds(lambda some, complete: [*some, *_COMPLETE] if complete else some, _lines, st.booleans())


def stream_of(described: Iterable[Line]) -> bytes:
    """Return the bytes of a stream."""
    return b"".join(line.data() for line in described)


def _many(kind: str, number: int) -> bytes:
    """Return a response with very many tool calls, choices, keys, …"""
    body = json.loads(json.dumps(RESPONSES[0]))
    if kind == "tool calls":
        body["choices"][0]["message"]["tool_calls"] = json.loads(b"[" + _TOOL_CALL * number + b"{}]")[:-1]
    elif kind == "choices":
        body["choices"] *= number
    elif kind == "keys":
        body["choices"][0]["message"] |= {f"key{n}": n for n in range(number)}
    elif kind == "logprobs":
        body["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": []}] * number}
    else:
        body["choices"][0]["message"]["content"] = [{"type": "text", "text": "a"}] * number
    return encode(body)


many = st.builds(
    _many,
    st.sampled_from(("tool calls", "choices", "keys", "logprobs", "parts")),
    st.sampled_from((2, 100, 1000, 1025, 30_000, 100_000)),
)
