"""Strategies: schemas whose check could take exponential time, and outputs for them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.inputs import SCHEMA
from tests.fuzz.junk import junk, mutated

Schema = dict[str, Any]

#: Patterns that take exponential or quadratic time in a backtracking matcher, that are large, or that are broken.
PATTERNS = (
    "^(a+)+$", "^(a|a)*b$", "^(a|aa)+$", "(.*)*x", "^(([a-z])+.)+[A-Z]([a-z])+$", "(?:x{1,1000}){1,1000}", r"\d{5000}",
    "^(?=(a+)+$).*$", r"^(a+)\1+$", r"(?<!a{1,9})b", "[", "(?P<n>a)(?P=n)", "a{1000}{1000}", "^" + "a?" * 40 + "a" * 40,
    r"^\p{L}+$", r"^[\w\d-]{1,64}$", "^(?!.*(.).*\\1).*$", "|".join(f"a{n}" for n in range(500)),
)  # fmt: skip
_LEAVES: tuple[Schema, ...] = (
    {"type": "string"}, {"type": "integer"}, {"type": "null"}, {}, {"const": 1}, {"enum": ["a", None, 1]},
    {"type": "string", "format": "email"}, {"type": "number", "multipleOf": 1e-300}, {"minimum": 10**400},
    {"type": "array", "uniqueItems": True}, {"type": "string", "minLength": 2**70}, {"maxItems": -1},
    {"type": "object", "additionalProperties": False}, {"not": {}}, {"type": ["string", "null"]},
    {"enum": list(range(3000))}, {"properties": {f"p{n}": {"type": "string"} for n in range(500)}},
)  # fmt: skip
_leaves = st.one_of(
    st.sampled_from(_LEAVES), st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(PATTERNS).map(lambda pattern: {"patternProperties": {pattern: {"type": "integer"}}}),
)  # fmt: skip


def _refer(keyword: str, references: list[Schema]) -> Schema:
    """Return a schema that has these references under a keyword."""
    first = references[0]
    if keyword in ("anyOf", "allOf", "oneOf", "prefixItems"):
        return {keyword: references}
    if keyword in ("properties", "patternProperties", "dependentSchemas"):
        return {keyword: {f"p{number}": reference for number, reference in enumerate(references)}}
    if keyword == "if":
        return {"if": first, "then": references[-1], "else": first}
    if keyword == "$ref":
        return {**first, "anyOf": references}
    return {keyword: first}


_KEYWORDS = (
    "anyOf", "anyOf", "allOf", "allOf", "oneOf", "properties", "properties", "prefixItems", "patternProperties",
    "dependentSchemas", "if", "$ref", "items", "contains", "not", "additionalProperties", "unevaluatedProperties",
    "propertyNames",
)  # fmt: skip


@st.composite
def towers(draw: st.DrawFn) -> Schema:
    """Draw a chain of definitions, each of which refers several times to the next one, and perhaps back to the first.

    A chain of thirty definitions with two references each has 5 KB, and 2^30 paths.
    """
    levels, fan_out = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    keyword = draw(st.sampled_from(_KEYWORDS))
    kind = draw(st.sampled_from(("$ref", "$ref", "$ref", "$dynamicRef")))
    container = draw(st.sampled_from(("$defs", "definitions")))
    definitions: dict[str, Schema] = {}
    for level in range(levels):
        used = keyword if draw(st.integers(0, 4)) else draw(st.sampled_from(_KEYWORDS))
        definitions[f"d{level}"] = _refer(used, [{kind: f"#/{container}/d{level + 1}"}] * fan_out)
    last = draw(st.integers(0, 9))
    definitions[f"d{levels}"] = (
        draw(_leaves) if last > 1 else {"$ref": "#" if last else f"#/{container}/d{draw(st.integers(0, levels))}"}
    )
    return {**_refer(draw(st.sampled_from(_KEYWORDS)), [{kind: f"#/{container}/d0"}] * fan_out), container: definitions}


_inline = st.recursive(
    _leaves,
    lambda inner: st.builds(
        lambda keyword, parts: _refer(keyword, parts),
        st.sampled_from(_KEYWORDS), st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip
_RECURSIVE: tuple[Schema, ...] = (
    {"$ref": "#"}, {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"$dynamicRef": "#x", "$dynamicAnchor": "x"},
    {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
    {"type": "array", "items": {"$ref": "#"}}, {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}},
    {"$id": "http://x.test/s", "$ref": "http://x.test/t"}, {"$ref": "file:///etc/passwd"}, {"$ref": "#/$defs/a/b"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
)  # fmt: skip
schemas = st.one_of(towers(), towers(), _inline, _leaves, st.sampled_from(_RECURSIVE), mutated(SCHEMA, *_RECURSIVE))


def _nested(depth: int, width: int, leaf: Any) -> Any:
    """Return objects inside of objects, as the towers of `properties` accept them; they share their parts."""
    value = leaf
    for _ in range(depth):
        value = {f"p{number}": value for number in range(width)}
    return value


_values = st.one_of(
    junk, st.builds(_nested, st.integers(0, 7), st.integers(1, 3), st.sampled_from((1, "a", None))),
    st.builds(_nested, st.integers(8, 40), st.just(1), st.sampled_from((1, "a", None))),
    st.builds(lambda n, tail: "a" * n + tail, st.sampled_from((1, 30, 5000)), st.sampled_from(("", "!", "b"))),
    st.builds(lambda n, item: [item] * n, st.sampled_from((2, 300, 3000)), st.sampled_from((1, "a", [], {}))),
    st.builds(lambda n: {f"p{i}": i for i in range(n)}, st.sampled_from((2, 300, 2000))),
    st.sampled_from(({"name": "ada", "age": 3, "tags": ["abc"], "kind": None}, 10**300, 1, "a", None, [])),
)  # fmt: skip
#: Outputs of a model: JSON that may or may not fit a schema.
outputs = _values.map(json.dumps)
