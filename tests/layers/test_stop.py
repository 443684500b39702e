"""Stop sequences: a response stops where the whole text would stop, however the text is split into deltas."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelport.errors import ConnectionFailed
from modelport.layers import stop
from modelport.layers.stop import Stop, StopScanner
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta, accumulate
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction, MessageRole
from modelport.types.request import Request, Timeouts
from modelport.types.usage import TokenUsage
from modelport.types.warnings import CallWarning
from tests.properties import examples

WARNING = CallWarning("other", None, "w")
Delta = ChatMessageStreamDelta
QUESTION = (ChatMessage(MessageRole.USER, "?"),)


class Backend:
    """Replays deltas, and logs what happens to it."""

    def __init__(self, *deltas: Delta | str | Exception) -> None:
        self.script = [Delta(content=item) if isinstance(item, str) else item for item in deltas]
        self.sent = 0
        self.log: list[str] = []

    async def __call__(self, request: Request) -> AsyncGenerator[Delta, None]:
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                self.sent += 1
                yield item
                await asyncio.sleep(0)
        finally:
            self.log.append("closed")


async def run(backend: Backend, stops: Sequence[str], **options: Any) -> list[Delta]:
    """Return all deltas that come through the layer. The backend's log has the order of events."""
    seen = []
    async for delta in Stop()(Request(QUESTION, stop_sequences=tuple(stops), stream=True, **options), backend):
        backend.log.append(delta.content or delta.finish_reason or "")
        seen.append(delta)
    return seen


def deltas_through_layer(backend: Backend, stops: Sequence[str]) -> list[Delta]:
    return asyncio.run(run(backend, stops))


def expected_result(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Return the whole text up to the first stop sequence that is completed, and that stop sequence."""
    for end in range(len(text) + 1):
        ending_here = [stop for stop in stops if text[:end].endswith(stop)]
        if ending_here:
            stop = max(ending_here, key=len)
            return text[: end - len(stop)], stop
    return text, None


# With few characters, stop sequences overlap and appear often. One character has two UTF-16 units, one combines with
# its neighbour, and one is a line break.
LETTERS = st.sampled_from("aab🦊\u0301\n")
TEXTS = st.text(LETTERS, max_size=40)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=6)


@st.composite
def split_texts(draw: st.DrawFn) -> list[str]:
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]


@examples(1000)
@given(split_texts(), STOPS)
@example(["a", "a", "b"], ["aab", "ab", "b"])  # All end at the same character: the longest counts.
@example(["aab", "aa"], ["aaba", "ab"])  # The shorter one is completed first, inside of the longer one.
@example(["aaaab"], ["aab"])  # A false start overlaps the true start.
@example(["a", "", "b"], ["ab"])
def test_scanner_with_split_text_stops_where_the_whole_text_stops(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)
    emitted, found = "", None
    for piece in pieces:
        text, found = scanner.feed(piece)
        emitted += text
        if found:
            break
    if not found:
        emitted += scanner.flush()
    assert (emitted, found) == expected_result("".join(pieces), stops)


@examples(500)
@given(split_texts(), STOPS)
@example(["a", "a", "b"], ["aab", "ab", "b"])
@example(["aab", "aa"], ["aaba", "ab"])
def test_scanner_of_long_stop_sequences_buffers_the_same_text(pieces: list[str], stops: list[str]) -> None:
    """Long stop sequences are compared in another way, which needs no list of their beginnings."""
    short, long = StopScanner(stops), StopScanner([*stops, "x" * 300])
    assert short._prefixes is not None and long._prefixes is None
    for piece in pieces:
        assert short.feed(piece) == long.feed(piece)
        assert short.buffered == long.buffered


def test_long_stop_sequences_take_little_memory() -> None:
    tracemalloc.start()
    for number in range(20):
        scanner = StopScanner([f"{number}" + "ab" * 4990])
        assert scanner.feed("abab" * 1000)[1] is None
        assert scanner.feed(f"{number}" + "ab" * 4990)[1]
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000 and peak < 2_000_000


@examples(500)
@given(split_texts(), STOPS)
def test_layer_with_split_text_stops_where_the_whole_text_stops(pieces: list[str], stops: list[str]) -> None:
    backend = Backend(*pieces, Delta(finish_reason="length", token_usage=TokenUsage(3, 4)))
    deltas = deltas_through_layer(backend, stops)
    text, stop = expected_result("".join(pieces), stops)

    emitted = ""
    for delta in deltas:
        emitted += delta.content or ""
        assert text.startswith(emitted), "text of the stop sequence was emitted"
    assert emitted == text
    assert [d.finish_reason for d in deltas] == [None] * (len(deltas) - 1) + ["stop" if stop else "length"]
    assert [d.stop_sequence for d in deltas] == [None] * (len(deltas) - 1) + [stop]
    assert deltas[-1].token_usage == TokenUsage(3, 4)
    assert backend.log.count("closed") == 1


@examples(200)
@given(split_texts(), STOPS)
def test_scanner_buffers_only_the_beginning_of_a_stop_sequence(pieces: list[str], stops: list[str]) -> None:
    """A reader gets everything except what may still become a stop sequence."""
    scanner = StopScanner(stops)
    emitted = arrived = ""
    for piece in pieces:
        text, found = scanner.feed(piece)
        emitted, arrived = emitted + text, arrived + piece
        if found:
            break
        buffered = arrived[len(emitted) :]
        beginnings = [arrived[n:] for n in range(len(arrived)) if any(s.startswith(arrived[n:]) for s in stops)]
        assert buffered == max(beginnings, key=len, default="")


def test_backend_is_closed_before_the_last_text_is_emitted() -> None:
    backend = Backend("one ", "two END three", "never read")
    deltas = asyncio.run(run(backend, ["END"], usage_after_stop=0))
    assert backend.log == ["one ", "closed", "two ", "stop"]
    assert backend.sent == 2
    assert accumulate(deltas).content == "one two "


def test_no_stop_sequences_pass_every_delta_unchanged() -> None:
    backend = Backend("a", "b", Delta(finish_reason="stop"))
    assert deltas_through_layer(backend, []) == [Delta(content="a"), Delta(content="b"), Delta(finish_reason="stop")]


def test_tool_call_flushes_the_buffered_text() -> None:
    call = ChatMessageToolCallStreamDelta(0, "c1", "function", ChatMessageToolCallFunction("{}", "f"))
    backend = Backend("Obs", Delta(tool_calls=[call]), "ervation:", Delta(finish_reason="tool_calls"))
    deltas = deltas_through_layer(backend, ["Observation:"])
    assert deltas[0] == Delta(content="Obs", tool_calls=[call])
    assert accumulate(deltas).content == "Observation:"  # No stop sequence spans a tool call.


def test_finish_reason_flushes_the_buffered_text() -> None:
    backend = Backend("Obs", Delta(finish_reason="length"), Delta(token_usage=TokenUsage(1, 2)))
    deltas = deltas_through_layer(backend, ["Observation:"])
    assert deltas == [Delta(content="Obs"), Delta(finish_reason="length", token_usage=TokenUsage(1, 2))]


def test_stop_sequence_in_tool_arguments_is_ignored() -> None:
    call = ChatMessageToolCallStreamDelta(0, "c1", "function", ChatMessageToolCallFunction('{"q": "END"}', "f"))
    deltas = deltas_through_layer(Backend(Delta(tool_calls=[call]), Delta(finish_reason="tool_calls")), ["END"])
    assert accumulate(deltas).finish_reason == "tool_calls"
    assert accumulate(deltas).tool_calls is not None


def test_stop_sequence_in_reasoning_is_ignored() -> None:
    deltas = deltas_through_layer(Backend(Delta(reasoning="END"), "x", Delta(finish_reason="stop")), ["END"])
    assert (accumulate(deltas).reasoning, accumulate(deltas).content) == ("END", "x")


def test_cumulative_usage_is_emitted_once_in_the_last_delta() -> None:
    counted = [Delta(content=letter, token_usage=TokenUsage(5, n)) for n, letter in enumerate("abc", 1)]
    deltas = deltas_through_layer(Backend(*counted, Delta(finish_reason="stop")), [])
    assert [d.token_usage for d in deltas] == [None, None, None, TokenUsage(5, 3)]


@pytest.mark.parametrize(
    ("options", "passes_through"),
    [
        ({}, True),
        ({"stream": True}, False),
        ({"stop_sequences": ("END",)}, False),
        ({"needs_closing_delta": True}, False),
    ],
)
def test_layer_passes_through_what_needs_neither_stop_nor_closing_delta(
    options: dict[str, Any], passes_through: bool
) -> None:
    counted = Delta(content="a", token_usage=TokenUsage(5, 1), finish_reason="stop")
    closing = Delta(token_usage=counted.token_usage, finish_reason="stop")

    async def collect() -> list[Delta]:
        return [delta async for delta in Stop()(Request(QUESTION, **options), Backend(counted))]

    assert asyncio.run(collect()) == ([counted] if passes_through else [Delta(content="a"), closing])


def test_stopped_response_has_the_usage_counted_so_far() -> None:
    counted = [Delta(content=letter, token_usage=TokenUsage(5, n)) for n, letter in enumerate("a!c", 1)]
    message = accumulate(deltas_through_layer(Backend(*counted, Delta(finish_reason="stop")), ["!"]))
    assert (message.content, message.token_usage) == ("a", TokenUsage(5, 2))


@pytest.mark.parametrize(
    ("usage_after_stop", "sent", "usage"),
    [(64, 4, TokenUsage(5, 9)), (2, 4, TokenUsage(5, 9)), (1, 3, None), (0, 2, None)],
)
def test_usage_is_read_after_the_stop_sequence(usage_after_stop: int, sent: int, usage: TokenUsage | None) -> None:
    """Many services report it in their last chunk. As many deltas are read as the call allows."""
    backend = Backend("a", "!", "more", Delta(token_usage=TokenUsage(5, 9)), "never read")
    deltas = asyncio.run(run(backend, ["!"], usage_after_stop=usage_after_stop))
    assert (accumulate(deltas).content, accumulate(deltas).token_usage) == ("a", usage)
    assert (backend.sent, backend.log[-1]) == (sent, "stop")


@pytest.mark.parametrize("after", [ConnectionFailed("reset"), Delta(content="endless")], ids=["error", "endless"])
def test_without_usage_after_the_stop_sequence_the_response_is_complete(after: Delta | Exception) -> None:
    backend = Backend("a", "!", *[after] * 100)
    message = accumulate(deltas_through_layer(backend, ["!"]))
    assert (message.content, message.finish_reason, message.token_usage) == ("a", "stop", None)
    assert backend.sent <= 2 + 64


@pytest.mark.parametrize("limits", [{}, {"idle_timeout": 0.02}, {"timeout": 0.02}], ids=str)
async def test_a_silent_service_is_not_waited_for(limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ends before the time limits of the call, so that they do not make an error of the response."""
    if not limits:
        monkeypatch.setattr(stop, "_MAX_WAIT", 0.02)

    async def silent(request: Request) -> AsyncGenerator[Delta, None]:
        yield Delta(content="a!")
        await asyncio.sleep(3600)

    timeouts = Timeouts(**limits)
    if timeouts.timeout == 0.02:
        timeouts.deadline = asyncio.get_running_loop().time() + timeouts.timeout
    request = Request(QUESTION, stop_sequences=("!",), stream=True, timeouts=timeouts)
    async with asyncio.timeout(30):
        assert accumulate([delta async for delta in Stop()(request, silent)]).content == "a"


def test_finish_reason_comes_last_if_usage_follows_it() -> None:
    deltas = deltas_through_layer(Backend("a", Delta(finish_reason="stop"), Delta(token_usage=TokenUsage(1, 1))), [])
    assert deltas[1:] == [Delta(finish_reason="stop", token_usage=TokenUsage(1, 1))]


def test_stop_sequence_reported_by_the_service_is_passed_on() -> None:
    deltas = deltas_through_layer(Backend("a", Delta(finish_reason="stop", stop_sequence="END")), ["END"])
    assert accumulate(deltas).stop_sequence == "END"


def test_response_in_one_delta_is_stopped_and_keeps_its_other_fields() -> None:
    whole = Delta(content="a END b", model_id="served", finish_reason="length", reasoning="hm", warnings=[WARNING])
    message = accumulate(deltas_through_layer(Backend(whole), ["END"]))
    assert (message.content, message.finish_reason, message.stop_sequence) == ("a ", "stop", "END")
    assert (message.model_id, message.reasoning, message.warnings) == ("served", "hm", [WARNING])


def test_stop_sequence_drops_the_tool_calls_of_the_same_delta() -> None:
    call = ChatMessageToolCallStreamDelta(0, "c1", "function", ChatMessageToolCallFunction("{}", "f"))
    message = accumulate(
        deltas_through_layer(Backend(Delta(content="a END", tool_calls=[call], finish_reason="tool_calls")), ["END"])
    )
    assert (message.content, message.tool_calls, message.finish_reason) == ("a ", None, "stop")


def test_stop_sequence_at_the_start_leaves_an_empty_response() -> None:
    deltas = deltas_through_layer(Backend("END"), ["END"])
    assert deltas == [Delta(finish_reason="stop", stop_sequence="END")]


async def test_closing_the_stream_closes_the_backend() -> None:
    backend = Backend("a", "b")
    stream = Stop()(Request(QUESTION, stop_sequences=("END",)), backend)
    await anext(stream)
    await stream.aclose()
    assert backend.log == ["closed"]


async def test_error_after_a_part_of_the_response_flushes_the_buffered_text() -> None:
    backend = Backend("a", "EN", ConnectionFailed("reset"))
    seen = []
    with pytest.raises(ConnectionFailed):
        async for delta in Stop()(Request(QUESTION, stop_sequences=("END",)), backend):
            seen.append(delta)
    assert accumulate(seen).content == "aEN"


async def test_error_while_all_text_is_buffered_delivers_nothing() -> None:
    backend = Backend("EN", ConnectionFailed("reset"))
    with pytest.raises(ConnectionFailed):
        async for delta in Stop()(Request(QUESTION, stop_sequences=("END",)), backend):
            assert not delta.has_output
