"""Reads tool calls whose arguments stand between marks, one after another, as in XML."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from modelport.protocols.output_text.calls import CallReader, Schemas, TextCall, check_number
from modelport.protocols.output_text.values import arguments_text, property_names, property_schema, value_from_text

_GROUP_NAME = re.compile(r"\(\?P<\w+>")
#: How deeply the elements of `nested_elements` are nested.
_MAX_DEPTH = 64
_CDATA = re.compile(r"<!\[CDATA\[(.*)\]\]>", re.DOTALL)


def parameter_calls(
    call: str, argument: str, argument_end: str, call_end: str, *, open_argument: str = "", has_cdata: bool = False
) -> CallReader:
    """Return a reader of calls that are a name, then each argument between two marks.

    An argument ends at the first mark that is followed by the next argument or by the end of the call, so that its
    value may contain the spelling of the mark.

    Args:
        call: A regular expression for the beginning of a call, with its name as the group `name`.
        argument: One for the beginning of an argument, with the groups `key` and, if the model writes it, `type`.
        argument_end: One for the end of an argument.
        call_end: One for the end of a call.
        open_argument: One for the beginning of an argument, with the group `key`, where the model forgot the mark after
            the argument before. It counts only if the tool has an argument of this name that was not read yet, because
            a value may contain its spelling.
        has_cdata: Whether a value can be written as `<![CDATA[…]]>`.
    """
    next_argument = _GROUP_NAME.sub("(?:", argument)
    call_pattern, argument_pattern = re.compile(rf"\s*+{call}"), re.compile(rf"\s*+{argument}", re.DOTALL)
    value_end = re.compile(rf"{argument_end}(?=\s*+(?:{next_argument}|{call_end}))", re.DOTALL)
    end_pattern = re.compile(rf"\s*+(?:{call_end})\s*+")
    open_pattern = re.compile(open_argument) if open_argument else None

    def argument_inside(value: str, name: str, known: set[str], schemas: Schemas) -> re.Match[str] | None:
        """Return the beginning of a new argument within the value of another."""
        new = property_names(schemas, name) - known
        found = open_pattern.finditer(value) if open_pattern and new else ()
        return next((match for match in found if match["key"].strip() in new), None)

    def arguments_of(text: str, position: int, name: str, schemas: Schemas) -> tuple[dict[str, Any], int]:
        arguments = dict[str, Any]()
        while begin := argument_pattern.match(text, position):
            if (end := value_end.search(text, begin.end())) is None:
                raise ValueError("an argument does not end")
            key, value = begin["key"].strip(), text[begin.end() : end.start()]
            kind, position = _type_name(begin.groupdict().get("type")), end.end()
            if following := argument_inside(value, name, {*arguments, key}, schemas):
                value, position = value[: following.start()], begin.end() + following.start()
            if has_cdata and (data := _CDATA.fullmatch(value.strip())):
                arguments[key] = data[1]
            else:
                arguments[key] = value_from_text(value, property_schema(schemas, name, key), kind)
        if (end := end_pattern.match(text, position)) is None:
            raise ValueError("a call does not end")
        return arguments, end.end()

    return _reader(call_pattern, arguments_of)


def _reader(
    call_pattern: re.Pattern[str], arguments_of: Callable[[str, int, str, Schemas], tuple[dict[str, Any], int]]
) -> CallReader:
    """Return a reader of calls that begin with a name; `arguments_of` reads up to the end of a call."""

    def read(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
        calls: list[TextCall] = []
        while match := call_pattern.match(text, position):
            name = match["name"].strip()
            arguments, position = arguments_of(text, match.end(), name, schemas)
            calls.append(TextCall(name, arguments_text(arguments)))
            check_number(len(calls))
        if not calls:
            raise ValueError("there is no call with marks around its arguments")
        return calls, position

    return read


def _type_name(written: str | None) -> str | None:
    """Return the type of an argument, as the model wrote it beside the argument."""
    return {"true": "string", "false": None}.get(written, written) if written else None


def nested_elements(mark: str, call: str, call_end: str) -> CallReader:
    """Return a reader of calls whose arguments are nested elements, each named like its key; items of lists are `item`.

    Args:
        mark: The mark before each tag.
        call: A regular expression for the beginning of a call, with its name as the group `name`.
        call_end: One for the end of a call.
    """
    prefix = re.escape(mark)
    call_pattern, end_pattern = re.compile(rf"\s*+{call}"), re.compile(rf"\s*+{call_end}\s*+")
    tag_pattern = re.compile(rf"{prefix}<(?P<close>/?)(?P<key>[^<>]{{1,256}})>")

    def element(text: str, position: int, key: str, schema: Any, depth: int) -> tuple[Any, int]:
        """Read the content of an element, up to its closing tag."""
        if depth > _MAX_DEPTH:
            raise ValueError("the arguments are nested too deeply")
        members: list[tuple[str, Any]] = []
        start = position
        while tag := tag_pattern.search(text, position):
            if tag["close"]:
                if tag["key"] != key:
                    raise ValueError(f"the element {key!r} is not closed")
                return _element_value(members, text[start : tag.start()], schema), tag.end()
            value, position = element(text, tag.end(), tag["key"], _schema_inside(schema, tag["key"]), depth + 1)
            members.append((tag["key"], value))
        raise ValueError(f"the element {key!r} is not closed")

    def arguments_of(text: str, position: int, name: str, schemas: Schemas) -> tuple[dict[str, Any], int]:
        arguments = dict[str, Any]()
        while (end := end_pattern.match(text, position)) is None:
            tag = tag_pattern.search(text, position)
            if tag is None or tag["close"]:
                raise ValueError("a call does not end")
            schema = property_schema(schemas, name, tag["key"])
            arguments[tag["key"]], position = element(text, tag.end(), tag["key"], schema, 0)
        return arguments, end.end()

    return _reader(call_pattern, arguments_of)


def _element_value(members: list[tuple[str, Any]], text: str, schema: Any) -> Any:
    types = schema.get("type") if isinstance(schema, dict) else None
    if not members:
        if not text.strip() and types in ("object", "array"):
            return {} if types == "object" else []
        return value_from_text(text, schema)
    if types == "array" or (types != "object" and {key for key, _ in members} == {"item"}):
        return [value for _, value in members]
    return dict(members)


def _schema_inside(schema: Any, key: str) -> Any:
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "array":
        return schema.get("items")
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, dict) else None
