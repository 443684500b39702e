"""Strategies: the messages and options of callers, with random mistakes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from modelport import ChatMessage, Choice, JSONSchema, Regex
from tests.fuzz.junk import junk, mutated
from tests.remote.matrix import TOOL

_CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
MESSAGES: list[Any] = [
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": None, "tool_calls": [_CALL]},
     {"role": "tool", "tool_call_id": "c1", "content": "sunny"}],
    [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
    ]}],
    [{"role": "tool-call", "content": "call"}, {"role": "tool-response", "content": "result"}],
    [{"role": "user", "content": "hi", "name": "Ada", "reasoning": "so", "reasoning_details": [{"a": 1}]}],
    [{"role": "assistant", "content": "hi", "provider_data": {"protocol": "responses", "items": [{"a": 1}]}}],
]  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}, "age": {"type": "integer", "minimum": 0},
                   "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
                   "kind": {"anyOf": [{"const": 1}, {"enum": ["a", None]}]}},
    "required": ["name"], "additionalProperties": False, "$defs": {"tag": {"type": "string", "maxLength": 3}},
}  # fmt: skip


class _UnknownObject:
    """An object of an unknown class, whose attributes are missing or of the wrong type."""

    role = "user"

    def __getattr__(self, name: str) -> Any:
        if name == "content":
            return 7
        raise AttributeError(name)


objects = st.sampled_from([
    None, b"bytes", 1.5, object(), _UnknownObject(), ChatMessage("user", "hi"),
    ChatMessage("nobody", 7),  # type: ignore[arg-type]
    range(3), str, {1}, "²",
])  # fmt: skip
_messages = st.one_of(
    mutated(*MESSAGES), mutated(*MESSAGES), mutated(*MESSAGES).map(lambda m: m[0] if isinstance(m, list) and m else m),
    st.lists(objects | mutated(*[m[0] for m in MESSAGES]), max_size=3), objects, st.text(max_size=10),
)  # fmt: skip
_schemas = mutated(SCHEMA, {"type": "string"}, {"$ref": "#"}, {"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {}}})
_grammars = st.one_of(
    _schemas, _schemas, objects,
    _schemas.map(lambda schema: {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
    mutated(
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}, {"type": "json_object"}
    ),
    st.builds(lambda cls, text: (cls, text), st.sampled_from((Regex, Choice, JSONSchema)), junk | _schemas),
)  # fmt: skip
_tools = st.one_of(
    st.lists(mutated(TOOL, {"name": "f", "inputSchema": SCHEMA, "description": "d"}) | objects, max_size=3),
    st.lists(_schemas.map(lambda s: {"type": "function", "function": {"name": "f", "parameters": s}}), max_size=2),
    junk, objects,
)  # fmt: skip
_PARAMETERS = (
    "temperature", "max_tokens", "max_new_tokens", "top_p", "top_k", "seed", "logprobs", "top_logprobs", "timeout",
    "first_token_timeout", "idle_timeout", "n", "stop", "stop_sequences", "stream", "user", "parallel_tool_calls",
    "extra_body", "extra_headers", "extra_query", "custom_role_conversions", "flatten_messages_as_text", "unknown",
    "tool_choice", "response_format", "tools_to_call_from", "metadata",
)  # fmt: skip
_parameters = st.dictionaries(st.sampled_from(_PARAMETERS), st.one_of(junk, objects, st.integers(0, 3)), max_size=3)


def _options(grammar: Any, tools: Any, parameters: dict[str, Any], parts: int) -> dict[str, Any]:
    """Return options; the bits of `parts` say whether they have a grammar and tools."""
    result = dict(parameters)
    if parts & 1:
        result["grammar"] = grammar
    if parts & 2:
        result["tools"] = tools
    return result


#: The messages and the options of a call.
calls = st.tuples(
    _messages,
    st.builds(_options, _grammars, _tools, _parameters, st.integers(0, 3)),
)
