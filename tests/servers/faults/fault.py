"""What the fault server does with a request: a reply, and the fault with which it is sent.

A fault is a set of fields, which can be combined: a status, delays, the framing of the body, and where and how the
response ends. The class methods of `Fault` make the common ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from typing import Any, ClassVar, Literal, Self

from .replies import TWO_CALLS, Call, Reply, sse

STALL_S = 30.0

End = Literal["reset", "stall", "close", "finish"]
Framing = Literal["auto", "chunked", "length", "close"]


@dataclass(frozen=True)
class Fault:
    """What the server does with one request. By default it sends a correct response; see the class methods."""

    reply: Reply = field(default_factory=Reply)
    status_code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    """The body, instead of the reply. A stream has it only with a status other than 200, or with `never_streams`."""
    never_streams: bool = False
    """Whether a request for a stream gets a plain body, as some gateways send errors."""
    replaced_events: Mapping[int, bytes] = field(default_factory=dict)
    """In a stream: the bytes to send instead of the event with this number."""
    last_event: int | None = None
    """In a stream: the number of the event after which the stream ends correctly."""
    delay_s: float = 0.0
    """The wait before the status line."""
    body_delay_s: float = 0.0
    """The wait between headers and body."""
    pace_s: float = 0.0
    """The wait between events."""
    framing: Framing = "auto"
    """How the end of the body is marked. "auto": chunked for a stream, else Content-Length. "close": by closing the
    connection."""
    split: int | None = None
    """The number of bytes in which the body is sent at a time, instead of one event (or the whole body) at a time."""
    newline: bytes = b"\n"
    """The line ending of the events."""
    end: End | None = None
    """How the response ends early. "reset": RST. "close": FIN, with incomplete framing. "stall": nothing for `stall_s`,
    then FIN. "finish": with complete framing, as if the response were complete."""
    before_headers: bool = False
    """Whether the response ends before the status line, instead of in the body."""
    after_bytes: int | None = None
    after_events: int | None = None
    """The number of bytes or events of the body after which the response ends. By default it ends in the middle of a
    body, or after the third event of a stream (the role and two deltas)."""
    stall_s: float = STALL_S
    goes_stale: Literal["no", "at_once", "on_next_request"] = "no"
    """Whether the connection, although the response says keep-alive, is closed after the response ("at_once") or reset
    when the next request arrives ("on_next_request")."""

    @classmethod
    def ok(cls, text: str | None = None, **reply: Any) -> Self:
        """Send a correct response, with these fields of `Reply`."""
        return cls(reply=Reply(**reply) if text is None else Reply(text, **reply))

    @classmethod
    def tools(cls, *calls: Call, **reply: Any) -> Self:
        """Send these tool calls; by default two in parallel."""
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
    ) -> Self:
        """Send an HTTP status with OpenAI's error body, or with `body`."""
        error = {"message": message, "type": "scripted_error", "param": param, "code": code}
        content = json.dumps({"error": error}).encode() if body is None else body
        return cls(status_code=status, headers=headers or {}, content=content)

    @classmethod
    def rate_limit(cls, retry_after: float | str | None = 1) -> Self:
        """Send status 429, with Retry-After (seconds or a date) unless it is None."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls.status(429, headers=headers, message="Rate limit reached.", code="rate_limit_exceeded")

    @classmethod
    def slow(cls, seconds: float, *, headers_first: bool = False) -> Self:
        """Send the first byte of the response (or of its body) late."""
        return cls(body_delay_s=seconds) if headers_first else cls(delay_s=seconds)

    @classmethod
    def reset(cls) -> Self:
        """Send RST before the headers."""
        return cls(end="reset", before_headers=True)

    @classmethod
    def hang_up(cls) -> Self:
        """Send FIN before the headers."""
        return cls(end="close", before_headers=True)

    @classmethod
    def silence(cls, seconds: float = STALL_S) -> Self:
        """Send nothing, then FIN."""
        return cls(end="stall", before_headers=True, stall_s=seconds)

    @classmethod
    def cut(
        cls,
        end: End,
        *,
        after_bytes: int | None = None,
        after_events: int | None = None,
        stall_s: float = STALL_S,
        framing: Framing = "auto",
        reply: Reply | None = None,
    ) -> Self:
        """End the response in its body; see the fields."""
        return cls(
            reply=reply or Reply(),
            end=end,
            after_bytes=after_bytes,
            after_events=after_events,
            stall_s=stall_s,
            framing=framing,
        )

    @classmethod
    def malformed(cls, *, after_events: int = 2) -> Self:
        """Send an event with half of its JSON; the rest of the stream is correct.

        A response that is not streamed has status 200 and a web page as its body.
        """
        page = b"<html><body>502 Bad Gateway</body></html>"
        return cls(content=page, replaced_events={after_events: b'data: {"id": "chatcmpl-fault", "choi\n\n'})

    @classmethod
    def bad_utf8(cls, *, after_events: int = 2) -> Self:
        """Send the byte 0xff in the text of an event, or of the body."""
        event = sse({"choices": [{"index": 0, "delta": {"content": "caf@"}, "finish_reason": None}]})
        return cls(
            content=Reply("caf@").body("m").replace(b"caf@", b"caf\xff"),
            replaced_events={after_events: event.replace(b"caf@", b"caf\xff")},
        )

    @classmethod
    def error_frame(
        cls, *, after_events: int = 3, message: str = "The server had an error.", code: int | str | None = 500
    ) -> Self:
        """Send an error object as the last event of an otherwise correct stream.

        A response that is not streamed has status 200 and the error as its body.
        """
        error = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
        return cls(
            content=json.dumps(error).encode(), replaced_events={after_events: sse(error)}, last_event=after_events
        )

    @classmethod
    def truncated_json(cls, *, after_bytes: int | None = None) -> Self:
        """Send a truncated body with complete framing and status 200."""
        return cls(end="finish", after_bytes=after_bytes)

    @classmethod
    def truncated_arguments(cls, arguments: str = '{"city": "Par', **reply: Any) -> Self:
        """Send a tool call whose arguments end within a string."""
        return cls.tools(Call(arguments=arguments), **reply)

    @classmethod
    def stale(cls, when: Literal["at_once", "on_next_request"] = "on_next_request") -> Self:
        """Send a correct response on a connection that is dead afterwards."""
        return cls(goes_stale=when)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other fields, as in Fault.tools().replace(pace_s=0.1)."""
        return replace(self, **changes)

    # Faults of another wire format override what follows.

    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        """Return whether the response is a stream, and its body in the pieces in which it is sent."""
        streamed = self.status_code == 200 and not self.never_streams and request.method == "POST" and request.stream
        model = request.json.get("model", "") if request.body else ""
        if not streamed:
            return False, [self.reply.body(model) if self.content is None else self.content]
        include_usage = bool((request.json.get("stream_options") or {}).get("include_usage"))
        events = self.reply.events(model, include_usage=include_usage)
        events = [self.replaced_events.get(number, event) for number, event in enumerate(events)]
        if self.last_event is not None:
            events = events[: self.last_event + 1]
        return True, [event.replace(b"\n", self.newline) for event in events]

    # What the connection asks for.

    def end_position(self, streamed: bool, pieces: Sequence[bytes]) -> int:
        """Return the number of bytes of the body after which the response ends."""
        if self.after_bytes is not None:
            return self.after_bytes
        if streamed:
            return sum(map(len, pieces[: 3 if self.after_events is None else self.after_events]))
        return sum(map(len, pieces)) // 2

    def head(self, streamed: bool, framing: Framing, length: int) -> bytes:
        """Return the status line and the headers of the response.

        Args:
            streamed: Whether the body is a stream.
            framing: How the end of the body is marked; not "auto".
            length: The length of the body in bytes.
        """
        try:
            phrase = HTTPStatus(self.status_code).phrase
        except ValueError:
            phrase = "Scripted"
        headers = {
            "Content-Type": self.stream_type if streamed else "application/json",
            "X-Request-Id": "req-scripted",
        }
        if framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif framing == "length":
            headers["Content-Length"] = str(length)
        headers["Connection"] = "close" if framing == "close" else "keep-alive"
        lines = [f"{name}: {value}" for name, value in (headers | dict(self.headers)).items()]
        return "\r\n".join([f"HTTP/1.1 {self.status_code} {phrase}", *lines, "", ""]).encode("latin-1")


OK = Fault()


@dataclass
class Recorded:
    """One request as it came over the wire, and what became of its response."""

    method: str
    target: str
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes
    connection: int
    """The number of its connection, from 1."""
    at: float
    """The time.monotonic() at which it had been read."""
    fault: Fault = OK
    body_bytes_sent: int = 0
    done: bool = False
    """Whether the server has carried out the fault."""
    client_left: bool = False
    """Whether the client closed the connection before that."""

    @cached_property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def stream(self) -> bool:
        """Whether it asks for a stream."""
        return bool(self.json.get("stream")) or self.target.endswith("/converse-stream")
