"""The output types that a caller can request: `JSONSchema`, `Regex`, `Choice` and `Lark` (a context-free grammar).

An output type parses and checks the text that a model has written. It does not constrain the model while it writes:
`modelport.constrained` does that for local engines, and `modelport.protocols` requests it from services.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.json_text import excerpt, read_json
from modelport.schema.python_types import parse_json_as, to_schema_name
from modelport.schema.validation import mismatch


@dataclass(frozen=True)
class JSONSchema:
    """Output that is JSON text and valid against a schema.

    Args:
        schema: A JSON schema (draft 2020-12).
        name: The schema's name in requests: up to 64 letters, digits, `_` and `-`. Other characters become `_`.
        type: The Python type of the objects that `parse` returns, or `None` for plain dicts and lists.
    """

    schema: dict[str, Any]
    name: str = "answer"
    type: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidRequest(f"JSONSchema's name must be a string, not {type(self.name).__name__}")
        object.__setattr__(self, "name", to_schema_name(self.name))

    def parse(self, text: str) -> Any:
        """Parse and validate the text.

        Raises:
            ValueError: The text is not JSON, or not valid against the schema; the message says where.
        """
        if self.type is not None:
            # pydantic accepts NaN and infinities, which are not JSON. `read_json` raises `ValueError` for them.
            if _POSSIBLY_NOT_FINITE.search(text):
                read_json(text)
            return parse_json_as(self.type, text)
        value = read_json(text)
        if (problem := mismatch(self.schema, value)) is not None:
            raise ValueError(problem)
        return value

    def describe(self) -> str:
        """Return a description of the output type for a prompt."""
        return f"JSON that is valid against this JSON schema, and nothing else:\n{json.dumps(self.schema)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the output type as a dict of JSON types, which `grammar` and `response_format` accept.

        Raises:
            TypeError: The output type has a Python type, which JSON can't hold.
        """
        if self.type is not None:
            raise TypeError(f"the type {getattr(self.type, '__name__', self.type)} can't be stored as JSON")
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": self.schema}}


@dataclass(frozen=True)
class Regex:
    r"""Output that a regular expression matches from beginning to end.

    Args:
        pattern: The regular expression in Python's syntax. `\d`, `\w`, `\s` and `\b` follow the rules of ASCII, `(?i)`
            those of Unicode. Look-around and back-references can't be enforced by an engine. Output can still be
            validated against such a pattern, unless that could take too long.
    """

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise InvalidRequest(f"Regex takes a string, not {type(self.pattern).__name__}")
        from modelport.schema import regex_bounds

        try:
            regex_bounds.check(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InvalidRequest(f"Regex({self.pattern!r}) is not a valid regular expression: {error}") from None

    def parse(self, text: str) -> str:
        """Return the text if the expression matches it.

        Raises:
            ValueError: The expression does not match the text.
            InvalidRequest: Matching could take too long.
        """
        # The module is imported here because few programs need it, and `import modelport` must be fast.
        from modelport.schema import regexes

        if not regexes.fullmatch(self.pattern, text):
            raise ValueError(f"{excerpt(text)} does not match {excerpt(self.pattern)}")
        return text

    def for_engines(self) -> str:
        """Return the pattern in the syntax that engines read: that of Rust's `regex`, with slashes escaped.

        Raises:
            UnsupportedFeature: The pattern has a construct that engines can't enforce.
        """
        from modelport.schema import regexes

        return regexes.for_engines(self.pattern)

    def describe(self) -> str:
        """Return a description of the output type for a prompt."""
        return f"text that this regular expression matches as a whole, and nothing else: {self.pattern}"

    def to_dict(self) -> dict[str, Any]:
        """Return the output type as a dict of JSON types, which `grammar` and `response_format` accept."""
        return {"type": "regex", "value": self.pattern}


@dataclass(frozen=True)
class Choice:
    """Output that is one of several strings.

    Args:
        *options: The strings, or lists of strings. A string must not be empty.
    """

    options: tuple[str, ...]

    def __init__(self, *options: str | list[str] | tuple[str, ...]) -> None:
        flat = tuple(o for option in options for o in (option if isinstance(option, (list, tuple)) else [option]))
        if not flat or not all(isinstance(option, str) and option for option in flat):
            raise InvalidRequest(f"Choice needs at least one string, none of them empty; got {excerpt(flat)}")
        object.__setattr__(self, "options", flat)

    def parse(self, text: str) -> str:
        """Return the text if it is one of the options.

        Raises:
            ValueError: The text is not one of the options.
        """
        if text not in self.options:
            raise ValueError(f"{excerpt(text)} is none of {', '.join(map(excerpt, self.options))}")
        return text

    def describe(self) -> str:
        """Return a description of the output type for a prompt."""
        return f"exactly one of these, and nothing else: {json.dumps(self.options)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the output type as a dict of JSON types, which `grammar` and `response_format` accept."""
        return {"type": "choice", "value": list(self.options)}


@dataclass(frozen=True)
class Lark:
    """Output that follows a context-free grammar.

    Args:
        grammar: The grammar in llguidance's dialect of Lark; the start symbol is `start`.
            See https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
    """

    grammar: str

    def parse(self, text: str) -> str:
        """Return the text unchanged. Only backends that enforce the grammar accept a `Lark`, so there is no check."""
        return text

    def describe(self) -> str:
        """Return a description of the output type for a prompt."""
        return f"text of this Lark grammar, and nothing else:\n{self.grammar}"

    def to_dict(self) -> dict[str, Any]:
        """Return the output type as a dict of JSON types, which `grammar` and `response_format` accept."""
        return {"type": "lark", "value": self.grammar}


#: Matches every text that may contain a number which Python reads as an infinity or as NaN: `NaN`, `Infinity`, or a
#: number above the range of floats, such as `1e400`. It also matches some texts without one, such as `"NaN"`.
_POSSIBLY_NOT_FINITE = re.compile(r"NaN|Infinity|[0-9.]{300}|[eE]\+?0*[1-9][0-9]{2}")

#: Any output type; it is named after the option `grammar`.
Grammar = JSONSchema | Regex | Choice | Lark
