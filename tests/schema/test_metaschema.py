"""Mistakes in JSON schemas: the same as `jsonschema` finds, but in a fraction of the time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.errors import InvalidRequest
from modelport.schema import metaschema
from modelport.schema.metaschema import find_mistake
from modelport.schema.validation import MAX_SCHEMA_LENGTH, checked_schema
from tests.properties import examples

_VALUES = st.sampled_from([
    None, True, False, 0, 1, -1, 1.0, 1.5, 2**70, "", "string", "a b", "(", "#a", "a\n", [], ["string"], ["a", "a"],
    ["string", "string"], ["x", 1], [1], {}, {"a": 1}, {"a": True}, {"(": True}, {"a": ["b"]}, [{}], [[1]],
    [{"type": "x"}], {"type": 5}, [{"a": 1}, {"a": 1}],
])  # fmt: skip
_KEYWORDS = st.sampled_from([*metaschema._CHECKS, "const", "default", "unknown"])
_SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    _VALUES,
    lambda parts: st.dictionaries(
        _KEYWORDS, _VALUES | parts | st.lists(parts, max_size=2) | st.dictionaries(st.sampled_from("ab("), parts),
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip


@examples(500)
@given(_SCHEMAS)
def test_find_mistake_agrees_with_jsonschema(schema: Any) -> None:
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=["regex"]))
    except SchemaError:
        assert find_mistake(schema) is not None
    else:
        assert find_mistake(schema) is None


def test_find_mistake_knows_each_keyword_of_the_metaschema() -> None:
    from jsonschema import Draft202012Validator
    from jsonschema_specifications import REGISTRY

    keywords = set(Draft202012Validator.META_SCHEMA["properties"])
    for part in Draft202012Validator.META_SCHEMA["allOf"]:
        keywords |= set(REGISTRY.contents(f"https://json-schema.org/draft/2020-12/{part['$ref']}")["properties"])
    any_value = {"const", "default"}
    assert keywords - any_value == set(metaschema._CHECKS)


@pytest.mark.parametrize(
    ("schema", "mistake"),
    [
        ({"properties": {"a-b": {"items": {"type": "text"}}}}, r"at \$.properties\['a-b'\].items.type: 'text' is not "
         "one of 'array', 'boolean'"),
        ({"anyOf": [{}, {"pattern": "("}]}, r"at \$.anyOf\[1\].pattern: '\(' is not a 'regex'"),
        ({"required": ["a", "a"]}, r"at \$.required: \['a', 'a'\] has non-unique elements"),
        ({"minLength": -1}, r"at \$.minLength: -1 is less than the minimum of 0"),
        ({"$defs": {"a": 5}}, r"at \$\['\$defs'\].a: 5 is not of type 'object', 'boolean'"),
        ({"maximum": "9" * 5000}, r"at \$.maximum: '999.* … .*999' is not of type 'number'"),
    ],
)  # fmt: skip
def test_checked_schema_names_the_path_and_the_mistake(schema: dict[str, Any], mistake: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the JSON schema is invalid {mistake}"):
        checked_schema(schema)


def test_checked_schema_long_schema_takes_little_time() -> None:
    """It is checked in the caller's thread, which may be that of an event loop. It took 0.6 s."""
    field = {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}, "required": ["a"]}
    schema = {"type": "object", "properties": {f"p{index}": field for index in range(1000)}}
    assert len(json.dumps(schema)) > 99_000
    checked_schema({"title": "the modules are imported now"})
    started = time.thread_time()
    checked_schema(schema)
    assert time.thread_time() - started < 0.1


def test_checked_schema_too_long_schema_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"and may have {MAX_SCHEMA_LENGTH}: simplify it"):
        checked_schema({"enum": ["a" * 1000] * 1100})
