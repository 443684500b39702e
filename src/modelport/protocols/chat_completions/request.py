"""Turns a request into the JSON body of a chat completion. All functions are pure.

See https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Any

from modelport.protocols.chat_completions.dialects import DIALECTS, OPENAI_API, template_variables_for
from modelport.protocols.chat_completions.output_format import output_fields
from modelport.protocols.chat_completions.provider_fields import merged_fields, with_reasoning_parts
from modelport.protocols.chat_completions.sendable_messages import sendable_messages
from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice


def body_from(
    request: Request, model_id: str | None, dialect: str | None = None, *, moves_media: bool = True
) -> dict[str, Any]:
    """Return the JSON body of a request.

    Args:
        request: A request that the layer `adapt` has adapted to `request.capabilities`. Of these capabilities, `stop`,
            `max_stop_sequences`, `renamed`, `sends_reasoning` and `refused` (for `stream_options`) are applied here.
        model_id: The service's name for the model; `None` to leave the name out.
        dialect: A key of `DIALECTS`, or `None` for OpenAI's API.
        moves_media: Whether images in tool results are moved to a user message; see `sendable_messages`.
    """
    capabilities = request.capabilities
    server = OPENAI_API if dialect is None else DIALECTS[dialect]
    body: dict[str, Any] = {} if model_id is None else {"model": model_id}
    messages = [_message(message, capabilities) for message in request.messages]
    body["messages"] = sendable_messages(messages, moves_media)
    if request.stop_sequences and capabilities.stop:
        # The layer `stop` ends the output at the stop sequences that exceed the service's maximum and are not sent.
        body["stop"] = list(request.stop_sequences[: capabilities.max_stop_sequences])
    if request.tools:
        body["tools"] = tools = [tool.to_dict() for tool in request.tools]
        if server.strict_tools:
            for tool in tools:
                tool["function"].setdefault("strict", True)
        choice = request.tool_choice
        if isinstance(choice, NamedToolChoice):
            body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif choice != "auto":  # "auto" is every service's default, and some services reject it.
            body["tool_choice"] = choice
    if request.grammar is not None:
        fields = output_fields(request.grammar, server)
        if request.tools and "tools" in fields:
            # The model must call one of the caller's tools, or the tool whose input is the output.
            fields = {"tools": [*body["tools"], *fields["tools"]], "tool_choice": "required"}
        body |= fields
    for name, value in request.parameters.items():
        body[capabilities.renamed.get(name, name)] = value
    if "tools" not in body:
        # OpenAI rejects this parameter in a request without tools. A call with tools can lead to such a request: for a
        # service that does not support tools together with an output type, `adapt` requests the output without tools.
        body.pop("parallel_tool_calls", None)
    if server.effort_in_template and "reasoning_effort" in body:
        effort, callers_variables = body.pop("reasoning_effort"), body.get("chat_template_kwargs")
        body["chat_template_kwargs"] = template_variables_for(effort, callers_variables)
    if request.stream:
        body["stream"] = True
        if "stream_options" not in capabilities.refused:
            body.setdefault("stream_options", {"include_usage": True})
    return body


def _message(message: ChatMessage, capabilities: Capabilities) -> dict[str, Any]:
    result = plain_dict(message)
    if message.reasoning and capabilities.sends_reasoning:
        result.setdefault("reasoning_content", message.reasoning)
    return result


def plain_dict(message: ChatMessage) -> dict[str, Any]:
    """Return a message as a dict in OpenAI's format.

    Content that is a string stays a string; parts become dicts. The arguments of tool calls become JSON text. Provider
    data of chat completions becomes the fields that the service returned.

    Args:
        message: A message as `inputs` has normalised it: its content is a string, a tuple of parts, or `None`.
    """
    content: Any = message.content
    if isinstance(content, tuple):
        content = [part.to_dict() for part in content]
    result: dict[str, Any] = {"role": str(message.role), "content": content}
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments_json()},
                **_fields(call.provider_data),
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    if message.name:
        result["name"] = message.name
    if message.provider_data is not None:
        fields = _fields(message.provider_data)
        if (parts := fields.pop("content", None)) is not None:
            result["content"] = with_reasoning_parts(parts, content)
        result |= fields
    return result


def _fields(data: ProviderData | None) -> dict[str, Any]:
    return {} if data is None or data.protocol != "chat_completions" else merged_fields(data.items)
