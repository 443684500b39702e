"""`tool_errors`: a tool call that can't be used is an error, or is returned as the model wrote it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelport import ChatMessage, InvalidRequest, InvalidToolCall, ServerError
from modelport.model import Model
from modelport.testing import ScriptedModel
from modelport.types.messages import ChatMessageToolCall, ChatMessageToolCallFunction, tool_call_from
from modelport.types.tools import Tool

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = Tool("f", "Does it.", SCHEMA)
WAYS = ("sync", "sync streamed", "async", "async streamed")


def call(arguments: Any, name: str = "f", call_id: str = "c1") -> ChatMessageToolCall:
    return ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), call_id)


def ask(model: Model, way: str, **options: Any) -> ChatMessage:
    if way == "sync":
        return model.generate("?", tools=[TOOL], **options)
    if way == "sync streamed":
        with model.generate_stream("?", tools=[TOOL], **options) as stream:
            for _ in stream:
                pass
            return stream.message

    async def ask_async() -> ChatMessage:
        if way == "async":
            return await model.agenerate("?", tools=[TOOL], **options)
        async with model.agenerate_stream("?", tools=[TOOL], **options) as stream:
            async for _ in stream:
                pass
            return stream.message

    return asyncio.run(ask_async())


UNUSABLE = {
    "another type": (call({"a": "1"}), "'1' is not of type 'integer'"),
    "missing argument": (call({}), "'a' is a required property"),
    "unknown argument": (call({"a": 1, "b": 2}), "'b' was unexpected"),
    "broken JSON": (call('{"a": 1'), "no valid JSON"),
    "unknown tool": (call({}, name="g"), "there is no such tool; there are 'f'"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_call_is_an_error_or_is_returned_with_the_reason(name: str, way: str) -> None:
    written, reason = UNUSABLE[name]
    answer = ChatMessage("assistant", "I try.", [call({"a": 1}), written])
    with pytest.raises(InvalidToolCall, match=reason):
        ask(ScriptedModel(answer), way)
    message = ask(ScriptedModel(answer), way, tool_errors="return")
    assert message.tool_calls
    first, second = message.tool_calls
    assert (first.error, first.function.arguments, message.text) == (None, {"a": 1}, "I try.")
    assert (second.function.name, second.function.arguments) == (written.function.name, written.function.arguments)
    assert second.error and reason in second.error
    assert [(w.type, w.feature, w.text) for w in message.warnings] == [("invalid", "tools", second.error)]
    assert message.finish_reason == "tool_calls"


@pytest.mark.parametrize("way", WAYS)
def test_missing_call_is_an_error_or_the_message_is_returned(way: str) -> None:
    with pytest.raises(InvalidToolCall, match="made none"):
        ask(ScriptedModel("No."), way, tool_choice="required")
    message = ask(ScriptedModel("No."), way, tool_choice="required", tool_errors="return")
    assert (message.text, message.tool_calls, message.finish_reason) == ("No.", None, "stop")
    assert [warning.type for warning in message.warnings] == ["invalid"]


@pytest.mark.parametrize("way", WAYS)
def test_call_that_the_service_refuses_becomes_text(way: str) -> None:
    refused = InvalidToolCall("The service could not use the call.", text="<f>1")
    message = ask(ScriptedModel(refused, retry=False), way, tool_errors="return")
    assert (message.text, message.tool_calls, message.finish_reason) == ("<f>1", None, "stop")
    assert [str(warning) for warning in message.warnings] == ["The service could not use the call."]


def test_other_errors_are_raised() -> None:
    with pytest.raises(ServerError):
        ask(ScriptedModel(ServerError("down"), retry=False), "sync", tool_errors="return")


def test_error_of_a_call_is_saved_and_not_sent_again() -> None:
    message = ask(ScriptedModel(ChatMessage("assistant", None, [call({})])), "sync", tool_errors="return")
    (saved,) = message.to_dict()["tool_calls"]
    assert tool_call_from(saved) == (message.tool_calls or [])[0]
    model = ScriptedModel("ok")
    model.generate(["?", message, {"role": "tool", "content": "no", "tool_call_id": "c1"}][1:])
    assert model.requests[0].messages[0].tool_calls[0].function.name == "f"  # type: ignore[index]


def test_wrong_value_names_the_two_values() -> None:
    with pytest.raises(InvalidRequest, match="must be 'raise' or 'return'"):
        ask(ScriptedModel("never sent"), "sync", tool_errors="ignore")
