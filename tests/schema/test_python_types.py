"""Python types as output types: their schemas are as strict as the types, and errors of their validators."""

from __future__ import annotations

import sys
import typing
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, HttpUrl, field_validator
from typing_extensions import TypedDict

from modelport import InvalidOutput
from modelport.errors import InvalidRequest
from modelport.inputs.output_types import grammar_from
from modelport.testing import ScriptedModel
from tests.constrained.matching import accepts

Share = Annotated[Decimal, Field(ge=0, le=Decimal("0.5"))]


class Order(BaseModel):
    price: Decimal
    page: HttpUrl | None
    counts: dict[int, Decimal]


@pytest.mark.parametrize("old_llguidance", [False, True])
@pytest.mark.parametrize(
    ("python_type", "valid", "invalid"),
    [
        (Decimal, ["1.5", "-1"], ['"hello"']),
        (Share, ["0.5", "0.25"], ["-1", '"-1"', "0.51"]),
        (
            HttpUrl,
            ['"https://a.b:80/c/?d=e#f"', '"http://127.0.0.1:8000/"', '"http://3com.example"'],
            ['"mailto:x"', '"http://999.1.1.1"', '"http://xn--a"', '"http:///"', '"ftp://a.b"'],
        ),
        (dict[int, str], ['{"1": "b", "-5": ""}', "{}"], ['{"a": "b"}', '{"1.5": "b"}']),
        (complex, ['"1+2j"', '"-1.5-2j"', '"3"'], ['"zz"', '"1+2"']),
        (timedelta, ['"P1DT2H"', '"PT5M"', '"P2W"'], ['"P99999999999D"', '"P"', '"banana"']),
        (Order, ['{"price": 1.5, "page": "http://a.b/", "counts": {"1": 2}}'], ['{"price": "x", "page": null}']),
    ],
)
def test_enforced_type_allows_only_its_values(
    python_type: Any, valid: list[str], invalid: list[str], old_llguidance: bool
) -> None:
    grammar = grammar_from(python_type)
    for text in valid:
        assert accepts(grammar, text, old_llguidance=old_llguidance)
        grammar.parse(text)
    for text in invalid:
        assert not accepts(grammar, text, old_llguidance=old_llguidance)


class Strict(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def check(cls, x: int) -> int:
        if x == 1:
            raise KeyError("boom\nboom")
        if x == 2:
            raise KeyboardInterrupt
        if x == 3:
            raise ValueError("odd")
        return x


def test_parse_error_of_validator_is_invalid_output() -> None:
    with pytest.raises(InvalidOutput, match="a validator of Strict raised KeyError") as raised:
        ScriptedModel('{"x": 1}').generate("?", grammar=Strict)
    assert raised.value.text == '{"x": 1}'
    with pytest.raises(ValueError) as raised_by_parse:
        grammar_from(Strict).parse('{"x": 1}')
    assert isinstance(raised_by_parse.value.__cause__, KeyError)
    assert "\n" not in str(raised_by_parse.value)
    with pytest.raises(ValueError, match=r"at \$\.x: Value error, odd"):
        grammar_from(Strict).parse('{"x": 3}')


def test_parse_keyboard_interrupt_in_validator_is_not_caught() -> None:
    with pytest.raises(KeyboardInterrupt):
        grammar_from(Strict).parse('{"x": 2}')


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_parse_constants_outside_json_raise(constant: str) -> None:
    for value in ({"type": "object"}, dict[str, float], dict[str, Decimal]):
        with pytest.raises(ValueError, match=f"{constant} is not valid JSON"):
            grammar_from(value).parse(f'{{"x": {constant}}}')
    assert grammar_from(dict[str, str]).parse('{"x": "NaN Infinity"}') == {"x": "NaN Infinity"}


class Tree(TypedDict):
    value: int
    kids: "list[Tree]"  # noqa: UP037


T = typing.TypeVar("T")


class Box(TypedDict, typing.Generic[T]):
    inside: T


class Flat(TypedDict):
    a: int


@dataclass
class Holder:
    flat: Flat


def test_parse_recursive_typeddict_validates_each_level() -> None:
    grammar = grammar_from(list[Tree])
    assert accepts(grammar, '[{"value": 1, "kids": [{"value": 2, "kids": []}]}]')
    tree = {"value": 1, "kids": [{"value": 2, "kids": []}]}
    assert grammar.parse('[{"value": 1, "kids": [{"value": 2, "kids": []}]}]') == [tree]
    with pytest.raises(ValueError, match=r"\[0\]\.kids\[0\]\.kids"):
        grammar.parse('[{"value": 1, "kids": [{"value": 2}]}]')


def test_parse_typeddict_in_annotated_union_is_validated() -> None:
    grammar = grammar_from(Annotated[list[Flat] | typing.Literal["none"] | None, "noted"])
    assert grammar.parse('"none"') == "none"
    assert grammar.parse('[{"a": 1}]') == [{"a": 1}]


@pytest.mark.parametrize(("python_type", "text"), [(Box[int], '{"inside": 1}'), (Holder, '{"flat": {"a": 1}}')])
def test_parse_generic_or_nested_typeddict_is_validated(python_type: Any, text: str) -> None:
    grammar_from(python_type).parse(text)


class OldFlat(typing.TypedDict):
    a: int


class OldBox(typing.TypedDict, typing.Generic[T]):
    inside: T


@dataclass
class OldHolder:
    flat: OldFlat


@pytest.mark.parametrize("python_type", [OldFlat, list[OldFlat], OldBox[int], OldHolder])
def test_grammar_from_typing_typeddict_raises_before_python_3_12(python_type: Any) -> None:
    if sys.version_info >= (3, 12):
        grammar_from(python_type)
    else:
        with pytest.raises(InvalidRequest, match=r"use typing_extensions\.TypedDict"):
            grammar_from(python_type)
