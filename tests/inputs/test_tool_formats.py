"""The formats of tools: classes, dicts of services, and objects of other libraries."""

from __future__ import annotations

import typing
from types import SimpleNamespace
from typing import Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel, Field

from modelport.types.tools import Tool
from tests.inputs.tool_examples import (
    CITY,
    Options,
    Span,
    tool_from,
)

T = TypeVar("T")


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str = Field(description="Where.")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": CITY}},
        {"type": "function", "name": "f", "description": "d", "parameters": CITY, "strict": None},
        {"name": "f", "description": "d", "parameters": CITY},
        {"name": "f", "description": "d", "inputSchema": CITY, "title": "F", "annotations": {"readOnlyHint": True}},
        {"name": "f", "description": "d", "input_schema": CITY},  # Anthropic
        {"type": "custom", "name": "f", "description": "d", "input_schema": CITY},  # Anthropic with a type
        Tool("f", "d", {key: value for key, value in CITY.items() if key != "type"}),
        Tool("f", "d", CITY),
        SimpleNamespace(name="f", description="d", inputSchema=CITY),  # MCP
        SimpleNamespace(name="f", description="d", input_schema=CITY),  # MCP since version 2
        SimpleNamespace(name="f", description="d", args_schema=CITY),  # LangChain with a JSON schema
    ],
)
def test_tools_from_each_format_gives_same_tool(value: Any) -> None:
    assert tool_from(value) == Tool("f", "d", CITY)


def test_tools_from_tool_without_description_and_arguments_is_accepted() -> None:
    no_arguments = {"type": "object", "properties": {}}
    assert tool_from({"type": "function", "function": {"name": "f"}}) == Tool("f", "", no_arguments)
    assert tool_from(SimpleNamespace(name="f", description=None, inputSchema=no_arguments)) == Tool(
        "f", "", no_arguments
    )


def test_tools_from_pydantic_model_uses_docstring_and_fields() -> None:
    tool = tool_from(GetWeather)
    assert (tool.name, tool.description) == ("GetWeather", "The weather in a city.")
    assert tool.parameters["required"] == ["city"]


class Node(BaseModel):
    """A node."""

    value: int
    next: Node | None = None


class Box(BaseModel, Generic[T]):
    inside: T


def test_tools_from_recursive_model_has_object_root() -> None:
    for value in (Node, SimpleNamespace(name="Node", description="A node.", inputSchema=Node.model_json_schema())):
        tool = tool_from(value)
        assert (tool.description, tool.parameters["type"]) == ("A node.", "object")
        assert "$ref" not in tool.parameters
        tool.check({"value": 1, "next": {"value": 2}})
        with pytest.raises(ValueError, match="value"):
            tool.check({"value": 1, "next": {"next": None}})


def test_tools_from_generic_model_dataclass_and_typeddict() -> None:
    assert tool_from(Box[int]).name == "Box_int"
    assert tool_from(Span).parameters["required"] == ["first"]
    assert tool_from(Options).parameters["properties"]["verbose"]["type"] == "boolean"


def test_tool_strict_is_kept_in_to_dict() -> None:
    for strict in (True, False):
        given = {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": CITY, "strict": strict},
        }
        tool = tool_from(given)
        assert (tool.strict, tool.to_dict()) == (strict, given)


def test_tools_from_langchain_model_as_args_schema() -> None:
    tool = tool_from(SimpleNamespace(name="f", description="d", args_schema=GetWeather))
    assert (tool.name, tool.parameters) == ("f", {**GetWeather.model_json_schema(), "additionalProperties": False})


@pytest.mark.filterwarnings("ignore:Function 'weather' has decorators")
@pytest.mark.server
def test_tools_from_smolagents_optional_choice_accepts_null() -> None:
    import smolagents

    @smolagents.tool
    def weather(unit: Literal["c", "f"] = "c", either: int | str = 1) -> str:
        """The weather.

        Args:
            unit: Of temperature.
            either: Any.
        """
        return "rain"

    tool = tool_from(weather)
    tool.check({"unit": None, "either": None})
    tool.check({"unit": "f", "either": "x"})
    with pytest.raises(ValueError):
        tool.check({"unit": "k"})


@pytest.mark.filterwarnings("ignore:Function 'weather' has decorators")
@pytest.mark.server
def test_tools_from_smolagents_decorator_reads_inputs() -> None:
    import smolagents

    @smolagents.tool
    def weather(city: str, days: int = 3, unit: str | None = None) -> str:
        """The weather in a city.

        Args:
            city: Where.
            days: How far ahead.
            unit: Of temperature.
        """
        return "rain"

    tool = tool_from(weather)
    assert (tool.name, tool.description) == ("weather", "The weather in a city.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": ["integer", "null"], "description": "How far ahead."},
            "unit": {"type": ["string", "null"], "description": "Of temperature."},
        },
        "required": ["city"],
    }
    assert "nullable" in weather.inputs["days"], "the agent's own tool was changed"


@pytest.mark.server
def test_tools_from_smolagents_types_outside_json_accept_any_value() -> None:
    """Agents pass an image as the name of a variable, so the schema must accept any value."""
    import smolagents

    class Describe(smolagents.Tool):  # type: ignore[misc]
        name = "describe"
        description = "Says what is on an image."
        inputs: typing.ClassVar[Any] = {
            "image": {"type": "image", "description": "i"},
            "sound": {"type": "audio", "description": "s"},
            "hint": {"type": "any", "description": "h", "nullable": True},
            "either": {"type": ["string", "integer"], "description": "e"},
        }
        output_type = "string"

        def forward(self, image: Any, sound: Any, either: Any, hint: Any = None) -> str:
            return ""

    tool = tool_from(Describe())
    assert tool.parameters["properties"] == {
        "image": {"description": "i"}, "sound": {"description": "s"}, "hint": {"description": "h"},
        "either": {"type": ["string", "integer"], "description": "e"},
    }  # fmt: skip
    tool.check({"image": "image_1", "sound": "sound_1", "either": 5})
