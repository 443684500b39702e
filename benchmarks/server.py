"""A loopback server that answers chat completions, Responses and Converse faster than any client can send them.

    python benchmarks/server.py

The server uses one process and one core, parses only what it must, and prints its port. The first part of a URL's path
is the shape of a stream: `/200x1/…` is 200 chunks, one every millisecond; `x0` sends one chunk in each turn of the
event loop, and `200/…` sends all in one write.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import zlib
from functools import cache

WORD = " token"
_BASE = {"id": "chatcmpl-Abc123", "created": 1735689600, "model": "bench", "system_fingerprint": "fp_1"}
_USAGE = {
    "prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}  # fmt: skip
_MESSAGE = {"role": "assistant", "content": WORD * 12, "refusal": None, "annotations": []}


def _completion() -> bytes:
    choice = {"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}
    return json.dumps({**_BASE, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode()


@cache
def _sse(count: int) -> list[bytes]:
    def event(choices: list[object], usage: object = None) -> bytes:
        chunk = {**_BASE, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def choice(delta: object, reason: str | None = None) -> dict[str, object]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    first = event([choice({"role": "assistant", "content": "", "refusal": None})])
    middle = [
        event([choice({"content": f"{WORD}{i % 1000}"})]) for i in range(count)
    ]  # Some clients stop at repeated chunks.
    last = event([choice({}, "stop")]) + event([], _USAGE) + b"data: [DONE]\n\n"
    return _chunked([first + middle[0], *middle[1:], last])


def _responses_response(text: str, status: str = "completed") -> dict[str, object]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": 9, "output_tokens": 12, "total_tokens": 21,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    return {
        "id": "resp_1", "object": "response", "created_at": 1735689600, "model": "bench", "status": status,
        "error": None, "incomplete_details": None, "output": [item] if status == "completed" else [],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage,
    }  # fmt: skip


@cache
def _responses_stream(count: int) -> list[bytes]:
    def event(number: int, kind: str, **fields: object) -> bytes:
        data = {"type": kind, "sequence_number": number, **fields}
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()

    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    at = {"output_index": 0, "content_index": 0, "item_id": "msg_1", "logprobs": []}
    words = [f"{WORD}{i % 1000}" for i in range(count)]
    middle = [event(i + 2, "response.output_text.delta", **at, delta=word) for i, word in enumerate(words)]
    response = _responses_response("".join(words))
    first = event(0, "response.created", response=_responses_response("", "in_progress"))
    first += event(1, "response.output_item.added", output_index=0, item=item)
    last = event(count + 2, "response.output_item.done", output_index=0, item=response["output"][0])  # type: ignore[index]
    last += event(count + 3, "response.completed", response=response)
    return _chunked([first + middle[0], *middle[1:], last])


def _frame(kind: str, payload: object) -> bytes:
    """Return a frame of AWS's event stream: https://smithy.io/2.0/aws/amazon-eventstream.html"""
    pairs = ((":message-type", "event"), (":event-type", kind), (":content-type", "application/json"))
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in pairs
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return frame + struct.pack(">I", zlib.crc32(frame))


_CONVERSE_USAGE = {"inputTokens": 9, "outputTokens": 12, "totalTokens": 21}


def _converse() -> bytes:
    message = {"role": "assistant", "content": [{"text": WORD * 12}]}
    closing = {"stopReason": "end_turn", "usage": _CONVERSE_USAGE, "metrics": {"latencyMs": 1}}
    return json.dumps({"output": {"message": message}, **closing}).encode()


@cache
def _converse_stream(count: int) -> list[bytes]:
    middle = _frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": WORD}})
    last = (
        _frame("contentBlockStop", {"contentBlockIndex": 0})
        + _frame("messageStop", {"stopReason": "end_turn"})
        + _frame("metadata", {"usage": _CONVERSE_USAGE, "metrics": {"latencyMs": 1}})
    )
    return _chunked([_frame("messageStart", {"role": "assistant"}) + middle, *[middle] * (count - 1), last])


def _chunked(pieces: list[bytes]) -> list[bytes]:
    result = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    result[-1] += b"0\r\n\r\n"
    return result


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
_SSE_HEAD = _STREAM % b"text/event-stream; charset=utf-8"
_AWS_HEAD = _STREAM % b"application/vnd.amazon.eventstream"
_CHAT, _AWS = _response(_completion()), _response(_converse())
_RESPONSES = _response(json.dumps(_responses_response(WORD * 12)).encode())


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._parts: list[bytes] = []
        self._missing: int | None = None

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            head, _, rest = data.partition(b"\r\n\r\n")
            where = head.lower().find(b"content-length:")
            if not rest and not data.endswith(b"\r\n\r\n"):
                raise ValueError("a request's head came in two pieces")
            length = int(head[where + 15 :].split(b"\r\n", 1)[0]) if where >= 0 else 0
            self._parts, self._missing = [head, rest], length - len(rest)
        else:
            self._parts.append(data)
            self._missing -= len(data)
        if self._missing <= 0:
            self._missing = None
            self._respond(self._parts[0].split(b" ", 2)[1].decode(), b"".join(self._parts[1:]))

    def _respond(self, path: str, body: bytes) -> None:
        shape = path.split("/")[1]
        bedrock, responses = "/model/" in path, path.endswith("/responses")
        if not (path.endswith("converse-stream") or (not bedrock and _wants_stream(body))):
            self._transport.write(_AWS if bedrock else _RESPONSES if responses else _CHAT)
            return
        count, _, gap = shape.partition("x")
        chunks = (_converse_stream if bedrock else _responses_stream if responses else _sse)(int(count))
        head = _AWS_HEAD if bedrock else _SSE_HEAD
        if not gap:
            self._transport.write(head + b"".join(chunks))
            return
        self._transport.write(head + chunks[0])
        self._next(chunks, 1, float(gap) / 1e3)

    def _next(self, chunks: list[bytes], position: int, gap: float) -> None:
        loop = asyncio.get_running_loop()
        if gap:
            loop.call_later(gap, self._write, chunks, position, gap)
        else:
            loop.call_soon(self._write, chunks, position, gap)

    def _write(self, chunks: list[bytes], position: int, gap: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(chunks[position])
        if position + 1 < len(chunks):
            self._next(chunks, position + 1, gap)


def _wants_stream(body: bytes) -> bool:
    return b'"stream":true' in body or b'"stream": true' in body


async def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # The server ends with the process that started it.


if __name__ == "__main__":
    asyncio.run(main())
