"""The argument `tool_choice`: its formats and mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import InvalidRequest
from modelport.inputs.tool_choice import tool_choice_from
from modelport.inputs.tools import tools_from
from modelport.types.tools import NamedToolChoice
from tests.inputs.tool_examples import (
    get_weather,
)

TOOLS = tools_from([get_weather, {"name": "time"}])


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("any", "required"),
        ("time", NamedToolChoice("time")),
        (NamedToolChoice("time"), NamedToolChoice("time")),
        ({"type": "function", "function": {"name": "time"}}, NamedToolChoice("time")),
        ({"type": "tool", "name": "time"}, NamedToolChoice("time")),
    ],
)
def test_tool_choice_from_each_format(value: Any, choice: Any) -> None:
    assert tool_choice_from(value, TOOLS) == choice


@pytest.mark.parametrize(
    "value", ["moon", NamedToolChoice("moon"), {"type": "function"}, {"function": 5}, 5, None, ["auto"], True]
)
def test_tool_choice_from_invalid_value_raises_with_known_names(value: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"'auto', 'none', 'required' or the name of a tool \('get_weather', 'time'\)"
    ):
        tool_choice_from(value, TOOLS)


@pytest.mark.parametrize("value", ["required", "any"])
def test_tool_choice_from_required_without_tools_raises(value: str) -> None:
    with pytest.raises(InvalidRequest, match="needs tools"):
        tool_choice_from(value, ())
