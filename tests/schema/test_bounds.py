"""No pattern and no schema holds the caller's thread: what takes long is refused, or is left to a thread."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given

from modelport.constrained.enforceable import enforceable_schema
from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.inputs.tools import _problem_of_schema
from modelport.schema import regex_bounds, regexes
from modelport.schema.time_limit import ThreadNeeded, time_limit
from modelport.schema.validation import MAX_SCHEMA_PARTS, checked_schema, mismatch
from modelport.types.output_types import Regex
from tests.properties import examples

from .patterns import PATTERNS

WIDE = "[\x00-\uffff]"
IGNORECASE = f"(?i){WIDE * 1000}"
#: The longest time for which the caller's thread may be held, in seconds of the processor. It is three times the
#: promise, because some machines are slow.
LONGEST = 0.3


@pytest.fixture(autouse=True, scope="module")
def _import_modules() -> None:
    mismatch({"$anchor": "a", "pattern": "a"}, "a")


def hold(schema: Any, value: Any = "a") -> tuple[float, object]:
    """Return how long checking a schema and a value holds the thread of an event loop, and the result or error."""
    re.purge()
    started = time.thread_time()
    result: object
    try:
        checked_schema(schema)
        with time_limit(on_loop=True):
            result = mismatch(schema, value)
    except (InvalidRequest, ThreadNeeded) as error:
        result = error
    return time.thread_time() - started, result


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": IGNORECASE}, "a"),
        ({"patternProperties": {IGNORECASE: {}}}, {"a": 1}),
        ({"pattern": f"(?<=a){WIDE * 300}"}, "a"),
        ({"format": "regex"}, IGNORECASE),
        ({"format": "regex"}, "a" * 1_000_000),
        ({"pattern": "a" * 1_000_000}, "a"),
        ({"allOf": [{"pattern": f"{index:x}"} for index in range(40_000)]}, "a"),
        ({"anyOf": [{}] * 250_000, "$anchor": "a"}, "a"),
        ({"required": [f"{index:x}" for index in range(80_000)]}, {}),
        ({"dependentRequired": {"a": [f"{index:x}" for index in range(80_000)]}}, {"a": 1}),
    ],
    ids=["(?i)", "property names", "look-behind", "regex", "long regex", "long pattern", "many patterns",
         "anchor", "required", "dependentRequired"],
)  # fmt: skip
def test_schema_does_not_hold_the_thread(schema: dict[str, Any], value: Any) -> None:
    held, result = hold(schema, value)
    assert held < LONGEST, result


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": r"\w{150}!"}, "a"),
        ({"pattern": f"(?=a)a(?<=a){WIDE * 60}"}, "a"),
        ({"enum": [[0] * 49_999 + [index] for index in range(6)]}, [0] * 49_999 + [9]),
        ({"const": [0] * 150_000}, [0] * 150_000),
        ({"$defs": {f"a{index}": {"$anchor": f"a{index}"} for index in range(1000)}}, "a"),
    ],
    ids=["many states", "wide classes", "enum", "const", "names"],
)
def test_long_check_leaves_the_event_loop(schema: dict[str, Any], value: Any) -> None:
    held, result = hold(schema, value)
    assert isinstance(result, ThreadNeeded)
    assert held < LONGEST


def test_schema_of_a_tool_is_checked_quickly() -> None:
    """All names in the schema are collected, and all references resolved."""
    count = MAX_SCHEMA_PARTS // 2 - 10
    text = json.dumps({"$anchor": "a", "anyOf": [{"$ref": "#a"}] * count + [{"$anchor": "b"}] * count})
    started = time.thread_time()
    assert _problem_of_schema(text) is None
    assert time.thread_time() - started < LONGEST
    assert "'#c'" in str(_problem_of_schema(json.dumps({"anyOf": [{"$ref": "#a"}, {"$ref": "#c"}], "$anchor": "a"})))


def test_too_many_parts_or_characters_of_patterns_are_refused() -> None:
    limit = regex_bounds.MAX_PATTERN_LENGTH
    checked_schema({"anyOf": [{"pattern": "a" * limit}] * 9})  # The same pattern counts once.
    with pytest.raises(InvalidRequest, match=rf"at \$.properties.a.pattern: all regular .* may have {limit} char"):
        checked_schema({"properties": {"a": {"pattern": "a" * (limit + 1)}}})
    with pytest.raises(InvalidRequest, match=rf"at \$.anyOf\[1\].pattern: all regular .* may have {limit} char"):
        checked_schema({"anyOf": [{"pattern": "a" * (limit - 10)}, {"pattern": "b"}]})
    with pytest.raises(InvalidRequest, match=rf"has {limit + 1} characters, and may have {limit}"):
        Regex("a" * (limit + 1))
    with pytest.raises(InvalidRequest, match=rf"booleans, and may have {MAX_SCHEMA_PARTS}: simplify it"):
        checked_schema({"anyOf": [{}] * MAX_SCHEMA_PARTS})


def test_pattern_in_a_part_that_only_a_reference_reaches_is_bounded() -> None:
    schema = {"$ref": "#/x/y", "x": {"y": {"pattern": "a" * 1_000_000}}}
    with pytest.raises(InvalidRequest, match="has 1000000 characters"):
        mismatch(schema, "a")


def test_wide_classes_under_ignorecase_match_or_are_refused() -> None:
    assert regexes.search(f"(?i){WIDE * 99}", "a" * 99)
    with pytest.raises(InvalidRequest, match="could take too long"):
        regexes.search(IGNORECASE, "a" * 1000)


@examples(200)
@given(PATTERNS.map(lambda parts: "".join(atom + count for atom, count in parts)))
@example("(?<=a+)b")
@example("(?<!a|bc)b")
@example("(?<=ab)b")
@example("(?:(?<=a*)|b)")
@example("(?>(?<=a*))")
@example("((?(1)(?<=a*)|b))")
@example("(?L)a")
@example("a(?i)")
@example("(")
@example(r"(a)\2")
def test_check_agrees_with_python(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error:
        with pytest.raises(re.error):
            regex_bounds.check(pattern)
    except ValueError as error:
        with pytest.raises(type(error)):
            regex_bounds.check(pattern)
    else:
        regex_bounds.check(pattern)


@pytest.mark.parametrize(
    "schema",
    [{"multipleOf": 99_999_999}, {"items": {"multipleOf": 10_001}}, {"multipleOf": 12_345.5},
     {"allOf": [{"multipleOf": 997}, {"multipleOf": 101}]}],
)  # fmt: skip
def test_multiple_of_that_takes_an_engine_long_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeature, match=r"can't enforce the schema's multipleOf=.* too long"):
        enforceable_schema(schema)


def test_multiple_of_that_an_engine_compiles_quickly_is_enforced() -> None:
    for schema in ({"multipleOf": 9973}, {"multipleOf": 10_000_000}, {"multipleOf": 0.5},
                   {"allOf": [{"multipleOf": 7}, {"multipleOf": 60}]}):  # fmt: skip
        assert enforceable_schema(schema) == schema
