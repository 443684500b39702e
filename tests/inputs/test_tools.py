"""The argument `tools`: mistakes in it are named by their path."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from modelport.errors import InvalidRequest
from modelport.inputs.tools import tools_from
from modelport.types.tools import Tool
from tests.inputs.tool_examples import (
    CITY,
    Engine,
    Station,
    Unit,
    get_weather,
)


def takes_an_engine(engine: Engine) -> None: ...


def takes_a_callable(call: Callable[[int], int]) -> None: ...


class HoldsACallable(BaseModel):
    call: Callable[[int], int]


def by_position(a: int, /) -> None: ...


def tool_with(properties: dict[str, Any]) -> dict[str, Any]:
    return {"name": "f", "parameters": {"type": "object", "properties": properties}}


def takes_anything(*args: Any) -> None: ...


def takes_an_undefined_type(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("value", "error_text"),
    [
        (takes_an_engine, r"tools\[1\] \(takes_an_engine\): 'engine' has a type without schema"),
        (takes_anything, r"tools\[1\] \(takes_anything\): \*args and \*\*kwargs can't be described"),
        (takes_an_undefined_type, r"tools\[1\] \(takes_an_undefined_type\): its signature can't be read: .*Missing"),
        (lambda a: a, r"tools\[1\]: a function without a name"),
        (int, r"tools\[1\] \(int\): a class can be a tool if .* its schema is .*integer"),
        (Unit, r"tools\[1\] \(Unit\): a class can be a tool if its fields are the arguments"),
        (Engine, r"tools\[1\] \(Engine\): a class can be a tool if .* Unable to generate"),
        (HoldsACallable, r"tools\[1\] \(HoldsACallable\): a class can be a tool if .* Cannot generate"),
        (takes_a_callable, r"tools\[1\] \(takes_a_callable\): 'call' has a type without schema"),
        (Station.measure, r"tools\[1\] \(measure\): a method needs its object; .* obj\.measure"),
        (by_position, r"tools\[1\] \(by_position\): 'a' can't be given by its name"),
        (5, r"tools\[1\]: int is not a tool"),
        (dict, r"tools\[1\] \(dict\): a class can be a tool if its fields are the arguments"),
        (Tool("f", "", CITY, strict=1), r"tools\[1\] \('f'\): 'strict' must be True or False"),  # type: ignore[arg-type]
        (SimpleNamespace(name="f", inputs={"a": 5}), r"tools\[1\]: inputs\['a'\] must be a dict such as"),
        (SimpleNamespace(name="f", inputs={5: {}}), r"tools\[1\]: inputs\[5\] must be a dict such as .*, by its name"),
        (SimpleNamespace(name="f", inputs={"a": {"type": {}}}), r"tools\[1\]: inputs\['a'\]\['type'\] must be a"),
        (SimpleNamespace(name="f", inputs={"a": {"type": "string", "nullable": True, "enum": 5}}), "'f'.*enum"),
        (SimpleNamespace(name="f", args_schema=5), r"tools\[1\] \('f'\): its args_schema can't be used"),
        ("get_weather", r"tools\[1\]: str is not a tool"),
        (None, r"tools\[1\]: NoneType is not a tool"),
        ({}, r"tools\[1\]: the tool has no name; a tool looks like"),
        ({"type": "function", "function": {}}, r"tools\[1\]: the tool has no name"),
        ({"name": "f", "parameters": []}, None),
        ({"name": "f", "parameters": [1]}, r"tools\[1\] \('f'\): 'parameters' must be a JSON schema"),
        ({"name": "f", "parameters": {"a": b""}}, r"tools\[1\] \('f'\): 'parameters' is not valid JSON"),
        ({"name": "f", "parameters": {"const": math.nan}}, r"tools\[1\] \('f'\): 'parameters' is not valid JSON"),
        ({"name": "f", "parameters": {"type": "string"}}, r"tools\[1\] \('f'\): .* type 'object', not 'string'"),
        (tool_with({"a": {"type": "objekt"}}), r"tools\[1\] \('f'\): .* invalid at \$\.properties\.a\.type: 'objekt'"),
        (
            tool_with({"a": {"$ref": "http://e.com/x"}}),
            r"tools\[1\] \('f'\): .* refers to 'http://e.com/x', .* not in it",
        ),
        (tool_with({"a": {"items": {"$ref": "#/$defs/A"}}}), r"tools\[1\] \('f'\): .* refers to '#/\$defs/A'"),
        (Tool("f", "", tool_with({"a": {"type": "objekt"}})["parameters"]), r"tools\[1\] \('f'\): .* 'objekt'"),
        (Tool("", None, None), r"tools\[1\]: the tool has no name"),  # type: ignore[arg-type]
        (Tool("f", None, None), r"tools\[1\] \('f'\): 'parameters' must be"),  # type: ignore[arg-type]
        (SimpleNamespace(inputSchema=CITY), r"tools\[1\]: the tool has no name"),
        (SimpleNamespace(name=None, inputSchema=CITY), r"tools\[1\]: the tool has no name"),
        ({"name": "has space"}, r"tools\[1\]: 'has space' can't be the name of a tool"),
        ({"name": "a\tb"}, r"tools\[1\]: 'a\\tb' can't be the name of a tool"),
        ({"name": "x" * 129}, r"tools\[1\]: 'x+' can't be the name of a tool: a name has at most 128"),
        ({"type": "web_search"}, r"tools\[1\]: tools of type 'web_search' are not supported"),
        ({"type": "custom", "name": "f", "format": {}}, r"tools\[1\]: tools of type 'custom' are not supported"),
        ({"name": "f", "schema": CITY}, r"tools\[1\] \('f'\): the key 'schema' is unknown"),
        ({"type": "function", "function": {"name": "f"}, "strict": True}, r"\('f'\): the key 'strict' is unknown"),
        ({"name": "f", "strict": "yes"}, r"tools\[1\] \('f'\): 'strict' must be True or False, not 'yes'"),
        ({"name": "f", "parameters": CITY, "input_schema": CITY}, r"tools\[1\] \('f'\): give one of 'parameters'"),
        ({"name": "f", "description": 5}, r"tools\[1\] \('f'\): .* 'description' a string"),
        (get_weather, r"tools\[1\]: another tool is named 'get_weather' too"),
    ],
)
def test_tools_from_invalid_value_raises_with_path(value: Any, error_text: str | None) -> None:
    if error_text is None:
        assert tools_from([get_weather, value])[1].parameters == {"type": "object", "properties": {}}
        return
    with pytest.raises(InvalidRequest, match=error_text) as raised:
        tools_from([get_weather, value])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["get_weather", {"name": "f"}, 5])
def test_tools_from_value_that_is_not_a_list_raises(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="tools must be a list of tools"):
        tools_from(value)


class Raises:
    """Every attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no attribute for you")


class RaisesAtInputs:
    name = "t"

    @property
    def inputs(self) -> Any:
        raise ValueError("x" * 10**6)


class Recurses:
    @property
    def inputs(self) -> Any:
        return self.inputs


class RaisingMeta(type):
    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class RaisingClass(metaclass=RaisingMeta): ...


class RaisingDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")


class AnswersAll:
    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any) -> Any:
        return self


class RaisingSignature:
    @property
    def __signature__(self) -> Any:
        raise RuntimeError("no signature")

    def __call__(self) -> None: ...


CIRCULAR: dict[str, Any] = {"type": "object", "properties": {}}
CIRCULAR["properties"]["a"] = CIRCULAR
HOSTILE = {
    "attributes raise": Raises(),
    "a property raises": RaisesAtInputs(),
    "a property calls itself": Recurses(),
    "a metaclass raises": RaisingClass,
    "a dict raises": RaisingDict(name="t"),
    "every attribute exists": AnswersAll(),
    "the signature raises": RaisingSignature(),
    "the key of an input raises": SimpleNamespace(name="t", inputs={Raises(): {}}),
    "a type raises": SimpleNamespace(name="t", inputs={"a": {"type": Raises()}}),
    "an input has a long type": SimpleNamespace(name="t", inputs={"a": {"type": {"x": "x" * 10**6}}}),
    "an input has a long name": SimpleNamespace(name="t", inputs={"x" * 10**6: 5}),
    "an MCP schema refers to itself": SimpleNamespace(name="t", description="", inputSchema=CIRCULAR),
    "a LangChain schema raises": SimpleNamespace(name="t", description="", args_schema=Raises()),
    "the name is long": {"name": "x" * 10**6},
    "the name has a line break": {"name": "a\nb"},
    "the type is long": {"name": "t", "type": "x" * 10**6},
    "a key is long": {"name": "t", "x" * 10**6: 1},
    "the root type is long": {"name": "t", "parameters": {"type": "x" * 10**6}},
    "the schema is long": {"name": "t", "parameters": {"type": "object", "description": "x" * 2**21}},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tool_raises_short_invalid_request_that_names_it(case: str) -> None:
    with pytest.raises(InvalidRequest, match=r"tools\[1\]") as raised:
        tools_from([get_weather, HOSTILE[case]])
    assert len(str(raised.value)) < 2000


def test_many_tools_are_compared_in_linear_time() -> None:
    tools = [{"name": f"t{n}"} for n in range(20_000)]
    begin = time.process_time()
    assert len(tools_from(tools)) == 20_000
    assert time.process_time() - begin < 5


def test_long_schemas_do_not_stay_in_memory() -> None:
    tracemalloc.start()
    try:
        for n in range(20):
            with pytest.raises(InvalidRequest, match="simplify it"):
                tools_from([{"name": "t", "parameters": {"type": "object", "description": f"{n}" * 2**21}}])
        assert tracemalloc.get_traced_memory()[0] < 2**21
    finally:
        tracemalloc.stop()
