"""Token counts of a call."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class TokenUsage:
    """The token counts of a call. `None` means that a count is unknown, never zero.

    They are the sum over all requests of the call whose usage the service reported, such as retries with feedback.

    Args:
        input_tokens: Tokens of the prompt, including those that were read from a cache.
        output_tokens: Tokens of the output, including reasoning.
        cached_input_tokens: How many of `input_tokens` were read from a cache.
        reasoning_tokens: How many of `output_tokens` were reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def total_tokens(self) -> int | None:
        """The sum of input and output tokens, or `None` if one of them is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens

    def dict(self) -> dict[str, int | None]:
        """Return all counts by name, including the total."""
        return {**asdict(self), "total_tokens": self.total_tokens}


def add_usage(a: TokenUsage | None, b: TokenUsage | None) -> TokenUsage | None:
    """Return the sum of two token usages, or one of them if the other is missing.

    A count that is unknown (`None`) in one of them is unknown in the sum.
    """
    if a is None or b is None:
        return a or b
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in TokenUsage.__slots__}
    return TokenUsage(**{n: None if x is None or y is None else x + y for n, (x, y) in pairs.items()})


#: No response has more tokens than this. A service that reports more has made a mistake, and a tokens-per-minute limit
#: that counted so many tokens would block all later requests.
_MAX_TOKEN_COUNT = 10**9


def token_count_from(value: Any) -> int | None:
    """Return the token count that a service reported, or `None` if it is not a usable integer.

    Token counts are added up and counted against rate limits, so they must be integers in a plausible range.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_TOKEN_COUNT else None
