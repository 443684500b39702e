"""Checks the options of a call or of a constructor, and converts each to one name and one type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.parameters import BY_ANY_NAME, EXCLUSIVE

#: The defaults of calls whose tools are given as `tools_to_call_from`, the name that agents of smolagents use. They
#: expect that the model calls one of the tools, and they tell the model what is wrong with its call.
AGENT_DEFAULTS = {"tool_choice": "required", "tool_errors": "return"}

#: The names of the output types that agents of smolagents request, as `response_format`. Such an agent parses the
#: output itself, and tells its model what is wrong with it.
#: See `CODEAGENT_RESPONSE_FORMAT` in https://github.com/huggingface/smolagents/blob/main/src/smolagents/models.py
AGENT_FORMATS = frozenset({"ThoughtAndCodeAnswer"})


def normalise_options(given: Mapping[str, Any], constructor: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Return the options, each under its main name and with a checked value.

    The options of a call can then override those of the constructor, whichever names the caller used.

    Args:
        given: The options as the caller wrote them, under any of the names in `modelport.inputs.parameters`. `None`
            means "not given". Options that are not in that table are returned unchanged.
        constructor: The options of the constructor, as this function returned them, if `given` are those of a call.

    Raises:
        InvalidRequest: A value is wrong, one option has different values under two names, or two options exclude each
            other.
    """
    result: dict[str, Any] = {}
    first_names: dict[str, str] = {}  # The main name of an option -> the name under which it was found first.
    for name, value in given.items():
        if value is None:
            continue
        if (parameter := BY_ANY_NAME.get(name)) is None:
            result[name] = value
            continue
        value = parameter.normalise(value, name)
        first_name = first_names.setdefault(parameter.name, name)
        # An option may have two names in one call if the values are equal. An exception is `tools`, because its other
        # name, `tools_to_call_from`, also has other defaults (`AGENT_DEFAULTS`).
        if first_name != name and (result[parameter.name] != value or parameter.name == "tools"):
            raise InvalidRequest(f"{first_name} and {name} are two names of one parameter: give one")
        if parameter.destination != "check_only":
            result[parameter.name] = value
    if given.get("tools_to_call_from"):
        result = {**{name: value for name, value in AGENT_DEFAULTS.items() if name not in constructor}, **result}
    if "response_format" in given and "output_errors" not in constructor and _is_agent_format(given["response_format"]):
        result.setdefault("output_errors", "return")
    if result.get("top_logprobs") and not result.setdefault("logprobs", True):
        raise InvalidRequest("top_logprobs needs logprobs=True")
    for name, excluded in EXCLUSIVE.items():
        if name in result and excluded in result:
            raise InvalidRequest(f"{name} and {excluded} set the same thing: give one")
    return result


def _is_agent_format(value: Any) -> bool:
    inner = value.get("json_schema") if isinstance(value, dict) else None
    return isinstance(inner, dict) and inner.get("name") in AGENT_FORMATS
