"""A call, checked and in one form: what every layer and backend receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from modelport.types.messages import ChatMessage
from modelport.types.output_types import Grammar
from modelport.types.tools import Tool, ToolChoice


@dataclass(frozen=True, slots=True, repr=False)
class Timeouts:
    """The time limits of a call, in seconds; `None` for no limit.

    Args:
        timeout: For everything: all attempts, all waiting, the whole answer.
        first_token_timeout: For one attempt up to its first delta (the whole answer where it is not streamed); the
            wait for a rate limit of ours is not counted.
        idle_timeout: Between two deltas.
        deadline: When `timeout` is over, on the clock of the running loop; set once the call has begun.
    """

    timeout: float | None = 600.0
    first_token_timeout: float | None = None
    idle_timeout: float | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A call in normal form.

    Args:
        messages: Roles are `system`, `user`, `assistant` and `tool`; content is a string or a tuple of `Part`s.
        stop_sequences: Strings, none empty.
        grammar: The form of the answer.
        strict: Whether a form that nothing enforces is refused.
        tools: What the model may call.
        tool_choice: `auto`, `none`, `required` or a `NamedToolChoice` tool.
        parameters: Everything else, checked where the port knows it (`temperature`, `max_tokens`, …).
        stream: Whether the caller wants deltas as they come.
        timeouts: The call's time limits.
    """

    messages: tuple[ChatMessage, ...]
    stop_sequences: tuple[str, ...] = ()
    grammar: Grammar | None = None
    strict: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    timeouts: Timeouts = Timeouts()

    def replace(self, **changes: Any) -> Request:
        """The same request with some values changed."""
        return Request(**{**dict(zip(_NAMES, _values(self), strict=True)), **changes})

    def __repr__(self) -> str:
        # Parameters may hold headers, messages anything: neither belongs in a traceback.
        return f"Request({len(self.messages)} messages, {sorted(self.parameters)}, stream={self.stream})"


# Faster by half than `dataclasses.replace`, which looks at each field anew: it is on the way of every call.
_NAMES = tuple(item.name for item in fields(Request))
_values = attrgetter(*_NAMES)
