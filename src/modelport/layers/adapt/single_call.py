"""Limits a message to one tool call, for backends that ignore `parallel_tool_calls=False`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from modelport.layers.base import Deltas
from modelport.types.warnings import CallWarning

_CALLS_DROPPED = CallWarning(
    "discarded",
    "parallel_tool_calls",
    "The model made several tool calls. All but the first were dropped, because parallel_tool_calls is False.",
)


async def keep_first_call(deltas: Deltas) -> Deltas:
    """Drop all tool calls after the first, and add a warning if any were dropped."""
    indices: list[int] = []  # The positions of the calls so far. The pieces of one call have the same position.
    warned = False
    async with aclosing(deltas):
        async for delta in deltas:
            if not delta.tool_calls:
                yield delta
                continue
            first_call_pieces = []
            for piece in delta.tool_calls:
                # A piece without an index is a complete call. `MessageBuilder` numbers such calls in the same way.
                index = piece.index if piece.index is not None else len(indices)
                if index not in indices:
                    indices.append(index)
                if index == indices[0]:
                    first_call_pieces.append(piece)
            shortened = replace(delta, tool_calls=first_call_pieces or None)
            if len(indices) > 1 and not warned:
                warned = True
                shortened.warnings = [*(delta.warnings or ()), _CALLS_DROPPED]
            if not shortened.is_empty:
                yield shortened
