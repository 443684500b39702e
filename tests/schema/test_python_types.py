"""Python types as forms: a schema no looser than the type, and what a type's own checks raise."""

from __future__ import annotations

import sys
import typing
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, HttpUrl, field_validator

from modelport import InvalidOutput
from modelport.constrained.lark import as_lark
from modelport.errors import InvalidRequest
from modelport.inputs.output_types import grammar_from
from modelport.testing import ScriptedModel

llguidance = pytest.importorskip("llguidance")

BYTES = llguidance.LLTokenizer("byte")


def takes(form: Any, text: str, old: bool) -> bool:
    lark = as_lark(grammar_from(form), old=old)
    assert llguidance.LLMatcher.validate_grammar(lark, None) == "", lark
    matcher = llguidance.LLMatcher(BYTES, lark, log_level=0)
    tokens = BYTES.tokenize_bytes(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


Share = Annotated[Decimal, Field(ge=0, le=Decimal("0.5"))]


class Order(BaseModel):
    price: Decimal
    page: HttpUrl | None
    counts: dict[int, Decimal]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("form", "right", "wrong"),
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
def test_a_mask_lets_nothing_through_that_the_type_does_not_take(
    form: Any, right: list[str], wrong: list[str], old: bool
) -> None:
    for text in right:
        assert takes(form, text, old)
        grammar_from(form).parse(text)
    for text in wrong:
        assert not takes(form, text, old)


# --- what a type's own checks raise -----------------------------------------------------------------------------------


class Picky(BaseModel):
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


def test_what_a_validator_raises_is_a_wrong_answer() -> None:
    with pytest.raises(InvalidOutput, match="a validator of Picky failed on it: KeyError") as raised:
        ScriptedModel('{"x": 1}').generate("?", grammar=Picky)
    assert raised.value.text == '{"x": 1}'
    with pytest.raises(ValueError) as told:
        grammar_from(Picky).parse('{"x": 1}')
    assert isinstance(told.value.__cause__, KeyError)
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"at \$\.x: Value error, odd"):
        grammar_from(Picky).parse('{"x": 3}')


def test_an_interrupt_is_none() -> None:
    with pytest.raises(KeyboardInterrupt):
        grammar_from(Picky).parse('{"x": 2}')


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_have_is_no_answer(constant: str) -> None:
    for form in ({"type": "object"}, dict[str, float], dict[str, Decimal]):
        with pytest.raises(ValueError, match=f"{constant} is no JSON"):
            grammar_from(form).parse(f'{{"x": {constant}}}')
    assert grammar_from(dict[str, str]).parse('{"x": "NaN Infinity"}') == {"x": "NaN Infinity"}


# --- TypedDict before Python 3.12 -------------------------------------------------------------------------------------


class Tree(typing.TypedDict):
    value: int
    kids: "list[Tree]"  # noqa: UP037


T = typing.TypeVar("T")


class Box(typing.TypedDict, typing.Generic[T]):
    inside: T


class Flat(typing.TypedDict):
    a: int


@dataclass
class Holder:
    flat: Flat


def test_a_typeddict_may_hold_itself() -> None:
    grammar = grammar_from(list[Tree])
    assert takes(list[Tree], '[{"value": 1, "kids": [{"value": 2, "kids": []}]}]', old=False)
    tree = {"value": 1, "kids": [{"value": 2, "kids": []}]}
    assert grammar.parse('[{"value": 1, "kids": [{"value": 2, "kids": []}]}]') == [tree]
    with pytest.raises(ValueError, match=r"kids\[0\]\.kids"):
        grammar.parse('[{"value": 1, "kids": [{"value": 2}]}]')


def test_what_is_left_as_it_is_within_a_type() -> None:
    form = Annotated[list[Flat] | typing.Literal["none"] | None, "noted"]
    assert grammar_from(form).parse('"none"') == "none"
    assert grammar_from(form).parse('[{"a": 1}]') == [{"a": 1}]


@pytest.mark.parametrize(("form", "text"), [(Box[int], '{"inside": 1}'), (Holder, '{"flat": {"a": 1}}')])
def test_a_typeddict_that_pydantic_does_not_take_is_told_so(form: Any, text: str) -> None:
    if sys.version_info >= (3, 12):
        grammar_from(form).parse(text)
    else:
        with pytest.raises(InvalidRequest, match=r"must be typing_extensions\.TypedDict"):
            grammar_from(form)
