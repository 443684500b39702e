"""Limits a message to one tool call, also where the backend ignores `parallel_tool_calls=False`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from modelport.layers.base import Deltas


async def keep_first_call(deltas: Deltas) -> Deltas:
    """Drop all tool calls after the first, and add a warning if there were any."""
    indices: list[int] = []
    warned = False
    async with aclosing(deltas):
        async for delta in deltas:
            if not delta.tool_calls:
                yield delta
                continue
            kept = []
            for part in delta.tool_calls:
                # `accumulate` numbers parts without an index in the same way.
                index = part.index if part.index is not None else len(indices)
                if index not in indices:
                    indices.append(index)
                if index == indices[0]:
                    kept.append(part)
            shortened = replace(delta, tool_calls=kept or None)
            if len(indices) > 1 and not warned:
                warned = True
                warning = (
                    "the model made several tool calls: only the first was kept, because of parallel_tool_calls=False"
                )
                shortened.warnings = [*(delta.warnings or ()), warning]
            if not shortened.is_empty:
                yield shortened
