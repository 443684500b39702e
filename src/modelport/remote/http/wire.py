"""What every transport does with the bytes of a service: parsed answers and events, errors, and no keys in them.

Also what the faults of httpx (and httpx2) mean, on which several vendors' clients sit. No I/O.
"""

from __future__ import annotations

import base64
import functools
import html
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, MissingDependency, ModelError
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.chat_completions.request import ChatResponseReader
from modelport.protocols.sse import EventParser
from modelport.secrets import names_secret

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HALF = re.compile("[\ud800-\udfff]")
_NO_TEXT = re.compile(r"[\r\n\0\ud800-\udfff]")
#: They say where a request ends, which is for the HTTP library to know.
_FRAMING = frozenset({"content-length", "transfer-encoding", "expect", "trailer", "upgrade"})
#: Bytes of a whole answer, or of one event, unpacked: far more than any has, images and speech included.
ANSWER_SIZE = 2**26
#: Headers and parameters whose values are no secrets, and say what is wrong where a service quotes them.
_OPEN = re.compile(
    r"accept.*|content-.*|user-agent|host|connection|x-stainless-.*|openai-(organization|project)|api-version", re.I
)


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
    """Query parameters as the SDK writes them: `a[]=1&a[]=2&b[c]=d&e=true`.

    Raises:
        InvalidRequest: One is no text; its name is told, never its value.
    """
    for name, value in query.items():
        if isinstance(value, Mapping):
            yield from pairs({f"{name}[{key}]": item for key, item in value.items()})
        elif isinstance(value, list | tuple):
            for item in value:
                yield from pairs({f"{name}[]": item})
        elif value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if _HALF.search(f"{name}{text}"):
                raise InvalidRequest(f"query parameter {name!r}: it holds half a character (a lone surrogate)")
            yield str(name), text


_EXAMPLE = "https://api.openai.com/v1"
_EXAMPLES = {"azure_endpoint": "https://RESOURCE.openai.azure.com"}


def checked_url(value: Any, name: str = "api_base") -> str:
    """The address of a service, where it is one.

    Raises:
        InvalidRequest: It is none, or holds a password, which is not shown.
    """
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port  # which raises
        host.encode("idna")
        is_url = parts.scheme in ("http", "https") and bool(host) and not re.search(r"\s", host)
    except (ValueError, AttributeError, TypeError):
        is_url, parts = False, urlsplit("")
    if is_url and isinstance(value, str) and "@" not in parts.netloc:
        return value
    if "@" in str(value):
        raise InvalidRequest(
            f"{name}: a user or a password in the URL is not sent, and would be shown; leave it out, and give it as "
            "default_headers={'Authorization': …}"
        )
    raise InvalidRequest(f"{name}={value!r}: must be a URL such as {_EXAMPLES.get(name, _EXAMPLE)!r}")


def check_headers(headers: Mapping[Any, Any]) -> None:
    """Whether these can be sent.

    Raises:
        InvalidRequest: One can't; its name is told, never its value.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidRequest(f"header {name!r}: a header's name is letters, digits and hyphens")
        if name.lower() in _FRAMING:
            raise InvalidRequest(f"header {name!r}: it is set by the HTTP library, which knows the body; leave it out")
        if type(value).__name__ == "Omit":  # the SDK's way to take a header away
            continue
        if not isinstance(value, str):
            raise InvalidRequest(f"header {name!r}: its value must be text, not {type(value).__name__}")
        if _NO_TEXT.search(value):
            raise InvalidRequest(
                f"header {name!r}: its value must be one line of text (does the key end in a newline?)"
            )


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


def secrets_in(*layers: Mapping[str, Any]) -> tuple[str, ...]:
    """What a service was sent in headers and parameters and is not to be quoted, the longest first."""
    found: set[str] = set()
    for layer in layers:
        for name, value in layer.items():
            if isinstance(value, str) and not _OPEN.fullmatch(str(name)):
                found.add(Hidden(value))
                if names_secret(str(name)):
                    found.update(map(Hidden, _parts(value)))
    return tuple(sorted((Hidden(one) for one in found if len(one) >= 8), key=len, reverse=True))


def _parts(value: str) -> Iterator[str]:
    """What of a header may be quoted alone: the key after a scheme such as Bearer, one of many cookies, a password."""
    for part in re.split(r"[\s;,]+", value):
        yield part
        yield part.partition("=")[2]
    if value[:6].lower() == "basic ":
        with suppress(ValueError):
            yield base64.b64decode(value[6:]).decode().partition(":")[2]


def without_secrets(said: Any, secrets: Collection[str]) -> Any:
    """What a service says, parsed, without what it was sent in secret: some quote the key that they refuse."""
    try:
        return _blotted(said, secrets)
    except RecursionError:
        return "something nested too deep to be shown"


def _blotted(said: Any, secrets: Collection[str]) -> Any:
    if isinstance(said, str):
        for secret in secrets:
            said = said.replace(secret, "***")
            if _ESCAPES.search(said):  # what a gateway quotes of another may be escaped still
                said = re.sub("".join(map(_escaped, secret)), "***", said)
            said = _without_beginning(said, secret)
        return said
    if isinstance(said, list):
        return [_blotted(item, secrets) for item in said]
    if isinstance(said, dict):
        return {_blotted(key, secrets): _blotted(item, secrets) for key, item in said.items()}
    return said


def _without_beginning(said: str, secret: str) -> str:
    """The text without the secret's beginning at its end, where it was cut off."""
    if not (found := list(re.finditer("".join(map(_escaped, secret[:8])), said))):
        return said
    at = found[-1].end()
    for character in secret[8:]:
        if (more := re.compile(_escaped(character)).match(said, at)) is None:
            break
        at = more.end()
    return f"{said[: found[-1].start()]}***" if _HALF_ESCAPE.fullmatch(said, at) else said


_ESCAPES = re.compile(r"[\\%&]")
_HALF_ESCAPE = re.compile(r"(?:\\+\w{0,3}|%\w{0,3}|&#?\w{0,3})?")


def _escaped(character: str) -> str:
    """A pattern for a character as it is, and in the escapes of JSON, C, URLs and HTML."""
    code, utf8 = ord(character), "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in character.encode("utf-8", "replace"))
    # Bounded, or a text of backslashes would take its length squared.
    ways = [
        rf"\\{{0,9}}{re.escape(character)}", rf"\\{{1,9}}(?:u\{{?|x|U)0*{code:x}\}}?", rf"\\{{1,9}}0?{code:o}", utf8,
        f"&#x0*{code:x};", f"&#0*{code};", re.escape(html.escape(character)),
    ]  # fmt: skip
    if code > 0xFFFF:
        pair = character.encode("utf-16-be").hex()
        ways.append(rf"\\{{1,9}}u{pair[:4]}\\{{1,9}}u{pair[4:]}")
    return f"(?:{ways[0]}|(?i:{'|'.join(ways[1:])}))"


def service_error(status: int, headers: Mapping[str, str], body: bytes, secrets: Collection[str]) -> ModelError:
    """The error that an answer with a status of 300 or more means.

    Args:
        status: Of HTTP.
        headers: Of the answer.
        body: Of the answer.
        secrets: Of the request: `secrets_in`.
    """
    if status < 400:  # Following it would send the key to where the caller did not mean it to go.
        return redirected(status, headers, secrets)
    try:
        payload = orjson_package().loads(body)
    except ValueError:
        payload = body.decode("utf-8", "replace")
    payload = without_secrets(payload, secrets)
    return error_from(status, payload, {name.lower(): value for name, value in headers.items()})


def redirected(status: int, headers: Mapping[str, str], secrets: Collection[str]) -> ModelError:
    """The error that a redirect means. Its query is not shown: it may quote a key."""
    where = re.split(r"[?#]", headers.get("Location", ""))[0] or "elsewhere"
    where = without_secrets(where, secrets)
    return InvalidRequest(f"The service redirects to {where}; give that address instead.", status=status)


def is_unsendable(error: BaseException) -> bool:
    """Whether it is Python's word on a request that can't be made bytes."""
    return isinstance(error, UnicodeEncodeError) or (
        isinstance(error, TypeError | ValueError) and str(error).endswith(("JSON serializable", "JSON compliant"))
    )


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
