"""Stop sequences: the cut is that of the whole text, however the text is split."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelport.errors import ConnectionFailed
from modelport.layers.stop import Stop, StopScanner
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta, accumulate
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction, MessageRole
from modelport.types.request import Request
from modelport.types.usage import TokenUsage

Delta = ChatMessageStreamDelta
QUESTION = (ChatMessage(MessageRole.USER, "?"),)


class Backend:
    """Plays deltas, and notes what happens to it."""

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


async def run(backend: Backend, stops: Sequence[str]) -> list[Delta]:
    """All deltas that come through the layer; the backend's log tells what came before what."""
    seen = []
    async for delta in Stop()(Request(QUESTION, stop_sequences=tuple(stops)), backend):
        backend.log.append(delta.content or delta.finish_reason or "")
        seen.append(delta)
    return seen


def passed(backend: Backend, stops: Sequence[str]) -> list[Delta]:
    return asyncio.run(run(backend, stops))


def expected_cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """What the whole text is cut to, in the plainest words: the first place where a stop sequence ends."""
    for end in range(len(text) + 1):
        ending_here = [stop for stop in stops if text[:end].endswith(stop)]
        if ending_here:
            stop = max(ending_here, key=len)
            return text[: end - len(stop)], stop
    return text, None


# Few letters, so that stop sequences overlap, begin and end each other and appear often; with one letter of two UTF-16
# units, one that combines with its neighbour, and a line break.
LETTERS = st.sampled_from("aab🦊\u0301\n")
TEXTS = st.text(LETTERS, max_size=40)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=6)


@st.composite
def split_texts(draw: st.DrawFn) -> list[str]:
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(split_texts(), STOPS)
@example(["a", "a", "b"], ["aab", "ab", "b"])  # All end at one place: the longest wins.
@example(["aab", "aa"], ["aaba", "ab"])  # The shorter completes first, inside the longer.
@example(["aaaab"], ["aab"])  # A false start overlaps the true one.
@example(["a", "", "b"], ["ab"])
def test_the_scanner_cuts_like_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)
    given_out, found = "", None
    for piece in pieces:
        text, found = scanner.feed(piece)
        given_out += text
        if found:
            break
    if not found:
        given_out += scanner.flush()
    assert (given_out, found) == expected_cut("".join(pieces), stops)


@settings(max_examples=500, derandomize=True, deadline=None)
@given(split_texts(), STOPS)
def test_the_layer_cuts_like_the_whole_text_and_never_lets_a_part_of_a_stop_out(
    pieces: list[str], stops: list[str]
) -> None:
    backend = Backend(*pieces, Delta(finish_reason="length", token_usage=TokenUsage(3, 4)))
    deltas = passed(backend, stops)
    text, stop = expected_cut("".join(pieces), stops)

    shown = ""
    for delta in deltas:
        shown += delta.content or ""
        assert text.startswith(shown), "something was given out that the cut takes back"
    assert shown == text
    assert [d.finish_reason for d in deltas] == [None] * (len(deltas) - 1) + ["stop" if stop else "length"]
    assert [d.stop_sequence for d in deltas] == [None] * (len(deltas) - 1) + [stop]
    # A cut hides what the service counts at the end of its stream: then usage is unknown, not invented.
    assert deltas[-1].token_usage == (None if stop else TokenUsage(3, 4))
    assert backend.log.count("closed") == 1


@settings(max_examples=200, derandomize=True, deadline=None)
@given(split_texts(), STOPS)
def test_held_text_is_all_that_is_missing_at_any_time(pieces: list[str], stops: list[str]) -> None:
    """A reader sees everything except what may still become a stop sequence."""
    scanner = StopScanner(stops)
    given_out = arrived = ""
    for piece in pieces:
        text, found = scanner.feed(piece)
        given_out, arrived = given_out + text, arrived + piece
        if found:
            break
        held = arrived[len(given_out) :]
        beginnings = [arrived[n:] for n in range(len(arrived)) if any(s.startswith(arrived[n:]) for s in stops)]
        assert held == max(beginnings, key=len, default="")


def test_the_backend_is_closed_before_the_rest_of_the_text_is_handed_out() -> None:
    backend = Backend("one ", "two END three", "never asked for")
    deltas = passed(backend, ["END"])
    assert backend.log == ["one ", "closed", "two ", "stop"]
    assert backend.sent == 2
    assert accumulate(deltas).content == "one two "


def test_without_stop_sequences_every_delta_passes_as_it_is() -> None:
    backend = Backend("a", "b", Delta(finish_reason="stop"))
    assert passed(backend, []) == [Delta(content="a"), Delta(content="b"), Delta(finish_reason="stop")]


def test_text_is_not_held_past_a_tool_call() -> None:
    call = ChatMessageToolCallStreamDelta(0, "c1", "function", ChatMessageToolCallFunction("{}", "f"))
    backend = Backend("Obs", Delta(tool_calls=[call]), "ervation:", Delta(finish_reason="tool_calls"))
    deltas = passed(backend, ["Observation:"])
    assert deltas[0] == Delta(content="Obs", tool_calls=[call])
    assert accumulate(deltas).content == "Observation:"  # The call parts the text: no stop sequence reaches across it.


def test_text_is_not_held_past_the_finish() -> None:
    backend = Backend("Obs", Delta(finish_reason="length"), Delta(token_usage=TokenUsage(1, 2)))
    deltas = passed(backend, ["Observation:"])
    assert deltas == [Delta(content="Obs"), Delta(finish_reason="length", token_usage=TokenUsage(1, 2))]


def test_arguments_of_tool_calls_are_not_searched() -> None:
    call = ChatMessageToolCallStreamDelta(0, "c1", "function", ChatMessageToolCallFunction('{"q": "END"}', "f"))
    deltas = passed(Backend(Delta(tool_calls=[call]), Delta(finish_reason="tool_calls")), ["END"])
    assert accumulate(deltas).finish_reason == "tool_calls"
    assert accumulate(deltas).tool_calls is not None


def test_reasoning_is_not_searched() -> None:
    deltas = passed(Backend(Delta(reasoning="END"), "x", Delta(finish_reason="stop")), ["END"])
    assert (accumulate(deltas).reasoning, accumulate(deltas).content) == ("END", "x")


def test_cumulative_usage_is_sent_once_and_last() -> None:
    counted = [Delta(content=letter, token_usage=TokenUsage(5, n)) for n, letter in enumerate("abc", 1)]
    deltas = passed(Backend(*counted, Delta(finish_reason="stop")), [])
    assert [d.token_usage for d in deltas] == [None, None, None, TokenUsage(5, 3)]


def test_a_cut_keeps_the_usage_counted_so_far() -> None:
    counted = [Delta(content=letter, token_usage=TokenUsage(5, n)) for n, letter in enumerate("a!c", 1)]
    message = accumulate(passed(Backend(*counted, Delta(finish_reason="stop")), ["!"]))
    assert (message.content, message.token_usage) == ("a", TokenUsage(5, 2))


def test_finish_reason_comes_last_where_usage_follows_it() -> None:
    deltas = passed(Backend("a", Delta(finish_reason="stop"), Delta(token_usage=TokenUsage(1, 1))), [])
    assert deltas[1:] == [Delta(finish_reason="stop", token_usage=TokenUsage(1, 1))]


def test_the_services_own_stop_sequence_is_passed_on() -> None:
    deltas = passed(Backend("a", Delta(finish_reason="stop", stop_sequence="END")), ["END"])
    assert accumulate(deltas).stop_sequence == "END"


def test_a_whole_answer_in_one_delta_is_cut_and_keeps_what_else_it_says() -> None:
    whole = Delta(content="a END b", model_id="served", finish_reason="length", reasoning="hm", warnings=["w"])
    message = accumulate(passed(Backend(whole), ["END"]))
    assert (message.content, message.finish_reason, message.stop_sequence) == ("a ", "stop", "END")
    assert (message.model_id, message.reasoning, message.warnings) == ("served", "hm", ["w"])


def test_a_cut_goes_before_the_calls_of_the_same_delta() -> None:
    call = ChatMessageToolCallStreamDelta(0, "c1", "function", ChatMessageToolCallFunction("{}", "f"))
    message = accumulate(
        passed(Backend(Delta(content="a END", tool_calls=[call], finish_reason="tool_calls")), ["END"])
    )
    assert (message.content, message.tool_calls, message.finish_reason) == ("a ", None, "stop")


def test_a_stop_sequence_at_the_very_beginning_leaves_an_empty_answer() -> None:
    deltas = passed(Backend("END"), ["END"])
    assert deltas == [Delta(finish_reason="stop", stop_sequence="END")]


async def test_closing_early_closes_the_backend() -> None:
    backend = Backend("a", "b")
    stream = Stop()(Request(QUESTION, stop_sequences=("END",)), backend)
    await anext(stream)
    await stream.aclose()
    assert backend.log == ["closed"]


async def test_a_fault_after_a_part_of_the_answer_hands_out_the_held_text_too() -> None:
    backend = Backend("a", "EN", ConnectionFailed("reset"))
    seen = []
    with pytest.raises(ConnectionFailed):
        async for delta in Stop()(Request(QUESTION, stop_sequences=("END",)), backend):
            seen.append(delta)
    assert accumulate(seen).content == "aEN"


async def test_a_fault_while_everything_is_held_lets_the_request_be_sent_again() -> None:
    backend = Backend("EN", ConnectionFailed("reset"))
    with pytest.raises(ConnectionFailed):
        async for delta in Stop()(Request(QUESTION, stop_sequences=("END",)), backend):
            assert not delta.delivers
