"""A small OpenAI chat completions server that misbehaves at exact bytes, in the thread of a test process.

For what no other server does on command: a reset, stall or cut after so many bytes, a stale kept-alive connection, the
dialects of streamed tool calls and usage. It records what reached it, down to connections.

    with FaultServer() as server:
        server.script([Fault.reset(), Fault.cut("stall", after_events=3), OK])
        ...  # a client on server.base_url
        assert len(server.requests) == 3
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from .process import HOST

_CREATED = 1_700_000_000
_ID = "chatcmpl-fault"
_STALL_S = 30.0
_SETTLE_S = 0.05  # between the last byte and a reset, for the client to read what it was sent
_POLL_S = 0.005

End = Literal["reset", "stall", "close", "finish"]
Framing = Literal["auto", "chunked", "length", "close"]


@dataclass(frozen=True)
class Call:
    """A tool call of a reply. `arguments` is the text on the wire, whether it is JSON or not."""

    name: str = "get_weather"
    arguments: str = '{"city": "Paris", "unit": "celsius"}'
    id: str = "call_1"


@dataclass(frozen=True)
class Reply:
    """What the model says, and the dialect of its server."""

    text: str = "The capital of France is Paris."
    calls: Sequence[Call] = ()
    reasoning: str = ""
    finish_reason: str | None = "auto"
    """None: never sent. "auto": tool_calls or stop."""
    prompt_tokens: int = 12
    completion_tokens: int = 8
    usage: Literal["asked", "chunk", "last", "cumulative", "none"] = "asked"
    """In a stream: a chunk with empty choices, only if stream_options ask for it or in any case; in the chunk with the
    finish_reason; in every chunk, growing; never. Unless it is never, a reply that is not streamed has it."""
    tool_index: Literal["count", "zero", "null", "absent"] = "count"
    whole_calls: bool = False
    """Each tool call in one delta, not in fragments."""
    done: bool = True
    """Whether a stream ends with [DONE]."""
    piece: int = 8
    """Characters of text or arguments in a delta."""
    null_choice_first: bool = False
    """A first chunk with empty choices, as Azure's content filter sends."""

    def body(self, model: str) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [self._call(call, call.arguments, None) for call in self.calls]
        choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None}
        if self.finish_reason is not None:
            choice["finish_reason"] = self._finish()
        body = {"id": _ID, "object": "chat.completion", "created": _CREATED, "model": model, "choices": [choice]}
        if self.usage != "none":
            body["usage"] = self._usage(self.completion_tokens)
        return json.dumps(body).encode()

    def events(self, model: str, *, include_usage: bool) -> list[bytes]:
        """The server-sent events: role, reasoning, text, calls, finish_reason, usage, [DONE]."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None if self.calls and not self.text else ""}]
        deltas += [{"reasoning_content": piece} for piece in _pieces(self.reasoning, self.piece)]
        deltas += [{"content": piece} for piece in _pieces(self.text, self.piece)]
        for position, call in enumerate(self.calls):
            if self.whole_calls:
                deltas.append({"tool_calls": [self._call(call, call.arguments, position)]})
                continue
            deltas.append({"tool_calls": [self._call(call, "", position)]})
            for piece in _pieces(call.arguments, self.piece):
                deltas.append({"tool_calls": [self._index(position) | {"function": {"arguments": piece}}]})
        chunks = [self._chunk(model, [self._choice(delta, None)]) for delta in deltas]
        if self.finish_reason is not None:
            chunks.append(self._chunk(model, [self._choice({}, self._finish())]))
        if self.null_choice_first:
            chunks.insert(0, self._chunk("", []) | {"prompt_filter_results": []})
        if self.usage == "cumulative":
            for number, chunk in enumerate(chunks, 1):
                chunk["usage"] = self._usage(self.completion_tokens * number // len(chunks))
        elif self.usage == "last":
            chunks[-1]["usage"] = self._usage(self.completion_tokens)
        elif self.usage == "chunk" or (self.usage == "asked" and include_usage):
            chunks.append(self._chunk(model, []) | {"usage": self._usage(self.completion_tokens)})
        return [sse(chunk) for chunk in chunks] + ([sse("[DONE]")] if self.done else [])

    def _finish(self) -> str | None:
        return ("tool_calls" if self.calls else "stop") if self.finish_reason == "auto" else self.finish_reason

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        total = self.prompt_tokens + completion_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}

    def _call(self, call: Call, arguments: str, position: int | None) -> dict[str, Any]:
        index = {} if position is None else self._index(position)
        return index | {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}

    def _index(self, position: int) -> dict[str, Any]:
        if self.tool_index == "absent":
            return {}
        return {"index": {"count": position, "zero": 0, "null": None}[self.tool_index]}

    def _chunk(self, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": _ID,
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": model,
            "choices": choices,
        }

    def _choice(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


TWO_CALLS = (Call(), Call(arguments='{"city": "Oslo", "unit": "celsius"}', id="call_2"))


@dataclass(frozen=True)
class Fault:
    """What the server does with one request. The plain one answers in good order; see the constructors."""

    reply: Reply = Reply()
    status_code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    """The body, instead of the reply. In the place of a stream only with another status or `never_streams`."""
    never_streams: bool = False
    """Answer a request for a stream by a plain body, as some gateways do with errors."""
    replaced_events: Mapping[int, bytes] = field(default_factory=dict)
    """In a stream: bytes to send instead of the event of this number."""
    last_event: int | None = None
    """In a stream: the number of the last event that is sent, in good order."""
    delay_s: float = 0.0
    """Before the status line."""
    body_delay_s: float = 0.0
    """Between headers and body."""
    pace_s: float = 0.0
    """Between events."""
    framing: Framing = "auto"
    """How the body's end is told. "auto": chunked for a stream, else Content-Length. "close": by closing."""
    split: int | None = None
    """Send the body in pieces of so many bytes, wherever they end, instead of an event (or the body) at a time."""
    newline: bytes = b"\n"
    """Of the events."""
    end: End | None = None
    """reset: RST. close: FIN, the framing incomplete. stall: nothing for `stall_s`, then FIN. finish: end of the
    framing, as if all were well."""
    before_headers: bool = False
    """The end comes after the request was read and before the status line, else in the body."""
    after_bytes: int | None = None
    after_events: int | None = None
    """Where in the body the end comes: after so many bytes, or events. Else in the middle of a body, or after a
    stream's third event (the role and two deltas)."""
    stall_s: float = _STALL_S
    goes_stale: Literal["no", "at_once", "on_next_request"] = "no"
    """The connection, though the answer said keep-alive, is closed after it or reset when the next request arrives."""

    @classmethod
    def ok(cls, text: str | None = None, **reply: Any) -> Fault:
        """An answer in good order, with the fields of `Reply`."""
        return cls(reply=Reply(**reply) if text is None else Reply(text, **reply))

    @classmethod
    def tools(cls, *calls: Call, **reply: Any) -> Fault:
        """Tool calls: those given, or two in parallel."""
        return cls.ok("", calls=calls or TWO_CALLS, **reply)

    @classmethod
    def status(
        cls,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        message: str = "scripted",
        code: str | None = None,
        param: str | None = None,
    ) -> Fault:
        """An HTTP status with OpenAI's error body, or with `body`."""
        error = {"message": message, "type": "scripted_error", "param": param, "code": code}
        content = json.dumps({"error": error}).encode() if body is None else body
        return cls(status_code=status, headers=headers or {}, content=content)

    @classmethod
    def rate_limit(cls, retry_after: float | str | None = 1) -> Fault:
        """429, with Retry-After (seconds or a date) unless it is None."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls.status(429, headers=headers, message="Rate limit reached.", code="rate_limit_exceeded")

    @classmethod
    def slow(cls, seconds: float, *, headers_first: bool = False) -> Fault:
        """The first byte of the answer (or of its body) comes late."""
        return cls(body_delay_s=seconds) if headers_first else cls(delay_s=seconds)

    @classmethod
    def reset(cls) -> Fault:
        """RST before the headers."""
        return cls(end="reset", before_headers=True)

    @classmethod
    def hang_up(cls) -> Fault:
        """FIN before the headers."""
        return cls(end="close", before_headers=True)

    @classmethod
    def silence(cls, seconds: float = _STALL_S) -> Fault:
        """Nothing at all, then FIN."""
        return cls(end="stall", before_headers=True, stall_s=seconds)

    @classmethod
    def cut(
        cls,
        end: End,
        *,
        after_bytes: int | None = None,
        after_events: int | None = None,
        stall_s: float = _STALL_S,
        framing: Framing = "auto",
        reply: Reply | None = None,
    ) -> Fault:
        """An end in the body; see the fields."""
        return cls(
            reply=reply or Reply(),
            end=end,
            after_bytes=after_bytes,
            after_events=after_events,
            stall_s=stall_s,
            framing=framing,
        )

    @classmethod
    def malformed(cls, *, after_events: int = 2) -> Fault:
        """An event that is half JSON, the rest of the stream in order. Not streamed: a 200 whose body is a web page."""
        page = b"<html><body>502 Bad Gateway</body></html>"
        return cls(content=page, replaced_events={after_events: b'data: {"id": "chatcmpl-fault", "choi\n\n'})

    @classmethod
    def bad_utf8(cls, *, after_events: int = 2) -> Fault:
        """The byte 0xff in the text of an event, or of the body."""
        event = sse({"choices": [{"index": 0, "delta": {"content": "caf@"}, "finish_reason": None}]})
        return cls(
            content=Reply("caf@").body("m").replace(b"caf@", b"caf\xff"),
            replaced_events={after_events: event.replace(b"caf@", b"caf\xff")},
        )

    @classmethod
    def error_frame(
        cls, *, after_events: int = 3, message: str = "The server had an error.", code: int | str | None = 500
    ) -> Fault:
        """An error object as the last event, in good order otherwise. Not streamed: a 200 with an error body."""
        error = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
        return cls(
            content=json.dumps(error).encode(), replaced_events={after_events: sse(error)}, last_event=after_events
        )

    @classmethod
    def truncated_json(cls, *, after_bytes: int | None = None) -> Fault:
        """A 200 whose framing is complete and whose body is cut."""
        return cls(end="finish", after_bytes=after_bytes)

    @classmethod
    def truncated_arguments(cls, arguments: str = '{"city": "Par', **reply: Any) -> Fault:
        """A tool call whose arguments stop in mid-string."""
        return cls.tools(Call(arguments=arguments), **reply)

    @classmethod
    def stale(cls, when: Literal["at_once", "on_next_request"] = "on_next_request") -> Fault:
        """An answer in good order on a connection that is dead afterwards."""
        return cls(goes_stale=when)

    def replace(self, **changes: Any) -> Self:
        """A copy with other fields: Fault.tools().replace(pace_s=0.1)."""
        return replace(self, **changes)

    # What a fault in another service's form overrides.

    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        """The body in the pieces it is sent in, and whether it is a stream."""
        return _payload(request, self)


OK = Fault()


@dataclass
class Recorded:
    """One request as it came over the wire, and what became of its answer."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """The number of the connection it came on, from 1."""
    at: float
    """time.monotonic() when it had been read."""
    fault: Fault = OK
    body_bytes_sent: int = 0
    done: bool = False
    """The server has done with it what it was told to."""
    client_left: bool = False
    """The client closed the connection before that."""

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def stream(self) -> bool:
        return bool(self.json.get("stream")) or self.target.endswith("/converse-stream")


class FaultServer:
    """The server. It listens between `__enter__` and `__exit__`."""

    paths: ClassVar[tuple[str, ...]] = ("/chat/completions",)
    """The ends of those that are scripted."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        """The chat completions that were read, in order."""
        self.connections_opened = 0
        self.stale_hits = 0
        """Requests that arrived on a stale connection and were not read."""
        self.errors: list[Exception] = []
        """Failures of the server itself, such as a request that is not HTTP or JSON; `__exit__` raises the first."""
        self.port = 0
        self._lock = threading.Lock()
        self._script: deque[Fault] = deque()
        self._then: Fault | Callable[[Recorded], Fault] = OK
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-server", daemon=True)
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.start_listening()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        if self.errors and error is None:
            raise RuntimeError(f"the server could not handle a request: {self.errors[0]!r}") from self.errors[0]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def unused(self) -> int:
        """How many scripted faults no request has met yet."""
        return len(self._script)

    def script(self, faults: Iterable[Fault] = (), *, then: Fault | Callable[[Recorded], Fault] = OK) -> None:
        """What to do with the next requests, in order of arrival, and `then` with all further ones.

        Replaces an earlier script. Forever the same: script(then=Fault.status(500)).
        """
        with self._lock:
            self._script = deque(faults)
            self._then = then

    def clear(self) -> None:
        """Forget the script, the requests and the counts."""
        self.script()
        self.requests.clear()
        self.connections_opened = self.open_connections
        self.stale_hits = 0

    def settle(self) -> None:
        """Ready for the next test: all is forgotten, and no connection of an earlier test's is left."""
        if self.open_connections:
            self.wait_for(self._all_are_collected)
        self.clear()

    def _all_are_collected(self) -> bool:
        # A model that nobody holds closes its own when it is collected, which may be minutes later; and a thread may
        # hold it a moment longer than the test did.
        gc.collect()
        return self.open_connections == 0

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until `condition` holds, such as `lambda: server.open_connections == 0`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                left = ", ".join(map(str, list(self._connections.values()))) or "none"
                raise TimeoutError(
                    f"not so after {timeout_s:g} s: {len(self.requests)} requests on {self.connections_opened}"
                    f" connections; open: {left}"
                )
            time.sleep(_POLL_S)

    def stop_listening(self) -> None:
        """Refuse new connections; the open ones go on."""
        self._call(self._close_listener())

    def start_listening(self) -> None:
        """Listen again, on the same port."""
        self._call(self._listen())

    # The thread of the server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    def _stop(self) -> None:
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self._call(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        if not self._thread.is_alive():
            self._loop.close()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, HOST, self.port, reuse_address=True)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _shut_down(self) -> None:
        await self._close_listener()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections_opened += 1
        connection = self._connections[task] = _Connection(self.connections_opened, reader, writer)
        try:
            while (request := await connection.read_request()) is not None:
                if not await self._answer(connection, request):
                    break
        except ConnectionError:
            pass  # the client left
        except asyncio.CancelledError:
            writer.transport.abort()  # the server stops
        except Exception as error:
            self.errors.append(error)
        finally:
            await connection.close()
            del self._connections[task]

    async def _answer(self, connection: _Connection, request: Recorded) -> bool:
        """Answer one request; whether the connection lives on."""
        if request.method != "POST" or not request.target.partition("?")[0].endswith(self.paths):
            listing = request.target.endswith("/models")
            content = b'{"object": "list", "data": [{"id": "scripted", "object": "model"}]}' if listing else b"{}"
            return await connection.answer(request, Fault(status_code=200 if listing else 404, content=content))
        with self._lock:
            scripted = self._script.popleft() if self._script else self._then
            self.requests.append(request)
        request.fault = scripted if isinstance(scripted, Fault) else scripted(request)
        try:
            alive = await connection.answer(request, request.fault)
        except ConnectionError:
            request.client_left = True
            raise
        request.done = not request.client_left
        if not alive or request.fault.goes_stale == "at_once":
            return False
        if request.fault.goes_stale == "on_next_request":
            if await connection.reader.read(1):
                self.stale_hits += 1
                connection.reset()
            return False
        return True


class _Connection:
    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.opened, self.heads = time.monotonic(), 0
        # Then drain() returns once everything is with the kernel.
        writer.transport.set_write_buffer_limits(high=0)

    def __str__(self) -> str:
        return f"number {self.number}, {self.heads} requests, opened {time.monotonic() - self.opened:.2f} s ago"

    async def read_request(self) -> Recorded | None:
        """The next request, or None when the client has closed the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads += 1
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
            pass  # trailers
        return bytes(body)

    async def answer(self, request: Recorded, fault: Fault) -> bool:
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
        limit = _limit(fault, streamed, pieces) if fault.end is not None else length
        if fault.split is not None:
            whole = b"".join(pieces)
            pieces = [whole[start : start + fault.split] for start in range(0, length, fault.split)]
        await self._send(_head(fault, streamed, framing, limit if fault.end == "finish" else length))
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
                await self._delivered()
                await self._pause(request, _SETTLE_S)
            self.reset()
        elif fault.end == "stall":
            await self._pause(request, fault.stall_s)

    async def _send(self, data: bytes) -> None:
        if self._client_left():
            raise ConnectionResetError("the client left")
        self.writer.write(data)
        await self.writer.drain()

    async def _delivered(self) -> None:
        """Wait until the client's kernel has everything: an RST throws away what is still on the way."""
        connected = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError, ValueError):
            while not self._client_left() and _unsent(connected):  # noqa: ASYNC110  # the kernel tells nobody
                await asyncio.sleep(_POLL_S)

    async def _pause(self, request: Recorded, seconds: float) -> bool:
        """Wait; False at once when the client leaves."""
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
        """Close with an RST."""
        connected = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the client was first, and the socket is closed
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close with a FIN."""
        self.writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self.writer.wait_closed()


def sse(data: object) -> bytes:
    """One server-sent event: a JSON object, or text as it is."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _payload(request: Recorded, fault: Fault) -> tuple[bool, list[bytes]]:
    """The body in the pieces it is sent in, and whether it is a stream."""
    streamed = fault.status_code == 200 and not fault.never_streams and request.method == "POST" and request.stream
    if not streamed:
        model = request.json.get("model", "") if request.body else ""
        return False, [fault.reply.body(model) if fault.content is None else fault.content]
    include_usage = bool((request.json.get("stream_options") or {}).get("include_usage"))
    events = fault.reply.events(request.json.get("model", ""), include_usage=include_usage)
    events = [fault.replaced_events.get(number, event) for number, event in enumerate(events)]
    if fault.last_event is not None:
        events = events[: fault.last_event + 1]
    return True, [event.replace(b"\n", fault.newline) for event in events]


def _limit(fault: Fault, streamed: bool, pieces: Sequence[bytes]) -> int:
    """After how many bytes of the body the end comes."""
    if fault.after_bytes is not None:
        return fault.after_bytes
    if streamed:
        return sum(map(len, pieces[: 3 if fault.after_events is None else fault.after_events]))
    return sum(map(len, pieces)) // 2


def _head(fault: Fault, streamed: bool, framing: Framing, length: int) -> bytes:
    try:
        phrase = HTTPStatus(fault.status_code).phrase
    except ValueError:
        phrase = "Scripted"
    headers = {
        "Content-Type": fault.stream_type if streamed else "application/json",
        "X-Request-Id": "req-scripted",
    }
    if framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    elif framing == "length":
        headers["Content-Length"] = str(length)
    headers["Connection"] = "close" if framing == "close" else "keep-alive"
    lines = [f"{name}: {value}" for name, value in (headers | dict(fault.headers)).items()]
    return "\r\n".join([f"HTTP/1.1 {fault.status_code} {phrase}", *lines, "", ""]).encode("latin-1")


def _unsent(connected: Any) -> int:
    """Bytes in the socket's send queue that the other side has not acknowledged."""
    (queued,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, struct.pack("i", 0)))
    return int(queued)
