"""Parses the bodies of successful responses, and the events of streams.

Some servers deviate from the format of streams: an event whose data is blank is a sign of life, the end marker `[DONE]`
may have blanks around it, and a stream may be labelled as JSON.

The caller passes a function that reads the parsed JSON. If it raises an error, the error may quote the JSON. Only then
the secrets of the request are redacted in the JSON, and the error is made again. Nothing is redacted in an answer.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from typing import Any, Generic, TypeVar

from modelport.errors import MalformedResponse, ModelError
from modelport.protocols.sse import EventParser
from modelport.remote.http.bodies import MAX_ERROR_BODY_SIZE, MAX_RESPONSE_SIZE, check_json_size
from modelport.remote.http.packages import orjson_package
from modelport.remote.http.redaction import redact
from modelport.schema.json_text import MAX_JSON_DEPTH, is_nested_too_deeply

T = TypeVar("T")
#: The first bytes of the fields of an event, of a comment, and of a byte order mark. No JSON begins with one of them.
_EVENT_BEGINNINGS = (b"d", b"e", b"i", b"r", b":", b"\xef")
#: JSON of so many bytes has at most `MAX_JSON_DEPTH` levels. Most chunks of a stream are smaller.
_SMALL_JSON = 2 * MAX_JSON_DEPTH + 1
#: So many bytes of a response are redacted to quote its beginning in an error.
_EXCERPT_BYTES = 4096


def read_json(data: bytes, read: Callable[[Any], T], secrets: Collection[str]) -> T:
    """Parse JSON that a service sent, and return what `read` makes of it.

    Args:
        data: The body, or the data of an event.
        read: A function that reads the parsed JSON. Its errors may quote the JSON.
        secrets: The secrets of the request, as `secrets_in` returns them.

    Raises:
        MalformedResponse: The data is not JSON, has too many values, or is nested too deeply.
        ModelError: `read` raised it. It shows no secrets.
    """
    if is_large := len(data) > _SMALL_JSON:
        check_json_size(data)
    if not data.strip():
        raise MalformedResponse("The service sent an empty body instead of a response.")
    try:
        parsed = orjson_package().loads(data)
    except ValueError as error:
        excerpt = redact(data[:_EXCERPT_BYTES].decode("utf-8", "replace"), secrets)[:120]
        data = b""  # Otherwise a traceback with local variables would show an API key that the data repeats.
        if excerpt.lstrip().startswith("<"):
            raise _web_page_error(excerpt, "JSON") from None
        raise MalformedResponse(f"The service sent broken JSON ({error}): {excerpt!r}.") from None
    if is_large and data.count(b"[") + data.count(b"{") > MAX_JSON_DEPTH and is_nested_too_deeply(parsed):
        data, parsed = b"", None
        raise MalformedResponse(f"The service sent JSON that is nested more than {MAX_JSON_DEPTH} levels deep.")
    try:
        return read(parsed)
    except ModelError:
        pass
    # The error may quote the JSON, so it is made again from redacted JSON. Answers are never redacted, which would cost
    # more than to read them. The second call is not in the `except` block: the first error would be its `__context__`.
    parsed, data = _redacted(parsed, data, secrets), b""
    return read(parsed)


def _redacted(parsed: Any, data: bytes, secrets: Collection[str]) -> Any:
    """Return JSON that is no chat completion, and so an error or a mistake, with its secrets redacted.

    Raises:
        MalformedResponse: It is larger than any error. To redact it all could take minutes.
    """
    if len(data) <= MAX_ERROR_BODY_SIZE:
        return redact(parsed, secrets)
    excerpt, size = redact(data[:_EXCERPT_BYTES].decode("utf-8", "replace"), secrets)[:120], len(data)
    data, parsed = b"", None  # Otherwise a traceback with local variables would show an API key in them.
    raise MalformedResponse(f"The service sent {size} bytes of JSON that is no chat completion: {excerpt!r}.")


def _web_page_error(excerpt: str, expected: str) -> MalformedResponse:
    return MalformedResponse(
        f"The service sent a web page instead of {expected}; is this the address of its API? {excerpt!r}."
    )


class EventReader(Generic[T]):
    """Turns the bytes of a stream into events.

    Args:
        read: A function that reads a parsed event; see `read_json`.
        secrets: The secrets of the request, as `secrets_in` returns them.
        content_type: The response's content type. If it is JSON, its first byte decides whether it is a stream.
    """

    def __init__(self, read: Callable[[Any], T], secrets: Collection[str], content_type: str = "") -> None:
        self._read, self._secrets = read, secrets
        #: What has arrived of a body that is JSON, or that may be JSON; `None` for a stream.
        self._body = io.BytesIO() if content_type.startswith("application/json") else None
        self._parser = EventParser(MAX_RESPONSE_SIZE)
        #: The events that the last chunk completed, each as its type and its data, which is JSON.
        self._unparsed: list[tuple[bytes, bytes]] = []
        #: The beginning of the stream, until its first event arrives; then `None`. A list hides it from tracebacks.
        self._start: list[bytes] | None = []
        #: Whether the event `[DONE]` has arrived, which ends the stream.
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Receive the next bytes of the stream; `events` then yields the events that they complete.

        Args:
            chunk: The next bytes.

        Raises:
            MalformedResponse: An event, or a body of JSON, is larger than `MAX_RESPONSE_SIZE`.
        """
        if self._body is not None:
            self._body.write(chunk)
            if self._body.tell() > MAX_RESPONSE_SIZE:
                raise MalformedResponse(f"The service's response is larger than {MAX_RESPONSE_SIZE >> 20} MiB.")
            if not bytes(self._body.getbuffer()[:_EXCERPT_BYTES]).lstrip().startswith(_EVENT_BEGINNINGS):
                return
            chunk, self._body = self._body.getvalue(), None
        self._unparsed = self._parser.feed(chunk)
        if self._start is not None:
            self._start = (
                None if self._unparsed else [b"".join([*self._start, chunk[:_EXCERPT_BYTES]])[:_EXCERPT_BYTES]]
            )

    def events(self) -> Iterator[T]:
        """Yield what `read` returns for each event that the last chunk completed.

        Raises:
            MalformedResponse: The data of an event is not JSON.
            ModelError: `read` raised it.
        """
        for event_type, data in self._unparsed:
            if len(data) < 32:
                if not (stripped := data.strip()):
                    continue
                if stripped == b"[DONE]":
                    self.done = True
                    return
            try:
                event = read_json(data, self._read_error if event_type == b"error" else self._read, self._secrets)
            except ModelError:
                data = b""  # Otherwise a traceback with local variables would show an API key that the data repeats.
                self._unparsed = []
                raise
            yield event

    def body(self) -> Iterator[T]:
        """Yield what `read` returns for a response that was no stream, after its last bytes.

        Raises:
            MalformedResponse: The body is not JSON, or a stream had no event.
            ModelError: `read` raised it.
        """
        if self._body is not None:
            yield read_json(self._body.getvalue(), self._read, self._secrets)
        else:
            self._check_not_empty()

    def _check_not_empty(self) -> None:
        """Check, at the end of the stream, that it had an event.

        Raises:
            MalformedResponse: The body is empty, a web page, or anything else without an event.
        """
        if self._start is None:
            return
        excerpt = redact(b"".join(self._start).decode("utf-8", "replace"), self._secrets).strip()[:120]
        if excerpt.startswith("<"):
            raise _web_page_error(excerpt, "a stream")
        if not excerpt:
            raise MalformedResponse("The service sent an empty body instead of a stream of events.")
        raise MalformedResponse(f"The service sent no events of a stream, but {excerpt!r}.")

    def _read_error(self, event: Any) -> T:
        """Read an event of type "error". `ChatResponseReader` expects the key "error"."""
        return self._read({"error": event.get("error", event)} if isinstance(event, dict) else event)
