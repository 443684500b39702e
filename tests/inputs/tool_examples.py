"""Functions and classes from which tests make tools."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from modelport.inputs.tools import tools_from
from modelport.types.tools import Tool

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where."}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool_from(value: Any) -> Tool:
    """Return the tool, after checking that its schema is valid, that it is JSON, and that `value` is unchanged."""
    before = copy.deepcopy(value) if isinstance(value, dict) else value
    (tool,) = tools_from([value])
    Draft202012Validator.check_schema(tool.parameters)
    assert json.loads(json.dumps(tool.to_dict())) == tool.to_dict()
    assert value == before
    return tool


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


class Options(TypedDict, total=False):
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


class Engine:
    """A type that JSON can't represent."""

    lock = threading.Lock()


class Station:
    """Measures the weather."""

    def measure(self, city: str) -> str:
        """Measures.

        Args:
            city: Where.
        """
        return ""

    def __call__(self, city: Annotated[str, "Where."]) -> str:
        return ""
