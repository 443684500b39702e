"""Leaves out the provider data that the model which is called can't use: that of another service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from modelport.types.messages import ChatMessage, ChatMessageToolCall
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request
from modelport.types.warnings import CallWarning


def leave_out_foreign_data(
    request: Request, accepts: Callable[[ProviderData], bool]
) -> tuple[Request, list[CallWarning]]:
    """Return the request without the provider data that the model can't use, and a warning for each of its services.

    Args:
        request: The request. If nothing has to be left out, it is returned as it is.
        accepts: Says whether the model can use provider data (`Model.accepts_provider_data`).
    """
    left_out: dict[tuple[str, str | None], int] = {}  # Protocol and service -> the first message with their data.
    messages: list[ChatMessage] = []
    for i, message in enumerate(request.messages):
        data, calls = message.provider_data, message.tool_calls
        if data is not None and not accepts(data):
            left_out.setdefault((data.protocol, data.service), i)
            message = replace(message, provider_data=None)
        if calls and any(call.provider_data is not None for call in calls):
            kept: list[ChatMessageToolCall] = []
            for call in calls:
                data = call.provider_data
                if data is not None and not accepts(data):
                    left_out.setdefault((data.protocol, data.service), i)
                    call = replace(call, provider_data=None)
                kept.append(call)
            message = replace(message, tool_calls=kept)
        messages.append(message)
    if not left_out:
        return request, []
    warnings = [
        CallWarning(
            "left_out",
            "provider_data",
            f"The provider data of messages[{i}] and later messages was left out, because it came from another service "
            f"than this model's: {service or 'any'} ({protocol}).",
        )
        for (protocol, service), i in left_out.items()
    ]
    return request.replace(messages=tuple(messages)), warnings
