"""What every transport does with the bytes of a service: parsed answers and events, errors, and no keys in them.

Also what the faults of httpx (and httpx2) mean, on which several vendors' clients sit. No I/O.
"""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

from modelport.chat_errors import error_from
from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, MissingDependency, ModelError
from modelport.remote.sse import EventParser

_SECRET_NAME = re.compile("auth|key|token|secret|cookie", re.I)


class Hidden(str):
    """A header's value that a traceback with locals, or a log of headers, does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def hidden(value: Any) -> Any:
    """The value, hidden where it is text."""
    return Hidden(value) if isinstance(value, str) else value


#: What to do where nobody answers.
CHECK_THE_WAY = "Check the address (api_base), the proxy, and that the server runs."


@functools.cache
def orjson_package() -> Any:
    """The `orjson` package.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import orjson
    except ImportError:
        raise MissingDependency("orjson", "openai") from None
    return orjson


def to_json(body: Mapping[str, Any]) -> bytes:
    """The body of a request.

    Raises:
        InvalidRequest: It holds what JSON can't.
    """
    orjson = orjson_package()
    try:
        return orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)  # type: ignore[no-any-return]
    except TypeError as error:
        raise InvalidRequest(f"the request can't be written as JSON: {error}") from None


def pairs(query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Query parameters as the SDK writes them: `a[]=1&a[]=2&b[c]=d&e=true`."""
    for name, value in query.items():
        if isinstance(value, Mapping):
            yield from pairs({f"{name}[{key}]": item for key, item in value.items()})
        elif isinstance(value, list | tuple):
            for item in value:
                yield from pairs({f"{name}[]": item})
        elif value is not None:
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


def parsed(data: bytes, headers: Mapping[str, str]) -> Any:
    """JSON that a service sent; cleaned of keys where it is no answer, and so about to be quoted.

    Args:
        data: The bytes.
        headers: Of the request, where the keys are.

    Raises:
        MalformedResponse: It is no JSON.
    """
    orjson = orjson_package()
    try:
        result = orjson.loads(data)
    except ValueError as error:
        data = without_secrets(data, headers)
        shown = data[:120].decode("utf-8", "replace")
        if shown.lstrip().startswith("<"):
            raise MalformedResponse(
                f"The service sent a web page and no answer; is this the address of its API? {shown!r}."
            ) from None
        raise MalformedResponse(f"The service sent broken JSON ({error}): {shown!r}.") from None
    if isinstance(result, dict) and (not isinstance(result.get("choices"), list) or "error" in result):
        return orjson.loads(without_secrets(data, headers))
    return result


class EventReader:
    """Parsed events of a streamed answer, from bytes as they arrive.

    Args:
        headers: Of the request, where the keys are.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._parser = EventParser()
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
                event = parsed(data, self._headers)
            except MalformedResponse:
                data = b""  # or a traceback with locals would show a key that the service quotes
                raise
            if kind == b"error" and isinstance(event, dict):
                event = {"error": event.get("error", event)}
            yield event


def without_secrets(data: bytes, headers: Mapping[str, str]) -> bytes:
    """What a service says, without the keys that it was sent: some quote the key that they refuse."""
    orjson = orjson_package()
    try:
        data = orjson.dumps(orjson.loads(data))  # in one spelling: some escape the "/" or the "+" of a key
    except (ValueError, TypeError):
        pass  # no JSON, or of numbers that can't be written again
    for name, value in headers.items():
        if _SECRET_NAME.search(name) and len(key := value.rpartition(" ")[2]) >= 8:
            for spelling in (key.encode(), orjson.dumps(key)[1:-1]):
                data = data.replace(spelling, b"***")
    return data


def service_error(status: int, headers: Mapping[str, str], body: bytes, sent: Mapping[str, str]) -> ModelError:
    """The error that an answer with a status of 300 or more means.

    Args:
        status: Of HTTP.
        headers: Of the answer.
        body: Of the answer.
        sent: The headers of the request, where the keys are.
    """
    if status < 400:  # Following it would send the key to where the caller did not mean it to go.
        return redirected(status, headers)
    body = without_secrets(body, sent)
    try:
        payload = orjson_package().loads(body)
    except ValueError:
        payload = body[:600].decode("utf-8", "replace")
    return error_from(status, payload, {name.lower(): value for name, value in headers.items()})


def redirected(status: int, headers: Mapping[str, str]) -> ModelError:
    """The error that a redirect means. Its query is not shown: it may quote a key."""
    where = re.split(r"[?#]", headers.get("Location", ""))[0] or "elsewhere"
    return InvalidRequest(f"The service redirects to {where}; give that address instead.", status=status)


def is_of_httpx(error: BaseException) -> bool:
    """Whether it is an exception of httpx, httpx2 or their core."""
    return type(error).__module__.startswith(("httpx", "httpcore"))


def httpx_error(error: BaseException) -> ModelError:
    """What a fault of httpx or httpx2 means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message
            return ConnectionFailed(f"The service's certificate was not accepted: {why}.", retryable=False)
        cause = cause.__cause__ or cause.__context__
    kind = type(error).__name__
    if kind == "LocalProtocolError":
        return InvalidRequest("The request can't be sent: a header's value must be one line of text.")
    if kind in ("InvalidURL", "UnsupportedProtocol"):
        return InvalidRequest("The request can't be sent: its URL is not valid.")
    if kind.endswith("Timeout"):
        return ConnectionFailed(f"The service did not answer within the client's time-out ({kind}).")
    # One class for two faults: an answer that was cut short, and none at all.
    if kind == "RemoteProtocolError" and "complete message body" in str(error):
        return MalformedResponse("The service's answer was cut short: its body ended before its length said so.")
    advice = f" {CHECK_THE_WAY}" if kind == "ConnectError" else ""
    return ConnectionFailed(f"The connection to the service failed ({kind}).{advice}")
