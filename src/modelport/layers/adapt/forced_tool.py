"""An answer that comes as the arguments of a tool which the model was made to call."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from modelport.layers.base import Deltas
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta


async def tool_as_text(deltas: Deltas, name: str) -> Deltas:
    """The arguments of the tool's first call as the answer's text.

    What some models say beside it is no part of the answer; where they have not called it, it is all there is.
    """
    said: list[str] = []
    answer: Any = None  # which of the calls it is
    others: set[Any] = set()
    async with aclosing(deltas):
        async for delta in deltas:
            said.append(delta.content or "")
            text = ""
            for call in delta.tool_calls or ():
                which = object() if call.index is None else call.index  # without an index it is a call of its own
                if answer is None and call.function is not None and call.function.name == name:
                    answer = which
                if which == answer:
                    text += _arguments(call)
                else:
                    others.add(which)
            reason = "stop" if delta.finish_reason == "tool_calls" else delta.finish_reason
            if reason is not None and answer is None and any(said):
                yield ChatMessageStreamDelta(content="".join(said))
            delta = replace(delta, content=text or None, tool_calls=None, finish_reason=reason)
            if reason is not None and others and answer is not None:
                says = f"the model made {len(others) + 1} calls for its answer: the first was taken"
                delta.warnings = [*(delta.warnings or ()), says]
            yield delta


def _arguments(call: ChatMessageToolCallStreamDelta) -> str:
    arguments = call.function.arguments if call.function else None
    return arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments is not None else ""
