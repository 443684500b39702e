"""Removes the secrets of a request from what a service quotes."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from modelport.secrets import names_secret

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
