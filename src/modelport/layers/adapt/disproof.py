"""Decides whether an invalid output disproves that the backend enforces output types or tool choices.

A server may accept a schema and ignore it. Then an output that ended by itself, and that does not match the schema that
was sent, is the proof. The error says so (`ModelError.disproved`); the model remembers it, and sends the request again
in another way. Truncated output proves nothing. Neither does output that matches the schema, but not a constraint that
was not sent, or a validator of the caller's own type.
"""

from __future__ import annotations

from contextlib import aclosing

from modelport.errors import InvalidRequest
from modelport.layers.adapt.plan import Plan
from modelport.layers.adapt.wrapping import PROPERTY
from modelport.layers.base import Deltas
from modelport.schema.json_text import read_json
from modelport.schema.validation import mismatch
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Choice, JSONSchema


async def note_calls(deltas: Deltas, has_calls: list[bool]) -> Deltas:
    """Pass deltas on, and add an item to the list when one has a piece of a tool call."""
    async with aclosing(deltas):
        async for delta in deltas:
            if delta.tool_calls and not has_calls:
                has_calls.append(True)
            yield delta


def disproved_by(plan: Plan, message: ChatMessage, *, made_calls: bool) -> str | None:
    """Return what an invalid output disproves: "grammar", "tool_choice", or `None` for nothing.

    This validates the output, so it has to be called by `run_validation`.

    Args:
        plan: The plan of the request.
        message: The message with the invalid output.
        made_calls: Whether the model called a tool.
    """
    if message.finish_reason != "stop" or message.stop_sequence:
        return None
    if plan.enforcement == "forced_tool":
        return None if made_calls else "tool_choice"
    return "grammar" if plan.enforcement == "enforced" and not _matches(plan, message.text) else None


def _matches(plan: Plan, text: str) -> bool:
    """Return whether the text matches the output type as it was sent."""
    sent = plan.sent.grammar
    if not isinstance(sent, JSONSchema):
        return sent is None  # The text of any other type is checked in the form in which it is sent.
    is_choice = isinstance(plan.original.grammar, Choice)
    try:
        value = text if plan.is_wrapped and is_choice else read_json(text)
        if plan.is_wrapped:
            value = {PROPERTY: value}
        return mismatch(sent.schema, value) is None
    except InvalidRequest:
        return True  # To find out takes longer than `VALIDATION_TIMEOUT`, so nothing is disproved.
    except (ValueError, RecursionError):
        return False
