"""Turns a request into the JSON body of a response. All functions are pure.

By default nothing is stored: the body has `store: false`, and asks for encrypted reasoning, which goes back to the
service in the next request of the conversation. If the caller passes `store`, `previous_response_id` or `conversation`,
the service stores what the caller asks for.

See https://developers.openai.com/api/reference/resources/responses/methods/create
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from modelport.errors import UnsupportedFeature
from modelport.protocols.openai_output import (
    OUTPUT_TOOL,
    OUTPUT_TOOL_DESCRIPTION,
    custom_tool_grammar,
    is_strict,
)
from modelport.protocols.responses.items import input_items
from modelport.schema.rules import is_any_object
from modelport.types.output_types import Grammar, JSONSchema
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool

if TYPE_CHECKING:
    from modelport.protocols.chat_completions.dialects import Dialect

#: Parameters of chat completions that OpenAI's Responses API does not have.
CHAT_ONLY = frozenset({
    "seed", "presence_penalty", "frequency_penalty", "logit_bias", "prediction", "audio", "modalities", "function_call",
    "functions", "web_search_options",
})  # fmt: skip
_ENCRYPTED_REASONING = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
#: Fields of the body in an error -> modelport's names of the parameters.
_PARAMETER_NAMES = {
    "max_output_tokens": "max_tokens",
    "reasoning.effort": "reasoning_effort",
    "text.format": "response_format",
    "text.verbosity": "verbosity",
}


def body_from(
    request: Request,
    model_id: str | None,
    *,
    service: str | None = None,
    dialect: Dialect | None = None,
    left_out: Collection[str] = (),
) -> dict[str, Any]:
    """Return the JSON body of a request.

    Args:
        request: A request that the layer `adapt` has adapted to `request.capabilities`. Of these capabilities,
            `reasoning`, `sends_reasoning` and `renamed` are applied here. Stop sequences are not sent, because this API
            has none: the layer `stop` ends the output.
        model_id: The service's name for the model; `None` to leave the name out.
        service: The name of the service, for the provider data that is sent back.
        dialect: How the server differs from OpenAI's API; `None` for OpenAI's API itself.
        left_out: Fields that modelport adds and the service rejects: `store` or `include`.

    Raises:
        UnsupportedFeature: OpenAI's Responses API does not have a parameter or a kind of content.
    """
    capabilities, parameters = request.capabilities, dict(request.parameters)
    if dialect is None:
        _check_parameters(parameters)
    body: dict[str, Any] = {} if model_id is None else {"model": model_id}
    if "store" not in left_out and not parameters.keys() & {"store", "previous_response_id", "conversation"}:
        body["store"] = False
    is_stateless = parameters.get("store", body.get("store")) is False
    body["input"] = input_items(
        request.messages,
        service=service,
        keeps_ids=not is_stateless,
        sends_reasoning=capabilities.sends_reasoning,
    )
    include = list(parameters.pop("include", None) or ())
    if is_stateless and capabilities.reasoning:
        include.append(_ENCRYPTED_REASONING)
    if parameters.pop("logprobs", False):
        include.append(_LOGPROBS)
        parameters.setdefault("top_logprobs", 0)
    if include and "include" not in left_out:
        body["include"] = list(dict.fromkeys(include))
    body |= _tool_fields(request, dialect)
    text = dict(parameters.pop("text", None) or {})
    if request.grammar is not None:
        fields = dialect.output_fields(request.grammar) if dialect is not None and dialect.output_fields else None
        if fields is None and isinstance(request.grammar, JSONSchema):
            text["format"] = _text_format(request.grammar)
        elif fields is None:
            fields = _custom_tool_fields(request.grammar, body.get("tools"))
        body |= fields or {}
    if (verbosity := parameters.pop("verbosity", None)) is not None:
        text["verbosity"] = verbosity
    if text:
        body["text"] = text
    if (effort := parameters.pop("reasoning_effort", None)) is not None:
        parameters["reasoning"] = {"effort": effort, **(parameters.get("reasoning") or {})}
    if (max_tokens := parameters.pop("max_tokens", None)) is not None:
        body["max_output_tokens"] = max_tokens
    if "tools" not in body:
        parameters.pop("parallel_tool_calls", None)
    for name, value in parameters.items():
        body[capabilities.renamed.get(name, name)] = value
    if request.stream:
        body["stream"] = True
    return body


def parameter_name(field: str | None) -> str | None:
    """Return modelport's name of the parameter that an error names by its field, such as `text.format`."""
    if field is None:
        return None
    return next((name for path, name in _PARAMETER_NAMES.items() if f"{field}.".startswith(f"{path}.")), field)


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name in sorted(CHAT_ONLY & parameters.keys()):
        raise UnsupportedFeature(
            f"the Responses API does not have {name!r}; leave it out, or pass api='chat' to use chat completions",
            parameter=name,
        )
    if parameters.get("background"):
        raise UnsupportedFeature(
            "background=True: modelport does not wait for a response that runs in the background; leave it out",
            parameter="background",
        )


def _tool_fields(request: Request, dialect: Dialect | None) -> dict[str, Any]:
    if not request.tools:
        return {}
    default_strict = dialect is not None and dialect.strict_tools
    fields: dict[str, Any] = {"tools": [_tool(tool, default_strict) for tool in request.tools]}
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice):
        fields["tool_choice"] = {"type": "function", "name": choice.name}
    elif choice != "auto":
        fields["tool_choice"] = choice
    return fields


def _tool(tool: Tool, default_strict: bool) -> dict[str, Any]:
    # Without `strict`, this API makes the schema strict, unlike chat completions: optional properties become required.
    strict = default_strict if tool.strict is None else tool.strict
    return {
        "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
        "strict": strict,
    }  # fmt: skip


def _text_format(output_type: JSONSchema) -> dict[str, Any]:
    if is_any_object(output_type.schema):
        # Strict mode requires `additionalProperties: false`, so it can't express "any object". JSON mode can.
        return {"type": "json_object"}
    schema = output_type.schema
    return {"type": "json_schema", "name": output_type.name, "schema": schema, "strict": is_strict(schema)}


def _custom_tool_fields(output_type: Grammar, tools: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return the fields that force a call of `OUTPUT_TOOL`, or of one of the caller's tools."""
    tool = {
        "type": "custom", "name": OUTPUT_TOOL, "description": OUTPUT_TOOL_DESCRIPTION,
        "format": {"type": "grammar", **custom_tool_grammar(output_type)},
    }  # fmt: skip
    if tools:
        return {"tools": [*tools, tool], "tool_choice": "required"}
    return {"tools": [tool], "tool_choice": {"type": "custom", "name": OUTPUT_TOOL}}
