"""The parser of server-sent events: the rules of the format, for every way of splitting the bytes into chunks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelport.errors import MalformedResponse
from modelport.protocols.sse import EventParser
from modelport.remote.http.streams import StreamLimits

Events = list[tuple[bytes, bytes]]


def parse(*chunks: bytes) -> Events:
    parser = EventParser(2**20)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def reference(raw: bytes) -> Events:
    """Return the events of complete bytes, by the rules of the standard, line by line.

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
def test_parser_follows_format(raw: bytes, events: Events) -> None:
    assert reference(raw) == events
    assert parse(raw) == events
    assert parse(*(raw[i : i + 1] for i in range(len(raw)))) == events


def test_event_is_returned_with_the_bytes_that_complete_it() -> None:
    """A delta must not wait for the bytes of the next one."""
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
@given(raw=STREAMS, splits=st.lists(st.integers(0, 60), max_size=12))
@example(raw=b"data: a\r\n\r\n", splits=[8, 9, 10])
@example(raw=b"\xef\xbb\xbfdata: a\n\n", splits=[1, 2, 3])
@example(raw=b"\xef\xbb\xbf\ndata: a\n\n", splits=[1, 2, 4])
@example(raw=b"data: a\n\n\xef\xbb\xbfdata: b\n\n", splits=[9])
@example(raw=b"data: a\r\rdata: b\r\r\r", splits=[8, 9])
def test_result_does_not_depend_on_how_bytes_are_split(raw: bytes, splits: list[int]) -> None:
    raw += b"\n"  # After a CR at the end the parser waits for the next byte, and the reference does not.
    edges = [0, *sorted(min(split, len(raw)) for split in splits), len(raw)]
    chunks = [raw[begin:end] for begin, end in itertools.pairwise(edges)]
    assert b"".join(chunks) == raw
    assert parse(*chunks) == parse(raw) == reference(raw)


def test_long_event_is_searched_once() -> None:
    """The beginning of a long event is not searched again with each chunk."""

    parser = EventParser(2**26)
    parser.feed(b"data: ")
    for number in range(2, 16_000):
        assert parser.feed(b"x" * 1400) == []
        assert len(parser._remainder) <= 2  # These bytes are searched again with the next chunk.
        assert parser._buffered.tell() == 1400 * (number - 1) + 4  # It is read once, at the end of the event.
    assert [len(data) for _, data in parser.feed(b"\n\n")] == [15_998 * 1400]


def test_event_beyond_maximum_size_raises_malformed_response() -> None:
    parser = EventParser(1000)
    for _ in range(3):
        assert parser.feed(b"data: " + b"x" * 800 + b"\n\n")  # The limit is for each event.
    parser.feed(b"data: ")
    with pytest.raises(MalformedResponse, match="larger than"):
        for _ in range(11):
            parser.feed(b"x" * 100)


@pytest.mark.parametrize("block", [b": x\n\n", b"\n\n", b"event: ping\r\n\r\n"])
def test_endless_events_without_data_are_an_error(block: bytes) -> None:
    """They would take all of a processor until the call's deadline."""
    parser, limits = EventParser(2**20), StreamLimits({"Content-Type": "text/event-stream"}, reads_stream=True)
    chunk = block * 2**11
    for feed in (parser.feed, lambda chunk: list(limits.decode(chunk))):
        for _ in range(63):
            feed(chunk)
        feed(b"data: {}\n\n")  # Data begins the count anew.
        for _ in range(63):
            feed(chunk)
        with pytest.raises(MalformedResponse, match=r"in a row .* have no data"):
            for _ in range(4):
                feed(chunk)


def test_lines_of_json_are_no_events_without_data() -> None:
    limits = StreamLimits({"Content-Type": "application/x-ndjson"}, reads_stream=True)
    for _ in range(40):
        assert list(limits.decode(b"[1]\n" * 2**12))
