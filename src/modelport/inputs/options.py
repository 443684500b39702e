"""The options of a call, or of a constructor, under one name each and in normal form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.messages import normalise_conversions
from modelport.inputs.output_types import grammar_from, grammar_from_response_format
from modelport.inputs.parameters import normalise_parameters, normalise_stop
from modelport.inputs.tool_choice import tool_choice_from


def _flag(name: str) -> Callable[[Any], bool]:
    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name}={value!r}: must be True or False", parameter=name)
        return value

    return read


def _tools(value: Any) -> Any:
    from modelport.inputs.tools import tools_from

    return tools_from(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "stop_sequences": normalise_stop,
    "stop": normalise_stop,
    "tools": _tools,
    "tools_to_call_from": _tools,
    "grammar": grammar_from,
    "response_format": grammar_from_response_format,
    "strict": _flag("strict"),
    "tool_choice": tool_choice_from,
    "custom_role_conversions": normalise_conversions,
    "flatten_messages_as_text": _flag("flatten_messages_as_text"),
}
_OTHER_NAMES = {"stop": "stop_sequences", "tools_to_call_from": "tools", "response_format": "grammar"}


def normalise_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options in normal form, so that a call's can be laid over a constructor's; `None` means "not given".

    Args:
        given: As callers write them. `stop`, `tools_to_call_from`, `response_format`, `max_new_tokens` and
            `max_completion_tokens` are other names.

    Raises:
        InvalidRequest: One is wrong, or was given under two names.
    """
    result: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        reader = _READERS.get(key)
        if reader is None:
            rest[key] = value
            continue
        name, normal = _OTHER_NAMES.get(key, key), reader(value)
        # Equal lists of tools are two wishes all the same: under each name another tool_choice is the default.
        if name in result and (result[name] != normal or name == "tools"):
            other = next(other for other, canonical in _OTHER_NAMES.items() if canonical == name)
            raise InvalidRequest(f"{name} and {other} are two names of one parameter: give one")
        result[name] = normal
    # An agent that names the tools to call from wants one of them called.
    if given.get("tools_to_call_from"):
        result.setdefault("tool_choice", "required")
    return {**normalise_parameters(rest), **result}
