"""Validation of values against JSON schemas: what is found, and how long it may take."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelport.errors import InvalidOutput, InvalidRequest, InvalidToolCall
from modelport.inputs.output_types import grammar_from
from modelport.schema.validation import mismatch
from modelport.testing import ScriptedModel
from modelport.types.messages import ChatMessage
from modelport.types.output_types import JSONSchema
from modelport.types.tools import Tool


def test_mismatch_returns_path_and_reason() -> None:
    schema = {"$defs": {"a": {"type": "integer"}}, "items": {"$ref": "#/$defs/a"}}
    assert mismatch(schema, [1, 2]) is None
    assert mismatch(schema, [1, "x"]) == "at $[1]: 'x' is not of type 'integer'"


@pytest.mark.parametrize("schema", [{"$ref": "#/nowhere"}, {"type": "image"}, {"pattern": "("}, {"type": 5}])
def test_mismatch_invalid_schema_raises_invalid_request(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="schema can't be used") as raised:
        mismatch(schema, "a")
    assert "\n" not in str(raised.value)


def test_mismatch_deep_value_is_invalid_output_not_invalid_schema() -> None:
    schema = {"type": "object", "properties": {"k": {"$ref": "#"}}}
    deep = '{"k": ' * 400 + "{}" + "}" * 400
    with pytest.raises(ValueError, match="nested too deeply"):
        JSONSchema(schema).parse(deep)
    with pytest.raises(InvalidOutput, match="nested too deeply") as raised:
        ScriptedModel(deep).generate("?", grammar=schema)
    assert raised.value.text == deep
    with pytest.raises(InvalidRequest, match="refers to itself without an end"):
        mismatch({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, {})


HUGE = "9" * 400


@pytest.mark.parametrize(
    ("schema", "number", "says"),
    [
        ({"type": "number", "multipleOf": 0.4}, HUGE, "is not a multiple of 0.4"),
        ({"type": "number", "multipleOf": 0.1}, "1e999", "the number 1e999 is too large"),
        ({"type": "number"}, "1e400", "the number 1e400 is too large"),
        ({"type": "number"}, "-1E+0400", "the number -1E[+]0400 is too large"),
        ({"type": "number"}, "1" + "0" * 309 + ".5", "the number 10* is too large"),
        ({"type": "integer", "multipleOf": 3}, "1e999", "too large"),
        ({"type": "integer", "multipleOf": 3}, "1" * 401, "is not a multiple of 3"),
        ({"type": "integer"}, "9" * 5000, "4300 digits"),
        ({"type": "number"}, "NaN", "NaN is no JSON|no valid JSON"),
        ({"type": "number"}, "-Infinity", "-Infinity is no JSON|no valid JSON"),
        (float, "1e400", "the number 1e400 is too large"),
        (float, "NaN", "NaN is no JSON"),
    ],
)
def test_number_out_of_range_is_invalid_output_not_invalid_schema(schema: Any, number: str, says: str) -> None:
    whole = {"type": "object", "properties": {"x": schema}}
    form, text = (list[float], f"[{number}]") if schema is float else (whole, f'{{"x": {number}}}')
    with pytest.raises(ValueError, match=says):
        grammar_from(form).parse(text)
    with pytest.raises(InvalidOutput, match=says) as raised:
        ScriptedModel(text, repeat=True).generate("?", grammar=form)
    assert raised.value.text == text
    if schema is not float:
        call = {"id": "1", "function": {"name": "f", "arguments": text}}
        model = ScriptedModel(ChatMessage("assistant", None, [call]))  # type: ignore[list-item]
        with pytest.raises(InvalidToolCall, match=f"{says}|no valid JSON") as refused:
            model.generate("?", tools=[Tool("f", "", whole)])
        assert refused.value.text == text


def test_parse_large_numbers_within_range_are_accepted() -> None:
    assert JSONSchema({"type": "integer", "multipleOf": 3}).parse(HUGE) == int(HUGE)
    assert JSONSchema({"type": "number", "multipleOf": 0.1}).parse(HUGE) == int(HUGE)
    assert JSONSchema({"type": "number", "multipleOf": 0.01}).parse("19.99") == 19.99
    assert grammar_from(list[int]).parse(f"[{HUGE}]") == [int(HUGE)]
    assert grammar_from(list[float]).parse("[1e308, 1e-999]") == [1e308, 0.0]


def test_mismatch_schema_with_url_reference_fetches_nothing() -> None:
    """A tool's schema may come from a server that is not trusted."""
    import http.server
    import threading

    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InvalidRequest):
            mismatch({"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"}, 5)
        server.shutdown()
    assert asked == []


EVIL, ROW = "(a+)+b", "a" * 5000


@pytest.mark.parametrize(
    "code",
    [
        f"fails(Regex({EVIL!r}).parse, ROW)",
        f"assert mismatch({{'pattern': {EVIL!r}}}, ROW)",
        f"assert not mismatch({{'patternProperties': {{{EVIL!r}: False}}}}, {{ROW: 1}})",
        f"assert not mismatch({{'propertyNames': {{'not': {{'pattern': {EVIL!r}}}}}}}, {{ROW: 1}})",
        f"assert mismatch({{'patternProperties': {{{EVIL!r}: {{}}}}, 'additionalProperties': False}}, {{ROW: 1}})",
        f"assert mismatch({{'allOf': [{{'patternProperties': {{{EVIL!r}: {{}}}}}}], 'unevaluatedProperties': False}}, "
        "{ROW: 1})",
        # A part that names a draft is not given to that draft's own validator.
        "DRAFT = 'http://json-schema.org/draft-07/schema#'\n"
        f"assert mismatch({{'items': {{'$schema': DRAFT, 'pattern': {EVIL!r}}}}}, [ROW])",
        f"fails(Tool('t', '', {{'properties': {{'a': {{'pattern': {EVIL!r}}}}}}}).check, {{'a': ROW}})",
        f"assert mismatch({{'pattern': '^(?!b)(?=a){EVIL}$'}}, ROW)",
        # What only Python's engine could match, or what is too large for Rust's.
        f"refused(Regex('(?=a){EVIL}|(c)').parse, ROW)",
        f"refused(mismatch, {{'pattern': '(?<!b){EVIL}'}}, ROW)",
        r"refused(mismatch, {'pattern': r'(a*)*\1b'}, ROW)",
        "refused(mismatch, {'pattern': '.*.*.*(?<=b)x'}, ROW)",
        "refused(mismatch, {'pattern': 'a*(?<=b)x'}, ROW)",
        "refused(mismatch, {'pattern': '(?:(?:a{1,1000}){1,1000}){1,1000}b'}, ROW)",
        "refused(mismatch, {'pattern': '(?:a{0,1000}){60}x'}, ROW * 20)",
        "two = lambda i: {'allOf': [{'$ref': f'#/$defs/{i}'}] * 2}\n"
        "slow(mismatch, {'$defs': {str(i): two(i + 1) for i in range(60)} | {'60': {}}, '$ref': '#/$defs/0'}, 1)",
        "two = lambda i: {'$dynamicAnchor': f'a{i}', 'allOf': [{'$dynamicRef': f'#a{i + 1}'}] * 2}\n"
        "last = {'$dynamicAnchor': 'a60'}\n"
        "slow(mismatch, {'$defs': {str(i): two(i) for i in range(60)} | {'60': last}, '$dynamicRef': '#a0'}, 1)",
        "schema = {'properties': {'a': {}}}\n"
        "for _ in range(30): schema = {'allOf': [schema], 'unevaluatedProperties': False}\n"
        "slow(mismatch, schema, {'a': 1})",
        "patterns = {f'^x{i}(a|b)*$': {} for i in range(600)}\n"
        "value = {f'y{i}': 1 for i in range(50)}\n"
        "assert mismatch({'patternProperties': patterns, 'additionalProperties': False}, value)",
        "refused(mismatch, {'pattern': '(' * 40 + 'a' + '){1,9}' * 40}, 'a' * 5000)",
        "assert not mismatch({'$defs': {'a': {}}, 'items': {'$ref': '#/$defs/a'}}, [1] * 20_000)",
        "assert not mismatch({'uniqueItems': True}, [i * (2**61 - 1) for i in range(50_000)])",
        "assert not mismatch({'uniqueItems': True}, [{'a': i} for i in range(50_000)])",
        "assert not mismatch({'contains': {}, 'unevaluatedItems': False}, [1] * 200_000)",
        "assert not mismatch({'patternProperties': {'a': {}}, 'unevaluatedProperties': False}, {f'a{i}': i for i in "
        "range(150_000)})",
        "assert _Unwrapper(False).feed('{\"answer\": [' + ' ' * 300_000 + 'x')",
    ],
)
def test_validation_of_hostile_patterns_and_lists_takes_bounded_time(code: str) -> None:
    """In a process of its own, since what Python's engine does can't be broken off."""
    program = f"""
from modelport import InvalidRequest, Regex
from modelport.types.output_types import mismatch
from modelport.layers.adapt.wrapping import _Unwrapper
from modelport.types.tools import Tool

ROW = {ROW!r}

def raises(kind, words, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError("it raised nothing")

def fails(call, *arguments):
    raises(ValueError, "does not match", call, *arguments)

def slow(call, *arguments):
    raises(InvalidRequest, "accepts more than 5 s", call, *arguments)

def refused(call, *arguments):
    raises(InvalidRequest, "could take too long", call, *arguments)

{code}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 1.5, "1", ""]),
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(st.sampled_from("ab"), parts, max_size=2),
), max_size=4))  # fmt: skip
@example([1, True])
@example([[0], [False]])
@example([{"a": [1]}, {"a": [1.0]}])
def test_unique_items_agrees_with_jsonschema(items: list[Any]) -> None:
    from jsonschema import Draft202012Validator

    schema = {"uniqueItems": True}
    assert (mismatch(schema, items) is None) is Draft202012Validator(schema).is_valid(items)


def test_mismatch_long_value_is_shortened_in_message() -> None:
    told = str(mismatch({"type": "integer"}, "a" * 100_000))
    assert len(told) < 2100 and told.startswith("at $: 'aaa") and told.endswith("is not of type 'integer'")
