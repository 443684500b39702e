"""Rewrites a request to what a backend declares, or refuses it before anything is sent. Pure functions."""

from __future__ import annotations

import itertools
from difflib import get_close_matches

from modelport.errors import UnsupportedFeature
from modelport.inputs.parameters import KNOWN_PARAMETERS, NEEDED_CAPABILITIES, REASONING_EFFORTS
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image, Text
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request


def adapt_to_capabilities(request: Request, capabilities: Capabilities) -> Request:
    """The request as the backend can take it; the same object where nothing had to change.

    Raises:
        UnsupportedFeature: It asks for what the backend can't do and the port can't make up for.
    """
    _check_parameters(request, capabilities)
    _check_inputs(request, capabilities)
    request = _with_effort(request, capabilities)
    messages = request.messages
    if not capabilities.system_role:
        messages = without_system(messages)
    if not capabilities.consecutive_roles:
        messages = merged(messages)
    return request if messages is request.messages else request.replace(messages=messages)


def _check_parameters(request: Request, capabilities: Capabilities) -> None:
    for name in request.parameters:
        needed = NEEDED_CAPABILITIES.get(name)
        lacks = needed is not None and not getattr(capabilities, needed) and request.parameters[name] is not False
        if lacks or name in capabilities.refused:
            raise UnsupportedFeature(
                f"this model does not take {name!r}; leave it out, or overlay the capabilities if you know better",
                parameter=name,
            )
        extra = capabilities.extra_parameters
        if extra is not None and name not in KNOWN_PARAMETERS | extra:
            close = get_close_matches(name, KNOWN_PARAMETERS | extra, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UnsupportedFeature(f"{name!r} is no parameter of this backend{hint}", parameter=name)


#: What an effort means in tokens, for models that are told how many they may think.
BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}


def _with_effort(request: Request, capabilities: Capabilities) -> Request:
    """The request with its effort of thinking as the model takes it.

    Raises:
        UnsupportedFeature: It can't be told.
    """
    parameters = request.parameters
    effort, taken = parameters.get("reasoning_effort"), capabilities.reasoning_efforts
    if "reasoning_budget" in parameters and not capabilities.reasoning_budget:
        offers = f"; it takes reasoning_effort: {_listed(taken)}" if taken else ""
        raise UnsupportedFeature(
            f"this model can't be told how many tokens to think{offers}", parameter="reasoning_budget"
        )
    if effort is None or effort in taken:
        return request
    others = {name: value for name, value in parameters.items() if name != "reasoning_effort"}
    if effort == "none" and not capabilities.reasoning:
        return request.replace(parameters=others)
    if effort in BUDGETS and capabilities.reasoning_budget:
        return request.replace(parameters={**others, "reasoning_budget": BUDGETS[effort]})
    offers = f"it takes {_listed(taken)}" if taken else "it can't be told how much to think"
    raise UnsupportedFeature(
        f"reasoning_effort={effort!r}: this model does not take it; {offers}", parameter="reasoning_effort"
    )


def _listed(efforts: frozenset[str]) -> str:
    return ", ".join(effort for effort in REASONING_EFFORTS if effort in efforts)


def _check_inputs(request: Request, capabilities: Capabilities) -> None:
    for i, message in enumerate(request.messages):
        if isinstance(message.content, str):
            continue
        for j, part in enumerate(message.content or ()):
            place = f"messages[{i}]['content'][{j}]"
            if part.kind not in capabilities.inputs:
                raise UnsupportedFeature(
                    f"{place}: this model takes {', '.join(sorted(capabilities.inputs))}, not {part.kind}"
                )


def holds_image_urls(messages: tuple[ChatMessage, ...]) -> bool:
    """Whether an image of the conversation is given by URL."""
    return any(
        isinstance(part, Image) and part.data is None
        for message in messages
        if not isinstance(message.content, str)
        for part in message.content or ()
    )


def without_system(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """System messages folded into the user message that follows, for templates that have no such role."""
    if all(m.role != MessageRole.SYSTEM for m in messages):
        return messages
    result: list[ChatMessage] = []
    held: list[ChatMessage] = []
    for message in messages:
        if message.role == MessageRole.SYSTEM:
            held.append(ChatMessage(MessageRole.USER, message.content))
            continue
        if held and message.role == MessageRole.USER:
            message = _join([*held, message])
        elif held:
            result.append(_join(held))
        held = []
        result.append(message)
    return (*result, _join(held)) if held else tuple(result)


def merged(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Neighbours of one role made into one message, for templates that want turns to alternate."""
    joinable = (MessageRole.USER, MessageRole.SYSTEM, MessageRole.ASSISTANT)
    pairs = itertools.pairwise(messages)
    if not any(a.role == b.role and a.role in joinable for a, b in pairs):
        return messages
    result: list[ChatMessage] = []
    for message in messages:
        if result and result[-1].role == message.role and message.role in joinable:
            result[-1] = _join([result[-1], message])
        else:
            result.append(message)
    return tuple(result)


def _join(messages: list[ChatMessage]) -> ChatMessage:
    contents = [m.content for m in messages if m.content]
    calls = [call for m in messages for call in m.tool_calls or ()]
    joined: str | tuple[object, ...]
    if all(isinstance(content, str) for content in contents):
        joined = "\n".join(str(content) for content in contents)
    else:
        joined = tuple(p for c in contents for p in ((Text(c),) if isinstance(c, str) else c))
    return ChatMessage(
        messages[0].role,
        joined,
        tool_calls=calls or None,
        reasoning="\n".join(m.reasoning for m in messages if m.reasoning) or None,
        name=next((m.name for m in messages if m.name), None),
        reasoning_details=[detail for m in messages for detail in m.reasoning_details or ()] or None,
    )


def with_system_text(messages: tuple[ChatMessage, ...], text: str) -> tuple[ChatMessage, ...]:
    """The conversation with `text` at the end of its first system message, or in a new one."""
    if messages[0].role == MessageRole.SYSTEM:
        return (_join([messages[0], ChatMessage(MessageRole.SYSTEM, text)]), *messages[1:])
    return (ChatMessage(MessageRole.SYSTEM, text), *messages)
