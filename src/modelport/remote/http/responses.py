"""Parses responses and events."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from modelport.errors import MalformedResponse, ModelError
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.protocols.sse import EventParser
from modelport.remote.http.outgoing import orjson_package
from modelport.remote.http.redaction import without_secrets

#: Bytes of a whole answer, or of one event, unpacked: far more than any has, images and speech included.
ANSWER_SIZE = 2**26


def parsed(data: bytes, secrets: Collection[str]) -> Any:
    """JSON that a service sent; cleaned of keys where it is no answer, and so about to be quoted.

    Args:
        data: The bytes.
        secrets: Of the request: `secrets_in`.

    Raises:
        MalformedResponse: It is no JSON.
    """
    orjson = orjson_package()
    try:
        result = orjson.loads(data)
    except ValueError as error:
        shown = without_secrets(data.decode("utf-8", "replace"), secrets)[:120]
        data = b""  # or a traceback with locals would show a key that the service quotes
        if shown.lstrip().startswith("<"):
            raise MalformedResponse(
                f"The service sent a web page and no answer; is this the address of its API? {shown!r}."
            ) from None
        raise MalformedResponse(f"The service sent broken JSON ({error}): {shown!r}.") from None
    if not is_answer(result):
        return without_secrets(result, secrets)
    if b"\\u" not in data and b"\\/" not in data:  # as in nearly all
        for secret in secrets:
            if secret.encode() in data:
                break
        else:
            return result
    return result if is_readable(result) else without_secrets(result, secrets)


def is_answer(data: Any) -> bool:
    """Whether it looks like an answer, whose own words are not changed."""
    return isinstance(data, dict) and bool(data.get("choices")) and not data.get("error")


def is_readable(answer: Any) -> bool:
    """Whether it is one; what is not will be quoted by an error."""
    try:
        return ChatResponseReader().chunk(answer) is not None
    except ModelError:
        return False


class EventReader:
    """Parsed events of a streamed answer, from bytes as they arrive.

    Args:
        secrets: Of the request: `secrets_in`.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        self._secrets = secrets
        self._parser = EventParser(ANSWER_SIZE)
        self._waiting: list[tuple[bytes, bytes]] = []
        #: Whether the terminator has come.
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes."""
        self._waiting = self._parser.feed(chunk)

    def events(self) -> Iterator[Any]:
        """The events that the bytes have completed.

        Raises:
            MalformedResponse: One is no JSON.
        """
        for kind, data in self._waiting:
            if data == b"[DONE]":
                self.done = True
                return
            try:
                event = parsed(data, self._secrets)
            except MalformedResponse:
                data = b""  # or a traceback with locals would show a key that the service quotes
                raise
            if kind == b"error" and isinstance(event, dict):
                event = {"error": event.get("error", event)}
            yield event
