"""Limits the bodies that a vendor's package reads and parses itself.

modelport's own transport knows where an event of a stream ends, because it parses the stream. A package that parses the
stream itself gets its bytes through `StreamLimits`, which counts the bytes, lines, lists, objects and commas since the
last end of an event. If a package does not read a response as a stream, all of it is one body, whatever its type says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelport.errors import MalformedResponse
from modelport.protocols.sse import MAX_LINES, check_events_without_data
from modelport.remote.http.bodies import MAX_RESPONSE_SIZE, MAX_STREAM_SIZE, BodyDecoder, check_json_counts

#: Content types of streams -> what ends an event. Packages parse Amazon's format with botocore, which limits its events
#: to 24 MiB.
_EVENT_ENDS: dict[str, tuple[bytes, ...]] = {
    "text/event-stream": (b"\n\n", b"\n\r\n", b"\r\r"),
    "application/x-ndjson": (b"\n",),
    "application/jsonl": (b"\n",),
    "application/vnd.amazon.eventstream": (b"",),
}


class StreamLimits(BodyDecoder):
    """Decompresses a body like `BodyDecoder`, and limits each event of a stream as `responses.EventReader` does.

    Args:
        headers: The headers of the response.
        reads_stream: Whether the package reads the response as a stream, if the response is one.
    """

    def __init__(self, headers: Mapping[str, str], reads_stream: bool) -> None:
        content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._event_ends = _EVENT_ENDS.get(content_type, ()) if reads_stream else ()
        super().__init__(headers, MAX_STREAM_SIZE if self._event_ends else MAX_RESPONSE_SIZE)
        #: The numbers of bytes, lines, lists and objects, and commas of the event or the body so far.
        self._counts = (0, 0, 0, 0)
        self._is_event_stream = content_type == "text/event-stream"
        #: The number of events in a row that have no data.
        self._without_data = 0

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """See `BodyDecoder.decode`."""
        for piece in super().decode(chunk):
            self._add(piece)
            yield piece

    def _add(self, piece: bytes) -> None:
        size, lines, containers, commas = (
            before + new for before, new in zip(self._counts, _count(piece), strict=True)
        )
        end = max((piece.rfind(end) for end in self._event_ends), default=-1)
        self._counts = _count(piece[end:]) if end >= 0 else (size, lines, containers, commas)
        if end >= 0 and self._is_event_stream:
            ends = sum(map(piece.count, self._event_ends))
            self._without_data = 0 if b"data" in piece else self._without_data + ends
        del piece  # Otherwise a traceback with local variables would show an API key in it.
        if size > MAX_RESPONSE_SIZE:
            raise MalformedResponse(f"An event of the service's stream is larger than {MAX_RESPONSE_SIZE >> 20} MiB.")
        if self._event_ends and lines > MAX_LINES:
            raise MalformedResponse(f"An event of the service's stream has more than {MAX_LINES} lines.")
        check_json_counts(size, containers, commas)
        if self._without_data:
            check_events_without_data(self._without_data)


def _count(data: bytes) -> tuple[int, int, int, int]:
    lines = data.count(b"\n") + data.count(b"\r")
    return len(data), lines, data.count(b"[") + data.count(b"{"), data.count(b",")
