"""Server-sent events, from bytes as they arrive. See https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

from modelport.errors import MalformedResponse


class EventParser:
    """Splits a byte stream into events; every way of splitting the bytes gives the same events.

    Args:
        largest: Bytes that one event may have.
    """

    def __init__(self, largest: int) -> None:
        self._largest, self._size = largest, 0
        self._rest = b""
        self._first = True
        #: What has come of an event before `_rest`, which holds no end of one; joined once, when the event is complete.
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Takes the next bytes.

        Returns:
            The events that are now complete: the event's kind (empty for the default) and its data.

        Raises:
            MalformedResponse: An event does not end.
        """
        text = self._rest + chunk
        if b"\r" in text:
            # A lone CR ends a line too. One at the very end may be half of a CRLF: it waits.
            held = text.endswith(b"\r")
            text = (text[:-1] if held else text).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * held
        *blocks, self._rest = text.split(b"\n\n")
        if blocks and self._pieces:
            blocks[0] = b"".join((*self._pieces, blocks[0]))
            self._pieces, self._size = [], 0
        if len(self._rest) > 2:  # All but what the next bytes may make an end of: not looked through again with each.
            self._pieces.append(self._rest[:-2])
            self._rest = self._rest[-2:]
            self._size += len(self._pieces[-1])
            if self._size > self._largest:
                raise MalformedResponse(f"An event of the service's stream is larger than {self._largest >> 20} MiB.")
        if blocks and self._first:
            self._first = False
            blocks[0] = blocks[0].removeprefix(b"\xef\xbb\xbf")
        events = []
        for block in blocks:
            if block[:6] == b"data: " and b"\n" not in block:  # as nearly all are
                events.append((b"", block[6:]))
            elif (event := _event(block.split(b"\n"))) is not None:
                events.append(event)
        return events


def _event(lines: list[bytes]) -> tuple[bytes, bytes] | None:
    data, kind = [], b""
    for line in lines:
        name, _, value = line.partition(b":")  # a field without a colon is one without a value
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            kind = value.removeprefix(b" ")
    return (kind, b"\n".join(data)) if data else None
