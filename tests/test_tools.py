"""Tools: whatever form callers have them in, models are told the same."""

from __future__ import annotations

import copy
import json
import threading
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from modelport.errors import InvalidRequest, InvalidToolCall
from modelport.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.tools import Named, Tool, check_calls, tool_choice_from, tools_from

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where."}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool_from(value: Any) -> Tool:
    """The tool; its schema is valid, can be sent, and the form it came in is unchanged."""
    before = copy.deepcopy(value) if isinstance(value, dict) else value
    (tool,) = tools_from([value])
    Draft202012Validator.check_schema(tool.parameters)
    assert json.loads(json.dumps(tool.to_dict())) == tool.to_dict()
    assert value == before
    return tool


# --- functions --------------------------------------------------------------------------------------------------------


class Unit(Enum):
    CELSIUS = "c"
    KELVIN = "k"


class Place(BaseModel):
    """Somewhere."""

    name: str
    near: Place | None = None


@dataclass
class Span:
    first: int
    last: int = 7


class Options(typing.TypedDict, total=False):
    verbose: bool


def get_weather(city: str) -> str:
    """The weather in a city,
    as of now.

    It comes from a service.

    Args:
        city: Where.

    Returns:
        A word: not a description of an argument.
    """
    return "rain"


def forecast(
    place: Place,
    days: int = 3,
    unit: Unit = Unit.CELSIUS,
    style: Literal["short", "long"] = "short",
    span: Span | None = None,
    *,
    tags: list[str] | None = None,
    options: Options | None = None,
    limit: Annotated[int, Field(ge=1)] = 5,
    anything=None,
) -> str:
    """The weather to come.

    Args:
        place (Place): Where,
            or near there.
        days: How far ahead: at most 10.
        *tags: For the log.
    """
    return ""


def test_a_function_is_told_by_its_signature_and_docstring() -> None:
    assert tool_from(get_weather) == Tool("get_weather", "The weather in a city,\nas of now.", CITY)


def test_all_kinds_of_arguments() -> None:
    tool = tool_from(forecast)
    properties = tool.parameters["properties"]
    assert list(properties) == [
        "place", "days", "unit", "style", "span", "tags", "options", "limit", "anything",
    ]  # fmt: skip
    assert tool.parameters["required"] == ["place"]
    assert properties["days"] == {"type": "integer", "description": "How far ahead: at most 10.", "default": 3}
    assert properties["place"]["description"] == "Where, or near there."
    assert properties["tags"]["description"] == "For the log."
    assert properties["style"]["enum"] == ["short", "long"]
    assert properties["style"]["default"] == "short"
    assert properties["limit"]["minimum"] == 1
    assert properties["tags"]["default"] is None
    assert set(tool.parameters["$defs"]) == {"Place", "Span", "Options"}
    Draft202012Validator.check_schema(tool.parameters)


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ({"place": {"name": "Paris"}}, True),
        ({"place": {"name": "Paris", "near": {"name": "Lyon", "near": None}}, "unit": "k", "days": 1}, True),
        ({"place": {"name": "Paris"}, "span": {"first": 1}, "tags": ["a"], "options": {"verbose": True}}, True),
        ({"place": {"name": "Paris"}, "anything": [1, {}]}, True),
        ({}, False),
        ({"place": "Paris"}, False),
        ({"place": {"name": "Paris"}, "unit": "x"}, False),
        ({"place": {"name": "Paris"}, "style": "medium"}, False),
        ({"place": {"name": "Paris"}, "days": "many"}, False),
        ({"place": {"name": "Paris"}, "limit": 0}, False),
        ({"place": {"name": "Paris", "near": {"nome": "Lyon"}}}, False),
        ({"place": {"name": "Paris"}, "misspelt": 1}, False),
        ([], False),
        ("Paris", False),
    ],
)
def test_a_calls_arguments_are_held_against_the_schema(arguments: Any, fits: bool) -> None:
    tool = tool_from(forecast)
    if fits:
        tool.check(arguments)
    else:
        with pytest.raises(ValueError, match=r"at \$"):
            tool.check(arguments)


def test_a_function_may_say_little() -> None:
    def now():
        pass

    empty = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert tool_from(now) == Tool("now", "", empty)


def test_a_method_is_told_without_its_self() -> None:
    class Station:
        def measure(self, city: str) -> str:
            """Measures.

            Args:
                city: Where.
            """
            return ""

    assert tool_from(Station().measure) == Tool("measure", "Measures.", CITY)


class Engine:
    """No type that JSON can hold."""

    lock = threading.Lock()


def takes_an_engine(engine: Engine) -> None: ...


def takes_anything(*args: Any) -> None: ...


def takes_what_is_not_there(a: Missing) -> None: ...  # noqa: F821


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (takes_an_engine, r"tools\[1\] \(takes_an_engine\): 'engine' has a type without schema"),
        (takes_anything, r"tools\[1\] \(takes_anything\): \*args and \*\*kwargs can't be described"),
        (takes_what_is_not_there, r"tools\[1\] \(takes_what_is_not_there\): its signature can't be read: .*Missing"),
        (lambda a: a, r"tools\[1\]: a function without a name"),
        (int, r"tools\[1\] \(int\): its signature can't be read"),
        (5, r"tools\[1\]: int is no tool"),
        ("get_weather", r"tools\[1\]: str is no tool"),
        (None, r"tools\[1\]: NoneType is no tool"),
        ({}, r"tools\[1\]: the tool has no name; it looks like"),
        ({"type": "function", "function": {}}, r"tools\[1\]: the tool has no name"),
        ({"name": "f", "parameters": []}, None),
        ({"name": "f", "parameters": [1]}, r"tools\[1\] \('f'\): 'parameters' must be a JSON schema"),
        ({"name": "f", "parameters": {"a": b""}}, r"tools\[1\] \('f'\): 'parameters' is no JSON"),
        ({"name": "f", "description": 5}, r"tools\[1\] \('f'\): .* 'description' a string"),
        (get_weather, r"tools\[1\]: a tool named 'get_weather' is there already"),
    ],
)
def test_what_is_no_tool_is_named_by_its_place(value: Any, says: str | None) -> None:
    if says is None:
        assert tools_from([get_weather, value])[1].parameters == {"type": "object", "properties": {}}
        return
    with pytest.raises(InvalidRequest, match=says) as raised:
        tools_from([get_weather, value])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["get_weather", {"name": "f"}, 5])
def test_tools_are_a_list(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="tools must be a list of tools"):
        tools_from(value)


# --- other forms ------------------------------------------------------------------------------------------------------


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str = Field(description="Where.")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": CITY}},
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": CITY, "strict": True}},
        {"name": "f", "description": "d", "parameters": CITY},
        {"name": "f", "description": "d", "inputSchema": CITY},
        Tool("f", "d", CITY),
        SimpleNamespace(name="f", description="d", inputSchema=CITY),  # MCP
        SimpleNamespace(name="f", description="d", input_schema=CITY),  # MCP since version 2
        SimpleNamespace(name="f", description="d", args_schema=CITY),  # LangChain with a schema
    ],
)
def test_tools_of_many_houses_are_one(value: Any) -> None:
    assert tool_from(value) == Tool("f", "d", CITY)


def test_a_tool_needs_neither_description_nor_arguments() -> None:
    nothing = {"type": "object", "properties": {}}
    assert tool_from({"type": "function", "function": {"name": "f"}}) == Tool("f", "", nothing)
    assert tool_from(SimpleNamespace(name="f", description=None, inputSchema=nothing)) == Tool("f", "", nothing)


def test_a_pydantic_model_is_a_tool() -> None:
    tool = tool_from(GetWeather)
    assert (tool.name, tool.description) == ("GetWeather", "The weather in a city.")
    assert tool.parameters["required"] == ["city"]


def test_a_langchain_tool_brings_a_pydantic_model() -> None:
    tool = tool_from(SimpleNamespace(name="f", description="d", args_schema=GetWeather))
    assert (tool.name, tool.parameters) == ("f", GetWeather.model_json_schema())


@pytest.mark.filterwarnings("ignore:Function 'weather' has decorators")
def test_a_tool_made_with_smolagents_decorator() -> None:
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
    assert "nullable" in weather.inputs["days"], "the agents' own tool was changed"


def test_smolagents_types_that_are_none_of_json_take_anything() -> None:
    """Agents pass an image by the name of a variable."""
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


# --- choice -----------------------------------------------------------------------------------------------------------

TOOLS = tools_from([get_weather, {"name": "time"}])


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("any", "required"),
        ("time", Named("time")),
        (Named("time"), Named("time")),
        ({"type": "function", "function": {"name": "time"}}, Named("time")),
        ({"type": "tool", "name": "time"}, Named("time")),
    ],
)
def test_the_forms_of_a_tool_choice(value: Any, choice: Any) -> None:
    assert tool_choice_from(value, TOOLS) == choice


@pytest.mark.parametrize(
    "value", ["moon", Named("moon"), {"type": "function"}, {"function": 5}, 5, None, ["auto"], True]
)
def test_a_tool_choice_that_is_none_is_refused_with_what_there_is(value: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"'auto', 'none', 'required' or the name of a tool \('get_weather', 'time'\)"
    ):
        tool_choice_from(value, TOOLS)


@pytest.mark.parametrize("value", ["required", "any"])
def test_a_required_call_needs_tools(value: str) -> None:
    with pytest.raises(InvalidRequest, match="needs tools"):
        tool_choice_from(value, ())


# --- calls ------------------------------------------------------------------------------------------------------------


def calling(name: str, arguments: Any) -> ChatMessage:
    return ChatMessage("assistant", None, [ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), "c1")])


def test_good_calls_pass() -> None:
    check_calls(calling("get_weather", {"city": "Paris"}), TOOLS)
    check_calls(ChatMessage("assistant", "no call"), TOOLS)


@pytest.mark.parametrize(
    ("name", "arguments", "says", "text"),
    [
        ("get_weather", '{"city": "Par', "no valid JSON", '{"city": "Par'),
        ("get_weather", {"city": 5}, r"at \$\.city: 5 is not of type 'string'", '{"city": 5}'),
        ("get_weather", None, "None is not of type 'object'", "null"),
        ("moon", {}, "there is no such tool; there are 'get_weather', 'time'", "{}"),
    ],
)
def test_a_bad_call_is_named_and_kept(name: str, arguments: Any, says: str, text: str) -> None:
    message = calling(name, arguments)
    with pytest.raises(InvalidToolCall, match=says) as raised:
        check_calls(message, TOOLS)
    assert (raised.value.text, raised.value.partial) == (text, message)


@pytest.mark.parametrize("make", [lambda: TOOLS, lambda: tools_from([forecast])])
def test_tools_compare_by_value(make: Callable[[], Any]) -> None:
    assert make() == make()
