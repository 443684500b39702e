"""A call in normal form, as every layer and backend receives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Grammar
from modelport.types.tools import Tool, ToolChoice


@dataclass(slots=True, repr=False)
class Timeouts:
    """The time limits of a call, in seconds; `None` for no limit.

    All requests that the layers derive from one call share this object. A call is checked when it is made, but it
    starts when its first delta is read; so `Model` sets the deadline here after the layers have received the request.

    Args:
        timeout: For the whole call: every attempt, every wait and the complete response.
        first_token_timeout: For one attempt, up to its first delta (up to the complete response if the call does not
            stream). The time that a request waits in this model's own rate limits does not count.
        idle_timeout: Between two deltas.
        deadline: The time at which `timeout` ends, on the clock of the running event loop; `None` until the call
            starts, and for a call without `timeout`.
    """

    timeout: float | None = 600.0
    first_token_timeout: float | None = None
    idle_timeout: float | None = None
    deadline: float | None = None


_DEFAULT_CAPABILITIES = Capabilities()


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A call in normal form.

    Args:
        messages: Roles are `system`, `user`, `assistant` and `tool`; content is a string or a tuple of `Part`s.
        stop_sequences: Strings, none empty.
        grammar: The output type, or `None` for free text.
        strict: Whether an output type that neither the engine nor the service enforces is refused.
        tools: The tools that the model may call.
        tool_choice: `auto`, `none`, `required` or a `NamedToolChoice`.
        parameters: All other parameters (`temperature`, `max_tokens`, …). Those that modelport knows are checked.
        stream: Whether the caller wants each delta as soon as it arrives.
        timeouts: The time limits of the call.
        capabilities: What the model can do. `Model` looks them up once per call; layers and backends read them here.
        needs_closing_delta: Whether usage and finish reason must come in a last delta of their own, even if the call
            does not stream. The layer `adapt` sets it for responses that it rewrites or validates.
        on_sent: Called when the request leaves the queue of a rate limit, to start the clock of
            `first_token_timeout`. The retry layer sets it.
    """

    messages: tuple[ChatMessage, ...]
    stop_sequences: tuple[str, ...] = ()
    grammar: Grammar | None = None
    strict: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)
    capabilities: Capabilities = _DEFAULT_CAPABILITIES
    needs_closing_delta: bool = False
    on_sent: Callable[[], None] | None = None

    def replace(self, **changes: Any) -> Request:
        """Return the same request with some values changed."""
        return Request(**{**dict(zip(_NAMES, _values(self), strict=True)), **changes})

    def __repr__(self) -> str:
        # Parameters may hold headers, messages anything: neither belongs in a traceback.
        return f"Request({len(self.messages)} messages, {sorted(self.parameters)}, stream={self.stream})"


# This takes half the time of `dataclasses.replace`, which inspects every field, and every call does it several times.
_NAMES = tuple(item.name for item in fields(Request))
_values = attrgetter(*_NAMES)
