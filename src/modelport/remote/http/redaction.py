"""Keeps the secrets of a request out of errors, logs and tracebacks.

The rules:

- The secrets of a request are the values of its headers and query parameters, except those of harmless names such as
  `Accept`. Shorter values than eight characters are not secrets. Of a header that holds a key by its name, each part is
  a secret too: the key after `Bearer`, each cookie, the password of `Basic`.
- A text that a service sent is redacted before an error quotes it, because some services quote the key that they
  refuse. A secret is also found in the escapes of JSON, C, URLs and HTML, and where the text ends within the secret.
- The output of the model is not changed, even if it contains a secret.
- Headers and query parameters are `HiddenStr`s, which a traceback with local variables or a log shows as `'***'`.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from modelport.secrets import names_secret

#: Headers and parameters whose values are not secrets. If a service quotes such a value, it helps to find the error.
_HARMLESS_NAME = re.compile(
    r"accept.*|content-.*|user-agent|host|connection|x-stainless-.*|openai-(organization|project)|api-version", re.I
)
_MIN_SECRET_LENGTH = 8

_ESCAPE = re.compile(r"[\\%&]")
_UNFINISHED_ESCAPE = re.compile(r"(?:\\+\w{0,3}|%\w{0,3}|&#?\w{0,3})?")


class HiddenStr(str):
    """A string whose `repr` does not show it, for tracebacks with local variables and for logs of headers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def hide(value: Any) -> Any:
    """Return a string as a `HiddenStr`, and any other value unchanged."""
    return HiddenStr(value) if isinstance(value, str) else value


def secrets_in(*layers: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the secrets in headers and query parameters, the longest first.

    Args:
        *layers: Headers or query parameters, by name.
    """
    found: set[str] = set()
    for layer in layers:
        for name, value in layer.items():
            if isinstance(value, str) and not _HARMLESS_NAME.fullmatch(str(name)):
                found.add(HiddenStr(value))
                if names_secret(str(name)):
                    found.update(map(HiddenStr, _parts(value)))
    return tuple(sorted((secret for secret in found if len(secret) >= _MIN_SECRET_LENGTH), key=len, reverse=True))


def _parts(value: str) -> Iterator[str]:
    """Yield the parts of a header's value that a service may quote alone."""
    for part in re.split(r"[\s;,]+", value):
        yield part
        yield part.partition("=")[2]
    if value[:6].lower() == "basic ":
        with suppress(ValueError):
            yield base64.b64decode(value[6:]).decode().partition(":")[2]


def redact(value: Any, secrets: Collection[str]) -> Any:
    """Replace secrets by `***` in all strings of a parsed response.

    Args:
        value: A string, or lists and dicts of strings.
        secrets: The secrets of the request; see `secrets_in`.
    """
    try:
        return _redact(value, secrets)
    except RecursionError:
        return "something nested too deep to be shown"


def _redact(value: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
            if _ESCAPE.search(value):  # A gateway may quote another service's response with its escapes.
                value = re.sub("".join(map(_escaped, secret)), "***", value)
            value = _redact_truncated(value, secret)
        return value
    if isinstance(value, list):
        return [_redact(item, secrets) for item in value]
    if isinstance(value, dict):
        return {_redact(key, secrets): _redact(item, secrets) for key, item in value.items()}
    return value


def _redact_truncated(text: str, secret: str) -> str:
    """Replace the beginning of a secret at the end of a text, where the service truncated the text."""
    if not (found := list(re.finditer("".join(map(_escaped, secret[:_MIN_SECRET_LENGTH])), text))):
        return text
    end = found[-1].end()
    for character in secret[_MIN_SECRET_LENGTH:]:
        if (match := re.compile(_escaped(character)).match(text, end)) is None:
            break
        end = match.end()
    return f"{text[: found[-1].start()]}***" if _UNFINISHED_ESCAPE.fullmatch(text, end) else text


def _escaped(character: str) -> str:
    """Return a pattern that matches a character as it is, and in the escapes of JSON, C, URLs and HTML."""
    code, utf8 = ord(character), "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in character.encode("utf-8", "replace"))
    # No two spellings match the same text: otherwise the time for a text that ends within the secret would double with
    # each character of the secret. The repetitions of a backslash are bounded: otherwise the time for a text of
    # backslashes would grow with the square of its length.
    spellings = [
        rf"\\{{0,9}}{re.escape(character)}", rf"\\{{1,9}}(?:u\{{?|x|U)0*{code:x}\}}?", rf"\\{{1,9}}0?{code:o}", utf8,
        f"&#x0*{code:x};", f"&#0*{code};",
    ]  # fmt: skip
    if (entity := html.escape(character)) != character:
        spellings.append(re.escape(entity))
    if code > 0xFFFF:
        pair = character.encode("utf-16-be").hex()
        spellings.append(rf"\\{{1,9}}u{pair[:4]}\\{{1,9}}u{pair[4:]}")
    return f"(?:{spellings[0]}|(?i:{'|'.join(spellings[1:])}))"
