"""Holds an answer to one tool call, whatever the backend makes of `parallel_tool_calls=False`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from modelport.layers.base import Deltas


async def first_call(deltas: Deltas) -> Deltas:
    """The deltas without the calls after the first; a warning says that there were some."""
    places: list[int] = []
    warned = False
    async with aclosing(deltas):
        async for delta in deltas:
            if not delta.tool_calls:
                yield delta
                continue
            kept = []
            for piece in delta.tool_calls:
                place = piece.index if piece.index is not None else len(places)  # As `accumulate` counts them.
                if place not in places:
                    places.append(place)
                if place == places[0]:
                    kept.append(piece)
            rest = replace(delta, tool_calls=kept or None)
            if len(places) > 1 and not warned:
                warned = True
                says = "the model made several tool calls; the first was kept, as parallel_tool_calls=False asks"
                rest.warnings = [*(delta.warnings or ()), says]
            if not rest.is_empty:
                yield rest
