"""Reads the output from the arguments of a tool call that the model was forced to make.

Some backends do not enforce an output type, but can force the model to call a tool. modelport then sends the schema of
the output type as the parameters of a tool, so the arguments of the call are the output.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from modelport.layers.base import Deltas
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.warnings import CallWarning


async def arguments_as_text(deltas: Deltas, tool_name: str) -> Deltas:
    """Turn the arguments of the first call of the forced tool into the text of the message.

    Text that the model writes beside the call is dropped. If the model did not call the tool, its text is emitted at
    the end.

    Args:
        deltas: The deltas of the backend.
        tool_name: The tool that the model was forced to call.

    Yields:
        The same deltas, with the arguments as their text and without tool calls.
    """
    texts: list[str] = []
    forced_call: Any = None  # The index of the call whose arguments are the output; `None` until it arrives.
    other_calls: set[Any] = set()
    async with aclosing(deltas):
        async for delta in deltas:
            texts.append(delta.content or "")
            arguments = ""
            for piece in delta.tool_calls or ():
                # A piece without an index is a complete call. `object()` is equal to no index of another call.
                index = object() if piece.index is None else piece.index
                if forced_call is None and piece.function is not None and piece.function.name == tool_name:
                    forced_call = index
                if index == forced_call:
                    arguments += _arguments_text(piece)
                else:
                    other_calls.add(index)
            reason = "stop" if delta.finish_reason == "tool_calls" else delta.finish_reason
            delta = replace(delta, content=arguments or None, tool_calls=None, finish_reason=reason)
            if reason is not None and other_calls and forced_call is not None:
                text = f"The model made {len(other_calls) + 1} calls for its output, and the first was used."
                warning = CallWarning("discarded", "grammar", text)
                delta.warnings = [*(delta.warnings or ()), warning]
            yield delta
        if forced_call is None and any(texts):
            yield ChatMessageStreamDelta(content="".join(texts))


def _arguments_text(piece: ChatMessageToolCallStreamDelta) -> str:
    arguments = piece.function.arguments if piece.function else None
    return arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments is not None else ""
