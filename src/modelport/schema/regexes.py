r"""Python's regular expressions as the engines' masks read them, and as answers are held against them.

The two agree. `\d`, `\w`, `\s` and `\b` are spelt out as ASCII, as people mean them: to the engines `\d` is any of
Unicode's 760 digits, and a model at high temperature will write them. `(?i)` goes by Unicode's cases, as it does in the
engines; Python's `re.ASCII` would change that along with the classes. (To Python `ı` and `İ` are cases of `i`, to the
engines they are not: the check takes what the mask does, but for those two in a negated class under `(?i)`.)

Answers are matched by Rust's engine, which comes with pydantic and takes linear time: Python's own would go on for ever
at `(a+)+b` and a row of `a`, and hold the GIL meanwhile, so that no time limit could end it. What Rust's engine lacks
(look-around, back references, possessive quantifiers) or finds too large is left to Python's, for as long as it can't
take many steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature

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
#: The shorthands as Python has them in Rust, and the edges of words as Rust has them in ASCII.
_UNICODE = {r"\d": r"\d", r"\w": r"\p{L}\p{N}_", r"\s": r"\s\x1c-\x1f"}
_ASCII_EDGES = {r"\b": r"(?-u:\b)", r"\B": r"(?-u:\B)"}
_NO_MASK = {"(?>": "an atomic group", "(?(": "a conditional", "(?P=": "a back reference"}


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
    return _for_rust(pattern, _SPELT, {})


def _for_rust(pattern: str, spelt: Mapping[str, str], edges: Mapping[str, str]) -> str:
    def token(match: re.Match[str]) -> str:
        if match["class"] is not None:
            return f"[{match['not']}{_IN_CLASS.sub(item, match['class'])}]"
        if (escape := match["escape"]) is not None:
            return _shorthand(escape, spelt) or edges.get(escape) or {r"\Z": r"\z"}.get(escape) or _character(escape)
        if match["end"] is not None:
            if "x" in match["unset"] or ("x" in match["set"] and match["end"] == ":"):
                raise _refused(pattern, f"{match[0]!r}, a verbose group")
            if "a" in match["set"] and spelt is not _SPELT:
                raise _refused(pattern, f"{match[0]!r}, a flag that Rust does not know")
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
            return spelt.get(first) or f"[^{spelt[first.lower()]}]"
        return _in_class(first)

    return _tokens(pattern).sub(token, pattern)


def fullmatch(pattern: str, text: str) -> bool:
    """Whether the pattern matches all of the text, with the meaning that `Regex` gives it.

    Raises:
        InvalidRequest: Matching it could take too long.
    """
    return _matches(pattern, text, True)


def search(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text, with the meaning that Python gives it.

    `$` is the end of the text, as JSON schemas have it, and not also the place before a last newline.

    Raises:
        InvalidRequest: Matching it could take too long.
        re.error: It is no regular expression.
    """
    return _matches(pattern, text, False)


def _matches(pattern: str, text: str, whole: bool) -> bool:
    size, parts = _in_rust(pattern, whole)
    if size * max(1, len(text)) <= _MOST_STEPS_IN_RUST:
        # Half a surrogate pair, which JSON can spell, is no character to Rust.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _HALF.search(text) else text
        return all(matches(text) is wanted for wanted, matches in parts)
    if _steps(pattern, len(text), whole) <= _MOST_STEPS:
        return (re.fullmatch(for_python(pattern), text) if whole else re.search(pattern, text)) is not None
    raise InvalidRequest(
        f"matching {pattern[:200]!r} with {len(text)} characters could take too long: say it without look-around, back "
        "references and possessive quantifiers, and with smaller counts"
    )


_HALF = re.compile("[\ud800-\udfff]")
#: What takes about a second.
_MOST_STEPS, _MOST_STEPS_IN_RUST = 10**7, 10**8


@lru_cache(256)
def _in_rust(pattern: str, whole: bool) -> tuple[float, list[tuple[bool, Callable[[str], bool]]]]:
    """What matches in linear time, each with what it must say of a text; before them the most steps for a character.

    That many are without an end where Rust's engine can't.
    """
    from pydantic_core import SchemaError, SchemaValidator

    spelt, edges = (_SPELT, _ASCII_EDGES) if whole else (_UNICODE, {})

    def rust(part: str, form: str) -> Callable[[str], bool]:
        schema: Any = {"type": "str", "regex_engine": "rust-regex", "strict": True}
        schema["pattern"] = form.format(_for_rust(part, spelt, edges))
        return SchemaValidator(schema).isinstance_python

    size = _size(_tree(pattern))
    try:
        return size, [(True, rust(pattern, r"\A(?:{})\z" if whole else "{}"))]
    except (SchemaError, UnsupportedFeature):
        pass
    ahead, rest = _looking_ahead(pattern, whole)
    try:
        found = [(wanted, rust(part, r"\A(?:{})")) for wanted, part in ahead]
        found.append((True, rust(rest, r"\A(?:{})\z" if whole else r"\A(?:{})")))
        return size if ahead else math.inf, found
    except (SchemaError, UnsupportedFeature, re.error):  # one that is whole only beside the others
        return math.inf, []


_MARKS = re.compile(r"\\[\s\S]|\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]|([()|])")


def _looking_ahead(pattern: str, whole: bool) -> tuple[list[tuple[bool, str]], str]:
    """What a pattern looks ahead for at the text's beginning, each with whether it is wanted there; and the rest."""
    begin = re.match(r"\^|\\A", pattern)
    rest = pattern[begin.end() :] if begin else pattern
    found: list[tuple[bool, str]] = []
    while (begin or whole) and rest.startswith(("(?=", "(?!")):
        depth, end = 0, len(rest)
        for mark in _MARKS.finditer(rest):
            depth += {"(": 1, ")": -1}.get(mark[1], 0)
            if depth == 0:
                end = mark.end()
                break
        found.append((rest[2] == "=", rest[3 : end - 1]))
        rest = rest[end:]
    depth = 0
    for mark in _MARKS.finditer(rest):
        depth += {"(": 1, ")": -1}.get(mark[1], 0)
        # What it looks for is then only the first alternative's.
        if depth == 0 and mark[1] == "|":
            return [], pattern
    return found, rest


@lru_cache(256)
def _tree(pattern: str) -> Any:
    from re import _parser  # type: ignore[attr-defined]

    return _parser.parse(pattern)


def _size(tree: Any) -> float:
    """How many states Rust's engine may be in at a time."""
    size = 0.0
    for kind, of in tree:
        name = str(kind)
        if name == "SUBPATTERN":
            size += _size(of[3])
        elif name in ("ASSERT", "ASSERT_NOT"):
            size += _size(of[1])
        elif name == "BRANCH":
            size += sum(map(_size, of[1]))
        elif name.endswith("_REPEAT"):
            size += _size(of[2]) * min(max(of[0] + 1, of[1] if of[1] < _WITHOUT_END else 0), 10**9)
        else:
            size += 1
    return size


_WITHOUT_END = 2**31 - 1  # or more: the greatest count differs between Pythons


def _steps(pattern: str, length: int, whole: bool) -> float:
    """The most that Python's engine may take for a text of this length."""
    tree = _tree(pattern)
    anchored = whole or (str(next(iter(tree), [0, 0])[1]) in _BEGINNING and not tree.state.flags & re.MULTILINE)
    return _ways(tree, length)[1] * (1 if anchored else length + 1)


_BEGINNING = {"AT_BEGINNING", "AT_BEGINNING_STRING"}


def _ways(tree: Any, length: int) -> tuple[float, float]:
    """In how many ways it may match from one place, and the most steps of trying them all."""
    ways, steps = 1.0, 0.0
    for kind, of in tree:
        name, w, s = str(kind), 1.0, 1.0
        if name == "SUBPATTERN":
            w, s = _ways(of[3], length)
        elif name in ("ASSERT", "ASSERT_NOT"):
            s += _ways(of[1], length)[1]
        elif name == "ATOMIC_GROUP":
            s += _ways(of, length)[1]
        elif name in ("BRANCH", "GROUPREF_EXISTS"):
            each = [_ways(part, length) for part in of[1:] for part in (part if name == "BRANCH" else [part or []])]
            w, s = sum(one[0] for one in each), 1 + sum(one[1] for one in each)
        elif name.endswith("_REPEAT"):
            least, most = of[0], max(of[0], min(of[1], length))
            w, s = _ways(of[2], length)
            if w > 1:
                w = 2 ** min(200.0, (most + 1) * math.log2(w))
                s = w * (s + 1)
            else:
                w, s = most - least + 1.0, most * s + 1
            w = 1 if name.startswith("POSSESSIVE") else w
        elif name == "GROUPREF":
            s = length + 1.0
        steps += ways * s
        ways = min(ways * w, 2.0**400)
    return ways, steps


def _tokens(pattern: str) -> re.Pattern[str]:
    return _VERBOSE if re.compile(pattern).flags & re.VERBOSE else _PLAIN


def _flags(match: re.Match[str], kept: str) -> str:
    whole = f"(?{kept}{match['unset']}{match['end']}"
    return "" if whole == "(?)" else whole


def _shorthand(escape: str, spelt: Mapping[str, str] = _SPELT) -> str:
    if escape.lower() not in spelt:
        return ""
    return f"[{'' if escape in spelt else '^'}{spelt[escape.lower()]}]"


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
