"""Validation of values against JSON schemas: what is found, and how long it may take."""

from __future__ import annotations

import multiprocessing
import re
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelport.errors import InvalidOutput, InvalidRequest, InvalidToolCall
from modelport.inputs.output_types import grammar_from
from modelport.layers.adapt.wrapping import _Unwrapper
from modelport.remote.schema_subsets import AZURE, BEDROCK, OPENAI
from modelport.schema import time_limit
from modelport.schema.rules import SchemaRules, UnsupportedSchema, remove_optional_nulls
from modelport.schema.validation import mismatch
from modelport.testing import ScriptedModel
from modelport.types.messages import ChatMessage
from modelport.types.output_types import JSONSchema, Regex
from modelport.types.tools import Tool
from tests.properties import examples


def test_mismatch_returns_path_and_reason() -> None:
    schema = {"$defs": {"a": {"type": "integer"}}, "items": {"$ref": "#/$defs/a"}}
    assert mismatch(schema, [1, 2]) is None
    assert mismatch(schema, [1, "x"]) == "at $[1]: 'x' is not of type 'integer'"


@pytest.mark.parametrize("schema", [{"$ref": "#/nowhere"}, {"type": "image"}, {"pattern": "("}, {"type": 5}])
def test_mismatch_invalid_schema_raises_invalid_request(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="schema can't be used") as raised:
        mismatch(schema, "a")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("frames", range(12))
def test_mismatch_at_the_limit_of_recursion_is_always_a_typed_error(frames: int) -> None:
    """Where the limit is met depends on the frames below. A package in Rust panics there, which is no Exception."""

    def call(frames: int) -> str | None:
        return call(frames - 1) if frames else mismatch({"type": "object", "properties": {"k": {"$ref": "#"}}}, value)

    value: Any = {}
    for _ in range(400):
        value = {"k": value}
    assert call(frames) == "at $: the value is nested too deeply to be checked"


def test_mismatch_deep_value_is_invalid_output_not_invalid_schema() -> None:
    schema = {"type": "object", "properties": {"k": {"$ref": "#"}}}
    deep = '{"k": ' * 400 + "{}" + "}" * 400
    with pytest.raises(ValueError, match="nested too deeply"):
        JSONSchema(schema).parse(deep)
    with pytest.raises(InvalidOutput, match="nested too deeply") as raised:
        ScriptedModel(deep).generate("?", grammar=schema)
    assert raised.value.text == deep
    with pytest.raises(InvalidRequest, match="its references form an endless loop"):
        mismatch({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, {})


HUGE = "9" * 400


@pytest.mark.parametrize(
    ("schema", "number", "error_text"),
    [
        ({"type": "number", "multipleOf": 0.4}, HUGE, "is not a multiple of 0.4"),
        ({"type": "number", "multipleOf": 0.1}, "1e999", "the number 1e999 is too large"),
        ({"type": "number"}, "1e400", "the number 1e400 is too large"),
        ({"type": "number"}, "-1E+0400", "the number -1E[+]0400 is too large"),
        ({"type": "number"}, "1" + "0" * 309 + ".5", "the number 10* is too large"),
        ({"type": "integer", "multipleOf": 3}, "1e999", "too large"),
        ({"type": "integer", "multipleOf": 3}, "1" * 401, "is not a multiple of 3"),
        ({"type": "integer"}, "9" * 5000, "4300 digits"),
        ({"type": "number"}, "NaN", "NaN is not valid JSON|no valid JSON"),
        ({"type": "number"}, "-Infinity", "-Infinity is not valid JSON|no valid JSON"),
        (float, "1e400", "the number 1e400 is too large"),
        (float, "NaN", "NaN is not valid JSON"),
    ],
)
def test_number_out_of_range_is_invalid_output_not_invalid_schema(schema: Any, number: str, error_text: str) -> None:
    object_schema = {"type": "object", "properties": {"x": schema}}
    grammar, text = (list[float], f"[{number}]") if schema is float else (object_schema, f'{{"x": {number}}}')
    with pytest.raises(ValueError, match=error_text):
        grammar_from(grammar).parse(text)
    with pytest.raises(InvalidOutput, match=error_text) as raised:
        ScriptedModel(text, repeat=True).generate("?", grammar=grammar)
    assert raised.value.text == text
    if schema is not float:
        call = {"id": "1", "function": {"name": "f", "arguments": text}}
        model = ScriptedModel(ChatMessage("assistant", None, [call]))  # type: ignore[list-item]
        with pytest.raises(InvalidToolCall, match=f"{error_text}|no valid JSON") as refused:
            model.generate("?", tools=[Tool("f", "", object_schema)])
        assert refused.value.text == text


def test_parse_large_numbers_within_range_are_accepted() -> None:
    assert JSONSchema({"type": "integer", "multipleOf": 3}).parse(HUGE) == int(HUGE)
    assert JSONSchema({"type": "number", "multipleOf": 0.1}).parse(HUGE) == int(HUGE)
    assert JSONSchema({"type": "number", "multipleOf": 0.01}).parse("19.99") == 19.99
    assert grammar_from(list[int]).parse(f"[{HUGE}]") == [int(HUGE)]
    assert grammar_from(list[float]).parse("[1e308, 1e-999]") == [1e308, 0.0]


def test_mismatch_schema_with_url_reference_fetches_nothing() -> None:
    """The schema of a tool may come from an untrusted server."""
    import http.server
    import threading

    requested_paths = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested_paths.append(self.path)
            self.send_error(404)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(InvalidRequest):
            mismatch({"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"}, 5)
        server.shutdown()
    assert requested_paths == []


class Worker:
    """A process that runs code until it is done, or until the process is killed."""

    def __init__(self) -> None:
        self._process: Any = None

    def run(self, code: str, timeout: float = 150.0) -> str:
        """Run code; return the traceback of its error, or an empty string.

        Args:
            code: The code; `_run_code_forever` gives the names that it may use.
            timeout: Seconds after which the process is killed.
        """
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_run_code_forever, args=(other,), daemon=True)
            self._process.start()
        self._connection.send(code)
        if not self._connection.poll(timeout):
            self.kill()
            return f"it takes more than {timeout:g} s"
        return str(self._connection.recv())

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


def _run_code_forever(connection: Connection) -> None:
    names = {"pytest": pytest, "raises_mismatch": raises_mismatch, "raises_refusal": raises_refusal,
             "mismatch": mismatch, "LONG": LONG, "Regex": Regex, "Tool": Tool, "Unwrapper": _Unwrapper,
             "limited": limited, "refuses_or_rewrites": refuses_or_rewrites, "OPENAI": OPENAI, "AZURE": AZURE,
             "BEDROCK": BEDROCK}  # fmt: skip
    while True:
        code = connection.recv()
        try:
            with pytest.MonkeyPatch.context() as patch:
                exec(code, names | {"times_out": partial(_times_out, patch)})
        except BaseException:  # `pytest.fail` raises one that is no `Exception`.
            connection.send(traceback.format_exc())
        else:
            connection.send("")


def _raises(error_type: type[Exception], text: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(error_type, match=re.escape(text)):
        call(*arguments)


def _times_out(patch: pytest.MonkeyPatch, call: Callable[..., Any], *arguments: Any) -> None:
    assert time_limit.VALIDATION_TIMEOUT == 5.0
    # These cases never end by themselves, so a short limit shows the same.
    patch.setattr(time_limit, "VALIDATION_TIMEOUT", 0.5)
    _raises(InvalidRequest, "takes more than 0.5 s", call, *arguments)


def limited(call: Callable[[], Any]) -> None:
    with time_limit.time_limit():
        call()


def refuses_or_rewrites(rules: SchemaRules, schema: dict[str, Any]) -> None:
    try:
        rules.rewrite(schema)
    except UnsupportedSchema:
        pass


raises_mismatch = partial(_raises, ValueError, "does not match")
raises_refusal = partial(_raises, InvalidRequest, "could take too long")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.kill()


#: A pattern and a text for which Python's engine takes exponential time.
SLOW, LONG = "(a+)+b", "a" * 5000


@pytest.mark.parametrize(
    "code",
    [
        f"raises_mismatch(Regex({SLOW!r}).parse, LONG)",
        f"assert mismatch({{'pattern': {SLOW!r}}}, LONG)",
        f"assert not mismatch({{'patternProperties': {{{SLOW!r}: False}}}}, {{LONG: 1}})",
        f"assert not mismatch({{'propertyNames': {{'not': {{'pattern': {SLOW!r}}}}}}}, {{LONG: 1}})",
        f"assert mismatch({{'patternProperties': {{{SLOW!r}: {{}}}}, 'additionalProperties': False}}, {{LONG: 1}})",
        f"assert mismatch({{'allOf': [{{'patternProperties': {{{SLOW!r}: {{}}}}}}], 'unevaluatedProperties': False}}, "
        "{LONG: 1})",
        # A part that names another draft is not validated by the class of that draft.
        "DRAFT = 'http://json-schema.org/draft-07/schema#'\n"
        f"assert mismatch({{'items': {{'$schema': DRAFT, 'pattern': {SLOW!r}}}}}, [LONG])",
        f"raises_mismatch(Tool('t', '', {{'properties': {{'a': {{'pattern': {SLOW!r}}}}}}}).check, {{'a': LONG}})",
        f"assert mismatch({{'pattern': '^(?!b)(?=a){SLOW}$'}}, LONG)",
        # Patterns that only Python's engine could match, or that are too large for Rust's engine.
        f"raises_refusal(Regex('(?=a){SLOW}|(c)').parse, LONG)",
        f"raises_refusal(mismatch, {{'pattern': '(?<!b){SLOW}'}}, LONG)",
        r"raises_refusal(mismatch, {'pattern': r'(a*)*\1b'}, LONG)",
        "raises_refusal(mismatch, {'pattern': '.*.*.*(?<=b)x'}, LONG)",
        "raises_refusal(mismatch, {'pattern': 'a*(?<=b)x'}, LONG)",
        "raises_refusal(mismatch, {'pattern': '(?:(?:a{1,1000}){1,1000}){1,1000}b'}, LONG)",
        "raises_refusal(mismatch, {'pattern': '(?:a{0,1000}){60}x'}, LONG * 20)",
        "patterns = {f'^x{i}(a|b)*$': {} for i in range(600)}\n"
        "value = {f'y{i}': 1 for i in range(50)}\n"
        "assert mismatch({'patternProperties': patterns, 'additionalProperties': False}, value)",
        "raises_refusal(mismatch, {'pattern': '(' * 40 + 'a' + '){1,9}' * 40}, 'a' * 5000)",
        "assert not mismatch({'$defs': {'a': {}}, 'items': {'$ref': '#/$defs/a'}}, [1] * 20_000)",
        "assert not mismatch({'uniqueItems': True}, [i * (2**61 - 1) for i in range(50_000)])",
        "assert not mismatch({'uniqueItems': True}, [{'a': i} for i in range(50_000)])",
        "assert not mismatch({'contains': {}, 'unevaluatedItems': False}, [1] * 50_000)",
        "assert not mismatch({'patternProperties': {'a': {}}, 'unevaluatedProperties': False}, {f'a{i}': i for i in "
        "range(40_000)})",
        "assert Unwrapper(False).feed('{\"answer\": [' + ' ' * 300_000 + 'x')",
        # Each definition refers twice to the next one: a schema of 5 KB has 2^30 paths.
        "two = lambda i: {'type': 'object', 'properties': {p: {'$ref': f'#/$defs/{i + 1}'} for p in 'ab'}}\n"
        "definitions = {str(i): two(i) for i in range(30)} | {'30': {'type': 'string'}}\n"
        "schema = {'$defs': definitions, **two(-1)}\n"
        "for rules in (OPENAI, AZURE, BEDROCK): refuses_or_rewrites(rules, schema)",
        # All calls of one response share the limit.
        "slow = {'type': 'object', 'properties': {'a': {'items': {'enum': [*range(2000)]}}}}\n"
        "check = lambda: [pytest.raises(ValueError, Tool('t', '', slow).check, {'a': [-1] * 99}) for _ in range(200)]\n"
        "times_out(limited, check)",
    ],
)
def test_validation_of_hostile_patterns_and_lists_takes_bounded_time(code: str, worker: Worker) -> None:
    """Run the code in another process, because a match of Python's engine can't be cancelled."""
    assert worker.run(code) == ""


def _levels(count: int, level: Callable[[dict[str, Any]], dict[str, Any]], last: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with a definition for each level, which `level` makes of a reference to the next one."""
    definitions = {str(i): level({"$ref": f"#/$defs/{i + 1}"}) for i in range(count)}
    return {"$defs": {**definitions, str(count): last}, "$ref": "#/$defs/0"}


def _dynamic_levels(count: int) -> dict[str, Any]:
    definitions = {
        str(i): {"$dynamicAnchor": f"a{i}", "allOf": [{"$dynamicRef": f"#a{i + 1}"}] * 2} for i in range(count)
    }
    return {"$defs": {**definitions, "last": {"$dynamicAnchor": f"a{count}", "type": "integer"}}, "$dynamicRef": "#a0"}


def _nested_unevaluated(count: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"properties": {"a": {"type": "integer"}}}
    for _ in range(count):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    return schema


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (_levels(26, lambda ref: {"anyOf": [ref, ref]}, {"type": "integer"}), 1, "a"),
        (_levels(26, lambda ref: {"anyOf": [{"not": {}}, ref, ref]}, {"type": "integer"}), 1, "a"),
        (_levels(60, lambda ref: {"allOf": [ref, ref]}, {"type": "integer"}), 1, "a"),
        (_levels(26, lambda ref: {"oneOf": [ref, {"allOf": [ref, {"not": ref}]}]}, {"type": "integer"}), 1, "a"),
        (_levels(26, lambda ref: {"not": {"not": ref}, "if": ref, "then": ref, "else": ref}, {"const": 1}), 1, "a"),
        (_levels(26, lambda ref: {"$ref": ref["$ref"], "dependentSchemas": {"a": ref}}, {"required": ["a"]}),
         {"a": 1}, {"b": 1}),
        (_levels(26, lambda ref: {"anyOf": [{"properties": {"a": ref}}] * 2}, {"type": "integer"}),
         eval("{'a': " * 26 + "1" + "}" * 26), eval("{'a': " * 26 + "'a'" + "}" * 26)),
        (_dynamic_levels(60), 1, "a"),
        (_nested_unevaluated(26), {"a": 1}, {"b": 1}),
    ],
)  # fmt: skip
def test_mismatch_schema_with_shared_references_decides_quickly(schema: Any, valid: Any, invalid: Any) -> None:
    """There are 2^26 ways through these schemas, but only a few pairs of a part of the schema and a value."""
    started = time.thread_time()
    assert mismatch(schema, valid) is None
    assert str(mismatch(schema, invalid)).startswith("at $")
    assert time.thread_time() - started < 2.5  # One limit is 5 s.


def test_remove_optional_nulls_schema_with_shared_references_decides_quickly() -> None:
    schema = _levels(40, lambda ref: {"anyOf": [ref, ref]}, {"type": "string"})
    with time_limit.time_limit():
        assert remove_optional_nulls(schema, 1, lambda part, value: mismatch(part, value) is None) == 1


def test_mismatch_many_errors_take_little_memory() -> None:
    """Alternatives keep their errors until all have failed, and each error quotes the value."""
    text = "a" * 500_000
    tracemalloc.start()
    try:
        assert mismatch({"anyOf": [{"type": "integer"}] * 300}, text)
        assert mismatch({"anyOf": [{"items": {"type": "integer"}}] * 3}, ["a"] * 20_000)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


_PARTS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([True, False, {}, {"type": "integer"}, {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"},
                     {"required": ["a"]}, {"minProperties": 2}, {"const": 1}, {"$dynamicRef": "#d"}]),
    lambda parts: st.one_of(
        st.dictionaries(st.sampled_from(["anyOf", "allOf", "oneOf"]), st.lists(parts, min_size=1, max_size=3),
                        min_size=1, max_size=2),
        st.dictionaries(st.sampled_from(["not", "if", "then", "else", "items", "contains", "additionalProperties",
                                         "unevaluatedProperties", "unevaluatedItems", "propertyNames"]), parts,
                        min_size=1, max_size=3),
        st.builds(lambda part, other: {"properties": {"a": part}, **other}, parts,
                  st.dictionaries(st.sampled_from(["unevaluatedProperties", "allOf"]), parts, max_size=0)),
    ),
    max_leaves=8,
)  # fmt: skip


@examples(300)
@given(st.tuples(_PARTS, _PARTS, _PARTS), st.recursive(
    st.sampled_from([1, 2, "a", None]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from("ab"), parts, max_size=2), max_leaves=6,
))  # fmt: skip
def test_mismatch_agrees_with_jsonschema(parts: tuple[Any, Any, Any], value: Any) -> None:
    from jsonschema import Draft202012Validator

    last = {"$dynamicAnchor": "d", "type": ["integer", "object"]}
    schema = {"allOf": [parts[0]], "$defs": {"a": parts[1], "b": parts[2], "d": last}}
    try:
        is_valid = Draft202012Validator(schema).is_valid(value)
    except RecursionError:
        return
    assert (mismatch(schema, value) is None) is is_valid


@examples(300)
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


def test_verdict_does_not_depend_on_the_load_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that other threads and processes take does not count."""
    monkeypatch.setattr(time_limit, "VALIDATION_TIMEOUT", 0.05)
    with time_limit.time_limit():
        time.sleep(0.2)
        assert mismatch({"type": "integer"}, 1) is None


def test_mismatch_long_value_is_shortened_in_message() -> None:
    problem = str(mismatch({"type": "integer"}, "a" * 100_000))
    assert len(problem) < 2100 and problem.startswith("at $: 'aaa") and problem.endswith("is not of type 'integer'")
