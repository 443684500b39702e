"""Responses with status 200 that are no success, on LiteLLM and on its Router with one deployment."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from modelport import LiteLLMModel
from modelport.errors import MalformedResponse, ModelError, ServerError, StreamInterrupted
from modelport.types.output_types import JSONSchema
from tests.remote.litellm.helpers import BACKENDS
from tests.remote.matrix_runner import KEY, ask, model_for
from tests.servers.faults import Call, Fault, FaultServer

WAYS = ("sync", "async streamed")
TEXT = "The capital"


#: LiteLLM's own HTTP client replaces finish reasons, and drops a choice's error, before modelport can read them.
LOSES_WORDS = ("litellm-http", "async streamed")
KEEPS_WORDS = [pair for pair in itertools.product(BACKENDS, WAYS) if pair != LOSES_WORDS]


@pytest.mark.parametrize("word", ["error", "network_error", "abort"])
@pytest.mark.parametrize(("backend", "way"), KEEPS_WORDS)
def test_failure_as_finish_reason_is_an_error(server: FaultServer, backend: str, way: str, word: str) -> None:
    server.script([Fault.ok(TEXT, finish_reason=word)])
    model = model_for(server, backend, retry=False)
    with pytest.raises(StreamInterrupted if way.endswith("streamed") else ServerError) as caught:
        ask(model, way)
    if isinstance(caught.value, StreamInterrupted):
        assert isinstance(caught.value.__cause__, ServerError)
        assert caught.value.partial.content == TEXT


@pytest.mark.parametrize(("backend", "way"), KEEPS_WORDS)
def test_error_of_choice_is_raised_without_secrets(server: FaultServer, backend: str, way: str) -> None:
    error = {"code": 502, "message": f"Upstream is down for {KEY}"}
    server.script([Fault.ok(TEXT, finish_reason="error", choice_fields={"error": error})])
    with pytest.raises(ModelError) as caught:
        ask(model_for(server, backend, retry=False), way)
    assert KEY not in str(caught.value) + str(caught.value.__cause__)
    assert "Upstream is down" in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_unknown_finish_reason_is_named_in_a_warning(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault.ok(TEXT, finish_reason="pause_turn")])
    message = ask(model_for(server, backend), way)
    assert (message.content, message.finish_reason) == (TEXT, "stop")
    if (backend, way) != LOSES_WORDS:
        assert "'pause_turn'" in str(message.warnings[0])


@pytest.mark.parametrize("way", WAYS)
def test_refusal_keeps_its_text(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault.ok("", message_fields={"refusal": "I can't do that."})])
    message: Any = ask(model_for(server, backend), way)
    assert (message.content, message.finish_reason) == ("I can't do that.", "content_filter")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(headers={"Content-Type": "text/html"}, content=b"<!doctype html><p>Sign in", never_streams=True),
        Fault(status_code=204, content=b""),
        Fault(headers={"Content-Type": "text/event-stream"}, content=b"", never_streams=True),
        Fault(headers={"Content-Type": "text/event-stream"}, content=b"data: [DONE]\n\n", never_streams=True),
    ],
    ids=["web page", "204", "empty stream", "[DONE] alone"],
)
@pytest.mark.parametrize("way", WAYS)
def test_response_that_is_none_is_an_error(server: FaultServer, backend: str, way: str, fault: Fault) -> None:
    server.script([fault])
    with pytest.raises(MalformedResponse) as caught:
        ask(model_for(server, backend, accept_missing_finish=True, retry=False), way)
    assert "accept_missing_finish" not in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_legacy_function_call_is_a_tool_call(server: FaultServer, backend: str, way: str) -> None:
    function = {"name": "f", "arguments": '{"a": 1}'}
    server.script([Fault.ok("", message_fields={"function_call": function}, finish_reason="function_call")])
    message = ask(model_for(server, backend), way)
    assert message.tool_calls and message.finish_reason == "tool_calls"
    assert (message.tool_calls[0].function.arguments, bool(message.tool_calls[0].id)) == ({"a": 1}, True)


@pytest.mark.parametrize("way", WAYS)
def test_media_are_named_in_a_warning(server: FaultServer, backend: str, way: str) -> None:
    image = {"type": "image_url", "index": 0, "image_url": {"url": "data:image/png;base64,iVBORw0="}}
    audio = {"id": "a", "data": "UklGRg==", "transcript": "Paris.", "expires_at": 1}
    for fields, text in (({"images": [image]}, ""), ({"audio": audio}, "Paris."), ({"images": [image]}, "See:")):
        server.script([Fault.ok("" if "audio" in fields else text, message_fields=fields)])
        message = ask(model_for(server, backend), way)
        assert ([warning.feature for warning in message.warnings], message.content or "") == ([*fields], text)


def test_ids_of_calls_are_mapped_for_the_provider() -> None:
    calls = [{"id": "call_" + "x" * 60, "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    history = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "1", "tool_call_id": calls[0]["id"]},
    ]
    for model_id, length in (("mistral/labs", 9), ("openai/gpt-4o", 24), ("gemini/gemini-3-pro", 65)):
        model = LiteLLMModel(model_id, api_key=KEY)
        messages = model._body(model._build_request(history, {}, False))["messages"]
        call_id = messages[1]["tool_calls"][0]["id"]
        assert (len(call_id), messages[2]["tool_call_id"]) == (length, call_id)


@pytest.mark.parametrize("way", WAYS)
def test_reasoning_in_the_text_is_split(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault.ok("<think>\nIt is.\n</think>\n\nParis", piece=3)])
    message = ask(model_for(server, backend), way)
    assert ((message.reasoning or "").strip(), message.text.strip()) == ("It is.", "Paris")


@pytest.mark.parametrize("way", WAYS)
def test_text_that_begins_inside_the_reasoning_is_split_on_request(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault.ok("A stop is near.</think>\n\nParis stop")])
    message = ask(model_for(server, backend, split_reasoning="opened"), way, stop_sequences=[" stop"])
    assert (message.reasoning, message.content) == ("A stop is near.", "Paris")
    assert "stop" not in server.requests[0].json


@pytest.mark.filterwarnings("ignore:.*ignored it:UserWarning")
def test_schema_that_the_server_ignores_is_requested_through_a_tool(server: FaultServer, backend: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    by_tool = Fault.tools(Call(JSONSchema(schema).name, '{"a": 2}'))
    server.script([Fault.ok("The answer is 1."), by_tool, by_tool])
    model = model_for(server, backend)
    for _ in range(2):
        message = ask(model, "sync", response_format=schema)
        assert (message.parsed, message.enforcement) == ({"a": 2}, "forced_tool")
    assert ["response_format" in request.json for request in server.requests] == [True, False, False]
