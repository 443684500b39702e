"""Reads the values of arguments that a model wrote as text instead of JSON.

`value_from_text` uses the schema of the argument: `3` is a text if the schema says so, and otherwise a number.
`read_literal` reads the literals of Python and JSON, and those of other languages with the same shape.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from modelport.schema.json_text import read_json

#: The most values in one literal, and how deeply they are nested.
MAX_VALUES, MAX_DEPTH = 2**16, 64
#: The most characters of a number.
_MAX_NUMBER = 1000

_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_SPACE = re.compile(r"\s*+")
#: A number has no leading zeros: `007` is an identifier, and an error in Python and JSON.
_NUMBER = re.compile(r"[-+]?(?:(?:0(?!\d)|[1-9]\d*+)(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?")
_WORD = re.compile(r"[^\W\d][\w.-]*+")
#: A quotation mark that no delimiter follows is a part of the string: some templates do not escape it.
_STRING = re.compile(
    r"""[uU]?("(?:[^"\\]|\\.|"(?!\s*+[,:)\]}]|\s*+\Z))*+"|'(?:[^'\\]|\\.|'(?!\s*+[,:)\]}]|\s*+\Z))*+')""", re.DOTALL
)
_LONG_STRING = re.compile(
    r'''[uU]?(?:"""((?:[^"\\]|\\.|"(?!""))*+)"""|\'\'\'((?:[^'\\]|\\.|'(?!''))*+)\'\'\')''', re.DOTALL
)
_ESCAPED = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|U(00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL
)
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", "\\": "\\", "/": "/", '"': '"', "'": "'"
}  # fmt: skip


class Literals(NamedTuple):
    """How the literals of a model differ from those of Python and JSON.

    Args:
        quotes: Further marks around strings, which contain no escapes.
        bare_keys: Whether the keys of objects are written without quotes.
    """

    quotes: tuple[str, ...] = ()
    bare_keys: bool = False


class LiteralReader:
    """Reads literals from a text, which ends nowhere in particular.

    Args:
        text: The text.
        literals: How its literals differ from those of Python.
    """

    def __init__(self, text: str, literals: Literals = Literals()) -> None:  # noqa: B008  # It is immutable.
        self._text, self._literals, self._count = text, literals, 0

    def skip(self, position: int) -> int:
        """Return the position behind white space."""
        match = _SPACE.match(self._text, position)
        return match.end() if match else position

    def value(self, position: int, depth: int = 0) -> tuple[Any, int]:
        """Read a value, and return it with the position behind it.

        Raises:
            ValueError: There is no literal, or it has too many values, or is nested too deeply.
        """
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError("the literal has too many values, or is nested too deeply")
        position = self.skip(position)
        for quote in self._literals.quotes:
            if self._text.startswith(quote, position):
                start = position + len(quote)
                end = self._text.index(quote, start)
                return self._text[start:end], end + len(quote)
        character = self._text[position : position + 1]
        if character in ("[", "("):
            return self._items(position + 1, depth, "]" if character == "[" else ")")
        if character == "{":
            return self.members(position + 1, "}", ":", depth)
        if match := _LONG_STRING.match(self._text, position):
            return _unescaped(match[1] or match[2] or ""), match.end()
        if match := _STRING.match(self._text, position):
            return _unescaped(match[1][1:-1]), match.end()
        if match := _NUMBER.match(self._text, position):
            if len(match[0]) > _MAX_NUMBER:
                raise ValueError("the literal has a number that is too long")
            return _number(match[0]), match.end()
        if (match := _WORD.match(self._text, position)) and match[0] in _CONSTANTS:
            return _CONSTANTS[match[0]], match.end()
        raise ValueError(f"there is no literal at {position}")

    def _items(self, position: int, depth: int, end: str) -> tuple[list[Any], int]:
        items: list[Any] = []
        while not self._text.startswith(end, position := self.skip(position)):
            item, position = self.value(position, depth + 1)
            items.append(item)
            position = self._separator(position, end)
        return items, position + 1

    def members(self, position: int, end: str, between: str, depth: int = 0) -> tuple[dict[str, Any], int]:
        """Read names and values up to an end mark, and return them with the position behind the mark.

        Args:
            position: Where to start.
            end: The mark at the end.
            between: The mark between a name and its value.
            depth: How deeply the members are nested.
        """
        members: dict[str, Any] = {}
        while not self._text.startswith(end, position := self.skip(position)):
            if (between == "=" or self._literals.bare_keys) and (match := _WORD.match(self._text, position)):
                key, position = match[0], match.end()
            else:
                key, position = self.value(position, depth + 1)
            position = self.skip(position)
            if not self._text.startswith(between, position):
                raise ValueError(f"there is no {between!r} at {position}")
            members[str(key)], position = self.value(position + len(between), depth + 1)
            position = self._separator(position, end)
        return members, position + len(end)

    def _separator(self, position: int, end: str) -> int:
        position = self.skip(position)
        if self._text.startswith(",", position):
            return position + 1
        if not self._text.startswith(end, position):
            raise ValueError(f"there is neither ',' nor {end!r} at {position}")
        return position


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if math.isinf(number):  # JSON does not have infinity.
        raise ValueError("the literal has a number that is too large")
    return number


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text

    def replacement(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        # As in Python, other escapes are not changed: `\d` occurs in regular expressions.
        return chr(int(code, 16)) if code else _ESCAPES.get(match[4], match[0])

    # JSON has two escapes for one character outside of the basic plane.
    return _ESCAPED.sub(replacement, text).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def read_literal(text: str, literals: Literals = Literals()) -> Any:  # noqa: B008  # It is immutable.
    """Return the value of a text that is one literal.

    Raises:
        ValueError: It is not.
    """
    reader = LiteralReader(text, literals)
    value, position = reader.value(0)
    if reader.skip(position) != len(text):
        raise ValueError("there is text behind the literal")
    return value


def value_from_text(text: str, schema: Any, type_name: str | None = None) -> Any:
    """Return the value of an argument that a model wrote as text.

    Args:
        text: The text.
        schema: The schema of the argument; `None` if the tool's schema does not have it.
        type_name: The type that the model wrote beside the value, as `string`; `None` if there is none.

    Returns:
        The text itself if the argument is a string, or if the text is no other value.
    """
    types = {type_name} if type_name else _types(schema)
    if types == {"string"}:
        return text
    try:
        value = read_json(text.strip())
    except ValueError:
        try:
            value = read_literal(text.strip())
        except ValueError:
            return text
        if not types and isinstance(value, int | float) and not isinstance(value, bool):
            return text  # Such as `+49`, which is a number in Python only.
    # Templates write strings without quotation marks, so those in the text are a part of the string.
    if "string" in types and (isinstance(value, str) or not _TYPE_NAMES.get(type(value), set()) & types):
        return text
    return value


_TYPE_NAMES: Mapping[type, set[str]] = {
    dict: {"object"}, list: {"array"}, bool: {"boolean"}, int: {"integer", "number"}, float: {"number"},
    type(None): {"null"}, str: {"string"},
}  # fmt: skip


def _types(schema: Any) -> set[str]:
    """Return the types that a schema allows; empty if it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    if "type" in schema:
        return {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return {name for value in values for name in _TYPE_NAMES.get(type(value), ())}
    options = [option for key in ("anyOf", "oneOf", "allOf") for option in schema.get(key, ())]
    return {name for option in options for name in _types(option)}


def property_schema(schemas: Mapping[str, Any], tool: str, name: str) -> Any:
    """Return the schema of an argument of a tool, or `None`."""
    root = schemas.get(tool)
    schema = _resolved(root, root, set())
    if not isinstance(schema, Mapping):
        return None
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return _resolved(schema.get("additionalProperties") if found is None else found, root, set())


def property_names(schemas: Mapping[str, Any], tool: str) -> set[str]:
    """Return the names of the arguments of a tool."""
    schema = _resolved(schemas.get(tool), schemas.get(tool), set())
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return set(properties) if isinstance(properties, Mapping) else set()


def _resolved(schema: Any, root: Any, seen: set[str], depth: int = 0) -> Any:
    """Return a schema without references to definitions, as far as `value_from_text` looks at it.

    Each definition is inserted once, because definitions can contain each other.
    """
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in seen:
            return None
        seen.add(reference)
        return _resolved(_definition(reference, root), root, seen, depth + 1)
    options = {
        key: [_resolved(option, root, seen, depth + 1) for option in schema[key]]
        for key in ("anyOf", "oneOf", "allOf")
        if isinstance(schema.get(key), list)
    }
    return {**schema, **options} if options else schema


def _definition(reference: str, root: Any) -> Any:
    """Return the schema at a JSON Pointer such as `#/$defs/Code`, or `None`."""
    if not reference.startswith("#"):
        return None
    for part in reference.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(root, list) and key.isdecimal() and int(key) < len(root):
            root = root[int(key)]
        else:
            root = root.get(key) if isinstance(root, Mapping) else None
    return root


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Return arguments as JSON text."""
    return json.dumps(arguments, ensure_ascii=False)
