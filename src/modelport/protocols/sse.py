"""A parser of server-sent events.

The parser receives bytes in chunks of any size and returns the events that each chunk completes. It follows these rules
of https://html.spec.whatwg.org/multipage/server-sent-events.html:

- A line ends with LF, CRLF or CR. A CR at the end of a chunk may be the first half of a CRLF, so the parser waits for
  the next byte before it ends the line.
- An empty line ends an event. An event without a `data` field is dropped.
- Several `data` fields of one event are joined with a line break. One space after the colon is not part of the value.
- A byte order mark at the beginning of the stream is ignored.
- If the stream does not end with an empty line, its last event is unfinished and is dropped.

The fields `id` and `retry` are ignored, because they serve clients that reconnect. An event larger than a given size,
or of more than 16,384 lines, is an error, although the standard has no such limits, and so are 131,072 events in a row
without data. Otherwise a stream in which no event ends could fill the memory, and one of comments take all time.
"""

from __future__ import annotations

import io

from modelport.errors import MalformedResponse

#: The most lines of one event. Each line takes 40 bytes of memory more than it has characters.
MAX_LINES = 2**14
#: The most events in a row that have no data, such as comments that keep a connection open: those of some days.
MAX_EVENTS_WITHOUT_DATA = 2**17


class EventParser:
    """Splits a byte stream into server-sent events. The result does not depend on how the bytes were split into chunks.

    Args:
        max_event_size: The largest size of one event, in bytes.
    """

    def __init__(self, max_event_size: int) -> None:
        self._max_event_size = max_event_size
        self._is_first_event = True
        self._without_data = 0
        #: The last bytes of the unfinished event, at most two. `_buffered` has the bytes before them.
        self._remainder = b""
        #: The unfinished event without its last bytes.
        self._buffered = io.BytesIO()

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Receive the next bytes of the stream.

        Args:
            chunk: The next bytes.

        Returns:
            The events that this chunk completes, each as its type (empty for the default type) and its data.

        Raises:
            MalformedResponse: An event is larger than `max_event_size`, or too many in a row have no data.
        """
        buffer = self._remainder + chunk
        if b"\r" in buffer:
            ends_with_cr = buffer.endswith(b"\r")
            complete = buffer[:-1] if ends_with_cr else buffer
            buffer = complete.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * ends_with_cr
        *blocks, self._remainder = buffer.split(b"\n\n")
        if blocks and self._buffered.tell():
            blocks[0] = self._buffered.getvalue() + blocks[0]
            self._buffered = io.BytesIO()
        if len(self._remainder) > 2:
            # The end of the event may begin in the last two bytes: an LF, then a CR that may be half of a CRLF. The
            # bytes before them are set aside, so that a long event is not searched again with each chunk.
            self._buffered.write(self._remainder[:-2])
            self._remainder = self._remainder[-2:]
            if self._buffered.tell() > self._max_event_size:
                raise MalformedResponse(
                    f"An event of the service's stream is larger than {self._max_event_size >> 20} MiB."
                )
        if blocks and self._is_first_event:
            self._is_first_event = False
            blocks[0] = blocks[0].removeprefix(b"\xef\xbb\xbf")
        events = []
        for block in blocks:
            if block[:6] == b"data: " and b"\n" not in block:  # Nearly all events consist of one data field.
                events.append((b"", block[6:]))
            elif (event := _parse_event(block)) is not None:
                events.append(event)
        if events:
            self._without_data = 0
        elif blocks:
            self._without_data += len(blocks)
            check_events_without_data(self._without_data)
        return events


def check_events_without_data(number: int) -> None:
    """Check the number of events in a row that have no data, each of which takes processor time.

    Raises:
        MalformedResponse: There are too many.
    """
    if number > MAX_EVENTS_WITHOUT_DATA:
        raise MalformedResponse(
            f"More than {MAX_EVENTS_WITHOUT_DATA} events in a row of the service's stream have no data."
        )


def _parse_event(block: bytes) -> tuple[bytes, bytes] | None:
    """Return an event's type and data, or `None` if the event has no data.

    Raises:
        MalformedResponse: The event has more than `MAX_LINES` lines.
    """
    if block.count(b"\n") > MAX_LINES:
        raise MalformedResponse(f"An event of the service's stream has more than {MAX_LINES} lines.")
    data, event_type = [], b""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")  # A line without a colon is a field with an empty value.
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event_type = value.removeprefix(b" ")
    return (event_type, b"\n".join(data)) if data else None
