"""The forms that a caller may ask an answer to have: a small language, apart from the engines that enforce it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.json_text import read_json
from modelport.schema.python_types import parsed, service_name
from modelport.schema.validation import mismatch


@dataclass(frozen=True)
class JSONSchema:
    """An answer that is JSON of this schema.

    Args:
        schema: A JSON schema (draft 2020-12).
        name: What services call it: letters, digits, `_` and `-`, up to 64. What else is in it becomes `_`.
        type: The Python type that `parse` builds, or `None` for plain dicts and lists.
    """

    schema: dict[str, Any]
    name: str = "answer"
    type: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidRequest(f"JSONSchema's name is a string, not {type(self.name).__name__}")
        object.__setattr__(self, "name", service_name(self.name))

    def parse(self, text: str) -> Any:
        """The object that `text` holds.

        Raises:
            ValueError: It is no JSON, or not of this schema; the message says where.
        """
        if self.type is not None:
            if _NOT_FINITE.search(text):  # which pydantic takes
                read_json(text)
            return parsed(self.type, text)
        value = read_json(text)
        if (problem := mismatch(self.schema, value)) is not None:
            raise ValueError(problem)
        return value

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"JSON that is valid against this JSON schema, and nothing else:\n{json.dumps(self.schema)}"


@dataclass(frozen=True)
class Regex:
    r"""An answer that this regular expression matches as a whole.

    Args:
        pattern: Python's syntax without look-around and back-references; `\d`, `\w` and `\s` are ASCII, the cases of
            letters (under `(?i)`) Unicode's. With look-around and back-references an answer can be checked, though no
            engine is held to it, for as long as that can't take long.
    """

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise InvalidRequest(f"Regex takes a string, not {type(self.pattern).__name__}")
        try:
            re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InvalidRequest(f"Regex({self.pattern!r}) is no valid regular expression: {error}") from None

    def parse(self, text: str) -> str:
        """The text itself.

        Raises:
            ValueError: The expression does not match it.
            InvalidRequest: Finding out could take too long; see `regexes`.
        """
        from modelport.schema import regexes  # Few programs have any.

        if not regexes.fullmatch(self.pattern, text):
            raise ValueError(f"{text!r} does not match {self.pattern!r}")
        return text

    def for_engines(self) -> str:
        """The pattern in the dialect of the engines' masks (Rust's), fit to stand between slashes.

        Raises:
            UnsupportedFeature: It has a construct to which no mask can hold an answer.
        """
        from modelport.schema import regexes

        return regexes.for_engines(self.pattern)

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"text that this regular expression matches as a whole, and nothing else: {self.pattern}"


@dataclass(frozen=True)
class Choice:
    """An answer that is one of these strings.

    Args:
        *options: The strings, or lists of them; none is empty.
    """

    options: tuple[str, ...]

    def __init__(self, *options: str | list[str] | tuple[str, ...]) -> None:
        flat = tuple(o for option in options for o in (option if isinstance(option, (list, tuple)) else [option]))
        if not flat or not all(isinstance(option, str) and option for option in flat):
            raise InvalidRequest(f"Choice needs at least one string, none of them empty; got {flat!r}")
        object.__setattr__(self, "options", flat)

    def parse(self, text: str) -> str:
        """The text itself.

        Raises:
            ValueError: It is none of the options.
        """
        if text not in self.options:
            raise ValueError(f"{text!r} is none of {', '.join(map(repr, self.options))}")
        return text

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"exactly one of these, and nothing else: {json.dumps(self.options)}"


@dataclass(frozen=True)
class Lark:
    """An answer of this context-free grammar.

    Args:
        grammar: In llguidance's dialect of Lark; the start symbol is `start`.
            See https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
    """

    grammar: str

    def parse(self, text: str) -> str:
        """The text itself; only an engine's mask can check a context-free grammar."""
        return text

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"text of this Lark grammar, and nothing else:\n{self.grammar}"


#: What there is in JSON text that holds an infinity or no number at all to Python; a string may hold it too.
_NOT_FINITE = re.compile(r"NaN|Infinity|[0-9.]{300}|[eE]\+?0*[1-9][0-9]{2}")

Grammar = JSONSchema | Regex | Choice | Lark
