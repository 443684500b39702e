"""`output_errors`: output that does not match its type is an error, or is returned as the model wrote it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelport import FallbackModel, InvalidOutput, InvalidRequest, ServerError
from modelport.model import Model
from modelport.types.messages import ChatMessage
from modelport.types.output_types import JSONSchema

from .adapt_backend import SCHEMA, Delta, ScriptedBackend, tool_call

WAYS = ("sync", "sync streamed", "async", "async streamed")
ENFORCED: dict[str, Any] = {"grammars": frozenset({JSONSchema})}
FORCED: dict[str, Any] = {"tools": True, "tool_choices": frozenset({"auto", "required", "named"})}
CUT = [Delta(content='{"age'), Delta(content='": 1'), Delta(finish_reason="length")]


def ask(model: Model, way: str, **options: Any) -> ChatMessage:
    async def ask_async() -> ChatMessage:
        if way == "async":
            return await model.agenerate("?", **options)
        async with model.agenerate_stream("?", **options) as stream:
            async for _ in stream:
                pass
            return stream.message

    if way.startswith("async"):
        return asyncio.run(ask_async())
    if way == "sync":
        return model.generate("?", **options)
    with model.generate_stream("?", **options) as stream:
        list(stream)
        return stream.message


#: The capabilities of the backend, its response, the text of the message, and the finish reason.
INVALID: dict[str, tuple[dict[str, Any], list[Any], str, str]] = {
    "truncated": (ENFORCED, CUT, '{"age": 1', "length"),
    "no JSON": (ENFORCED, ["hello"], "hello", "stop"),
    "another value": (ENFORCED, ['{"age": "x"}'], '{"age": "x"}', "stop"),
    "only validated": ({}, ["hello"], "hello", "stop"),
    "forced tool": (FORCED, tool_call("answer", '{"age": "x"}'), '{"age": "x"}', "stop"),
    "refused by the service": (ENFORCED, [InvalidOutput("The service refused it.", text="hi")], "hi", "stop"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", INVALID)
def test_invalid_output_is_an_error_or_is_returned_with_the_reason(name: str, way: str) -> None:
    capabilities, response, text, finish_reason = INVALID[name]

    def model() -> ScriptedBackend:
        return ScriptedBackend(response, response, response, capabilities=capabilities)

    with pytest.raises(InvalidOutput) as raised:
        ask(model(), way, grammar=SCHEMA)
    for each in (model(), FallbackModel([model()])):
        message = ask(each, way, grammar=SCHEMA, output_errors="return")
        assert (message.text, message.parsed, message.finish_reason) == (text, None, finish_reason)
        invalid = [(w.feature, w.text) for w in message.warnings if w.type == "invalid"]
        assert invalid == [("grammar", raised.value.message)]
        assert len(set(message.warnings)) == len(message.warnings)


def test_valid_output_after_feedback_has_no_warning() -> None:
    model = ScriptedBackend(["hello"], ['{"age": 1}'])
    message = ask(model, "sync", grammar=SCHEMA, output_errors="return")
    assert (message.parsed, message.warnings, len(model.requests)) == ({"age": 1}, [], 2)


def test_other_errors_are_raised() -> None:
    with pytest.raises(ServerError):
        ask(ScriptedBackend([ServerError("down", retryable=False)]), "sync", grammar=SCHEMA, output_errors="return")


def test_wrong_value_names_the_two_values() -> None:
    with pytest.raises(InvalidRequest, match="must be 'raise' or 'return'"):
        ask(ScriptedBackend("never sent"), "sync", output_errors="ignore")
