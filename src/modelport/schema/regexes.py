r"""Translates Python's regular expressions for engines that enforce them, and matches output against them.

In this module, "engines" are those that constrain a model's output. `fullmatch` validates output of the type `Regex`,
and `search` validates a string against the `pattern` of a JSON schema. These rules hold:

- A `Regex` means the same to the engine that enforces it and to the validation of the output, with one rare exception
  under `(?i)`.
- In a `Regex`, `\d`, `\w`, `\s` and `\b` are written out as ASCII classes, because that is what people mean by them.
  Otherwise engines would allow any of Unicode's 760 digits for `\d`, and a model at high temperature would write them.
- `(?i)` follows Unicode's case rules, as in the engines. Python's `re.ASCII` would change the case rules along with the
  classes, so it is not used. Python counts `ı` and `İ` as cases of `i`; the engines don't. Therefore the validation can
  reject output that an engine allows, but only for these two characters in a negated class under `(?i)`.
- Matching takes bounded time. Rust's regex engine, which is part of pydantic, takes linear time. Python's regex engine
  takes exponential time for `(a+)+b` and a long run of `a`, and holds the GIL meanwhile, so that no time limit can stop
  it.
- Rust's regex engine lacks look-around, back references and possessive quantifiers, and refuses large patterns. Such
  patterns are matched by Python's, if an upper bound of its steps, computed from the parsed pattern, is small enough.
  Otherwise they are refused.
- Reading a pattern takes bounded time too. No pattern may be longer than `MAX_PATTERN_LENGTH`. Whether a pattern is
  valid is decided by parsing it, because `re.compile` takes 6 ms for one wide class under `(?i)`. Compiling is left to
  the match, and its cost counts as steps of the match.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.schema.regex_bounds import max_python_steps, parse, state_count, wide_class_count
from modelport.schema.time_limit import check_time

_CHARACTER_CODE = r"N\{[^}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}"
#: A count of repetitions, such as `{2,5}`.
_COUNT = r"\{(?=[\d,])\d*(?:,\d*)?\}"
_TOKEN = rf"""
    \[(?P<not>\^?)(?P<class>\]?(?:\\[\s\S]|[^\]\\])*)\]
    | (?P<escape>\\(?:{_CHARACTER_CODE}|0[0-7]{{0,2}}|[0-3][0-7]{{2}}|[\s\S]))
    | (?P<comment>\(\?\#[^)]*\))
    | \(\?(?P<set>[aimsux]*)(?P<unset>(?:-[imsx]+)?)(?P<end>[:)])
    | (?P<unsupported>\(\?[>(]|\(\?P=|(?:[*+?]|{_COUNT})\+)
    | (?P<count>{_COUNT})
    | (?P<literal>[/\n{{])
"""
#: The tokens of a pattern that a translation may change. Everything else in a pattern remains as it is. In a construct
#: with flags, such as `(?i-s:`, the group `set` matches `i`, `unset` matches `-s`, and `end` matches `:`.
_TOKENS = re.compile(_TOKEN, re.VERBOSE)
#: The same tokens for a pattern with the flag `(?x)`, in which white space and comments are skipped.
_VERBOSE_TOKENS = re.compile(rf"(?P<skipped>\#[^\n]*|[ \t\n\r\f\v])|{_TOKEN}", re.VERBOSE)
_CLASS_CHARACTER = rf"\\(?:{_CHARACTER_CODE}|[0-7]{{1,3}}|[\s\S])|[\s\S]"
#: An item of a character class: a character, an escape, or a range.
_CLASS_ITEMS = re.compile(rf"({_CLASS_CHARACTER})(?:-({_CLASS_CHARACTER}))?")
_ASCII_CLASSES = {r"\d": "0-9", r"\w": "A-Za-z0-9_", r"\s": r" \t\n\r\f\v"}
_WORD = "[" + _ASCII_CLASSES[r"\w"] + "]"
_ASCII_BOUNDARIES = {
    r"\b": f"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))",
    r"\B": f"(?:(?<={_WORD})(?={_WORD})|(?<!{_WORD})(?!{_WORD}))",
}
#: What `\d`, `\w` and `\s` match in Python without the ASCII rule, in Rust's syntax.
_UNICODE_CLASSES = {r"\d": r"\d", r"\w": r"\p{L}\p{N}_", r"\s": r"\s\x1c-\x1f"}
#: `\b` and `\B` with the ASCII rule, in Rust's syntax.
_RUST_ASCII_BOUNDARIES = {r"\b": r"(?-u:\b)", r"\B": r"(?-u:\B)"}
_UNSUPPORTED_CONSTRUCTS = {"(?>": "an atomic group", "(?(": "a conditional", "(?P=": "a back reference"}


@lru_cache(256)
def for_python(pattern: str) -> str:
    """Translate a pattern so that Python's `re`, without flags, matches it with the meaning that a `Regex` has."""

    def translate_token(match: re.Match[str]) -> str:
        if match["class"] is not None:
            return _python_class(match["class"], match["not"])
        if (escape := match["escape"]) is not None:
            return _expand_class_escape(escape) or _ASCII_BOUNDARIES.get(escape, escape)
        return match[0] if match["end"] is None else _flag_group(match, re.sub("[au]", "", match["set"]))

    return _tokens_of(pattern).sub(translate_token, pattern)


@lru_cache(256)
def for_engines(pattern: str) -> str:
    """Translate a pattern to the syntax that engines enforce: Rust's, with slashes escaped as in a Lark grammar.

    Raises:
        UnsupportedFeature: The pattern has a construct that engines can't enforce.
    """
    return _for_rust(pattern, _ASCII_CLASSES, {})


def _for_rust(pattern: str, classes: Mapping[str, str], boundaries: Mapping[str, str]) -> str:
    r"""Translate a pattern to Rust's syntax.

    Args:
        pattern: A pattern in Python's syntax.
        classes: What replaces `\d`, `\w` and `\s`, without the brackets of a character class.
        boundaries: What replaces `\b` and `\B`; an empty mapping leaves them as they are.

    Raises:
        UnsupportedFeature: The pattern has a construct that Rust's engine lacks.
    """

    def translate_token(match: re.Match[str]) -> str:
        if match["class"] is not None:
            return f"[{match['not']}{_CLASS_ITEMS.sub(translate_item, match['class'])}]"
        if (escape := match["escape"]) is not None:
            return (
                _expand_class_escape(escape, classes)
                or boundaries.get(escape)
                or {r"\Z": r"\z"}.get(escape)
                or _rust_escape(escape)
            )
        if match["end"] is not None:
            if "x" in match["unset"] or ("x" in match["set"] and match["end"] == ":"):
                raise _unsupported(pattern, f"{match[0]!r}, a group with the verbose flag")
            if "a" in match["set"] and classes is not _ASCII_CLASSES:
                raise _unsupported(pattern, f"{match[0]!r}, a flag that Rust does not know")
            # `x` is not needed, because the translation removes the white space and comments of a verbose pattern.
            return _flag_group(match, re.sub("[aux]", "", match["set"]))
        if (construct := match["unsupported"]) is not None:
            # An engine would read the `+` of a possessive quantifier, such as `*+`, as one more repetition.
            meaning = _UNSUPPORTED_CONSTRUCTS.get(construct, "a possessive quantifier")
            raise _unsupported(pattern, f"{construct!r}, {meaning}")
        if (count := match["count"]) is not None:
            return count.replace("{,", "{0,")
        return {"/": r"\/", "\n": r"\n", "{": r"\{"}[match[0]] if match["literal"] else ""

    def translate_item(match: re.Match[str]) -> str:
        first, last = match[1], match[2]
        if last is not None:
            return f"{_rust_class_item(first)}-{_rust_class_item(last)}"
        if first.lower() in _ASCII_CLASSES:
            return classes.get(first) or f"[^{classes[first.lower()]}]"
        return _rust_class_item(first)

    return _tokens_of(pattern).sub(translate_token, pattern)


def fullmatch(pattern: str, text: str) -> bool:
    """Return whether the pattern matches the complete text. The pattern has the meaning of a `Regex`.

    Raises:
        InvalidRequest: Matching could take too long.
    """
    return _matches(pattern, text, full=True)


def search(pattern: str, text: str) -> bool:
    """Return whether the pattern matches somewhere in the text. The pattern has the meaning that it has in Python.

    There is one exception: if Rust's engine matches the pattern, `$` matches only at the end of the text, as in JSON
    Schema, and not before a newline at the end.

    Raises:
        InvalidRequest: Matching could take too long.
        re.error: The pattern is not a regular expression.
    """
    return _matches(pattern, text, full=False)


def _matches(pattern: str, text: str, *, full: bool) -> bool:
    states, matchers = _rust_matchers(pattern, full)
    if (rust_steps := states * max(1, len(text))) <= _MAX_RUST_STEPS:
        check_time(long_step=rust_steps > _MAX_STEPS_ON_LOOP)
        if _SURROGATE.search(text):
            # A JSON string can contain half a surrogate pair, which Rust does not accept as a character.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return all(matches(text) is expected for expected, matches in matchers)
    if (python_steps := max_python_steps(pattern, len(text), full)) <= _MAX_PYTHON_STEPS:
        check_time(long_step=python_steps > _MAX_STEPS_ON_LOOP)
        # The time for compiling is part of the steps.
        return (re.fullmatch(for_python(pattern), text) if full else re.search(pattern, text)) is not None
    raise InvalidRequest(
        f"matching {pattern[:200]!r} with {len(text)} characters could take too long: write it without look-around, "
        "back references and possessive quantifiers, and with smaller counts"
    )


_SURROGATE = re.compile("[\ud800-\udfff]")
#: The numbers of steps that take the regex engines of Python and Rust about a second.
_MAX_PYTHON_STEPS, _MAX_RUST_STEPS = 10**7, 10**8
#: The most steps on an event loop: 10 ms.
_MAX_STEPS_ON_LOOP = 10**6


@lru_cache(256)
def _rust_matchers(pattern: str, full: bool) -> tuple[float, list[tuple[bool, Callable[[str], bool]]]]:
    """Return functions that match in linear time, with Rust's engine, and together decide whether the pattern matches.

    Rust's engine lacks look-aheads. So a pattern that starts with look-aheads is split: there is one function for each
    look-ahead and one for the remaining pattern.

    Returns:
        The most steps that the functions take for one character, or infinity if Rust's engine can't match the pattern;
        and pairs of the result that a function must return if the pattern matches, and the function.
    """
    from pydantic_core import SchemaError, SchemaValidator

    classes, boundaries = (_ASCII_CLASSES, _RUST_ASCII_BOUNDARIES) if full else (_UNICODE_CLASSES, {})

    def compile_in_rust(part: str, template: str) -> Callable[[str], bool]:
        check_time()
        schema: Any = {"type": "str", "regex_engine": "rust-regex", "strict": True}
        schema["pattern"] = template.format(_for_rust(part, classes, boundaries))
        return SchemaValidator(schema).isinstance_python

    tree = parse(pattern)
    states, wide_classes = state_count(tree), wide_class_count(tree)
    if wide_classes > _MAX_WIDE_CLASSES:
        return math.inf, []
    check_time(long_step=states > 100 or wide_classes > 10 or len(pattern) > 1000)
    try:
        return states, [(True, compile_in_rust(pattern, r"\A(?:{})\z" if full else "{}"))]
    except (SchemaError, UnsupportedFeature):
        pass
    lookaheads, remainder = _split_lookaheads(pattern, full)
    try:
        matchers = [(expected, compile_in_rust(part, r"\A(?:{})")) for expected, part in lookaheads]
        matchers.append((True, compile_in_rust(remainder, r"\A(?:{})\z" if full else r"\A(?:{})")))
        return states if lookaheads else math.inf, matchers
    except (SchemaError, UnsupportedFeature, re.error):
        # `re.error`: a part of the pattern can be invalid alone, such as a back reference to a group in another part.
        return math.inf, []


#: Rust's engine takes up to 0.3 ms to compile a wide class, so that this many take it 90 ms.
_MAX_WIDE_CLASSES = 300
#: An escape, a character class, or (as group 1) a parenthesis or a bar.
_STRUCTURE = re.compile(r"\\[\s\S]|\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]|([()|])")


def _split_lookaheads(pattern: str, full: bool) -> tuple[list[tuple[bool, str]], str]:
    """Split a pattern into the look-aheads at its start and the remaining pattern.

    Returns:
        Pairs of whether the look-ahead must match and its pattern; and the remaining pattern.
    """
    anchor = re.match(r"\^|\\A", pattern)
    remainder = pattern[anchor.end() :] if anchor else pattern
    lookaheads: list[tuple[bool, str]] = []
    while (anchor or full) and remainder.startswith(("(?=", "(?!")):
        depth, end = 0, len(remainder)
        for mark in _STRUCTURE.finditer(remainder):
            depth += {"(": 1, ")": -1}.get(mark[1], 0)
            if depth == 0:
                end = mark.end()
                break
        lookaheads.append((remainder[2] == "=", remainder[3 : end - 1]))
        remainder = remainder[end:]
    depth = 0
    for mark in _STRUCTURE.finditer(remainder):
        depth += {"(": 1, ")": -1}.get(mark[1], 0)
        # If the pattern has alternatives at its top level, the look-aheads belong only to the first alternative.
        if depth == 0 and mark[1] == "|":
            return [], pattern
    return lookaheads, remainder


def _tokens_of(pattern: str) -> re.Pattern[str]:
    return _VERBOSE_TOKENS if parse(pattern).state.flags & re.VERBOSE else _TOKENS


def _flag_group(match: re.Match[str], flags: str) -> str:
    """Return a matched group with flags, such as `(?i:`, with `flags` instead; nothing if it would be `(?)`."""
    group = f"(?{flags}{match['unset']}{match['end']}"
    return "" if group == "(?)" else group


def _expand_class_escape(escape: str, classes: Mapping[str, str] = _ASCII_CLASSES) -> str:
    r"""Return the character class for an escape such as `\d` or `\D`, or an empty string for any other escape."""
    if escape.lower() not in classes:
        return ""
    return f"[{'' if escape in classes else '^'}{classes[escape.lower()]}]"


def _python_class(items: str, negated: str) -> str:
    r"""Return a character class for Python's engine.

    Python has no nested classes, so `[\W_]` becomes a choice between two classes. `negated` is `^` or empty.
    """
    negated_classes: list[str] = []

    def translate_item(match: re.Match[str]) -> str:
        if match[2] is None and match[1].lower() in _ASCII_CLASSES and match[1] not in _ASCII_CLASSES:
            negated_classes.append(_expand_class_escape(match[1]))
            return ""
        return match[0] if match[2] else _ASCII_CLASSES.get(match[1], match[1])

    plain = _CLASS_ITEMS.sub(translate_item, items)
    if not negated_classes:
        return f"[{negated}{plain}]"
    choice = "|".join([*negated_classes, *([f"[{plain}]"] if plain else ())])
    return f"(?:(?!{choice})[\\x00-\\U0010ffff])" if negated else f"(?:{choice})"


def _rust_escape(escape: str) -> str:
    """Translate Python's escape for one character or a position to Rust's syntax."""
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
    # To Rust, an escaped `<` or `>` is the edge of a word, and an escaped non-ASCII character is an error.
    return rest if rest in "<>" or not rest.isascii() else escape


def _rust_class_item(item: str) -> str:
    """Return an item of a character class in Rust's syntax."""
    if item == r"\b":
        return r"\x08"
    if item[0] == "\\":
        return f"\\x{int(item[1:], 8):02x}" if item[1:].isdigit() else _rust_escape(item)
    # To Rust, some of these characters are operators within a class, and `[` starts a nested class.
    return {"\n": r"\n"}.get(item) or (f"\\{item}" if item in "[]&~-^/" else item)


def _unsupported(pattern: str, construct: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"grammar: engines can't enforce Regex({pattern!r}): it has {construct}. Write it without", parameter="grammar"
    )
