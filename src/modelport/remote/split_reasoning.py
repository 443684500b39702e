"""The setting `split_reasoning`: whether reasoning is split from the text of a response.

With `opened`, the output begins inside the reasoning, because the chat template has written `<think>` into the prompt.
Only the caller can know that: whether a server separates the reasoning depends on how it was started, and not on the
model. In a stream, text is emitted before `</think>` shows that it was reasoning.
"""

from __future__ import annotations

from typing import Any, Literal

from modelport.errors import InvalidRequest
from modelport.types.capabilities import Capabilities
from modelport.types.request import Request

SplitReasoning = bool | Literal["opened"]


def check_split_reasoning(value: Any) -> None:
    """Check the setting.

    Raises:
        InvalidRequest: It is something else.
    """
    if not (isinstance(value, bool) or value == "opened"):
        raise InvalidRequest(
            f"split_reasoning={value!r}: must be True, False, or 'opened' if the output begins inside the reasoning",
            parameter="split_reasoning",
        )


def splitting_of(setting: SplitReasoning, request: Request) -> SplitReasoning:
    """Return how the response to a request is split. Without reasoning, the template does not open it."""
    return setting is not False if request.parameters.get("reasoning_effort") == "none" else setting


def with_reasoning_in_text(
    declared: Capabilities, setting: SplitReasoning, constrains_after_reasoning: bool = False
) -> Capabilities:
    """Return the capabilities of a model whose output begins inside the reasoning.

    The server would apply stop sequences and output types to the reasoning. So modelport applies stop sequences itself,
    to the text behind it, and requests output types in another way.

    Args:
        declared: The capabilities.
        setting: The setting `split_reasoning`.
        constrains_after_reasoning: Whether grammars are sent that allow any reasoning before the output.
    """
    if setting != "opened":
        return declared
    return declared.replace(stop=False, grammars=declared.grammars if constrains_after_reasoning else frozenset())
