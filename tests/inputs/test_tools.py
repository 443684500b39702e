"""Tools: whatever form callers have them in, models are told the same."""

from __future__ import annotations

import copy
import json
import math
import threading
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, create_model

from modelport.errors import InvalidRequest, InvalidToolCall
from modelport.inputs.tool_choice import tool_choice_from
from modelport.inputs.tools import tools_from
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.tools import NamedToolChoice, Tool, check_calls

T = TypeVar("T")
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
    described = "The weather in a city,\nas of now.\n\nIt comes from a service."
    assert tool_from(get_weather) == Tool("get_weather", described, CITY)


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


class Engine:
    """No type that JSON can hold."""

    lock = threading.Lock()


class Station:
    """A place that measures."""

    def measure(self, city: str) -> str:
        """Measures.

        Args:
            city: Where.
        """
        return ""

    def __call__(self, city: Annotated[str, "Where."]) -> str:
        return ""


def test_a_method_is_told_without_its_self() -> None:
    assert tool_from(Station().measure) == Tool("measure", "Measures.", CITY)


def test_an_object_that_can_be_called_goes_by_the_name_of_its_class() -> None:
    assert tool_from(Station()) == Tool("Station", "A place that measures.", CITY)


def test_what_a_partial_has_set_is_not_the_models_to_say() -> None:
    def measure(db: Engine, city: str, unit: str = "c") -> str:
        """Measures.

        Args:
            city: Where.
        """
        return ""

    with pytest.raises(InvalidRequest, match="'db' has a type without schema"):
        tools_from([measure])
    assert tool_from(partial(measure, Engine(), unit="k")) == Tool("measure", "Measures.", CITY)
    assert tool_from(partial(Station())).name == "Station"


def of_module(module: str, **fields: Any) -> Any:
    """A model named `Item`, of a module of this name."""
    return create_model("Item", __module__=module, **{name: (kind, ...) for name, kind in fields.items()})


A, B = of_module("a", a=int), of_module("b", b=str)


def test_classes_of_one_name_each_have_their_schema() -> None:
    def pair(first: A, second: B, more: list[A], others: list[B]) -> None: ...  # type: ignore[valid-type]

    tool = tool_from(pair)
    tool.check({"first": {"a": 1}, "second": {"b": "x"}, "more": [{"a": 2}], "others": [{"b": "y"}]})
    for wrong in ({"first": {"b": "x"}}, {"others": [{"a": 2}]}):
        with pytest.raises(ValueError):
            tool.check({"first": {"a": 1}, "second": {"b": "x"}, "more": [], "others": [], **wrong})


def test_a_class_that_one_argument_has_stands_in_its_place() -> None:
    """Some services and small models do badly at references."""

    def go(to: A, unit: Unit = Unit.KELVIN) -> None:  # type: ignore[valid-type]
        """Goes.

        Args:
            unit: Of what.
        """

    tool = tool_from(go)
    assert "$defs" not in tool.parameters
    unit = {"enum": ["c", "k"], "title": "Unit", "type": "string", "description": "Of what.", "default": "k"}
    assert tool.parameters["properties"]["unit"] == unit


class Trip(BaseModel):
    place: Place
    any_more: dict[str, int] = {}


def test_objects_inside_a_tool_are_closed() -> None:
    def go(trip: Trip, span: Span) -> None: ...

    good: dict[str, Any] = {"place": {"name": "Rome"}, "any_more": {"x": 1}}
    tool_from(Trip).check(good)
    tool_from(go).check({"trip": good, "span": {"first": 1}})
    for tool, junk in (
        (Trip, {**good, "junk": 1}),
        (Trip, {"place": {"name": "Rome", "junk": 1}}),
        (go, {"trip": {**good, "junk": 1}, "span": {"first": 1}}),
        (go, {"trip": good, "span": {"first": 1, "junk": 1}}),
    ):
        with pytest.raises(ValueError, match="junk"):
            tool_from(tool).check(junk)


def test_fields_and_notes_in_a_signature_are_read() -> None:
    def go(
        a: int = Field(description="The a.", ge=1),
        b: int = Field(2, le=5),
        c: list[int] = Field(default_factory=list),  # noqa: B008
        d: Annotated[int, "The d."] = 3,
        e: Annotated[int, Field(description="The e.")] = 4,
    ) -> None:
        """Goes.

        Args:
            d: Not told: what stands nearest is.
            e: Not told either.
        """

    tool = tool_from(go)
    assert tool.parameters["required"] == ["a"]
    assert tool.parameters["properties"] == {
        "a": {"type": "integer", "description": "The a.", "minimum": 1},
        "b": {"type": "integer", "default": 2, "maximum": 5},
        "c": {"type": "array", "items": {"type": "integer"}},
        "d": {"type": "integer", "description": "The d.", "default": 3},
        "e": {"type": "integer", "description": "The e.", "default": 4},
    }


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("default", [CIRCLE, math.nan, Engine, object()])
def test_a_default_that_json_cannot_hold_makes_the_argument_optional(default: Any) -> None:
    def go(a: Any = default) -> None: ...

    assert tool_from(go).parameters == {
        "type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False,
    }  # fmt: skip


def documented(doc: str) -> Tool:
    def go(a: int, b: int) -> None: ...

    go.__doc__ = doc
    return tool_from(go)


GOOGLE = """Goes.

    Far away.

    Note: slowly.

    Args:
        a: The a
            of all.

        b (int): The b: it is.
        c: No argument.

    Returns:
        b: nothing.
    """
NUMPY = """Goes.

    Far away.

    Note: slowly.

    Parameters
    ----------
    a : int
        The a
        of all.
    b
        The b: it is.

    Returns
    -------
    b : int
        Nothing.
    """
REST = """Goes.

    Far away.

    Note: slowly.

    :param a: The a
        of all.
    :type a: int
    :param int b: The b: it is.
    :returns: Nothing.
    :raises b: Never.
    """


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, REST])
def test_the_styles_of_docstrings(doc: str) -> None:
    tool = documented(doc)
    assert tool.description == "Goes.\n\nFar away.\n\nNote: slowly."
    described = {name: schema.get("description") for name, schema in tool.parameters["properties"].items()}
    assert described == {"a": "The a of all.", "b": "The b: it is."}


@pytest.mark.parametrize(
    ("doc", "description", "of_a"),
    [
        ("", "", None),
        ("Args:\n    a: The a.", "", "The a."),
        ("Goes.\n\n    Args:\n\ta: The a.", "Goes.", "The a."),
        ("Goes.\n\nParameters\n---\na, b : int\n    Both.", "Goes.", "Both."),
        ("Goes.\n\nSteps\n-----\n:see: there", "Goes.\n\nSteps\n-----\n:see: there", None),
        ("Goes.\n\n:param a:", "Goes.", None),
        ("---\nParameters", "---\nParameters", None),
        ("Args:", "", None),
        (":param:", "", None),
    ],
)
def test_docstrings_that_are_odd(doc: str, description: str, of_a: str | None) -> None:
    tool = documented(doc)
    assert (tool.description, tool.parameters["properties"]["a"].get("description")) == (description, of_a)


def takes_an_engine(engine: Engine) -> None: ...


def takes_a_callable(call: Callable[[int], int]) -> None: ...


class HoldsACallable(BaseModel):
    call: Callable[[int], int]


def by_position(a: int, /) -> None: ...


def given(properties: dict[str, Any]) -> dict[str, Any]:
    return {"name": "f", "parameters": {"type": "object", "properties": properties}}


def takes_anything(*args: Any) -> None: ...


def takes_what_is_not_there(a: Missing) -> None: ...  # noqa: F821


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (takes_an_engine, r"tools\[1\] \(takes_an_engine\): 'engine' has a type without schema"),
        (takes_anything, r"tools\[1\] \(takes_anything\): \*args and \*\*kwargs can't be described"),
        (takes_what_is_not_there, r"tools\[1\] \(takes_what_is_not_there\): its signature can't be read: .*Missing"),
        (lambda a: a, r"tools\[1\]: a function without a name"),
        (int, r"tools\[1\] \(int\): a class is a tool where .* it is .*integer"),
        (Unit, r"tools\[1\] \(Unit\): a class is a tool where its fields are the arguments"),
        (Engine, r"tools\[1\] \(Engine\): a class is a tool where .* Unable to generate"),
        (HoldsACallable, r"tools\[1\] \(HoldsACallable\): a class is a tool where .* Cannot generate"),
        (takes_a_callable, r"tools\[1\] \(takes_a_callable\): 'call' has a type without schema"),
        (Station.measure, r"tools\[1\] \(measure\): a method needs its object; .* obj\.measure"),
        (by_position, r"tools\[1\] \(by_position\): 'a' can't be given by its name"),
        (5, r"tools\[1\]: int is no tool"),
        (dict, r"tools\[1\] \(dict\): a class is a tool where its fields are the arguments"),
        (Tool("f", "", CITY, strict=1), r"tools\[1\] \('f'\): 'strict' must be True or False"),  # type: ignore[arg-type]
        (SimpleNamespace(name="f", inputs={"a": 5}), r"tools\[1\]: inputs\['a'\] must be a dict such as"),
        (SimpleNamespace(name="f", inputs={5: {}}), r"tools\[1\]: inputs\[5\] must be a dict such as .*, by its name"),
        (SimpleNamespace(name="f", inputs={"a": {"type": {}}}), r"tools\[1\]: inputs\['a'\]\['type'\] must be a"),
        (SimpleNamespace(name="f", inputs={"a": {"type": "string", "nullable": True, "enum": 5}}), "'f'.*enum"),
        (SimpleNamespace(name="f", args_schema=5), r"tools\[1\] \('f'\): its args_schema can't be used"),
        ("get_weather", r"tools\[1\]: str is no tool"),
        (None, r"tools\[1\]: NoneType is no tool"),
        ({}, r"tools\[1\]: the tool has no name; it looks like"),
        ({"type": "function", "function": {}}, r"tools\[1\]: the tool has no name"),
        ({"name": "f", "parameters": []}, None),
        ({"name": "f", "parameters": [1]}, r"tools\[1\] \('f'\): 'parameters' must be a JSON schema"),
        ({"name": "f", "parameters": {"a": b""}}, r"tools\[1\] \('f'\): 'parameters' is no JSON"),
        ({"name": "f", "parameters": {"const": math.nan}}, r"tools\[1\] \('f'\): 'parameters' is no JSON"),
        ({"name": "f", "parameters": {"type": "string"}}, r"tools\[1\] \('f'\): .* type 'object', not 'string'"),
        (given({"a": {"type": "objekt"}}), r"tools\[1\] \('f'\): .* invalid at \$\.properties\.a\.type: 'objekt'"),
        (given({"a": {"$ref": "http://e.com/x"}}), r"tools\[1\] \('f'\): .* refers to 'http://e.com/x', .* not in it"),
        (given({"a": {"items": {"$ref": "#/$defs/A"}}}), r"tools\[1\] \('f'\): .* refers to '#/\$defs/A'"),
        (Tool("f", "", given({"a": {"type": "objekt"}})["parameters"]), r"tools\[1\] \('f'\): .* 'objekt'"),
        (Tool("", None, None), r"tools\[1\]: the tool has no name"),  # type: ignore[arg-type]
        (Tool("f", None, None), r"tools\[1\] \('f'\): 'parameters' must be"),  # type: ignore[arg-type]
        (SimpleNamespace(inputSchema=CITY), r"tools\[1\]: the tool has no name"),
        (SimpleNamespace(name=None, inputSchema=CITY), r"tools\[1\]: the tool has no name"),
        ({"name": "has space"}, r"tools\[1\]: the name 'has space' can't be a tool's"),
        ({"name": "a\tb"}, r"tools\[1\]: the name 'a\\tb' can't be a tool's"),
        ({"name": "x" * 129}, r"tools\[1\]: the name 'x+' can't be a tool's: it must be at most 128"),
        ({"type": "web_search"}, r"tools\[1\]: tools of type 'web_search' are not known here"),
        ({"type": "custom", "name": "f", "format": {}}, r"tools\[1\]: tools of type 'custom' are not known"),
        ({"name": "f", "schema": CITY}, r"tools\[1\] \('f'\): the key 'schema' is unknown"),
        ({"type": "function", "function": {"name": "f"}, "strict": True}, r"\('f'\): the key 'strict' is unknown"),
        ({"name": "f", "strict": "yes"}, r"tools\[1\] \('f'\): 'strict' must be True or False, not 'yes'"),
        ({"name": "f", "parameters": CITY, "input_schema": CITY}, r"tools\[1\] \('f'\): give one of 'parameters'"),
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
        {"type": "function", "name": "f", "description": "d", "parameters": CITY, "strict": None},
        {"name": "f", "description": "d", "parameters": CITY},
        {"name": "f", "description": "d", "inputSchema": CITY, "title": "F", "annotations": {"readOnlyHint": True}},
        {"name": "f", "description": "d", "input_schema": CITY},  # Anthropic
        {"type": "custom", "name": "f", "description": "d", "input_schema": CITY},  # Anthropic, too
        Tool("f", "d", {key: value for key, value in CITY.items() if key != "type"}),
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


class Node(BaseModel):
    """A node."""

    value: int
    next: Node | None = None


class Box(BaseModel, Generic[T]):
    inside: T


def test_a_model_that_holds_itself_is_an_object_at_its_root() -> None:
    for value in (Node, SimpleNamespace(name="Node", description="A node.", inputSchema=Node.model_json_schema())):
        tool = tool_from(value)
        assert (tool.description, tool.parameters["type"]) == ("A node.", "object")
        assert "$ref" not in tool.parameters
        tool.check({"value": 1, "next": {"value": 2}})
        with pytest.raises(ValueError, match="value"):
            tool.check({"value": 1, "next": {"next": None}})


def test_classes_with_fields_are_tools() -> None:
    assert tool_from(Box[int]).name == "Box_int"
    assert tool_from(Span).parameters["required"] == ["first"]
    assert tool_from(Options).parameters["properties"]["verbose"]["type"] == "boolean"


def test_strict_is_carried_in_openais_form() -> None:
    for strict in (True, False):
        given = {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": CITY, "strict": strict},
        }
        tool = tool_from(given)
        assert (tool.strict, tool.to_dict()) == (strict, given)


def test_a_langchain_tool_brings_a_pydantic_model() -> None:
    tool = tool_from(SimpleNamespace(name="f", description="d", args_schema=GetWeather))
    assert (tool.name, tool.parameters) == ("f", {**GetWeather.model_json_schema(), "additionalProperties": False})


@pytest.mark.filterwarnings("ignore:Function 'weather' has decorators")
def test_a_smolagents_choice_that_may_be_left_out_takes_null() -> None:
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
        ("time", NamedToolChoice("time")),
        (NamedToolChoice("time"), NamedToolChoice("time")),
        ({"type": "function", "function": {"name": "time"}}, NamedToolChoice("time")),
        ({"type": "tool", "name": "time"}, NamedToolChoice("time")),
    ],
)
def test_the_forms_of_a_tool_choice(value: Any, choice: Any) -> None:
    assert tool_choice_from(value, TOOLS) == choice


@pytest.mark.parametrize(
    "value", ["moon", NamedToolChoice("moon"), {"type": "function"}, {"function": 5}, 5, None, ["auto"], True]
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
