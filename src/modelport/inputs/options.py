"""Translates the options of a call, or of a constructor, to one name each and to normal form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.parameters import BY_ANY_NAME, EXCLUSIVE


def normalise_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options under one name each and in normal form, so that a call's can override a constructor's.

    Args:
        given: The options as the caller wrote them, under any of the names in `modelport.inputs.parameters`. `None`
            means "not given". Options that are not in the table are passed on unchanged.

    Raises:
        InvalidRequest: A value is wrong, one option was given under two names, or two options exclude each other.
    """
    result: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in given.items():
        if value is None:
            continue
        if (parameter := BY_ANY_NAME.get(name)) is None:
            result[name] = value
            continue
        value = parameter.read(value, name)
        first_name = names.setdefault(parameter.name, name)
        # `tools` and `tools_to_call_from` imply different tool choices, so not even equal lists are allowed.
        if first_name != name and (result[parameter.name] != value or parameter.name == "tools"):
            raise InvalidRequest(f"{first_name} and {name} are two names of one parameter: give one")
        if parameter.destination != "nowhere":
            result[parameter.name] = value
    # An agent that names the tools to call from wants one of them to be called.
    if given.get("tools_to_call_from"):
        result.setdefault("tool_choice", "required")
    if result.get("top_logprobs") and not result.setdefault("logprobs", True):
        raise InvalidRequest("top_logprobs needs logprobs=True")
    for name, excluded in EXCLUSIVE.items():
        if name in result and excluded in result:
            raise InvalidRequest(f"{name} and {excluded} set the same thing: give one")
    return result
