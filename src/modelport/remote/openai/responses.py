"""Requests of `OpenAIServerModel` to the Responses API. The functions are pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from modelport.protocols.chat_completions.call_ids import CallIdRule, accepted_id
from modelport.protocols.chat_completions.dialects import Dialect, template_variables_for
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.responses.items import has_cache_control
from modelport.protocols.responses.request import body_from
from modelport.protocols.responses.response import ResponsesReader
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

_OTHER_PROTOCOL = CallWarning(
    "left_out", "messages", "Provider data of chat completions was not sent, because the Responses API can't use it."
)
_NO_CACHE_CONTROL = CallWarning(
    "left_out", "cache_control", "cache_control was not sent, because the Responses API does not have it."
)


def body_of(
    request: Request,
    model_id: str | None,
    service: str | None,
    dialect: Dialect | None,
    left_out: Collection[str],
    id_rule: CallIdRule | None = None,
) -> dict[str, Any]:
    """Return the body of a request; see `protocols.responses.request.body_from` for the arguments.

    `id_rule` is the rule for IDs of tool calls on chat completions. It is applied here if it is the model's own.
    """
    parameters = request.parameters
    if dialect is not None and dialect.effort_in_template and "reasoning_effort" in parameters:
        others = {name: value for name, value in parameters.items() if name != "reasoning_effort"}
        variables = template_variables_for(parameters["reasoning_effort"], parameters.get("chat_template_kwargs"))
        request = request.replace(parameters={**others, "chat_template_kwargs": variables})
    body = body_from(request, model_id, service=service, dialect=dialect, left_out=left_out)
    if id_rule is not None and id_rule.is_of_model:
        for item in body["input"]:
            if "call_id" in item:
                item["call_id"] = accepted_id(item["call_id"], id_rule)
    return body


def reader_for(body: Mapping[str, Any], service: str | None) -> ResponsesReader:
    """Return a reader of the response to a request."""
    max_tokens = body.get("max_output_tokens")
    return ResponsesReader(error_from, service, max_tokens if isinstance(max_tokens, int) else None)


def warnings_for(request: Request) -> list[CallWarning]:
    """Return warnings about what is not sent to the Responses API."""
    owners = (owner for message in request.messages for owner in (message, *(message.tool_calls or ())))
    has_other = any(o.provider_data is not None and o.provider_data.protocol != "responses" for o in owners)
    return [_OTHER_PROTOCOL] * has_other + [_NO_CACHE_CONTROL] * has_cache_control(request.messages)
