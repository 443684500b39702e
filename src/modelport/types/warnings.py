"""`CallWarning`: says that a call was not carried out exactly as it was requested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

WarningType = Literal[
    "substituted", "not_enforced", "left_out", "changed", "discarded", "forwarded", "invalid", "other"
]


@dataclass(frozen=True, slots=True)
class CallWarning:
    """Something in a call that was done in another way than requested. `str(warning)` is one sentence that says it.

    Args:
        type: What happened to the feature:

            - `substituted`: modelport provided it in another way, such as tools through the prompt;
            - `not_enforced`: the response was checked for it, but nothing made the model follow it;
            - `left_out`: it was not sent, or has no effect;
            - `changed`: the request was changed for it, or because the backend requires the change;
            - `discarded`: a part of the response was dropped;
            - `forwarded`: it was sent unchanged, and nobody knows whether the service uses or ignores it;
            - `invalid`: the model's output is not what was requested, and was returned as it is (`tool_errors`,
              `output_errors`);
            - `other`: anything else, such as a warning of another author's backend.
        feature: The option of the call (`tools`, `top_k`), or the part of the request or of the response (`messages`)
            that the warning is about; `None` if it is not known.
        text: One sentence for a reader.

    Examples:
        >>> warning = CallWarning("left_out", "seed", "The seed was left out: m does not accept it.")
        >>> print(warning)
        The seed was left out: m does not accept it.
    """

    type: WarningType
    feature: str | None
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def list_from(cls, values: Any) -> list[CallWarning]:
        """Return the warnings of a backend, which may be a list, or one text."""
        return [cls.from_value(value) for value in ([values] if isinstance(values, str) else values)]

    @classmethod
    def from_value(cls, value: Any) -> CallWarning:
        """Return a warning from a `CallWarning`, from a dict with its fields, or from a text."""
        if isinstance(value, CallWarning):
            return value
        if not isinstance(value, Mapping):
            return cls("other", None, str(value))
        known: WarningType = value["type"] if value.get("type") in get_args(WarningType) else "other"
        feature = value.get("feature")
        return cls(known, None if feature is None else str(feature), str(value.get("text", "")))
