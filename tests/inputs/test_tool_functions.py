"""Tools from Python functions: schemas, descriptions and docstrings."""

from __future__ import annotations

import math
import sys
import typing
from functools import partial
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, create_model

from modelport.errors import InvalidRequest
from modelport.inputs.tools import tools_from
from modelport.types.tools import Tool
from tests.inputs.tool_examples import (
    CITY,
    Engine,
    Place,
    Span,
    Station,
    Unit,
    forecast,
    get_weather,
    tool_from,
)


def test_tool_from_function_reads_signature_and_docstring() -> None:
    description = "The weather in a city,\nas of now.\n\nIt comes from a service."
    assert tool_from(get_weather) == Tool("get_weather", description, CITY)


def test_tool_from_function_each_kind_of_argument_has_schema() -> None:
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
    ("arguments", "valid"),
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
def test_tool_check_validates_arguments(arguments: Any, valid: bool) -> None:
    tool = tool_from(forecast)
    if valid:
        tool.check(arguments)
    else:
        with pytest.raises(ValueError, match=r"at \$"):
            tool.check(arguments)


def test_tool_from_function_without_arguments_and_docstring_is_empty() -> None:
    def now():
        pass

    empty = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert tool_from(now) == Tool("now", "", empty)


def test_tool_from_bound_method_leaves_out_self() -> None:
    assert tool_from(Station().measure) == Tool("measure", "Measures.", CITY)


def test_tool_from_callable_object_is_named_after_class() -> None:
    assert tool_from(Station()) == Tool("Station", "Measures the weather.", CITY)


def test_tool_from_partial_leaves_out_fixed_arguments() -> None:
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


def make_model(module: str, **fields: Any) -> Any:
    """Return a pydantic model with the name `Item` in a module with the given name."""
    definitions: Any = {name: (field_type, ...) for name, field_type in fields.items()}
    return create_model("Item", __module__=module, **definitions)


A, B = make_model("a", a=int), make_model("b", b=str)


def test_tool_from_function_classes_of_same_name_keep_own_schemas() -> None:
    def pair(first: A, second: B, more: list[A], others: list[B]) -> None: ...  # type: ignore[valid-type]

    tool = tool_from(pair)
    tool.check({"first": {"a": 1}, "second": {"b": "x"}, "more": [{"a": 2}], "others": [{"b": "y"}]})
    for wrong in ({"first": {"b": "x"}}, {"others": [{"a": 2}]}):
        with pytest.raises(ValueError):
            tool.check({"first": {"a": 1}, "second": {"b": "x"}, "more": [], "others": [], **wrong})


def test_tool_from_function_definition_used_once_is_inlined() -> None:
    """Some services and small models handle references badly."""

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


def test_tool_from_python_nested_objects_are_closed() -> None:
    def go(trip: Trip, span: Span) -> None: ...

    good: dict[str, Any] = {"place": {"name": "Rome"}, "any_more": {"x": 1}}
    tool_from(Trip).check(good)
    tool_from(go).check({"trip": good, "span": {"first": 1}})
    for tool, arguments in (
        (Trip, {**good, "junk": 1}),
        (Trip, {"place": {"name": "Rome", "junk": 1}}),
        (go, {"trip": {**good, "junk": 1}, "span": {"first": 1}}),
        (go, {"trip": good, "span": {"first": 1, "junk": 1}}),
    ):
        with pytest.raises(ValueError, match="junk"):
            tool_from(tool).check(arguments)


def test_tool_from_function_reads_fields_and_annotations() -> None:
    def go(
        a: int = Field(description="The a.", ge=1),
        b: int = Field(2, le=5),
        c: list[int] = Field(default_factory=list),  # noqa: B008
        d: Annotated[int, "The d."] = 3,
        e: Annotated[int, Field(description="The e.")] = 4,
    ) -> None:
        """Goes.

        Args:
            d: Ignored, because the annotation has a description.
            e: Ignored too.
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


def test_tool_from_function_field_with_empty_default_is_optional() -> None:
    def go(x: str = Field(default="")) -> None: ...

    assert tool_from(go).parameters["properties"] == {"x": {"type": "string", "default": ""}}
    assert tool_from(go).parameters["required"] == []


class OldTypedDict(typing.TypedDict):
    a: int


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic accepts typing.TypedDict since Python 3.12")
def test_tool_from_function_typing_typeddict_raises_before_python_3_12() -> None:
    def go(options: OldTypedDict) -> None: ...

    for value in (go, OldTypedDict):
        with pytest.raises(InvalidRequest, match=r"typing_extensions\.TypedDict"):
            tools_from([value])


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize("default", [CYCLE, math.nan, Engine, object()])
def test_tool_from_function_default_outside_json_makes_argument_optional(default: Any) -> None:
    def go(a: Any = default) -> None: ...

    assert tool_from(go).parameters == {
        "type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False,
    }  # fmt: skip


def tool_with_docstring(doc: str) -> Tool:
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


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_read_docstring_each_style_gives_same_descriptions(doc: str) -> None:
    tool = tool_with_docstring(doc)
    assert tool.description == "Goes.\n\nFar away.\n\nNote: slowly."
    descriptions = {name: schema.get("description") for name, schema in tool.parameters["properties"].items()}
    assert descriptions == {"a": "The a of all.", "b": "The b: it is."}


@pytest.mark.parametrize(
    ("doc", "description", "argument_description"),
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
def test_read_docstring_unusual_docstrings(doc: str, description: str, argument_description: str | None) -> None:
    tool = tool_with_docstring(doc)
    assert (tool.description, tool.parameters["properties"]["a"].get("description")) == (
        description,
        argument_description,
    )
