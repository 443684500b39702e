"""Returns invalid output as the model wrote it (`output_errors="return"`), for a caller that tells its model.

This is outside of everything that requests an invalid output again, such as the retries with feedback. So only what
would reach the caller as `InvalidOutput` is returned.
"""

from __future__ import annotations

from contextlib import aclosing

from modelport.errors import InvalidOutput
from modelport.layers.base import Deltas
from modelport.types.deltas import ChatMessageStreamDelta, as_delta
from modelport.types.warnings import CallWarning


async def return_invalid_output(deltas: Deltas) -> Deltas:
    """Pass the deltas on. Instead of an `InvalidOutput`, yield what is missing of the response, with a warning."""
    has_output = False
    seen: list[CallWarning] = []
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                has_output = has_output or delta.has_output
                seen += CallWarning.list_from(delta.warnings or ())
                yield delta
    except InvalidOutput as error:
        rest = _response_of(error)
        if has_output:  # The caller of a stream has received it.
            rest.content = rest.reasoning = rest.tool_calls = rest.logprobs = rest.provider_data = None
        new = [one for one in CallWarning.list_from(rest.warnings or ()) if one not in seen]
        rest.warnings = [*new, CallWarning("invalid", "grammar", error.message)]
        yield rest


def _response_of(error: InvalidOutput) -> ChatMessageStreamDelta:
    """Return the complete response as one delta. A service that refuses an output reports its text at most."""
    if error.partial is None:
        return ChatMessageStreamDelta(error.text or None, token_usage=error.token_usage, finish_reason="stop")
    delta = as_delta(error.partial)
    delta.token_usage = error.token_usage
    return delta
