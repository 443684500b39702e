"""The bodies of the Responses API. Every body is also validated against the types of the openai package."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import Choice, JSONSchema, Lark, Regex, UnsupportedFeature
from modelport.inputs.messages import normalise_messages
from modelport.inputs.output_types import grammar_from
from modelport.inputs.tool_choice import tool_choice_from
from modelport.inputs.tools import tools_from
from modelport.protocols.chat_completions.dialects import DIALECTS
from modelport.protocols.responses.request import body_from, parameter_name
from modelport.types.capabilities import Capabilities
from modelport.types.content import Attachment, Image, Text
from modelport.types.messages import ChatMessage
from modelport.types.request import Request
from tests.protocols.responses.openai_types import validate_body

NO_REASONING = Capabilities()
REASONING = Capabilities(reasoning=True)
PLAIN = {"model": "gpt-5", "input": [{"type": "message", "role": "user", "content": "Hello"}], "store": False}
ENCRYPTED = ["reasoning.encrypted_content"]
WEATHER = {"name": "get_weather", "description": "Weather.", "parameters": {"type": "object", "properties": {}}}
FUNCTION = {
    "type": "function", "name": "get_weather", "description": "Weather.",
    "parameters": {"type": "object", "properties": {}}, "strict": False,
}  # fmt: skip
CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
CUSTOM = {"type": "custom", "name": "give_answer", "description": "Give the answer through this tool."}


def body(messages: Any = "Hello", *, capabilities: Capabilities = NO_REASONING, **values: Any) -> dict[str, Any]:
    """Return the body of a request, after the openai package's types have accepted it."""
    options = {name: values.pop(name) for name in ("service", "dialect", "left_out") if name in values}
    if "tools" in values:
        values["tools"] = tools_from(values["tools"])
    if "tool_choice" in values:
        values["tool_choice"] = tool_choice_from(values["tool_choice"], values["tools"])
    request = Request(normalise_messages(messages), capabilities=capabilities, **values)
    result = body_from(request, "gpt-5", **options)
    if "dialect" not in options:
        validate_body(result)
    return result


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({}, {}),
        ({"stream": True}, {"stream": True}),
        ({"stop_sequences": ("a",)}, {}),  # The layer `stop` ends the output.
        ({"capabilities": REASONING}, {"include": ENCRYPTED}),
        ({"parameters": {"temperature": 0, "top_p": 0.5}}, {"temperature": 0, "top_p": 0.5}),
        ({"parameters": {"max_tokens": 32}}, {"max_output_tokens": 32}),
        ({"parameters": {"reasoning_effort": "high"}}, {"reasoning": {"effort": "high"}}),
        (
            {"parameters": {"reasoning_effort": "low", "reasoning": {"summary": "auto"}}},
            {"reasoning": {"effort": "low", "summary": "auto"}},
        ),
        ({"parameters": {"verbosity": "low"}}, {"text": {"verbosity": "low"}}),
        (
            {"parameters": {"logprobs": True, "top_logprobs": 2}},
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        ),
        ({"parameters": {"logprobs": False}}, {}),
        ({"parameters": {"truncation": "auto", "user": "me"}}, {"truncation": "auto", "user": "me"}),
        ({"parameters": {"parallel_tool_calls": False}}, {}),
        (
            {"parameters": {"include": ["file_search_call.results"]}, "capabilities": REASONING},
            {"include": ["file_search_call.results", *ENCRYPTED]},
        ),
        ({"capabilities": REASONING, "left_out": {"include"}}, {}),
    ],
)
def test_body_has_fields_of_parameters(values: dict[str, Any], fields: dict[str, Any]) -> None:
    assert body(**values) == PLAIN | fields


@pytest.mark.parametrize(
    ("parameters", "store"),
    [({"store": True}, True), ({"previous_response_id": "resp_1"}, None), ({"conversation": "conv_1"}, None)],
)
def test_body_of_stored_conversation_asks_for_no_encrypted_reasoning(parameters: dict[str, Any], store: Any) -> None:
    result = body(parameters=parameters, capabilities=REASONING)
    assert (result.get("store"), "include" in result) == (store, False)
    assert parameters.items() <= result.items()


def test_rejected_store_is_left_out() -> None:
    assert "store" not in body(left_out={"store"})


@pytest.mark.parametrize(
    "name", ["seed", "presence_penalty", "frequency_penalty", "logit_bias", "prediction", "audio", "functions"]
)
def test_parameter_of_chat_completions_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedFeature, match=f"{name}.*api='chat'") as caught:
        body(parameters={name: 1})
    assert caught.value.parameter == name


def test_background_is_refused() -> None:
    with pytest.raises(UnsupportedFeature, match="background"):
        body(parameters={"background": True})


def test_server_with_dialect_gets_parameters_of_chat_completions() -> None:
    assert body(parameters={"seed": 3}, dialect=DIALECTS["llama.cpp"])["seed"] == 3


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", None),
        ("none", "none"),
        ("required", "required"),
        ("get_weather", {"type": "function", "name": "get_weather"}),
    ],
)
def test_tools_and_tool_choice(choice: Any, sent: Any) -> None:
    result = body(tools=[WEATHER], tool_choice=choice, parameters={"parallel_tool_calls": False})
    assert (result["tools"], result.get("tool_choice"), result["parallel_tool_calls"]) == ([FUNCTION], sent, False)


@pytest.mark.parametrize("strict", [True, False])
def test_strict_of_tool_is_sent(strict: bool) -> None:
    """Without the field, this API would make the schema strict."""
    assert body(tools=[WEATHER | {"strict": strict}])["tools"] == [FUNCTION | {"strict": strict}]


def test_dialect_with_strict_tools_makes_tools_strict() -> None:
    assert body(tools=[WEATHER], dialect=DIALECTS["vllm"])["tools"] == [FUNCTION | {"strict": True}]


@pytest.mark.parametrize(
    ("grammar", "fields"),
    [
        (
            JSONSchema(CLOSED),
            {"text": {"format": {"type": "json_schema", "name": "answer", "schema": CLOSED, "strict": True}}},
        ),
        (
            JSONSchema(OPEN),
            {"text": {"format": {"type": "json_schema", "name": "answer", "schema": OPEN, "strict": False}}},
        ),
        (grammar_from({"type": "json_object"}, "grammar"), {"text": {"format": {"type": "json_object"}}}),
        (
            Regex(r"\d+"),
            {
                "tools": [CUSTOM | {"format": {"type": "grammar", "syntax": "regex", "definition": "[0-9]+"}}],
                "tool_choice": {"type": "custom", "name": "give_answer"},
            },
        ),
        (
            Lark('start: "a"+'),
            {
                "tools": [CUSTOM | {"format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"+'}}],
                "tool_choice": {"type": "custom", "name": "give_answer"},
            },
        ),
    ],
    ids=["strict", "not strict", "any object", "regex", "lark"],
)
def test_output_type_is_text_format_or_custom_tool(grammar: Any, fields: dict[str, Any]) -> None:
    assert body(grammar=grammar) == PLAIN | fields


def test_grammar_beside_tools_requires_a_call() -> None:
    result = body(grammar=Choice("a", "b"), tools=[WEATHER])
    assert [tool["name"] for tool in result["tools"]] == ["get_weather", "give_answer"]
    assert result["tool_choice"] == "required"


def test_callers_text_is_merged_with_format() -> None:
    text = body(grammar=JSONSchema(CLOSED), parameters={"text": {"verbosity": "low"}})["text"]
    assert (text["verbosity"], text["format"]["type"]) == ("low", "json_schema")


def test_dialect_requests_output_type_by_its_own_fields() -> None:
    result = body(grammar=Regex("a"), dialect=DIALECTS["llama.cpp"])
    assert result["grammar"].startswith("%llguidance") and "tools" not in result


def test_content_parts_are_input_parts() -> None:
    parts = (
        Text("Look"), Image(url="https://example.com/a.png", detail="low"), Image(b"\x89PNG", "image/png"),
        Attachment("file", b"%PDF", "application/pdf", "a.pdf"),
    )  # fmt: skip
    (item,) = body([ChatMessage("user", parts)])["input"]
    assert item["content"] == [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw==", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
    ]


def test_audio_is_refused() -> None:
    with pytest.raises(UnsupportedFeature, match="audio"):
        body([ChatMessage("user", (Attachment("audio", b"RIFF", "wav"),))])


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("max_output_tokens", "max_tokens"),
        ("reasoning.effort", "reasoning_effort"),
        ("text.format", "response_format"),
        ("text.format.schema", "response_format"),
        ("text.verbosity", "verbosity"),
        ("reasoning.summary", "reasoning.summary"),
        ("temperature", "temperature"),
        (None, None),
    ],
)
def test_field_of_an_error_is_modelports_parameter(field: str | None, name: str | None) -> None:
    assert parameter_name(field) == name
