"""`ListedModel`: a model in the list of a service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model that a service offers. `None` means that the service does not say it.

    Args:
        id: The ID by which requests name the model.
        owner: Who made the model, or whose account it belongs to.
        context_length: The most tokens of a prompt and its output.
    """

    id: str
    owner: str | None = None
    context_length: int | None = None
