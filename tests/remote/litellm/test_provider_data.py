"""Tool loops through LiteLLM on services that refuse a conversation unless they get back what they returned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelport import ChatMessage, LiteLLMModel, OpenAIServerModel
from modelport.protocols.chat_completions.request import body_from
from tests.remote.litellm.helpers import KEY, model_on
from tests.remote.test_provider_data import QUESTION, TOOL, as_it_is, call, options_for, run_loop, through_json
from tests.servers.faults import Fault, FaultServer
from tests.servers.faults.fault import Recorded
from tests.servers.strict import FINAL_TEXT, StrictService

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:.* in earlier messages:UserWarning")]


# LiteLLM can't read the content of Mistral and Databricks as chat completions of the provider `openai`.
@pytest.mark.parametrize("name", ["gemini", "openrouter", "deepseek", "proxy"])
@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_tool_loop_sends_back_what_the_service_returned(server: FaultServer, name: str, way: str) -> None:
    server.script(then=(service := StrictService(name)))
    model = model_on(server, allowed_openai_params=["reasoning_effort"])
    copied = through_json if way == "sync" else as_it_is
    responses, history = run_loop([model] * 3, way, copied, **options_for(name))
    assert service.refusals == []
    assert responses[2].content == FINAL_TEXT
    assert call(model, way, [*history, QUESTION], **options_for(name)).tool_calls
    assert service.refusals == []
    model.release()


# --- providers whose API LiteLLM translates ---------------------------------------------------------------------------

THINKING = [
    {"type": "thinking", "thinking": "Look first.", "signature": "sig-1"},
    {"type": "redacted_thinking", "data": "EmwKAhgB"},
]
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
MISSING = (
    "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When `thinking` is "
    "enabled, a final `assistant` message must start with a thinking block"
)


class ClaudeServer(FaultServer):
    """Anthropic's Messages API, which requires the thinking blocks of a tool call back, unchanged."""

    paths = ("/messages",)

    def answer(self, request: Recorded) -> Fault:
        messages = request.json["messages"]
        with_calls = [message for message in messages if _types_of(message) & {"tool_use"}]
        thinks = "thinking" in request.json
        for message in with_calls:
            blocks = [block for block in message["content"] if block["type"] in ("thinking", "redacted_thinking")]
            if thinks and not blocks:
                return _refuse(MISSING)
            if blocks and (blocks != THINKING or not thinks or message["content"][: len(blocks)] != blocks):
                return _refuse("messages.1.content.0: Invalid `signature` in `thinking` block")
        text = {"type": "text", "text": FINAL_TEXT}
        blocks = [*(THINKING if thinks else []), text if len(with_calls) == 2 else TOOL_USE]
        reason = "end_turn" if len(with_calls) == 2 else "tool_use"
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": blocks,
            "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 9},
        }  # fmt: skip
        return MessagesAnswer(message=message)


@dataclass(frozen=True)
class MessagesAnswer(Fault):
    """A response of the Messages API."""

    message: dict[str, Any] = field(default_factory=dict)

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        if not request.stream:
            return False, [json.dumps(self.message).encode()]
        return True, list(_events_of(self.message))


def _events_of(message: dict[str, Any]) -> Iterator[bytes]:
    yield _sse("message_start", message={**message, "content": [], "stop_reason": None})
    for index, block in enumerate(message["content"]):
        start, deltas = _start_and_deltas(block)
        yield _sse("content_block_start", index=index, content_block=start)
        for delta in deltas:
            yield _sse("content_block_delta", index=index, delta=delta)
        yield _sse("content_block_stop", index=index)
    yield _sse("message_delta", delta={"stop_reason": message["stop_reason"]}, usage=message["usage"])
    yield _sse("message_stop")


def _start_and_deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    kind = block["type"]
    if kind == "thinking":
        pieces = [block["thinking"][:4], block["thinking"][4:]]
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        return {**block, "thinking": "", "signature": ""}, [
            *deltas, {"type": "signature_delta", "signature": block["signature"]},
        ]  # fmt: skip
    if kind == "tool_use":
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    if kind == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
    return block, []


def _sse(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _types_of(message: dict[str, Any]) -> set[str]:
    return {block["type"] for block in message["content"]} if isinstance(message["content"], list) else set()


def _refuse(text: str) -> Fault:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    return Fault.status(400, body=json.dumps(error).encode())


@pytest.fixture(scope="module")
def claude() -> Iterator[ClaudeServer]:
    with ClaudeServer() as server:
        yield server


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_tool_loop_of_claude_sends_thinking_blocks_back(claude: ClaudeServer, way: str) -> None:
    claude.script(then=claude.answer)
    before = len(claude.requests)
    model = LiteLLMModel("anthropic/claude-sonnet-4-5", claude.url, KEY, max_tokens=4096)
    copied = through_json if way == "sync" else as_it_is
    responses, _ = run_loop([model] * 3, way, copied, reasoning_effort="low")
    assert responses[0].reasoning == "Look first."
    assert responses[2].content == FINAL_TEXT
    assert len(claude.requests) - before == 3
    assert all("thinking" in request.json for request in claude.requests[before:])
    model.release()


def test_claude_does_not_think_after_tool_call_of_another_model(claude: ClaudeServer) -> None:
    claude.script(then=claude.answer)
    before = len(claude.requests)
    model = LiteLLMModel("anthropic/claude-sonnet-4-5", claude.url, KEY, max_tokens=4096)
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    history = [
        QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]  # fmt: skip
    message = model.generate(history, tools=[TOOL], reasoning_effort="low")
    assert message.tool_calls and message.reasoning is None
    assert [warning.type for warning in message.warnings] == ["changed"]
    assert ["thinking" in request.json for request in claude.requests[before:]] == [True, False]
    model.release()


def test_service_of_a_deployment_is_the_address_or_the_provider() -> None:
    for url, service in (("http://localhost:4321/v1", "localhost:4321"), ("http://localhost:1234/v1", "lmstudio")):
        assert LiteLLMModel("openai/m", url, KEY)._provider == service
        assert OpenAIServerModel("m", url, KEY)._provider == service
    assert LiteLLMModel("anthropic/claude-sonnet-4-5", api_key=KEY)._provider == "litellm/anthropic"


def test_signature_of_gemini_through_litellm_is_sent_back() -> None:
    """LiteLLM translates Gemini's own API. It puts the signature into `provider_specific_fields` of the call."""
    fields = {"provider_specific_fields": {"thought_signature": "sig-1"}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}
    response = ChatMessage.from_dict({"role": "assistant", "content": None, "tool_calls": [call]})
    request = LiteLLMModel("gemini/gemini-3-pro", api_key=KEY)._build_request([QUESTION, response], {}, stream=False)
    from litellm.litellm_core_utils.prompt_templates.factory import convert_to_gemini_tool_call_invoke

    sent = body_from(request, "m")["messages"][1]
    assert convert_to_gemini_tool_call_invoke(sent)[0]["thoughtSignature"] == "sig-1"
