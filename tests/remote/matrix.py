"""The fault matrix: one table from which the tests of every remote backend are made, and its page in the docs.

    python -m tests.remote.matrix     # writes the table into docs/reliability.md

A row is a fault, and what must come of it. It holds for every backend and in four ways, except where the row itself
says why it does not: those cells are listed in the docs too, so that none is missing unseen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
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
from tests.servers.bedrock import Converse, ConverseFault
from tests.servers.faults import Fault, Reply

WAYS = ("sync", "sync streamed", "async", "async streamed")
ANSWER = Reply().text
#: What a stream has delivered after its third event, the role being the first.
BEGINNING = ANSWER[:16]
#: Nothing here waits longer than this, whatever goes wrong; a call that should fail fast takes less than half of it.
DEADLINE = 20.0
FAST = 5.0
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

# --- the words of the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OKn:
    """Succeeds on attempt n; `waits` seconds at least lie between the first two requests."""

    attempts: int
    waits: float = 0.0
    text: str = ANSWER


@dataclass(frozen=True)
class X:
    """A typed error after so many attempts."""

    error: type[ModelError]
    attempts: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    within: float = DEADLINE


@dataclass(frozen=True)
class INT:
    """`StreamInterrupted` after one attempt, with what had arrived and why."""

    cause: type[ModelError]
    partial: str = BEGINNING


@dataclass(frozen=True)
class Not:
    """There is no such cell, and why."""

    why: str


Expected = OKn | X | INT | Not
Wire = type[Fault]
#: What the server does with the requests one by one, in the form of a backend's wire; None where it has no such fault.
Play = Callable[[Wire], Sequence[Fault]]


@dataclass(frozen=True)
class Row:
    """A fault, and what must come of it.

    `special` names a test of its own instead of a script (see `playing`). `then` answers all further requests.
    `otherwise` is what a backend can do instead, with the reason in `REASONS`. Options that are time limits are tried
    once more four times as long where a cell fails: on a busy machine an answer in good order may come too late too.
    """

    name: str
    play: Play | None
    plain: Expected
    streamed: Expected
    then: Callable[[Wire], Fault] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    wires: tuple[Wire, ...] = (Fault, ConverseFault)
    special: str = ""


@dataclass(frozen=True)
class Column:
    """A backend as the matrix knows it."""

    wire: Wire = Fault
    litellm: bool = False
    otherwise: Mapping[str, tuple[Expected, str]] = field(default_factory=dict)
    """Streamed cells that the library underneath does not let be told as they should be, and why."""


def on(chat: Play | None, converse: Play | None = None) -> Play:
    """A fault that each wire has in a form of its own."""

    def play(wire: Wire) -> Sequence[Fault]:
        chosen = chat if wire is Fault else converse
        assert chosen is not None
        return chosen(wire)

    return play


def inside(wire: Wire) -> int:
    """Bytes up to the middle of the fourth event."""
    return 700 if wire is Fault else sum(map(len, Converse().events()[:3])) + 50


NOTHING: Play = lambda f: []  # noqa: E731
STREAMED_ONLY = Not("a fault of streams")
WHOLE_ONLY = Not("a fault of whole answers")
NOT_THERE = "this wire has no such fault"
FIRST, IDLE = {"first_token_timeout": 0.5}, {"idle_timeout": 0.3}
FOREVER, BROKEN, CUT = X(ConnectionFailed, 3), X(MalformedResponse), INT(MalformedResponse)
CHAT, CONVERSE = (Fault,), (ConverseFault,)
_LATE_FRAME = b'event: error\ndata: {"message": "overloaded", "code": 503}\n\n'
_502 = {"status": 502}
_ARGUMENTS = X(InvalidToolCall, 1, {"text": '{"city": "Par'})


def _refusal(status: int, kind: type[ModelError]) -> Row:
    expected = X(kind, 1, {"status": status})
    return Row(f"4: {status}", lambda f: [f.status(status)], expected, expected)


def _broken(wire: Wire, status: int, end: str) -> Fault:
    """A refusal that breaks in its body."""
    return replace(wire.status(status), end=end, after_bytes=20)


def _broken_refusal(status: int, kind: type[ModelError]) -> Row:
    expected = X(kind, 1, {"status": status})
    return Row(f"4: {status} whose body is reset", lambda f: [_broken(f, status, "reset")], expected, expected)


def _exception(kind: str, error: type[ModelError]) -> Row:
    return Row(f"11: {kind}", lambda f: [f.exception(kind)], STREAMED_ONLY, INT(error), wires=CONVERSE)  # type: ignore[attr-defined]


def _limited(name: str, seconds: float, expected: X, **more: Any) -> Row:
    return Row(name, NOTHING, expected, expected, then=lambda f: f.rate_limit(seconds), **more)


ROWS = [
    Row("1: 429 with Retry-After, once", lambda f: [f.rate_limit(0.2)], OKn(2, 0.2), OKn(2, 0.2)),
    Row("1: 429 without Retry-After, once", lambda f: [f.rate_limit(None)], OKn(2), OKn(2)),
    _limited("2: 429 for ever", 0.05, X(RateLimited, 3, {"retry_after": 0.05, "status": 429})),
    _limited(
        "2: a wait longer than the policy allows", 3600, X(RateLimited, 1, {"retry_after": 3600.0}, within=FAST)
    ),
    _limited(
        "2: a wait beyond the deadline", 10, X(RateLimited, 1, {"retry_after": 10.0}, within=FAST),
        options={"timeout": 8},
    ),
    Row("3: 500 and 503", lambda f: [f.status(500), f.status(503)], OKn(3), OKn(3)),
    Row("3: 408 and 424", lambda f: [f.status(408), f.status(424)], OKn(3), OKn(3)),
    Row("3: 502, a web page", lambda f: [f.status(502, body=b"<html>Bad Gateway</html>")], OKn(2), OKn(2)),
    Row("3: 503 whose body is cut", lambda f: [_broken(f, 503, "close")], OKn(2), OKn(2)),
    Row("3: 503 whose body stalls", lambda f: [_broken(f, 503, "stall")], OKn(2), OKn(2)),
    Row("3: 502 for ever", NOTHING, X(ServerError, 3, _502), X(ServerError, 3, _502), then=lambda f: f.status(502)),
    _refusal(400, InvalidRequest),
    _refusal(401, AuthenticationError),
    _refusal(403, AuthenticationError),
    _refusal(404, NotFoundError),
    _refusal(422, InvalidRequest),
    _broken_refusal(401, AuthenticationError),
    _broken_refusal(400, InvalidRequest),
    Row("4: 307, to elsewhere", None, X(InvalidRequest), X(InvalidRequest), special="redirected"),
    Row("5: refused, then not", None, OKn(2), OKn(2), special="refused_once"),
    Row("5: refused for ever", None, FOREVER, FOREVER, special="refused_for_ever"),
    Row("5: reset before headers", lambda f: [f.reset()], OKn(2), OKn(2)),
    Row("5: closed before headers", lambda f: [f.hang_up()], OKn(2), OKn(2)),
    Row("5: reset before headers, for ever", NOTHING, FOREVER, FOREVER, then=lambda f: f.reset()),
    Row("6: slow first byte, under the limit", lambda f: [f.slow(0.1)], OKn(1), OKn(1), options=FIRST),
    Row("6: slow first byte, over the limit", lambda f: [f.slow(9.0)], OKn(2, 0.4), OKn(2, 0.4), options=FIRST),
    Row(
        "6: slow body", lambda f: [f.slow(9.0, headers_first=True)], OKn(2, 0.4), OKn(2, 0.4), options=FIRST,
    ),
    Row(
        "6: silence for ever", NOTHING, X(DeadlineExceeded, 3), X(DeadlineExceeded, 3), then=lambda f: f.silence(9.0),
        options=FIRST,
    ),
    Row(
        "6: the whole call's time", NOTHING, X(DeadlineExceeded, 1, within=FAST), X(DeadlineExceeded, 1, within=FAST),
        then=lambda f: f.silence(9.0), options={"timeout": 0.4},
    ),
    Row("7: stall in the body", lambda f: [f.cut("stall")], OKn(2), WHOLE_ONLY, options=FIRST),
    Row("7: stall in the stream", lambda f: [f.cut("stall")], STREAMED_ONLY, INT(DeadlineExceeded), options=IDLE),
    Row(
        "7: stall before a delta", lambda f: [f.cut("stall", after_events=1)], STREAMED_ONLY, OKn(2), options=FIRST,
    ),
    Row("8: reset in the body", lambda f: [f.cut("reset")], OKn(2), INT(ConnectionFailed)),
    Row("8: reset before a delta", lambda f: [f.cut("reset", after_events=1)], STREAMED_ONLY, OKn(2)),
    Row(
        "8: reset inside an event", lambda f: [f.cut("reset", after_bytes=inside(f))], STREAMED_ONLY,
        INT(ConnectionFailed),
    ),
    Row("9: cut, framing incomplete", lambda f: [f.cut("close")], BROKEN, CUT),
    Row("9: cut, framed by closing", lambda f: [f.cut("close", framing="close")], BROKEN, CUT),
    Row("9: cut, framing complete", lambda f: [f.cut("finish")], BROKEN, CUT),
    Row("9: cut inside an event", lambda f: [f.cut("finish", after_bytes=inside(f))], STREAMED_ONLY, CUT),
    Row("9: cut before a delta", lambda f: [f.cut("close", after_events=1)], STREAMED_ONLY, BROKEN),
    Row(
        "9: no finish reason", lambda f: [f.ok(finish_reason=None)], OKn(1), INT(MalformedResponse, ANSWER),
        wires=CHAT,
    ),
    Row(
        "9: no finish reason, accepted", lambda f: [f.ok(finish_reason=None)], OKn(1), OKn(1),
        settings={"accept_missing_finish": True}, wires=CHAT,
    ),
    Row("10: malformed (half JSON, bad CRC)", lambda f: [f.malformed()], BROKEN, INT(MalformedResponse, ANSWER[:8])),
    Row("10: malformed before a delta", lambda f: [f.malformed(after_events=1)], STREAMED_ONLY, BROKEN),
    Row(
        "10: bad CRC of a prelude", lambda f: [f.malformed(corrupt=9)], STREAMED_ONLY,  # type: ignore[call-arg]
        INT(MalformedResponse, ANSWER[:8]), wires=CONVERSE,
    ),
    Row("10: bad UTF-8", lambda f: [f.bad_utf8()], BROKEN, INT(MalformedResponse, ANSWER[:8])),
    Row(
        "11: error frame", on(lambda f: [f.error_frame()], lambda f: [ConverseFault.exception()]), STREAMED_ONLY,
        INT(ServerError),
    ),
    Row(
        "11: error frame of a limit",
        on(lambda f: [f.error_frame(code="rate_limit_exceeded")],
           lambda f: [ConverseFault.exception("throttlingException")]),
        STREAMED_ONLY, INT(RateLimited),
    ),
    Row(
        "11: error frame before a delta",
        on(lambda f: [f.error_frame(after_events=1)], lambda f: [ConverseFault.exception(after_events=1)]),
        STREAMED_ONLY, OKn(2),
    ),
    Row(
        "11: error frame without a code", lambda f: [f.error_frame(code=None)], STREAMED_ONLY, INT(ServerError),
        wires=CHAT,
    ),
    Row(
        "11: error frame, its own event", lambda f: [Fault(replaced_events={3: _LATE_FRAME}, last_event=3)],
        STREAMED_ONLY, INT(ServerError), wires=CHAT,
    ),
    Row("11: 200 with an error", lambda f: [f.error_frame()], OKn(2), WHOLE_ONLY, wires=CHAT),
    _exception("modelStreamErrorException", ServerError),
    _exception("serviceUnavailableException", ServerError),
    _exception("validationException", InvalidRequest),
    Row(
        "11: throttled before anything",
        lambda f: [ConverseFault.exception("throttlingException", after_events=0)], STREAMED_ONLY, OKn(2),
        wires=CONVERSE,
    ),
    Row("12: 200 with truncated JSON", lambda f: [f.truncated_json()], BROKEN, WHOLE_ONLY),
    Row("12: 200 without a body", lambda f: [f(content=b"")], BROKEN, WHOLE_ONLY),
    Row(
        "12: 200 without an answer",
        on(lambda f: [f(content=b'{"object": "chat.completion", "choices": []}')], lambda f: [f(content=b"{}")]),
        BROKEN, WHOLE_ONLY,
    ),
    Row("12: 200 that is no object", lambda f: [f(content=b"[1, 2]")], BROKEN, WHOLE_ONLY),
    Row(
        "12: 200 that is another object", lambda f: [f(content=b'{"output": {"message": 7}}')], BROKEN, WHOLE_ONLY,
    ),
    Row(
        "13: truncated tool arguments", lambda f: [f.truncated_arguments()], _ARGUMENTS, _ARGUMENTS,
        options={"tools": [TOOL]},
    ),
    Row(
        "13: and the service says so", lambda f: [f.truncated_arguments(stop_reason="malformed_tool_use")],
        _ARGUMENTS, _ARGUMENTS, options={"tools": [TOOL]}, wires=CONVERSE,
    ),
    Row("14: the caller leaves, 50 times", None, OKn(51), OKn(51), special="left_early"),
]  # fmt: skip

_PASSES_OVER = "LiteLLM's own HTTP client passes over a broken event"
_INVENTS = "LiteLLM's own HTTP client takes [DONE] for a finish reason"
#: What LiteLLM does not let be told as it should be.
_LITELLM: dict[str, tuple[Expected, str]] = {
    "11: error frame, its own event": (
        CUT, "LiteLLM passes over an event whose data has no `error`: it shows as an answer that was cut",
    ),
}  # fmt: skip
_OWN_HTTP: dict[str, tuple[Expected, str]] = {
    **_LITELLM,
    "9: no finish reason": (OKn(1), _INVENTS),
    "10: malformed (half JSON, bad CRC)": (OKn(1, text=ANSWER[:8] + ANSWER[16:]), _PASSES_OVER),
    "10: malformed before a delta": (OKn(1, text=ANSWER[8:]), _PASSES_OVER),
    "10: bad UTF-8": (OKn(1, text=ANSWER[:8] + "caf\ufffd" + ANSWER[16:]), _PASSES_OVER),
    "11: error frame of a limit": (INT(ServerError), "LiteLLM's own HTTP client drops the code of an error frame"),
}
COLUMNS: dict[str, Column] = {
    "openai": Column(),
    "openai-sdk": Column(),
    "azure": Column(),
    "azure-sdk": Column(),
    "huggingface": Column(),
    "bedrock": Column(ConverseFault),
    "litellm": Column(litellm=True, otherwise=_LITELLM),
    "litellm-router": Column(litellm=True, otherwise=_LITELLM),
    "litellm-http": Column(litellm=True, otherwise=_OWN_HTTP),
}


def expected(row: Row, column: str, way: str) -> Expected:
    """What must come of a row on a backend, in one of the four ways."""
    if COLUMNS[column].wire not in row.wires:
        return Not(NOT_THERE)
    if row.special == "left_early" and way == "sync":
        return Not("a synchronous caller of a whole answer can't leave")
    if "streamed" not in way:
        return row.plain
    return COLUMNS[column].otherwise.get(row.name, (row.streamed, ""))[0]


def cells(litellm: bool) -> list[tuple[str, Row, str]]:
    """Every cell there is, of the backends that install beside LiteLLM or of the others."""
    return [
        (column, row, way)
        for column, what in COLUMNS.items()
        if what.litellm is litellm
        for row in ROWS
        for way in WAYS
        if not isinstance(expected(row, column, way), Not)
    ]


# --- its page in the docs ---------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- matrix: made by python -m tests.remote.matrix -->", "<!-- end of matrix -->"


def word(what: Expected) -> str:
    """An outcome in FACTS' words."""
    if isinstance(what, OKn):
        return f"OK{what.attempts}" if what.attempts < 10 else "left clean"
    if isinstance(what, X):
        return f"{what.error.__name__}{f' after {what.attempts}' if what.attempts > 1 else ''}"
    if isinstance(what, INT):
        return f"INT, {what.cause.__name__}"
    return "–"


def table() -> str:
    """The table as Markdown, with how many cells run, and why the others do not."""
    names = list(COLUMNS)
    lines = ["| fault | whole answer | streamed | " + " | ".join(names) + " |"]
    lines.append("| --- | --- | --- |" + " --- |" * len(names))
    missing: dict[str, int] = {}
    run = 0
    for row in ROWS:
        counts = []
        for name in names:
            outcomes = [expected(row, name, way) for way in WAYS]
            count = sum(not isinstance(outcome, Not) for outcome in outcomes)
            run += count
            for outcome in outcomes:
                if isinstance(outcome, Not):
                    missing[outcome.why] = missing.get(outcome.why, 0) + 1
            counts.append(f"{count or '–'}{'*' if row.name in COLUMNS[name].otherwise else ''}")
        lines.append(f"| {row.name} | {word(row.plain)} | {word(row.streamed)} | {' | '.join(counts)} |")
    reasons = [f"- {count} cells: {why}." for why, count in sorted(missing.items(), key=lambda item: -item[1])]
    other: dict[tuple[str, str], list[str]] = {}
    for name, column in COLUMNS.items():
        for row_name, (instead, why) in column.otherwise.items():
            other.setdefault((f"{row_name}: {word(instead)}", why), []).append(name)
    return "\n".join([
        f"{run} cells are run: each number says in how many of the four ways (sync and async, streamed and not).",
        "", *lines, "",
        f"{sum(missing.values())} cells are not there:", "", *reasons, "",
        "Cells with * come out in another way when streamed:", "",
        *[f"- {what} ({', '.join(names)}): {why}." for (what, why), names in other.items()],
    ])  # fmt: skip


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
    sys.stdout.write(f"{PAGE.name} holds {len(cells(False)) + len(cells(True))} cells\n")
