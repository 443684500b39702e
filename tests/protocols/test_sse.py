"""Server-sent events: the format's own rules, and that no way of splitting the bytes shows."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelport.errors import MalformedResponse
from modelport.protocols.sse import EventParser

Events = list[tuple[bytes, bytes]]


def parse(*chunks: bytes) -> Events:
    parser = EventParser(2**20)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def reference(raw: bytes) -> Events:
    """The rules of the standard, line by line, on the whole of it: the slow and plain way.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    text = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, _unfinished = text.split(b"\n")
    events: Events = []
    data: list[bytes] = []
    kind = b""
    for line in lines:
        if not line:
            if data:
                events.append((kind, b"\n".join(data)))
            data, kind = [], b""
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
    return events


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b"data: a\n\n", [(b"", b"a")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")]),
        (b"data: a\r\rdata: b\r\r\n", [(b"", b"a"), (b"", b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
        (b"data:a\n\n", [(b"", b"a")]),
        (b"data:  a\n\n", [(b"", b" a")]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
        (b"data: a\ndata\ndata: b\n\n", [(b"", b"a\n\nb")]),
        (b"data:\n\n", [(b"", b"")]),
        (b": a comment\n\n:\ndata: a\n: another\n\n", [(b"", b"a")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [(b"error", b"a"), (b"", b"b")]),
        (b"event: ping\n\ndata: a\n\n", [(b"", b"a")]),
        (b"id: 7\nretry: 10\ndata: a\nunknown: x\n\n", [(b"", b"a")]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"dataset: a\n\n", []),
        (b"\n\n\ndata: a\n\n\n\n", [(b"", b"a")]),
        (b"data: gr\xc3\xbc\xc3\x9fe\n\n", [(b"", b"gr\xc3\xbc\xc3\x9fe")]),
    ],
)
def test_the_format(raw: bytes, events: Events) -> None:
    assert reference(raw) == events
    assert parse(raw) == events
    assert parse(*(raw[i : i + 1] for i in range(len(raw)))) == events


def test_an_event_comes_with_the_bytes_that_complete_it() -> None:
    """Not with the next ones: a delta must not wait for its successor."""
    for newline in (b"\n", b"\r\n"):
        parser = EventParser(2**20)
        assert parser.feed(b"data: a" + newline) == []
        assert parser.feed(newline) == [(b"", b"a")]


LINES = st.one_of(
    st.sampled_from(
        [b"", b"", b"data", b"data:", b"event: error", b"event:  x", b"event", b":", b": note", b"id: 1", b"da", b"ta:"]
    ),
    st.binary(max_size=6).map(lambda value: b"data: " + value),
    st.binary(max_size=6),
)
STREAMS = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12),
).map(lambda parts: parts[0] + b"".join(line + end for line, end in parts[1]))


@settings(max_examples=400, deadline=None)
@given(raw=STREAMS, cuts=st.lists(st.integers(0, 60), max_size=12))
@example(raw=b"data: a\r\n\r\n", cuts=[8, 9, 10])
@example(raw=b"\xef\xbb\xbfdata: a\n\n", cuts=[1, 2, 3])
@example(raw=b"\xef\xbb\xbf\ndata: a\n\n", cuts=[1, 2, 4])
@example(raw=b"data: a\n\n\xef\xbb\xbfdata: b\n\n", cuts=[9])
@example(raw=b"data: a\r\rdata: b\r\r\r", cuts=[8, 9])
def test_no_split_shows(raw: bytes, cuts: list[int]) -> None:
    raw += b"\n"  # A CR at the very end may be half of a line's end: the parser waits, the reference does not.
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    chunks = [raw[begin:end] for begin, end in itertools.pairwise(edges)]
    assert b"".join(chunks) == raw
    assert parse(*chunks) == parse(raw) == reference(raw)


def test_a_long_event_costs_no_more_than_its_bytes() -> None:
    """What has come of it is not looked through again with each chunk."""

    def seconds(chunks: int) -> float:
        parser, started = EventParser(2**26), time.process_time()
        parser.feed(b"data: ")
        for _ in range(chunks):
            assert parser.feed(b"x" * 1400) == []
        assert [len(data) for _, data in parser.feed(b"\n\n")] == [chunks * 1400]
        return time.process_time() - started

    assert seconds(16_000) < 40 * max(min(seconds(1000) for _ in range(3)), 0.001)


def test_an_event_without_an_end_is_given_up() -> None:
    parser = EventParser(1000)
    for _ in range(3):
        assert parser.feed(b"data: " + b"x" * 800 + b"\n\n")  # which each end
    parser.feed(b"data: ")
    with pytest.raises(MalformedResponse, match="larger than"):
        for _ in range(11):
            parser.feed(b"x" * 100)
