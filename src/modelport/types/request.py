"""`Request`: a call whose arguments have been checked and converted, as every layer and backend receives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Grammar
from modelport.types.tools import Tool, ToolChoice

if TYPE_CHECKING:
    from modelport.runtime.running_calls import RunningCall


@dataclass(slots=True, repr=False)
class Timeouts:
    """The time limits of a call, in seconds; `None` for no limit.

    The object is mutable, and every request that the layers make from the request of a call refers to the same object.
    A call starts when its first delta is read. `Model` then sets `deadline`, although the layers already have the
    request.

    Args:
        timeout: The limit for the whole call: every attempt, every wait and the complete response.
        first_token_timeout: The limit for one attempt, up to its first delta (up to the complete response if the call
            does not stream). The time that a request waits because of this model's own rate limits does not count.
        idle_timeout: The limit for each wait for a further delta. The time that the caller takes to process a delta
            does not count.
        deadline: The time at which `timeout` ends, in seconds on the clock of the running event loop
            (`loop.time()`). `None` until the call starts, and for a call without `timeout`.
        call: For modelport's layers: the call as closing the model sees it. `None` until the call starts.
        waits_for: For modelport's layers: the limit of the model that the call waits for. `None` if it does not wait.
    """

    timeout: float | None = 600.0
    first_token_timeout: float | None = None
    idle_timeout: float | None = None
    deadline: float | None = None
    call: RunningCall | None = None
    waits_for: str | None = None

    def start(self, now: float) -> None:
        """Set the deadline. In a call by a `FallbackModel`, that of the outer call is set; the earlier one applies."""
        if self.timeout is not None:
            deadline = now + self.timeout
            self.deadline = deadline if self.deadline is None else min(deadline, self.deadline)


_DEFAULT_CAPABILITIES = Capabilities()


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A call whose arguments have been checked and converted to one type each.

    Args:
        messages: The conversation. The roles are `system`, `user`, `assistant` and `tool`; the content of a message is
            a string, a tuple of `Part`s or `None`.
        stop_sequences: The output ends before the first of these strings; none of them is empty.
        grammar: The output type, such as `JSONSchema`; `None` for free text.
        strict: Whether the request is refused if neither the engine nor the service can enforce the output type.
        tools: The tools that the model may call.
        tool_choice: `auto`, `none`, `required` or a `NamedToolChoice`.
        tool_errors: `raise` or `return`: whether a call that can't be used is an error or is returned.
        output_errors: `raise` or `return`: whether output that does not match `grammar` is an error or is returned.
        usage_after_stop: How many more deltas are read for the token usage after a stop sequence.
        parameters: All other parameters (`temperature`, `max_tokens`, …). The values of those in the table of
            `modelport.inputs.parameters` have been checked; the others are passed on as they are.
        stream: Whether the caller wants each delta as soon as it arrives.
        timeouts: The time limits of the call.
        capabilities: What the model can do. `Model` looks this up once per call, for the layers and the backend.
        needs_closing_delta: Whether token usage and finish reason must come in a separate delta after all output, even
            if the call does not stream. The layer `adapt` sets it to `True` for responses that it rewrites or
            validates, and `FallbackModel` for the requests to its models.
        on_sent: A function that starts the clock of `first_token_timeout`. The retry layer sets it, and the limit
            layer calls it when the request no longer waits for a rate limit. `None` if there is no such clock or no
            rate limit.
    """

    messages: tuple[ChatMessage, ...]
    stop_sequences: tuple[str, ...] = ()
    grammar: Grammar | None = None
    strict: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    tool_errors: Literal["raise", "return"] = "raise"
    output_errors: Literal["raise", "return"] = "raise"
    usage_after_stop: int = 64
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
        # Headers (in `parameters`) may contain keys, and messages may contain private data. Neither may appear in a
        # traceback or a log.
        return f"Request({len(self.messages)} messages, {sorted(self.parameters)}, stream={self.stream})"


# `Request.replace` uses `_NAMES` and `_values` instead of `dataclasses.replace`, which takes twice as long: every call
# runs `Request.replace` several times.
_NAMES = tuple(item.name for item in fields(Request))
_values = attrgetter(*_NAMES)
