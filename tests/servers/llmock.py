"""The PyPI package llmock: a server whose admin API sets the faults of the next requests.

README.md says what it covers.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .process import HOST, ServerProcess, request_json, serve

StreamFault = Literal["disconnect", "truncate", "stall", "malformed"]
ToolFault = Literal["malformed_arguments", "unknown_tool"]


@dataclass(frozen=True)
class Fault:
    """A behaviour of the server. It applies to the next `times` matching requests (None: to all until `reset`).

    Faults of different types may apply to the same request, except `fail`, which applies alone. Stream faults and
    `slow_first_token` match requests with "stream": true, tool faults match requests with tools; the others match any.
    """

    type: str
    fields: Mapping[str, Any]
    times: int | None = 1

    @classmethod
    def fail(cls, status: int, *, retry_after: float | None = None, times: int | None = 1) -> Fault:
        """Send an HTTP error, 400 to 599. Without `retry_after`, 429, 503, 504 and 529 have Retry-After: 1.

        `retry_after` is sent as Retry-After (rounded up to seconds) and as retry-after-ms (exact).
        """
        return cls("fail", {"status": status} | ({} if retry_after is None else {"retry_after": retry_after}), times)

    @classmethod
    def rate_limit(cls, retry_after: float = 1.0, *, times: int | None = 1) -> Fault:
        """Send status 429."""
        return cls.fail(429, retry_after=retry_after, times=times)

    @classmethod
    def delay(cls, seconds: float, *, times: int | None = 1) -> Fault:
        """Wait before the status line."""
        return cls("delay", {"seconds": seconds}, times)

    @classmethod
    def slow_first_token(cls, seconds: float, *, times: int | None = 1) -> Fault:
        """Wait between the headers of a stream and its first event."""
        return cls("slow_first_token", {"seconds": seconds}, times)

    @classmethod
    def stream(cls, kind: StreamFault, *, after_chunks: int = 1, stall_s: float = 30.0, times: int | None = 1) -> Fault:
        """Break a stream after `after_chunks` events, of which the first has only the role.

        Args:
            kind: `disconnect`: the connection ends within the chunked body (FIN, no RST). `truncate`: the body ends
                with complete framing, without finish_reason and [DONE]. `stall`: nothing for `stall_s`, then the rest.
                `malformed`: half of the JSON of an event, then the rest of the stream.
            after_chunks: The number of events before the fault.
            stall_s: The seconds of a stall.
            times: The number of requests.
        """
        return cls("stream_fault", {"kind": kind, "after_chunks": after_chunks, "stall_seconds": stall_s}, times)

    @classmethod
    def disconnect(cls, *, after_chunks: int = 1, times: int | None = 1) -> Fault:
        return cls.stream("disconnect", after_chunks=after_chunks, times=times)

    @classmethod
    def truncate(cls, *, after_chunks: int = 1, times: int | None = 1) -> Fault:
        return cls.stream("truncate", after_chunks=after_chunks, times=times)

    @classmethod
    def malformed(cls, *, after_chunks: int = 1, times: int | None = 1) -> Fault:
        return cls.stream("malformed", after_chunks=after_chunks, times=times)

    @classmethod
    def stall(cls, stall_s: float = 30.0, *, after_chunks: int = 1, times: int | None = 1) -> Fault:
        return cls.stream("stall", after_chunks=after_chunks, stall_s=stall_s, times=times)

    @classmethod
    def broken_tool(cls, kind: ToolFault = "malformed_arguments", *, times: int | None = 1) -> Fault:
        """Send truncated arguments, or call a tool that the request did not offer."""
        return cls("tool_fault", {"kind": kind}, times)

    @classmethod
    def reply(cls, text: str, *, finish_reason: str | None = None, times: int | None = 1) -> Fault:
        """Send this text (word by word in a stream); this is no fault."""
        return cls("reply", {"text": text, "finish_reason": finish_reason}, times)

    @classmethod
    def call(cls, calls: Sequence[tuple[str, Mapping[str, Any]]], *, times: int | None = 1) -> Fault:
        """Call these tools, in parallel if there are several; this is no fault."""
        tool_calls = [{"name": name, "arguments": dict(arguments)} for name, arguments in calls]
        return cls("reply", {"tool_calls": tool_calls}, times)


@dataclass(frozen=True)
class Recorded:
    """A request that reached the server, and its outcome. Times are those of the server's monotonic clock."""

    path: str
    status: int
    stream: bool
    completed: bool
    fault: str | None
    started_at: float
    ended_at: float
    chunks_sent: int
    stall_waited: float | None
    body: Any


@dataclass(frozen=True)
class LlmockServer:
    """A running llmock server. It accepts any key, or none."""

    process: ServerProcess
    api_key: str = "test-key"

    @property
    def url(self) -> str:
        """The URL of the server, without a path."""
        return self.process.url

    @property
    def base_url(self) -> str:
        """The base URL for clients of OpenAI's API."""
        return f"{self.url}/v1"

    def inject(self, *faults: Fault) -> None:
        """Add faults for the next requests."""
        behaviors = [{"type": fault.type, "times": fault.times, **fault.fields} for fault in faults]
        self._admin("POST", "/scenario", {"behaviors": behaviors})

    def pending(self) -> int:
        """Return the number of injected faults that no request has met yet."""
        return len(self._admin("GET", "/scenario")["pending"])

    def requests(self) -> list[Recorded]:
        """Return the requests that have ended, oldest first; wait up to 2 s for those that are running."""
        names = Recorded.__dataclass_fields__
        entries = self._admin("GET", "/requests")["requests"]
        return [Recorded(**{name: entry[name] for name in names}) for entry in entries]

    def reset(self) -> None:
        """Delete all requests and faults."""
        self._admin("POST", "/reset")

    def _admin(self, method: str, path: str, body: object = None) -> Any:
        return request_json(method, f"{self.url}/_llmock{path}", body)


@contextlib.contextmanager
def llmock(
    *,
    response_style: Literal["static", "hello", "echo", "varied"] = "echo",
    tool_mode: Literal["auto", "off"] = "auto",
    deadline_s: float = 30.0,
) -> Iterator[LlmockServer]:
    """Serve OpenAI chat completions, correctly until `inject` adds a fault.

    Args:
        response_style: The text of responses; see llmock.
        tool_mode: Whether the server calls a tool that a request offers.
        deadline_s: The seconds in which the server must start.

    Yields:
        The running server.
    """

    def command(port: int) -> list[str]:
        options = ["--host", HOST, "--port", str(port), "--log-level", "warning"]
        style = ["--response-style", response_style, "--tool-mode", tool_mode]
        return [sys.executable, "-m", "llmock.cli", "serve", *options, *style]

    # At SIGTERM the server waits for open connections, including stalled ones. So the wait before SIGKILL is short.
    with serve(command, ready_path="/health", deadline_s=deadline_s, grace_s=0.5) as process:
        yield LlmockServer(process)
