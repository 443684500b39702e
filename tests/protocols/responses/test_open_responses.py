"""Open Responses, the vendor-neutral specification of this API, by the types that others generated from it.

The cases are those of its published compliance test, as calls of modelport. Their bodies must contain nothing that the
specification does not have. See https://www.openresponses.org/compliance
"""

from __future__ import annotations

from typing import Any

import pytest

from modelport import JSONSchema
from modelport.errors import RateLimited
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.responses.response import ResponsesReader
from modelport.types.content import Image, Text
from modelport.types.deltas import accumulate
from modelport.types.messages import ChatMessage
from tests.protocols.responses.test_items import CALL, THOUGHT, function_call, returned, said
from tests.protocols.responses.test_request import CLOSED, REASONING, WEATHER, body

types = pytest.importorskip("openresponses_types.types", reason="installed by the test environment")

IMAGE_URL = "https://example.com/a.png"


def said_by(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


#: The name of a case -> the arguments of the call, and the items of its body.
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "basic-response": (
        {"messages": "Say hello in exactly 3 words."},
        [said_by("user", "Say hello in exactly 3 words.")],
    ),
    "streaming-response": (
        {"messages": "Count from 1 to 5.", "stream": True},
        [said_by("user", "Count from 1 to 5.")],
    ),
    "system-prompt": (
        {"messages": [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Say hello."}]},
        [said_by("system", "You are a pirate."), said_by("user", "Say hello.")],
    ),
    "tool-calling": (
        {"messages": "What's the weather like?", "tools": [WEATHER]},
        [said_by("user", "What's the weather like?")],
    ),
    "tool-calling-streaming": (
        {"messages": "What's the weather like?", "tools": [WEATHER], "tool_choice": "get_weather", "stream": True},
        [said_by("user", "What's the weather like?")],
    ),
    "image-input": (
        {"messages": [ChatMessage("user", (Text("What do you see?"), Image(url=IMAGE_URL)))]},
        [said_by("user", [{"type": "input_text", "text": "What do you see?"},
                          {"type": "input_image", "image_url": IMAGE_URL, "detail": "auto"}])],
    ),
    "multi-turn": (
        {"messages": [{"role": "user", "content": "My name is Alice."},
                      {"role": "assistant", "content": "Hello Alice!"},
                      {"role": "user", "content": "What is my name?"}]},
        [said_by("user", "My name is Alice."), said("Hello Alice!"), said_by("user", "What is my name?")],
    ),
}  # fmt: skip
#: Further calls, which the compliance test does not have.
CALLS: dict[str, dict[str, Any]] = {
    "tool result": {
        "messages": [
            {"role": "user", "content": "?"}, returned(THOUGHT, CALL, calls=[function_call()]),
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        "service": "openai", "capabilities": REASONING,
    },
    "image in a tool result": {
        "messages": [
            ChatMessage("assistant", None, [function_call()]),
            {"role": "tool", "tool_call_id": "call_1",
             "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]},
        ],
    },
    "strict schema": {"grammar": JSONSchema(CLOSED)},
    "parameters": {
        "parameters": {"temperature": 0.5, "top_p": 0.5, "max_tokens": 32, "reasoning_effort": "high", "logprobs": True,
                       "top_logprobs": 2, "verbosity": "low", "truncation": "auto", "parallel_tool_calls": False},
        "tools": [WEATHER], "tool_choice": "required", "capabilities": REASONING,
    },
}  # fmt: skip


def check_body(sent: dict[str, Any]) -> None:
    """Check that the specification's types accept a body, and have all of its fields."""
    result = types.CreateResponseBody.model_validate(sent).model_dump(mode="json", by_alias=True, exclude_unset=True)
    # The generator made empty types of these two, so that they are validated by themselves.
    tools, choice = result.pop("tools", []), result.pop("tool_choice", "auto")
    assert len(tools) == len(sent.get("tools", ()))
    for tool in sent.get("tools", ()):
        assert types.FunctionToolParam.model_validate(tool).model_dump().keys() == tool.keys()
    if not isinstance(choice, str):
        types.SpecificFunctionParam.model_validate(sent["tool_choice"])
    assert result == {name: value for name, value in sent.items() if name not in ("tools", "tool_choice")}


@pytest.mark.parametrize("name", CASES)
def test_case_of_the_compliance_test_has_the_specified_body(name: str) -> None:
    values, items = CASES[name]
    sent = body(**values)
    assert sent["input"] == items
    check_body(sent)


@pytest.mark.parametrize("name", CALLS)
def test_body_has_only_specified_fields(name: str) -> None:
    check_body(body(**CALLS[name]))


# --- events -----------------------------------------------------------------------------------------------------------


def response(*output: dict[str, Any], status: str = "completed", **fields: Any) -> dict[str, Any]:
    """Return a response with all fields that the specification requires."""
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "completed_at": 2, "status": status, "model": "m",
        "incomplete_details": None, "previous_response_id": None, "instructions": None, "output": list(output),
        "error": None, "tools": [], "tool_choice": "auto", "truncation": "disabled", "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}}, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0,
        "top_logprobs": 0, "temperature": 1, "reasoning": None, "usage": None, "max_output_tokens": None,
        "max_tool_calls": None, "store": False, "background": False, "service_tier": "default", "metadata": {},
        "safety_identifier": None, "prompt_cache_key": None, **fields,
    }  # fmt: skip


def read(events: list[dict[str, Any]]) -> tuple[list[Any], ChatMessage]:
    """Return the deltas and the message of events, each of which has the specified fields."""
    by_type = {
        str(kind.model_fields["type"].annotation.__members__.copy().popitem()[1]): kind
        for name, kind in vars(types).items()
        if name.endswith("StreamingEvent")
    }
    events = [{"sequence_number": number, **event} for number, event in enumerate(events)]
    for event in events:
        by_type[event["type"]].model_validate(event)
    reader = ResponsesReader(error_from)
    deltas = [delta for event in events if (delta := reader.read_chunk(event)) is not None]
    return deltas, accumulate([*deltas, reader.finish()])


REASONING_FIELDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "reasoning": (
        "response.reasoning",
        {"content_index": 0},
        {"summary": [], "content": [{"type": "reasoning_text", "text": "Look first."}]},
    ),
    "summary": (
        "response.reasoning_summary_text",
        {"summary_index": 0},
        {"summary": [{"type": "summary_text", "text": "Look first."}]},
    ),
}


@pytest.mark.parametrize("name", REASONING_FIELDS)
def test_reasoning_is_emitted_in_pieces(name: str) -> None:
    kind, index, fields = REASONING_FIELDS[name]
    thought, at = {"type": "reasoning", "id": "rs_1", **fields}, {"item_id": "rs_1", "output_index": 0, **index}
    deltas, message = read([
        {"type": "response.created", "response": response(status="in_progress")},
        {"type": "response.in_progress", "response": response(status="in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": thought | {"summary": [], "content": []}},
        {"type": f"{kind}.delta", **at, "delta": "Look "},
        {"type": f"{kind}.delta", **at, "delta": "first."},
        {"type": f"{kind}.done", **at, "text": "Look first."},
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
        {"type": "response.completed", "response": response(thought)},
    ])  # fmt: skip
    assert [delta.reasoning for delta in deltas] == ["Look ", "first."]
    assert message.reasoning == "Look first."
    assert message.provider_data is not None and message.provider_data.items == (thought,)


def test_text_and_call_are_emitted_in_pieces() -> None:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    text = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [part | {"text": "I look."}]}  # fmt: skip
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    of_call = {"item_id": "fc_1", "output_index": 1}
    deltas, message = read([
        {"type": "response.queued", "response": response(status="queued")},
        {"type": "response.output_item.added", "output_index": 0, "item": text | {"content": []}},
        {"type": "response.content_part.added", **at, "part": part},
        {"type": "response.output_text.delta", **at, "delta": "I ", "logprobs": [], "obfuscation": "xy"},
        {"type": "response.output_text.delta", **at, "delta": "look.", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "I look.", "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part | {"text": "I look."}},
        {"type": "response.output_item.done", "output_index": 0, "item": text},
        {"type": "response.output_item.added", "output_index": 1, "item": CALL | {"arguments": ""}},
        {"type": "response.function_call_arguments.delta", **of_call, "delta": '{"a":1}'},
        {"type": "response.function_call_arguments.done", **of_call, "arguments": '{"a":1}'},
        {"type": "response.output_item.done", "output_index": 1, "item": CALL},
        {"type": "response.completed", "response": response(text, CALL)},
    ])  # fmt: skip
    assert [delta.content for delta in deltas if delta.content] == ["I ", "look."]
    assert [(call.id, call.function.arguments) for call in message.tool_calls or ()] == [("call_1", {"a": 1})]


def test_error_event_is_raised() -> None:
    error = {"type": "too_many_requests", "code": "rate_limit_exceeded", "message": "Slow down.", "param": None}
    with pytest.raises(RateLimited, match="Slow down"):
        read([{"type": "error", "error": error}])
