"""Applies what a service requires of earlier messages, and observes it in the service's refusals.

A backend has the attribute `_history_rules`, which is `None` before the first refusal. These functions read and set it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from modelport.errors import InvalidRequest
from modelport.protocols.chat_completions.history_rules import HistoryRules, initial_rules
from modelport.types.request import Request
from modelport.types.warnings import CallWarning


class _Backend(Protocol):
    model_id: str | None
    _history_rules: HistoryRules | None

    @property
    def _provider(self) -> str | None: ...


def with_accepted_history(
    model: _Backend, request: Request, body: Mapping[str, Any]
) -> tuple[Mapping[str, Any], list[CallWarning]]:
    """Return a request's body whose messages the service accepts, and a warning for each change."""
    return _rules_of(model).apply(body, request.messages)


def observe_history_refusal(model: _Backend, error: Exception | None, body: Mapping[str, Any]) -> bool:
    """Record what a refusal says about earlier messages.

    Args:
        model: The backend.
        error: The service's error.
        body: The body that it refused.

    Returns:
        Whether another run of the call will send other messages.
    """
    if not isinstance(error, InvalidRequest):
        return False
    rules = _rules_of(model)
    observed = rules.after(error.message, body)
    if observed == rules:
        return False
    model._history_rules = observed
    changes = observed.required ^ rules.required or observed.refused ^ rules.refused
    verb = "requires" if observed.required > rules.required else "rejects"
    warnings.warn(f"{model.model_id} {verb} {'/'.join(sorted(changes))} in earlier messages; "
                  "requests are adapted to that", stacklevel=2)  # fmt: skip
    return True


def _rules_of(model: _Backend) -> HistoryRules:
    return model._history_rules or initial_rules(model._provider, model.model_id)
