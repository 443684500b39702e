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
import functools
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

#: The parts of a secret that can be matched one after the other, without going back. A part is one character, except
#: after a character with which escapes begin, and before a brace, which may end an escape.
_UNIT = re.compile(r"(?:[\\%&]|.(?=\}))*.", re.S)
_BACKSLASHES = re.compile(r"\\*")
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
        return _redact(value, [_SecretFinder(secret) for secret in secrets if secret])
    except RecursionError:
        return "something nested too deep to be shown"


def _redact(value: Any, finders: list[_SecretFinder]) -> Any:
    if isinstance(value, str):
        for finder in finders:
            value = finder.redact(value)
        return value
    if isinstance(value, list):
        return [_redact(item, finders) for item in value]
    if isinstance(value, dict):
        return {_redact(key, finders): _redact(item, finders) for key, item in value.items()}
    return value


class _SecretFinder:
    """Finds one secret in many texts. The patterns are made once, because a service may send thousands of texts.

    The first characters of the secret are found by one pattern, and the others are then compared one after the other.
    A pattern of all characters of a long token would take a third of a second to compile.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._min_length = min(len(secret), _MIN_SECRET_LENGTH)
        self._start = re.compile("".join(map(_character_pattern, secret[:_MIN_SECRET_LENGTH])))
        self._units = _UNIT.findall(secret)

    def redact(self, text: str) -> str:
        """Replace the secret, and the secret's first characters (at least eight) if a truncated text ends with them."""
        if len(text) < self._min_length:  # No spelling of a character is shorter than the character.
            return text
        text = text.replace(self._secret, "***")
        if (start := self._start.search(text)) is None:
            return text
        parts, copied = [], 0
        while start is not None:
            end, is_complete = self._match(text, start.start())
            if is_complete or _UNFINISHED_ESCAPE.fullmatch(text, end):
                parts += [text[copied : start.start()], "***"]
                copied = next_start = end if is_complete else len(text)
            else:
                # Backslashes in front of the first character do not change whether the others follow.
                backslashes = _BACKSLASHES.match(text, start.start() + 1)
                next_start = backslashes.end() if backslashes else start.start() + 1
            start = self._start.search(text, next_start)
        return "".join([*parts, text[copied:]])

    def _match(self, text: str, end: int) -> tuple[int, bool]:
        """Return where a text stops to agree with the secret, and whether the secret is complete there."""
        for unit in self._units:
            if len(unit) == 1 and unit not in "\\%&":
                if text.startswith(unit, end):  # Most characters are not escaped, and this is the fastest comparison.
                    end += 1
                    continue
                if not text.startswith(("\\", "%", "&"), end):
                    return end, False
            if match := _unit_pattern(unit).match(text, end):
                end = match.end()
                continue
            for length in range(len(unit) - 1, 0, -1):
                if match := _unit_pattern(unit[:length]).match(text, end):
                    return match.end(), False
            return end, False
        return end, True


@functools.lru_cache(maxsize=1024)
def _unit_pattern(unit: str) -> re.Pattern[str]:
    """Return the pattern of one unit of a secret, which is one character for most: the cache holds no secrets."""
    return re.compile("".join(map(_character_pattern, unit)))


def _character_pattern(character: str) -> str:
    """Return a pattern that matches a character as it is, and in the escapes of JSON, C, URLs and HTML."""
    code, utf8 = ord(character), character.encode("utf-8", "replace")
    # If a URL is a parameter of another URL, its percent signs are escaped too, as %25.
    percent_encoded = "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in utf8)
    # No two spellings match the same text. Otherwise, where a text contains only the beginning of the secret, all
    # combinations of spellings would be tried, and each character of the secret would double the time. The repetitions
    # of a backslash are bounded, and possessive (`{1,9}+`). Otherwise the time for a text of backslashes would be long.
    plain, escaped = re.escape(character), rf"(?:u\{{?|x|U)0*{code:x}\}}?|0?{code:o}"
    spellings = [percent_encoded, f"&#x0*{code:x};", f"&#0*{code};"]
    if (entity := html.escape(character)) != character:
        spellings.append(re.escape(entity))
    if code > 0xFFFF:
        pair = character.encode("utf-16-be").hex()
        spellings.append(rf"\\{{1,9}}+u{pair[:4]}\\{{1,9}}+u{pair[4:]}")
    others = "|".join(spellings)
    if character == "\\":
        return rf"(?:\\{{1,9}}+(?i:{escaped})|(?i:{others})|\\{{1,10}})"
    if character in "%&":  # As in `%25` and `&amp;`, an escape of these begins with the character itself.
        return rf"(?:\\{{1,9}}+(?:(?i:{escaped})|{plain})|(?i:{others})|{plain})"
    return rf"(?:{plain}|\\{{1,9}}+(?:(?i:{escaped})|{plain})|(?i:{others}))"
