"""The wire format of OpenAI's chat completions, which many servers and engines speak. Pure functions.

Requests become a JSON body; answers, whole or in chunks, become deltas. What a service refuses is in `chat_errors`.
See https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from typing import Any

from modelport.protocols.chat_completions.output_format import effort_variables, grammar_fields
from modelport.types.capabilities import Capabilities
from modelport.types.messages import (
    ChatMessage,
)
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool

# --- requests ---------------------------------------------------------------------------------------------------------


def body_from(
    request: Request, model_id: str | None, capabilities: Capabilities, dialect: str | None = None
) -> dict[str, Any]:
    """The JSON body of a request.

    Args:
        request: In normal form, fitted to the capabilities.
        model_id: The service's name for the model; `None` to leave it out.
        capabilities: Say which parameters go by another name, and whether stop sequences are taken.
        dialect: Whose extra fields carry a grammar: `llama.cpp`, `vllm`, `tgi`, or `None` for OpenAI's own alone.
    """
    body: dict[str, Any] = {} if model_id is None else {"model": model_id}
    body["messages"] = [_message(message, capabilities) for message in request.messages]
    if request.stop_sequences and capabilities.stop:
        # Those beyond the service's maximum are cut by the port.
        body["stop"] = list(request.stop_sequences[: capabilities.max_stop_sequences])
    if request.tools:
        body["tools"] = [_tool(tool, dialect) for tool in request.tools]
        choice = request.tool_choice
        if isinstance(choice, NamedToolChoice):
            body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif choice != "auto":  # which is every service's default, and refused by some
            body["tool_choice"] = choice
    if request.grammar is not None:
        fields = grammar_fields(request.grammar, dialect)
        if request.tools and "tools" in fields:  # Either one of the caller's is called or that of the answer.
            fields = {"tools": [*body["tools"], *fields["tools"]], "tool_choice": "required"}
        body |= fields
    for name, value in request.parameters.items():
        body[capabilities.renamed.get(name, name)] = value
    if "tools" not in body:  # as where the answer is asked for apart; OpenAI refuses it then, and it says nothing
        body.pop("parallel_tool_calls", None)
    if dialect == "llama.cpp" and "reasoning_effort" in body:  # which its server passes over
        body["chat_template_kwargs"] = effort_variables(body.pop("reasoning_effort"), body.get("chat_template_kwargs"))
    if request.stream:
        body["stream"] = True
        if "stream_options" not in capabilities.refused:
            body.setdefault("stream_options", {"include_usage": True})
    return body


def _message(message: ChatMessage, capabilities: Capabilities) -> dict[str, Any]:
    result = plain_dict(message)
    if message.reasoning and capabilities.sends_reasoning:
        result["reasoning_content"] = message.reasoning
    return result


def _tool(tool: Tool, dialect: str | None) -> dict[str, Any]:
    result = tool.to_dict()
    if dialect == "vllm":
        # Without it vLLM holds a forced call to its name alone, and arguments may come as a JSON string.
        result["function"].setdefault("strict", True)
    return result


# --- answers ----------------------------------------------------------------------------------------------------------


def plain_dict(message: ChatMessage) -> dict[str, Any]:
    """A normalised message as a dict of OpenAI's form: strings where there is only text, arguments as JSON text."""
    content: Any = message.content
    if isinstance(content, tuple):
        content = [part.to_dict() for part in content]
    result: dict[str, Any] = {"role": str(message.role), "content": content}
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "id": c.id,
                "type": "function",
                "function": {"name": c.function.name, "arguments": c.function.arguments_json()},
            }
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    if message.name:
        result["name"] = message.name
    return result
