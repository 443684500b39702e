"""The faults of the fault matrix, each with its expected outcomes (see `matrix`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidToolCall,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from tests.remote.outcomes import (
    ANSWER,
    Fails,
    FaultCase,
    FaultScript,
    Interrupted,
    NotApplicable,
    Succeeds,
    Wire,
)
from tests.servers.bedrock import Converse, ConverseFault
from tests.servers.faults import Fault
from tests.servers.responses import Response, ResponsesFault

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def script_by_wire(chat: FaultScript, converse: FaultScript) -> FaultScript:
    """Return a script for a fault that differs between the wire formats."""

    def script(wire: Wire) -> Sequence[Fault]:
        return converse(wire) if wire is ConverseFault else chat(wire)

    return script


def middle_of_fourth_event(wire: Wire) -> int:
    """Return the number of bytes up to the middle of the fourth event."""
    if wire is Fault:
        return 700
    events = Response().events("m") if wire is ResponsesFault else Converse().events()
    return sum(map(len, events[:3])) + 50


NO_SCRIPT: FaultScript = lambda f: []  # noqa: E731
STREAMED_ONLY = NotApplicable("a fault of streams")
NON_STREAMING_ONLY = NotApplicable("a fault of non-streaming responses")
UNREACHABLE, MALFORMED, TRUNCATED = Fails(ConnectionFailed, 3), Fails(MalformedResponse), Interrupted(MalformedResponse)
BROKEN_ARGUMENTS = Fails(InvalidToolCall, 1, {"text": '{"city": "Par'})
FIRST, IDLE = {"first_token_timeout": 0.3}, {"idle_timeout": 0.3}
CHAT, CONVERSE, RESPONSES = (Fault,), (ConverseFault,), (ResponsesFault,)
_LATE_ERROR_EVENT = b'event: error\ndata: {"message": "overloaded", "code": 503}\n\n'
_502 = {"status": 502}


def _error_status(status: int, kind: type[ModelError]) -> FaultCase:
    outcome = Fails(kind, 1, {"status": status})
    return FaultCase(f"4: {status}", lambda f: [f.status(status)], outcome, outcome)


def _broken_body(wire: Wire, status: int, end: str) -> Fault:
    """Return an error whose body breaks."""
    return replace(wire.status(status), end=end, after_bytes=20)  # type: ignore[arg-type]


def _reset_error_body(status: int, kind: type[ModelError]) -> FaultCase:
    outcome = Fails(kind, 1, {"status": status})
    return FaultCase(f"4: {status} whose body is reset", lambda f: [_broken_body(f, status, "reset")], outcome, outcome)


def _exception(kind: str, error: type[ModelError]) -> FaultCase:
    script: FaultScript = lambda f: [f.exception(kind)]  # type: ignore[attr-defined]  # noqa: E731
    return FaultCase(f"11: {kind}", script, STREAMED_ONLY, Interrupted(error), wires=CONVERSE)


def _rate_limit(name: str, seconds: float, outcome: Fails, **details: Any) -> FaultCase:
    return FaultCase(name, NO_SCRIPT, outcome, outcome, then=lambda f: f.rate_limit(seconds), **details)


FAULT_CASES = [
    FaultCase("1: 429 with Retry-After, once", lambda f: [f.rate_limit(0.2)], Succeeds(2, 0.2), Succeeds(2, 0.2)),
    FaultCase("1: 429 without Retry-After, once", lambda f: [f.rate_limit(None)], Succeeds(2), Succeeds(2)),
    _rate_limit("2: 429 for ever", 0.05, Fails(RateLimited, 3, {"retry_after": 0.05, "status": 429})),
    _rate_limit(
        "2: a wait longer than the policy allows", 3600, Fails(RateLimited, 1, {"retry_after": 3600.0}, at_once=True)
    ),
    _rate_limit(
        "2: a wait beyond the deadline",
        10,
        Fails(RateLimited, 1, {"retry_after": 10.0}, at_once=True),
        options={"timeout": 8},
    ),
    FaultCase("3: 500 and 503", lambda f: [f.status(500), f.status(503)], Succeeds(3), Succeeds(3)),
    FaultCase("3: 408 and 424", lambda f: [f.status(408), f.status(424)], Succeeds(3), Succeeds(3)),
    FaultCase(
        "3: 502, a web page", lambda f: [f.status(502, body=b"<html>Bad Gateway</html>")], Succeeds(2), Succeeds(2)
    ),
    FaultCase("3: 503 whose body is truncated", lambda f: [_broken_body(f, 503, "close")], Succeeds(2), Succeeds(2)),
    FaultCase(
        "3: 503 whose body stalls",
        lambda f: [_broken_body(f, 503, "stall")],
        Succeeds(2),
        Succeeds(2),
        stalls_in_error_body=True,
    ),
    FaultCase(
        "3: 502 for ever",
        NO_SCRIPT,
        Fails(ServerError, 3, _502),
        Fails(ServerError, 3, _502),
        then=lambda f: f.status(502),
    ),
    _error_status(400, InvalidRequest),
    _error_status(401, AuthenticationError),
    _error_status(403, AuthenticationError),
    _error_status(404, NotFoundError),
    _error_status(422, InvalidRequest),
    _reset_error_body(401, AuthenticationError),
    _reset_error_body(400, InvalidRequest),
    FaultCase("4: 307, to elsewhere", None, Fails(InvalidRequest), Fails(InvalidRequest), special="run_redirect"),
    FaultCase(
        "5: connection refused, then accepted", None, Succeeds(2), Succeeds(2), special="refuse_first_connection"
    ),
    FaultCase("5: connection refused for ever", None, UNREACHABLE, UNREACHABLE, special="refuse_all_connections"),
    FaultCase("5: reset before headers", lambda f: [f.reset()], Succeeds(2), Succeeds(2)),
    FaultCase("5: closed before headers", lambda f: [f.hang_up()], Succeeds(2), Succeeds(2)),
    FaultCase("5: reset before headers, for ever", NO_SCRIPT, UNREACHABLE, UNREACHABLE, then=lambda f: f.reset()),
    FaultCase("6: slow first byte, under the limit", lambda f: [f.slow(0.1)], Succeeds(1), Succeeds(1), options=FIRST),
    FaultCase(
        "6: slow first byte, over the limit",
        lambda f: [f.slow(9.0)],
        Succeeds(2, 0.25),
        Succeeds(2, 0.25),
        options=FIRST,
    ),
    FaultCase(
        "6: slow body",
        lambda f: [f.slow(9.0, headers_first=True)],
        Succeeds(2, 0.25),
        Succeeds(2, 0.25),
        options=FIRST,
    ),
    FaultCase(
        "6: silence for ever",
        NO_SCRIPT,
        Fails(DeadlineExceeded, 3),
        Fails(DeadlineExceeded, 3),
        then=lambda f: f.silence(9.0),
        options=FIRST,
    ),
    FaultCase(
        "6: timeout of the whole call",
        NO_SCRIPT,
        Fails(DeadlineExceeded, 1, abandons=True),
        Fails(DeadlineExceeded, 1, abandons=True),
        then=lambda f: f.silence(9.0),
        options={"timeout": 0.4},
    ),
    FaultCase("7: stall in the body", lambda f: [f.cut("stall")], Succeeds(2), NON_STREAMING_ONLY, options=FIRST),
    FaultCase(
        "7: stall in the stream", lambda f: [f.cut("stall")], STREAMED_ONLY, Interrupted(DeadlineExceeded), options=IDLE
    ),
    FaultCase(
        "7: stall before a delta",
        lambda f: [f.cut("stall", after_events=1)],
        STREAMED_ONLY,
        Succeeds(2),
        options=FIRST,
    ),
    FaultCase("8: reset in the body", lambda f: [f.cut("reset")], Succeeds(2), Interrupted(ConnectionFailed)),
    FaultCase("8: reset before a delta", lambda f: [f.cut("reset", after_events=1)], STREAMED_ONLY, Succeeds(2)),
    FaultCase(
        "8: reset inside an event",
        lambda f: [f.cut("reset", after_bytes=middle_of_fourth_event(f))],
        STREAMED_ONLY,
        Interrupted(ConnectionFailed),
    ),
    FaultCase("9: truncated, framing incomplete", lambda f: [f.cut("close")], MALFORMED, TRUNCATED),
    FaultCase("9: truncated, framed by closing", lambda f: [f.cut("close", framing="close")], MALFORMED, TRUNCATED),
    FaultCase("9: truncated, framing complete", lambda f: [f.cut("finish")], MALFORMED, TRUNCATED),
    FaultCase(
        "9: truncated inside an event",
        lambda f: [f.cut("finish", after_bytes=middle_of_fourth_event(f))],
        STREAMED_ONLY,
        TRUNCATED,
    ),
    FaultCase("9: truncated before a delta", lambda f: [f.cut("close", after_events=1)], STREAMED_ONLY, MALFORMED),
    FaultCase(
        "9: no finish reason",
        lambda f: [f.ok(finish_reason=None)],
        Succeeds(1),
        Interrupted(MalformedResponse, ANSWER),
        wires=CHAT,
    ),
    FaultCase(
        "9: no finish reason, accepted",
        lambda f: [f.ok(finish_reason=None)],
        Succeeds(1),
        Succeeds(1),
        settings={"accept_missing_finish": True},
        wires=CHAT,
    ),
    FaultCase(
        "9: no response.completed",
        lambda f: [f.unfinished()],  # type: ignore[attr-defined]
        MALFORMED,
        Interrupted(MalformedResponse, ANSWER),
        wires=RESPONSES,
    ),
    FaultCase(
        "10: malformed (half JSON, bad CRC)",
        lambda f: [f.malformed()],
        MALFORMED,
        Interrupted(MalformedResponse, ANSWER[:8]),
    ),
    FaultCase("10: malformed before a delta", lambda f: [f.malformed(after_events=1)], STREAMED_ONLY, MALFORMED),
    FaultCase(
        "10: bad CRC of a prelude",
        lambda f: [f.malformed(corrupt=9)],  # type: ignore[call-arg]
        STREAMED_ONLY,
        Interrupted(MalformedResponse, ANSWER[:8]),
        wires=CONVERSE,
    ),
    FaultCase("10: bad UTF-8", lambda f: [f.bad_utf8()], MALFORMED, Interrupted(MalformedResponse, ANSWER[:8])),
    FaultCase(
        "11: error event",
        script_by_wire(lambda f: [f.error_frame()], lambda f: [ConverseFault.exception()]),
        STREAMED_ONLY,
        Interrupted(ServerError),
    ),
    FaultCase(
        "11: error event of a rate limit",
        script_by_wire(
            lambda f: [f.error_frame(code="rate_limit_exceeded")],
            lambda f: [ConverseFault.exception("throttlingException")],
        ),
        STREAMED_ONLY,
        Interrupted(RateLimited),
    ),
    FaultCase(
        "11: error event before a delta",
        script_by_wire(lambda f: [f.error_frame(after_events=1)], lambda f: [ConverseFault.exception(after_events=1)]),
        STREAMED_ONLY,
        Succeeds(2),
    ),
    FaultCase(
        "11: error event without a code",
        lambda f: [f.error_frame(code=None)],
        STREAMED_ONLY,
        Interrupted(ServerError),
        wires=(*CHAT, *RESPONSES),
    ),
    FaultCase(
        "11: error in an event of type error",
        lambda f: [Fault(replaced_events={3: _LATE_ERROR_EVENT}, last_event=3)],
        STREAMED_ONLY,
        Interrupted(ServerError),
        wires=CHAT,
    ),
    FaultCase(
        "11: 200 with an error", lambda f: [f.error_frame()], Succeeds(2), NON_STREAMING_ONLY, wires=(*CHAT, *RESPONSES)
    ),
    FaultCase(
        "11: response.failed",
        lambda f: [f.failed()],  # type: ignore[attr-defined]
        Succeeds(2),
        Interrupted(ServerError),
        wires=RESPONSES,
    ),
    _exception("modelStreamErrorException", ServerError),
    _exception("serviceUnavailableException", ServerError),
    _exception("validationException", InvalidRequest),
    FaultCase(
        "11: throttled before any event",
        lambda f: [ConverseFault.exception("throttlingException", after_events=0)],
        STREAMED_ONLY,
        Succeeds(2),
        wires=CONVERSE,
    ),
    FaultCase("12: 200 with truncated JSON", lambda f: [f.truncated_json()], MALFORMED, NON_STREAMING_ONLY),
    FaultCase("12: 200 with an empty body", lambda f: [f(content=b"")], MALFORMED, NON_STREAMING_ONLY),
    FaultCase(
        "12: 200 without output",
        script_by_wire(
            lambda f: [f(content=b'{"object": "chat.completion", "choices": []}')], lambda f: [f(content=b"{}")]
        ),
        MALFORMED,
        NON_STREAMING_ONLY,
    ),
    FaultCase(
        "12: 200 with JSON that is not an object", lambda f: [f(content=b"[1, 2]")], MALFORMED, NON_STREAMING_ONLY
    ),
    FaultCase(
        "12: 200 with an unrelated object",
        lambda f: [f(content=b'{"output": {"message": 7}}')],
        MALFORMED,
        NON_STREAMING_ONLY,
    ),
    FaultCase(
        "13: truncated tool arguments",
        lambda f: [f.truncated_arguments()],
        BROKEN_ARGUMENTS,
        BROKEN_ARGUMENTS,
        options={"tools": [TOOL]},
    ),
    FaultCase(
        "13: truncated tool arguments, reported by the service",
        lambda f: [f.truncated_arguments(stop_reason="malformed_tool_use")],
        BROKEN_ARGUMENTS,
        BROKEN_ARGUMENTS,
        options={"tools": [TOOL]},
        wires=CONVERSE,
    ),
    FaultCase("14: the caller leaves 50 times", None, Succeeds(51), Succeeds(51), special="abandon_calls"),
]
