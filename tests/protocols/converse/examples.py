"""Example messages, and a model that checks the requests that it would send against AWS's rules."""

from __future__ import annotations

import base64
import json
from typing import Any

from botocore.serialize import create_serializer

from modelport import AmazonBedrockServerModel, ChatMessageStreamDelta, Request
from modelport.protocols.converse.request import ConverseCall, converse_call_from
from modelport.testing.checks.images import solid_png
from tests.servers.bedrock_rules import check, service

CLAUDE, NOVA, LLAMA = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "amazon.nova-pro-v1:0", "meta.llama3-1-70b-v1:0"
PNG = solid_png((200, 30, 30))
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7").decode()
PDF_PART = {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}
WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}  # fmt: skip


class RecordingModel(AmazonBedrockServerModel):
    """Checks each request against AWS's rules and records it, and sends nothing.

    `sent` has the bodies as AWS would parse them, `calls` what they were made from. Each response is `response_text`.
    """

    sent: list[dict[str, Any]]
    calls: list[ConverseCall]
    response_text = "ok"

    async def deltas(self, request: Request) -> Any:
        call = converse_call_from(request, self.model_id)
        operation = "ConverseStream" if request.stream else "Converse"
        model = service().operation_model(operation)
        wire = create_serializer("rest-json").serialize_to_request(call.arguments, model)
        self.sent.append(check(json.loads(wire["body"]), operation))
        self.calls.append(call)
        yield ChatMessageStreamDelta(content=self.response_text, finish_reason="stop", warnings=list(call.warnings))


def recording_model(model_id: str = CLAUDE, **settings: Any) -> RecordingModel:
    model = RecordingModel(model_id, region_name="us-east-1", api_key="k" * 20, **settings)
    model.sent, model.calls = [], []
    return model


def sent_body(model: RecordingModel, messages: Any = "hi", **options: Any) -> dict[str, Any]:
    """The body that the model sends for these messages, without the model's id."""
    model.generate(messages, **options)
    return {key: value for key, value in model.sent[-1].items() if key != "modelId"}


def user_message(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text_part(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def call_message(*ids: str, content: str | None = None) -> dict[str, Any]:
    """An assistant message that calls `get_weather` once for each id."""
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result_message(call_id: str, content: Any = "sunny") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}
