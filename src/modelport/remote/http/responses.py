"""Parses the bodies of successful responses, and the events of streams.

A chat completion is returned unchanged. Any other JSON will be quoted by an error, so the secrets of the request are
redacted in it here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from modelport.errors import MalformedResponse, ModelError
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.protocols.sse import EventParser
from modelport.remote.http.bodies import MAX_ERROR_BODY_SIZE, MAX_RESPONSE_SIZE
from modelport.remote.http.packages import orjson_package
from modelport.remote.http.redaction import redact

#: So many bytes of a response are redacted to quote its beginning in an error.
_EXCERPT_BYTES = 4096


def parse_json(data: bytes, secrets: Collection[str]) -> Any:
    """Parse JSON that a service sent, and redact secrets in it unless it is a chat completion.

    Args:
        data: The body, or the data of an event.
        secrets: The secrets of the request, as `secrets_in` returns them.

    Raises:
        MalformedResponse: The data is not JSON.
    """
    orjson = orjson_package()
    try:
        result = orjson.loads(data)
    except ValueError as error:
        excerpt = redact(data[:_EXCERPT_BYTES].decode("utf-8", "replace"), secrets)[:120]
        data = b""  # Otherwise a traceback with local variables would show an API key that the data repeats.
        if excerpt.lstrip().startswith("<"):
            raise MalformedResponse(
                f"The service sent a web page instead of JSON; is this the address of its API? {excerpt!r}."
            ) from None
        raise MalformedResponse(f"The service sent broken JSON ({error}): {excerpt!r}.") from None
    if not may_be_completion(result):
        return _redacted(result, data, secrets)
    # Unless the bytes contain these escapes, which are rare, a secret in the completion is found in the bytes. If none
    # is found, nothing needs to be redacted, and the slower check by `is_readable_completion` is skipped.
    if b"\\u" not in data and b"\\/" not in data:
        for secret in secrets:
            if secret.encode() in data:
                break
        else:
            return result
    return result if is_readable_completion(result) else _redacted(result, data, secrets)


def _redacted(result: Any, data: bytes, secrets: Collection[str]) -> Any:
    """Return JSON that is no chat completion, and so an error or a mistake, with its secrets redacted.

    Raises:
        MalformedResponse: It is larger than any error. To redact it all could take minutes.
    """
    if len(data) <= MAX_ERROR_BODY_SIZE:
        return redact(result, secrets)
    excerpt, size = redact(data[:_EXCERPT_BYTES].decode("utf-8", "replace"), secrets)[:120], len(data)
    data, result = b"", None  # Otherwise a traceback with local variables would show an API key in them.
    raise MalformedResponse(f"The service sent {size} bytes of JSON that is no chat completion: {excerpt!r}.")


def may_be_completion(data: Any) -> bool:
    """Return whether parsed JSON has choices or token counts, and no error: a quick check, which reads no more.

    The chunk with the token counts has no choices. Every stream has one, and redacting it would take as long as 170
    chunks with text.
    """
    return isinstance(data, dict) and bool(data.get("choices") or data.get("usage")) and not data.get("error")


def is_readable_completion(data: Any) -> bool:
    """Return whether parsed JSON is a chat completion: `ChatResponseReader` reads all of it without an error.

    If the reader raises an error for the JSON, that error will quote the JSON.
    """
    try:
        return ChatResponseReader().read_chunk(data) is not None
    except ModelError:
        return False


class EventReader:
    """Turns the bytes of a stream into parsed events.

    Args:
        secrets: The secrets of the request, as `secrets_in` returns them.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        self._secrets = secrets
        self._parser = EventParser(MAX_RESPONSE_SIZE)
        #: The events that the last chunk completed, each as its type and its data, which is JSON.
        self._unparsed: list[tuple[bytes, bytes]] = []
        #: Whether the event `[DONE]` has arrived, which ends the stream.
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Receive the next bytes of the stream; `events` then yields the events that they complete.

        Args:
            chunk: The next bytes.

        Raises:
            MalformedResponse: An event is larger than `MAX_RESPONSE_SIZE`.
        """
        self._unparsed = self._parser.feed(chunk)

    def events(self) -> Iterator[Any]:
        """Yield the events that the last chunk completed.

        Raises:
            MalformedResponse: The data of an event is not JSON.
        """
        for event_type, data in self._unparsed:
            if data == b"[DONE]":
                self.done = True
                return
            try:
                event = parse_json(data, self._secrets)
            except MalformedResponse:
                data = b""  # Otherwise a traceback with local variables would show an API key that the data repeats.
                raise
            if event_type == b"error" and isinstance(event, dict):  # `ChatResponseReader` expects the key "error".
                event = {"error": event.get("error", event)}
            yield event
