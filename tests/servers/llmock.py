"""The PyPI package llmock: a chaos server that is told over its admin API what to do with the next requests.

What it does and does not is in README.md.
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
    """One behaviour of the server. It hits the next `times` requests that it fits (None: all until `reset`).

    One of each type may hit the same request, except that `fail` stands alone. Stream faults and `slow_first_token`
    wait for a request with "stream": true, tool faults for one that offers tools; the rest take any.
    """

    type: str
    fields: Mapping[str, Any]
    times: int | None = 1

    @classmethod
    def fail(cls, status: int, *, retry_after: float | None = None, times: int | None = 1) -> Fault:
        """An HTTP error, 400 to 599. Without `retry_after`, 429, 503, 504 and 529 say Retry-After: 1.

        It is sent as Retry-After (rounded up to seconds) and as retry-after-ms (exact).
        """
        return cls("fail", {"status": status} | ({} if retry_after is None else {"retry_after": retry_after}), times)

    @classmethod
    def rate_limit(cls, retry_after: float = 1.0, *, times: int | None = 1) -> Fault:
        return cls.fail(429, retry_after=retry_after, times=times)

    @classmethod
    def delay(cls, seconds: float, *, times: int | None = 1) -> Fault:
        """A wait before the status line."""
        return cls("delay", {"seconds": seconds}, times)

    @classmethod
    def slow_first_token(cls, seconds: float, *, times: int | None = 1) -> Fault:
        """A wait between a stream's headers and its first event."""
        return cls("slow_first_token", {"seconds": seconds}, times)

    @classmethod
    def stream(cls, kind: StreamFault, *, after_chunks: int = 1, stall_s: float = 30.0, times: int | None = 1) -> Fault:
        """Break a stream after `after_chunks` events, the first of which carries the role only.

        disconnect: the connection ends in the middle of the chunked body (FIN, no RST). truncate: the body ends in
        order, without finish_reason and [DONE]. stall: nothing for `stall_s`, then the rest. malformed: half of an
        event's JSON, then the rest of the stream.
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
        """Arguments cut in half, or a call of a tool that was never offered."""
        return cls("tool_fault", {"kind": kind}, times)

    @classmethod
    def reply(cls, text: str, *, finish_reason: str | None = None, times: int | None = 1) -> Fault:
        """Not a fault: the text of an answer (streamed word by word)."""
        return cls("reply", {"text": text, "finish_reason": finish_reason}, times)

    @classmethod
    def call(cls, calls: Sequence[tuple[str, Mapping[str, Any]]], *, times: int | None = 1) -> Fault:
        """Not a fault: an answer that calls tools, several in parallel if need be."""
        tool_calls = [{"name": name, "arguments": dict(arguments)} for name, arguments in calls]
        return cls("reply", {"tool_calls": tool_calls}, times)


@dataclass(frozen=True)
class Recorded:
    """One request that reached the server, and what became of it. Times are of the server's monotonic clock."""

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
    """A running llmock. It takes any key, or none."""

    process: ServerProcess
    api_key: str = "test-key"

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def inject(self, *faults: Fault) -> None:
        behaviors = [{"type": fault.type, "times": fault.times, **fault.fields} for fault in faults]
        self._admin("POST", "/scenario", {"behaviors": behaviors})

    def pending(self) -> int:
        """How many injected faults still wait for a request."""
        return len(self._admin("GET", "/scenario")["pending"])

    def requests(self) -> list[Recorded]:
        """The requests that have ended, oldest first. Waits up to 2 s for the ones under way."""
        names = Recorded.__dataclass_fields__
        entries = self._admin("GET", "/requests")["requests"]
        return [Recorded(**{name: entry[name] for name in names}) for entry in entries]

    def reset(self) -> None:
        """Forget requests and faults."""
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
    """Serve OpenAI chat completions, in good order until told otherwise by `inject`."""

    def command(port: int) -> list[str]:
        options = ["--host", HOST, "--port", str(port), "--log-level", "warning"]
        style = ["--response-style", response_style, "--tool-mode", tool_mode]
        return [sys.executable, "-m", "llmock.cli", "serve", *options, *style]

    # It waits for open connections when told to stop, stalled ones too: hence the short grace.
    with serve(command, ready_path="/health", deadline_s=deadline_s, grace_s=0.5) as process:
        yield LlmockServer(process)
