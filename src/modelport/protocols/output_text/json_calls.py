"""Reads tool calls whose arguments are JSON: `{"name": …, "arguments": {…}}`, or a name before the arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed lacks it.
from typing import Any

from modelport.protocols.output_text.calls import CallReader, Schemas, TextCall, check_number

_DECODER = json.JSONDecoder()
_SPACE, _BETWEEN = re.compile(r"\s*+"), re.compile(r"[\s,;]*+")
#: The names of the keys of a call. Models differ.
_NAME_KEYS, _ARGUMENTS_KEYS = ("name", "tool_name"), ("arguments", "parameters")
#: Further keys that chat templates write beside the arguments, such as those of Mistral, Cohere and Llama.
_OTHER_KEYS = frozenset({"id", "tool_call_id", "index", "type"})


def read_json_calls(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
    """Read JSON objects and lists of them, one after another; see `CallReader`."""
    return _read_values(text, position, name_is_key=False)


def read_keyed_calls(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
    """Read JSON objects whose only key is the name of a tool, as `[{"weather": {"city": "Paris"}}]`."""
    return _read_values(text, position, name_is_key=True)


def _read_values(text: str, position: int, name_is_key: bool) -> tuple[list[TextCall], int]:
    calls: list[TextCall] = []
    while True:
        start = _end(_SPACE, text, position)
        if not text.startswith(("{", "["), start):
            break
        try:
            value, end = _DECODER.raw_decode(text, start)
        except ValueError:
            break
        if calls and isinstance(value, list) and not any(isinstance(item, dict) for item in value):
            break  # Text such as `[1]` can follow a call.
        calls += calls_in(value, text[start:end], name_is_key)
        check_number(len(calls))
        position = _end(_BETWEEN, text, end)
    if not calls:
        raise ValueError("there is no call in JSON")
    return calls, position


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def calls_in(value: Any, text: str, name_is_key: bool = False) -> list[TextCall]:
    """Return the calls in a value that was written as a text.

    However many items of a list are no calls, the text is returned once for all of them, as an invalid call.

    Raises:
        MalformedResponse: There are too many calls.
    """
    found: list[TextCall] = []
    is_valid = True
    for item in value if isinstance(value, list) else [value]:
        call = _call_in(item, text if item is value else None, name_is_key)
        if call is not None:
            found.append(call)
            check_number(len(found))
        elif is_valid:
            is_valid = False
            found.append(TextCall("", text))
    return found


def _call_in(value: Any, text: str | None, name_is_key: bool) -> TextCall | None:
    """Return the call that a value is. `text` is the JSON text of the value, if it is known.

    An object with other keys is no call, because they can be arguments under a wrong key.
    """
    if not isinstance(value, dict):
        return None
    if name_is_key and len(value) == 1:
        ((name, arguments),) = value.items()
        return TextCall(name, as_json(arguments) or str(arguments))
    if isinstance(value.get("function"), dict):  # The form of OpenAI's API.
        if not value.keys() <= {"function", *_OTHER_KEYS}:
            return None
        value, text = value["function"], None
    names, keys = ([key for key in known if key in value] for known in (_NAME_KEYS, _ARGUMENTS_KEYS))
    if len(names) != 1 or len(keys) > 1 or not isinstance(name := value[names[0]], str):
        return None
    others = value.keys() - {*names, *keys}
    # Without a key for the arguments, the others can be arguments themselves.
    if not others <= (_OTHER_KEYS if keys else {"type"}) or value.get("type", "function") != "function":
        return None
    key = keys[0] if keys else "arguments"
    arguments = value.get(key, {})
    if not isinstance(arguments, str):
        # Arguments that the model wrote as JSON are returned as the same text. Encoding them again could change them,
        # for example the digits of a number.
        original = _original_json(text, key) if text is not None else None
        arguments = original or as_json(arguments) or str(arguments)
    return TextCall(name, arguments)


def write_json_calls(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return calls as a JSON list, given by their names and arguments."""
    return json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls], ensure_ascii=False)


def as_json(value: Any) -> str | None:
    """Return a value as JSON text, or `None` if it has a Python object that JSON does not have."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return None


#: The most keys of a call that `_original_json` reads. A call has two.
_MAX_KEYS = 32
_BEFORE_KEY, _BEFORE_VALUE = re.compile(r'[\s{,]*+"'), re.compile(r"\s*+:\s*+")


def _original_json(text: str, key: str) -> str | None:
    """Return the text of the value that a key has in the text of a JSON object, or `None` if the object lacks the key.

    If the key occurs several times, the last value counts, as in `json.loads`. An object with many keys is no call that
    a model would write: the result is `None`, because reading them one by one would take long.
    """
    value_text, position = None, 0
    for _ in range(_MAX_KEYS):
        if (before := _BEFORE_KEY.match(text, position)) is None:
            return value_text
        name, position = scanstring(text, before.end())
        between = _BEFORE_VALUE.match(text, position)
        assert between is not None  # The text is a valid JSON object.
        _, position = _DECODER.raw_decode(text, between.end())
        if name == key:
            value_text = text[between.end() : position]
    return None


def named_json(before: str, after: str = "") -> CallReader:
    """Return a reader of calls that are a name, then the arguments as a JSON object.

    Args:
        before: A regular expression for the text before the arguments, with the name as the group `name`.
        after: A regular expression for the text behind the arguments, which may be missing.
    """
    before_pattern, after_pattern = re.compile(before), re.compile(rf"(?:{after})?+\s*+")

    def read(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
        calls: list[TextCall] = []
        while match := before_pattern.match(text, _end(_SPACE, text, position)):
            start = _end(_SPACE, text, match.end())
            value, end = _DECODER.raw_decode(text, start)
            if not isinstance(value, dict):
                raise ValueError("the arguments are not an object")
            calls.append(TextCall(match["name"].strip(), text[start:end]))
            check_number(len(calls))
            position = _end(after_pattern, text, end)
        if not calls:
            raise ValueError("there is no call with a name before its arguments")
        return calls, position

    return read
