"""Server-sent events, from bytes as they arrive. See https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations


class EventParser:
    """Splits a byte stream into events; every way of splitting the bytes gives the same events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._kind = b""
        self._first = True

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Takes the next bytes.

        Returns:
            The events that are now complete: the event's kind (empty for the default) and its data.
        """
        text = self._rest + chunk
        if b"\r" in text:
            # A lone CR ends a line too. One at the very end may be half of a CRLF: it waits.
            held = text.endswith(b"\r")
            text = (text[:-1] if held else text).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * held
        *lines, self._rest = text.split(b"\n")
        if lines and self._first:
            self._first = False
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        events = []
        for line in lines:
            if line[:5] == b"data:":
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data:
                    data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    events.append((self._kind, data))
                    self._data = []
                self._kind = b""
            elif line[:6] == b"event:":
                self._kind = line[7:] if line[6:7] == b" " else line[6:]
            elif line == b"data":  # a field without a colon is one without a value
                self._data.append(b"")
            elif line == b"event":
                self._kind = b""
        return events
