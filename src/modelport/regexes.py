r"""Python's regular expressions as the engines' masks read them, and as answers are held against them.

The two agree. `\d`, `\w`, `\s` and `\b` are spelt out as ASCII, as people mean them: to the engines `\d` is any of
Unicode's 760 digits, and a model at high temperature will write them. `(?i)` goes by Unicode's cases, as it does in the
engines; Python's `re.ASCII` would change that along with the classes. (To Python `ı` and `İ` are cases of `i`, to the
engines they are not: the check takes what the mask does, but for those two in a negated class under `(?i)`.)

Answers are matched by the `regex` package, which reads all that Python's `re` does, and can be told to stop: at
`(a+)+b` and a row of `a`, `re` would go on for ever, and hold the GIL meanwhile, so that no time limit could end it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature

#: Seconds that the matching of one answer may take: usual patterns take microseconds.
LONGEST = 1.0
#: What is left of them, where several matches share them.
_left: ContextVar[list[float] | None] = ContextVar("modelport_regexes_left", default=None)

_NAMED = r"N\{[^}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}"
_COUNT = r"\{(?=[\d,])\d*(?:,\d*)?\}"
_TOKEN = rf"""
    \[(?P<not>\^?)(?P<class>\]?(?:\\[\s\S]|[^\]\\])*)\]
    | (?P<escape>\\(?:{_NAMED}|0[0-7]{{0,2}}|[0-3][0-7]{{2}}|[\s\S]))
    | (?P<comment>\(\?\#[^)]*\))
    | \(\?(?P<set>[aimsux]*)(?P<unset>(?:-[imsx]+)?)(?P<end>[:)])
    | (?P<refused>\(\?[>(]|\(\?P=|(?:[*+?]|{_COUNT})\+)
    | (?P<count>{_COUNT})
    | (?P<literal>[/\n{{])
"""
_PLAIN = re.compile(_TOKEN, re.VERBOSE)
_VERBOSE = re.compile(rf"(?P<skipped>\#[^\n]*|[ \t\n\r\f\v])|{_TOKEN}", re.VERBOSE)
_ITEM = rf"\\(?:{_NAMED}|[0-7]{{1,3}}|[\s\S])|[\s\S]"
_IN_CLASS = re.compile(rf"({_ITEM})(?:-({_ITEM}))?")
_SPELT = {r"\d": "0-9", r"\w": "A-Za-z0-9_", r"\s": r" \t\n\r\f\v"}
_WORD = f"[{_SPELT[chr(92) + 'w']}]"
_EDGES = {
    r"\b": f"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))",
    r"\B": f"(?:(?<={_WORD})(?={_WORD})|(?<!{_WORD})(?!{_WORD}))",
}
_NO_MASK = {"(?>": "an atomic group", "(?(": "a conditional", "(?P=": "a back reference"}


def fullmatch(pattern: str, text: str) -> bool:
    """Whether the pattern matches all of the text, with the meaning that `Regex` gives it.

    Raises:
        InvalidRequest: It takes longer than `LONGEST`.
    """
    return _found(pattern, text, _compiled(for_python(pattern)).fullmatch)


def search(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text, with the meaning that Python gives it.

    Raises:
        InvalidRequest: It takes longer than `LONGEST`.
        re.error: It is no regular expression.
    """
    try:
        re.compile(pattern)  # The other package reads more.
    except (RecursionError, OverflowError) as error:
        raise re.error(str(error)) from None
    return _found(pattern, text, _compiled(pattern).search)


@contextmanager
def at_most() -> Iterator[None]:
    """All matching inside takes `LONGEST` together."""
    token = _left.set([LONGEST])
    try:
        yield
    finally:
        _left.reset(token)


def is_spent(seconds: float) -> bool:
    """Takes so much of `at_most`, for what else may be repeated without an end; whether there is nothing left."""
    left = _left.get() or [LONGEST]
    left[0] -= seconds
    return left[0] <= 0


def _found(pattern: str, text: str, match: Any) -> bool:
    left, begun = _left.get() or [LONGEST], time.monotonic()
    try:
        return match(text, timeout=max(left[0], 0.001)) is not None
    except TimeoutError:
        raise InvalidRequest(
            f"the regular expression {pattern[:200]!r} takes more than {LONGEST:g} s to match {len(text)} characters: "
            "write it so that it can match in one way only, without repeats of repeats such as '(a+)+'"
        ) from None
    finally:
        left[0] -= time.monotonic() - begun


@lru_cache(256)
def _compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern, regex.VERSION0)


@lru_cache(256)
def for_python(pattern: str) -> str:
    """The pattern to match answers with, without flags."""

    def token(match: re.Match[str]) -> str:
        if match["class"] is not None:
            return _python_class(match["class"], match["not"])
        if (escape := match["escape"]) is not None:
            return _shorthand(escape) or _EDGES.get(escape, escape)
        return match[0] if match["end"] is None else _flags(match, re.sub("[au]", "", match["set"]))

    return _tokens(pattern).sub(token, pattern)


@lru_cache(256)
def for_engines(pattern: str) -> str:
    """The pattern in the dialect of the engines' masks (Rust's), fit to stand between slashes.

    Raises:
        UnsupportedFeature: It has a construct to which no mask can hold an answer.
    """

    def token(match: re.Match[str]) -> str:
        if match["class"] is not None:
            return f"[{match['not']}{_IN_CLASS.sub(item, match['class'])}]"
        if (escape := match["escape"]) is not None:
            return _shorthand(escape) or {r"\Z": r"\z"}.get(escape) or _character(escape)
        if match["end"] is not None:
            if "x" in match["unset"] or ("x" in match["set"] and match["end"] == ":"):
                raise _refused(pattern, f"{match[0]!r}, a verbose group")
            return _flags(match, re.sub("[aux]", "", match["set"]))  # What is verbose is taken out here.
        if (refused := match["refused"]) is not None:
            what = _NO_MASK.get(refused, "a possessive quantifier")  # which the mask would take for one more `+`
            raise _refused(pattern, f"{refused!r}, {what}")
        if (count := match["count"]) is not None:
            return count.replace("{,", "{0,")
        return {"/": r"\/", "\n": r"\n", "{": r"\{"}[match[0]] if match["literal"] else ""

    def item(match: re.Match[str]) -> str:
        first, last = match[1], match[2]
        if last is not None:
            return f"{_in_class(first)}-{_in_class(last)}"
        if first.lower() in _SPELT:
            return _SPELT.get(first) or f"[^{_SPELT[first.lower()]}]"
        return _in_class(first)

    return _tokens(pattern).sub(token, pattern)


def _tokens(pattern: str) -> re.Pattern[str]:
    return _VERBOSE if re.compile(pattern).flags & re.VERBOSE else _PLAIN


def _flags(match: re.Match[str], kept: str) -> str:
    whole = f"(?{kept}{match['unset']}{match['end']}"
    return "" if whole == "(?)" else whole


def _shorthand(escape: str) -> str:
    if escape.lower() not in _SPELT:
        return ""
    return f"[{'' if escape in _SPELT else '^'}{_SPELT[escape.lower()]}]"


def _python_class(items: str, negated: str) -> str:
    r"""The class; Python has none within a class, so that `[\W_]` becomes a choice of two."""
    others: list[str] = []

    def item(match: re.Match[str]) -> str:
        if match[2] is None and match[1].lower() in _SPELT and match[1] not in _SPELT:
            others.append(_shorthand(match[1]))
            return ""
        return match[0] if match[2] else _SPELT.get(match[1], match[1])

    plain = _IN_CLASS.sub(item, items)
    if not others:
        return f"[{negated}{plain}]"
    any_of = "|".join([*others, *([f"[{plain}]"] if plain else ())])
    return f"(?:(?!{any_of})[\\x00-\\U0010ffff])" if negated else f"(?:{any_of})"


def _character(escape: str) -> str:
    """An escape that stands for one character or a place, as Rust writes it."""
    rest = escape[1:]
    if rest.startswith("N{"):
        import unicodedata

        return re.escape(unicodedata.lookup(rest[2:-1])).replace("\n", r"\n")
    if len(rest) > 1 and rest[0] in "xuU":
        return escape
    if rest[0] == "0" or (len(rest) > 1 and rest.isdigit()):
        return f"\\x{int(rest, 8):02x}"
    if rest == "\n":
        return r"\n"
    # Of these Rust makes the edges of words, or nothing.
    return rest if rest in "<>" or not rest.isascii() else escape


def _in_class(item: str) -> str:
    if item == r"\b":
        return r"\x08"
    if item[0] == "\\":
        return f"\\x{int(item[1:], 8):02x}" if item[1:].isdigit() else _character(item)
    # To Rust some are operators on classes, or begin one within.
    return {"\n": r"\n"}.get(item) or (f"\\{item}" if item in "[]&~-^/" else item)


def _refused(pattern: str, what: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"grammar: no mask can hold an answer to Regex({pattern!r}): it has {what}. Say it without", parameter="grammar"
    )
