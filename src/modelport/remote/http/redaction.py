"""Keeps the secrets of a request out of errors, logs and tracebacks.

The rules:

- The secrets of a request are the values of its headers and query parameters. Two kinds of values are not secrets:
  those of harmless names, such as `Accept`, and those of less than eight characters.
- If a name says that its value is a credential (`Authorization`, `Cookie`), each part of the value is a secret too: the
  key after `Bearer`, each cookie, the password that `Basic` encodes.
- A text that a service sent is redacted before an error quotes it, because some services quote the key that they
  refuse. A secret is also found if its characters are escaped as in JSON, C, URLs or HTML, and if the text ends in the
  middle of the secret.
- The output of the model is not changed, even if it contains a secret.
- Headers and query parameters are passed as `HiddenStr`, whose `repr` is `'***'`. So logs, and tracebacks that show
  local variables, do not show them.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from modelport.secrets import HiddenStr as HiddenStr
from modelport.secrets import names_secret

#: Headers and parameters whose values are not secrets. If a service quotes such a value, it helps to find the mistake.
_HARMLESS_NAME = re.compile(
    r"accept.*|content-.*|user-agent|host|connection|x-stainless-.*|openai-(organization|project)|api-version", re.I
)
_MIN_SECRET_LENGTH = 8

_ESCAPE = re.compile(r"[\\%&]")
#: Nothing, or the beginning of an escaped character.
_UNFINISHED_ESCAPE = re.compile(r"(?:\\+\w{0,3}|%\w{0,3}|&#?\w{0,3})?")


def with_hidden_repr(value: Any) -> Any:
    """Return a string as a `HiddenStr` with the same text, and any other value unchanged."""
    return HiddenStr(value) if isinstance(value, str) else value


def secrets_in(*mappings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the secrets in headers and query parameters, the longest first.

    Args:
        *mappings: Headers or query parameters, by name.
    """
    found: set[str] = set()
    for mapping in mappings:
        for name, value in mapping.items():
            if isinstance(value, str) and not _HARMLESS_NAME.fullmatch(str(name)):
                found.add(HiddenStr(value))
                if names_secret(str(name)):
                    found.update(map(HiddenStr, _quotable_parts(value)))
    return tuple(sorted((secret for secret in found if len(secret) >= _MIN_SECRET_LENGTH), key=len, reverse=True))


def _quotable_parts(value: str) -> Iterator[str]:
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
        value: A string, or nested lists and dicts with strings.
        secrets: The secrets of the request, as `secrets_in` returns them.
    """
    try:
        return _redact(value, secrets)
    except RecursionError:
        return "something nested too deep to be shown"


def _redact(value: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
            if _ESCAPE.search(value):  # A gateway may quote another service's JSON, in which characters are escaped.
                value = re.sub("".join(map(_character_pattern, secret)), "***", value)
            value = _redact_truncated(value, secret)
        return value
    if isinstance(value, list):
        return [_redact(item, secrets) for item in value]
    if isinstance(value, dict):
        return {_redact(key, secrets): _redact(item, secrets) for key, item in value.items()}
    return value


def _redact_truncated(text: str, secret: str) -> str:
    """Replace the first characters of a secret (at least eight) if a truncated text ends with them."""
    if not (found := list(re.finditer("".join(map(_character_pattern, secret[:_MIN_SECRET_LENGTH])), text))):
        return text
    end = found[-1].end()
    for character in secret[_MIN_SECRET_LENGTH:]:
        if (match := re.compile(_character_pattern(character)).match(text, end)) is None:
            break
        end = match.end()
    return f"{text[: found[-1].start()]}***" if _UNFINISHED_ESCAPE.fullmatch(text, end) else text


def _character_pattern(character: str) -> str:
    """Return a pattern that matches a character as it is, and in the escapes of JSON, C, URLs and HTML."""
    code, utf8 = ord(character), character.encode("utf-8", "replace")
    # If a URL is a parameter of another URL, its percent signs are escaped too, as %25.
    percent_encoded = "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in utf8)
    # No two spellings match the same text. Otherwise, where a text contains only the beginning of the secret, all
    # combinations of spellings would be tried, and each character of the secret would double the time. The repetitions
    # of a backslash are bounded. Otherwise the time for a text of backslashes would grow with the square of its length.
    spellings = [
        rf"\\{{0,9}}{re.escape(character)}", rf"\\{{1,9}}(?:u\{{?|x|U)0*{code:x}\}}?", rf"\\{{1,9}}0?{code:o}",
        percent_encoded, f"&#x0*{code:x};", f"&#0*{code};",
    ]  # fmt: skip
    if (entity := html.escape(character)) != character:
        spellings.append(re.escape(entity))
    if code > 0xFFFF:
        pair = character.encode("utf-16-be").hex()
        spellings.append(rf"\\{{1,9}}u{pair[:4]}\\{{1,9}}u{pair[4:]}")
    return f"(?:{spellings[0]}|(?i:{'|'.join(spellings[1:])}))"
