"""Merges messages, for services and chat templates that accept fewer roles or only alternating ones. Pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from modelport.types.content import Text
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.provider_data import join


def merge_system_messages(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Merge each system message into the user message that follows it.

    This is for chat templates without a system role. If the next message is not a user message, the system message
    becomes a user message itself.
    """
    if all(m.role != MessageRole.SYSTEM for m in messages):
        return messages
    result: list[ChatMessage] = []
    pending: list[ChatMessage] = []
    for message in messages:
        if message.role == MessageRole.SYSTEM:
            pending.append(ChatMessage(MessageRole.USER, message.content))
            continue
        if pending and message.role == MessageRole.USER:
            message = merge([*pending, message])
        elif pending:
            result.append(merge(pending))
        pending = []
        result.append(message)
    return (*result, merge(pending)) if pending else tuple(result)


def merge_consecutive_roles(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Merge consecutive messages of the same role, because some chat templates require alternating roles.

    Tool messages are not merged: each is the result of one tool call.
    """
    mergeable = (MessageRole.USER, MessageRole.SYSTEM, MessageRole.ASSISTANT)
    pairs = itertools.pairwise(messages)
    if not any(a.role == b.role and a.role in mergeable for a, b in pairs):
        return messages
    result: list[ChatMessage] = []
    for message in messages:
        if result and result[-1].role == message.role and message.role in mergeable:
            result[-1] = merge([result[-1], message])
        else:
            result.append(message)
    return tuple(result)


def append_to_system_message(messages: tuple[ChatMessage, ...], text: str) -> tuple[ChatMessage, ...]:
    """Append the text to the system message at the beginning of the conversation. If there is none, add one."""
    if messages[0].role == MessageRole.SYSTEM:
        return (merge([messages[0], ChatMessage(MessageRole.SYSTEM, text)]), *messages[1:])
    return (ChatMessage(MessageRole.SYSTEM, text), *messages)


def merge(messages: Sequence[ChatMessage]) -> ChatMessage:
    """Merge messages into one that has the role of the first."""
    contents = [m.content for m in messages if m.content]
    calls = [call for m in messages for call in m.tool_calls or ()]
    content: str | tuple[object, ...]
    if all(isinstance(c, str) for c in contents):
        content = "\n".join(str(c) for c in contents)
    else:
        content = tuple(part for c in contents for part in ((Text(c),) if isinstance(c, str) else c))
    return ChatMessage(
        messages[0].role,
        content,
        tool_calls=calls or None,
        reasoning="\n".join(m.reasoning for m in messages if m.reasoning) or None,
        name=next((m.name for m in messages if m.name), None),
        provider_data=join(m.provider_data for m in messages if m.provider_data is not None),
    )
