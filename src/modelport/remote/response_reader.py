"""What the backends need of the readers of the wire formats: `ResponseReader`."""

from __future__ import annotations

from typing import Any, Protocol

from modelport.protocols.chat_completions.think_tags import ThinkTagSplitter
from modelport.types.deltas import ChatMessageStreamDelta


class ResponseReader(Protocol):
    """Reads one response of a wire format, non-streaming or in events, into deltas."""

    @property
    def think_tags(self) -> ThinkTagSplitter | None:
        """What has been read of tags around reasoning in the text; `None` if they are not looked for."""
        ...

    def read_response(self, data: Any) -> ChatMessageStreamDelta:
        """Return the one delta of a non-streaming response."""
        ...

    def read_chunk(self, data: Any) -> ChatMessageStreamDelta | None:
        """Return the delta of an event, or `None` for an event that delivers nothing."""
        ...

    def finish(self) -> ChatMessageStreamDelta:
        """Return the last delta."""
        ...
