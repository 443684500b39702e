"""Gives tool calls in written histories the IDs that they lack, and their results the same IDs.

Logs of local servers have calls whose `id` is empty, null or missing, and results without a `tool_call_id`. The rules:

- A call without an ID gets one that depends only on its position, so the same history always has the same IDs, and the
  service's prompt cache still applies. Every service accepts it: nine letters and digits.
- A result without a `tool_call_id` belongs to the call without a result before it: to the one with the result's `name`,
  or to the only one. If several could be meant, the request is refused, because the order of results is not known.
- A result whose `tool_call_id` no call has belongs to a call that got an ID here, by the same rules.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from modelport.inputs.parts import refuse
from modelport.types.messages import ChatMessage, ChatMessageToolCall, MessageRole


def with_call_ids(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Return the messages, in which each tool call and each result has an ID. They may be the given tuple.

    Raises:
        InvalidRequest: A result has no ID, and it is not certain to which call it belongs.
    """
    for message in messages:
        if message.role is MessageRole.TOOL and not message.tool_call_id:
            break
        if message.tool_calls and not all([call.id for call in message.tool_calls]):
            break
    else:
        return messages
    result, waiting = [], _WaitingCalls()
    for index, message in enumerate(messages):
        if message.tool_calls:
            calls = [
                call if call.id else replace(call, id=_new_id(index, position))
                for position, call in enumerate(message.tool_calls)
            ]
            waiting.add(message.tool_calls, calls, f"messages[{index}]")
            message = replace(message, tool_calls=calls)
        elif message.role is MessageRole.TOOL:
            message = replace(message, tool_call_id=waiting.take(message, f"messages[{index}]"))
        result.append(message)
    return tuple(result)


@dataclass(frozen=True)
class _WaitingCall:
    """A call whose result has not come yet.

    Args:
        id: The call's ID.
        name: The tool's name.
        path: Where the call is in the request, for error messages.
        is_new: Whether the ID was made here.
    """

    id: str
    name: str
    path: str
    is_new: bool


class _WaitingCalls:
    """The calls of a turn whose results have not come yet."""

    def __init__(self) -> None:
        #: ID -> call, in the order of the calls.
        self._calls: dict[str, _WaitingCall] = {}
        self._has_results = False

    def add(self, given: list[ChatMessageToolCall], calls: list[ChatMessageToolCall], path: str) -> None:
        """Add the calls of a message. Calls after a result begin the next turn.

        Args:
            given: The calls as the caller wrote them.
            calls: The same calls with their IDs.
            path: Where the message is in the request.
        """
        if self._has_results:
            self._calls, self._has_results = {}, False
        for position, (before, call) in enumerate(zip(given, calls, strict=True)):
            name, location = call.function.name, f"{path}['tool_calls'][{position}]"
            self._calls[call.id] = _WaitingCall(call.id, name, location, is_new=not before.id)

    def take(self, message: ChatMessage, path: str) -> str:
        """Return the ID of the call to which a result belongs. The call does not wait any more.

        Raises:
            InvalidRequest: It is not certain which call that is.
        """
        self._has_results = True
        call = self._call_of(message, path)
        if call is None:
            return message.tool_call_id or ""
        del self._calls[call.id]
        return call.id

    def _call_of(self, message: ChatMessage, path: str) -> _WaitingCall | None:
        given = message.tool_call_id
        if given and given in self._calls:
            return self._calls[given]
        candidates = [call for call in self._calls.values() if call.is_new or not given]
        if message.name and (named := [call for call in candidates if call.name == message.name]):
            candidates = named
        elif message.name and len(candidates) > 1:
            candidates = []
        if len(candidates) == 1:
            return candidates[0]
        if given and not candidates:
            return None  # The service decides about it.
        missing = "a 'tool' message needs the 'tool_call_id' of the call whose result it is"
        if not candidates:
            refuse(path, f"{missing}: no call before it waits for a result" + _of_tool(message))
        paths = " and ".join(call.path for call in candidates)
        refuse(path, f"{missing}: it could be the result of {paths}; give each of them an 'id', and name it here")


def _of_tool(message: ChatMessage) -> str:
    return f" of the tool {message.name!r}" if message.name else ""


def _new_id(index: int, position: int) -> str:
    return hashlib.sha256(f"{index}.{position}".encode()).hexdigest()[:9]
