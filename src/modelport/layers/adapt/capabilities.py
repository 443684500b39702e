"""Rewrites a request to what its backend supports, or refuses it before anything is sent.

`adapt_to_capabilities` checks parameters and content parts, converts the reasoning effort, and merges messages: system
messages with user messages if the backend has no system role, and consecutive messages of the same role if the backend
requires alternating roles. `needs_plan` says whether a request also needs the module `plan`, because it has tools or an
output type, or because its messages have tool calls or image URLs that the backend does not accept. The functions are
pure.
"""

from __future__ import annotations

from modelport.errors import UnsupportedFeature
from modelport.inputs.merging import merge_consecutive_roles, merge_system_messages
from modelport.inputs.parameters import NEEDED_CAPABILITIES, REASONING_EFFORTS
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request

#: Reasoning effort -> the reasoning budget in tokens that is sent to models which accept only budgets.
REASONING_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}


def needs_plan(request: Request, capabilities: Capabilities) -> bool:
    """Return whether `plan` must decide how the request is sent, because `adapt_to_capabilities` does not suffice."""
    if request.grammar is not None or request.tools:
        return True
    if not capabilities.tools and any(m.tool_calls or m.role == MessageRole.TOOL for m in request.messages):
        return True
    return not capabilities.image_urls and has_image_urls(request.messages)


def adapt_to_capabilities(request: Request, capabilities: Capabilities) -> Request:
    """Return a request that the backend accepts. If nothing has to change, it is the given object.

    Raises:
        UnsupportedFeature: The backend does not support something in the request, and there is no substitute for it.
    """
    _check_parameters(request, capabilities)
    _check_content(request, capabilities)
    request = _adapt_reasoning(request, capabilities)
    messages = request.messages
    if not capabilities.system_role:
        messages = merge_system_messages(messages)
    if not capabilities.consecutive_roles:
        messages = merge_consecutive_roles(messages)
    return request if messages is request.messages else request.replace(messages=messages)


def _check_parameters(request: Request, capabilities: Capabilities) -> None:
    for name, value in request.parameters.items():
        needed = NEEDED_CAPABILITIES.get(name)
        # `logprobs=False` requests no log probabilities, so it needs no capability.
        unsupported = needed is not None and not getattr(capabilities, needed) and value is not False
        # A parameter in `refused` is not accepted, even if the capability that it needs is present.
        if unsupported or name in capabilities.refused:
            raise UnsupportedFeature(
                f"this model does not accept {name!r}; leave it out, or override the capabilities if the model does "
                "accept it",
                parameter=name,
            )


def _adapt_reasoning(request: Request, capabilities: Capabilities) -> Request:
    """Return the request with its reasoning effort in a form that the model accepts.

    An effort whose name the model accepts stays unchanged. If the model accepts only budgets, the effort becomes a
    budget in tokens. The effort `none` is removed if the model does not reason.

    Raises:
        UnsupportedFeature: The model does not accept the effort or the budget of the request.
    """
    parameters = request.parameters
    effort, accepted = parameters.get("reasoning_effort"), capabilities.reasoning_efforts
    if "reasoning_budget" in parameters and not capabilities.reasoning_budget:
        alternative = f"; it accepts reasoning_effort: {_list_efforts(accepted)}" if accepted else ""
        raise UnsupportedFeature(
            f"this model does not accept a reasoning_budget{alternative}", parameter="reasoning_budget"
        )
    if effort is None or effort in accepted:
        return request
    others = {name: value for name, value in parameters.items() if name != "reasoning_effort"}
    if effort == "none" and not capabilities.reasoning:
        return request.replace(parameters=others)
    if effort in REASONING_BUDGETS and capabilities.reasoning_budget:
        return request.replace(parameters={**others, "reasoning_budget": REASONING_BUDGETS[effort]})
    alternative = (
        f"it accepts {_list_efforts(accepted)}"
        if accepted
        else "its reasoning effort cannot be set. Leave "
        f"it out, or pass capabilities={{'reasoning_efforts': [{effort!r}]}} to the constructor if the model accepts it"
    )
    raise UnsupportedFeature(
        f"reasoning_effort={effort!r}: this model does not accept it; {alternative}", parameter="reasoning_effort"
    )


def _list_efforts(efforts: frozenset[str]) -> str:
    return ", ".join(effort for effort in REASONING_EFFORTS if effort in efforts)


def _check_content(request: Request, capabilities: Capabilities) -> None:
    for i, message in enumerate(request.messages):
        if isinstance(message.content, str):
            continue
        for j, part in enumerate(message.content or ()):
            if part.kind not in capabilities.inputs:
                raise UnsupportedFeature(
                    f"messages[{i}]['content'][{j}]: this model accepts {', '.join(sorted(capabilities.inputs))}, "
                    f"not {part.kind}"
                )


def has_image_urls(messages: tuple[ChatMessage, ...]) -> bool:
    """Return whether any image in the messages is given by URL and not as bytes."""
    return any(
        isinstance(part, Image) and part.data is None
        for message in messages
        if not isinstance(message.content, str)
        for part in message.content or ()
    )
