"""The bodies and responses of chat completions: grammars, custom tools, strict tools and JSON objects."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from modelport import ChatMessage, Choice, Lark, OpenAIServerModel, Regex
from modelport.inputs.output_types import grammar_from
from modelport.inputs.tools import tools_from
from modelport.protocols.chat_completions.dialects import DIALECTS, OPENAI_API
from modelport.protocols.chat_completions.output_format import OUTPUT_TOOL, output_fields
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.types.request import Request


def output_call(text: str) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": OUTPUT_TOOL, "input": text}}


def completion(*calls: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": f"c{n}", **c} for n, c in enumerate(calls)]}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-5",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]}  # fmt: skip


def get_time() -> str:
    """Tells the time."""
    return "noon"


@pytest.mark.parametrize(
    ("grammar", "text", "syntax", "definition"),
    [
        (Regex(r"\d+/a"), "12/a", "regex", r"[0-9]+\/a"),
        (Choice("a b", "c"), "c", "lark", 'start: OPTION\nOPTION: "a b" | "c"'),
        (Lark('start: "a"+'), "aa", "lark", 'start: "a"+'),
    ],
    ids=str,
)
@pytest.mark.parametrize("tools", [[], [get_time]])
def test_grammar_is_sent_as_custom_tool_and_read_as_content(
    grammar: Any, text: str, syntax: str, definition: str, tools: list[Any]
) -> None:
    from openai.types.chat import ChatCompletionToolChoiceOptionParam, ChatCompletionToolUnionParam

    reader = ChatResponseReader()
    delta = reader.read_response(completion(output_call(text)))
    assert (delta.content, delta.tool_calls, delta.finish_reason) == (text, None, "stop")
    body = body_from(
        Request(
            (ChatMessage("user", "?"),),
            grammar=grammar,
            tools=tools_from(tools),
            capabilities=OpenAIServerModel("gpt-5", api_key="k").capabilities,
        ),
        "gpt-5",
    )
    input_format = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    assert body["tools"][-1]["custom"]["format"] == input_format
    for tool in body["tools"]:  # The types of the openai package accept them.
        TypeAdapter(ChatCompletionToolUnionParam).validate_python(tool)
    TypeAdapter(ChatCompletionToolChoiceOptionParam).validate_python(body["tool_choice"])
    assert body["tool_choice"] == ("required" if tools else {"type": "custom", "custom": {"name": OUTPUT_TOOL}})
    assert "response_format" not in body


@pytest.mark.parametrize(("dialect", "strict", "sent"), [
    (None, None, None), (None, True, True), (None, False, False), ("vllm", None, True), ("vllm", False, False),
])  # fmt: skip
def test_strict_of_tool_is_sent(dialect: Any, strict: bool | None, sent: bool | None) -> None:
    tools = tools_from([{"name": "f", "strict": strict}])
    capabilities = OpenAIServerModel("gpt-5", api_key="k").capabilities
    body = body_from(Request((ChatMessage("user", "?"),), tools=tools, capabilities=capabilities), "gpt-5", dialect)
    assert body["tools"][0]["function"].get("strict") is sent


@pytest.mark.parametrize("tools", [[], [get_time]])
def test_output_of_custom_tool_streams_as_content(tools: list[Any]) -> None:
    reader = ChatResponseReader()

    def chunk(call: dict[str, Any]) -> Any:
        return reader.read_chunk({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})

    pieces = [chunk({"index": 0, "id": "c", **output_call("")})]
    pieces += [chunk({"index": 0, "custom": {"input": part}}) for part in ("2026", "-01")]
    reader.read_chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    assert [piece.content for piece in pieces if piece] == ["2026", "-01"]
    assert reader.finish().finish_reason == "stop"


def test_function_call_stays_a_tool_call() -> None:
    call = {"type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    delta = ChatResponseReader().read_response(completion(call))
    assert (delta.content, delta.finish_reason) == (None, "tool_calls")
    assert delta.tool_calls and delta.tool_calls[0].function and delta.tool_calls[0].function.name == "get_time"


def test_only_models_with_custom_tools_enforce_grammars() -> None:
    for name, kinds in (("gpt-5-mini", 4), ("gpt-5-chat-latest", 1), ("gpt-4o", 1), ("gpt-4-turbo", 0)):
        assert len(OpenAIServerModel(name, api_key="k").capabilities.grammars) == kinds, name


class json_object(BaseModel):  # Services use this name as the type of a response format.
    a: int


NAMED = {"type": "json_schema", "json_schema": {"name": "json_object", "schema": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("grammar", "kind"),
    [
        (grammar_from({"type": "object"}), "json_object"),
        (grammar_from({"type": "object", "description": "Any."}), "json_object"),
        (grammar_from(dict), "json_object"),
        (grammar_from({"type": "json_object"}), "json_object"),
        (grammar_from(NAMED), "json_schema"),
        (grammar_from(json_object), "json_schema"),
        (grammar_from({"type": "object", "required": ["a"]}), "json_schema"),
    ],
)
def test_schema_of_any_object_becomes_json_object_mode(grammar: Any, kind: str) -> None:
    for dialect in (OPENAI_API, DIALECTS["vllm"]):
        response_format = output_fields(grammar, dialect)["response_format"]
        assert response_format["type"] == kind
        assert kind == "json_object" or response_format["json_schema"]["schema"] == grammar.schema


def test_schema_of_any_object_is_kept_for_openai() -> None:
    rules = OpenAIServerModel("gpt-4o", api_key="k").capabilities.schema_rules
    assert rules is not None
    assert rules.rewrite({"type": "object", "additionalProperties": True}).schema == {"type": "object"}


def choice(index: int | None, text: str, key: str = "delta", reason: str | None = None) -> dict[str, Any]:
    result = {key: {"role": "assistant", "content": text}, "finish_reason": reason}
    return result if index is None else {**result, "index": index}


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([[choice(0, "a")], [choice(1, "X")], [choice(0, "b")], [choice(1, "Y", reason="length")],
          [choice(0, "", reason="stop")]], "ab"),
        ([[choice(1, "X"), choice(0, "a")], [choice(1, "Y", reason="length"), choice(0, "b", reason="stop")]], "ab"),
        ([[choice(3, "a")], [choice(3, "b", reason="stop")]], "ab"),
        ([[choice(None, "a")], [choice(0, "b")], [choice(None, "", reason="stop")]], "ab"),
        ([[{**choice(None, "a"), "index": None}], [{**choice(None, "b", reason="stop"), "index": None}]], "ab"),
    ],
)  # fmt: skip
def test_one_choice_of_a_stream_is_read(chunks: list[list[Any]], text: str) -> None:
    """A caller may ask for several (`extra_body={"n": 2}`). Their texts and calls are not mixed."""
    reader = ChatResponseReader()
    deltas = [reader.read_chunk({"choices": choices}) for choices in chunks]
    assert "".join(delta.content or "" for delta in deltas if delta) == text
    assert reader.finish().finish_reason == "stop"


def test_first_choice_of_a_response_is_that_with_the_lowest_number() -> None:
    choices = [choice(1, "X", "message", "length"), choice(0, "ab", "message", "stop")]
    delta = ChatResponseReader().read_response({"choices": choices})
    assert (delta.content, delta.finish_reason) == ("ab", "stop")
