"""Token counts of a call."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class TokenUsage:
    """Tokens that a call cost. `None` means unknown, never zero.

    Args:
        input_tokens: Tokens of the prompt, those read from a cache included.
        output_tokens: Tokens of the answer, reasoning included.
        cached_input_tokens: How many of `input_tokens` were not computed again.
        reasoning_tokens: How many of `output_tokens` were reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def total_tokens(self) -> int | None:
        """Input and output together, or `None` where either is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens

    def dict(self) -> dict[str, int | None]:
        """All counts by name, the total included."""
        return {**asdict(self), "total_tokens": self.total_tokens}


#: More tokens than any answer has; a larger count is a mistake, and would make a rate limit of tokens wait for ever.
_MOST_TOKENS = 10**9


def count_from(value: Any) -> int | None:
    """A count of tokens; what is no whole number is unknown, since sums and limits are made of it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None
