"""The types of the conformance checks: a check, its outcome, and the exception that says "not checked"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelport.model import Model
from modelport.testing.subject import Subject
from modelport.types.capabilities import Capabilities


class NotChecked(Exception):
    """The check can't be decided with what the subject provides; the text says what is missing."""


@dataclass(frozen=True)
class Check:
    """One behaviour that every backend must have, and the function that tests a model for it.

    Args:
        name: A short name, for tables and for `modelport check --only`.
        description: The behaviour in one sentence.
        run: Tests the model. Raises `AssertionError` where the behaviour is wrong and `NotChecked` where the subject
            does not provide what is needed; the returned value, if any, is shown as the detail of the outcome.
        is_supported: Whether a model with these capabilities supports the feature. Where it does not,
            `request_unsupported` is called instead of `run`.
        request_unsupported: Requests the feature from a model that does not support it; the model must raise
            `UnsupportedFeature` before anything is sent. `None` where nothing can be requested, because the feature is
            only something that the response reports.
    """

    name: str
    description: str
    run: Callable[[Subject, Model], object]
    is_supported: Callable[[Capabilities], bool] = lambda capabilities: True
    request_unsupported: Callable[[Subject, Model], Any] | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """The result of running one check on one subject.

    Args:
        check: The name of the check.
        status: `passed`; `unsupported` (the model declares that it lacks the feature, and refuses a request for it);
            `not checked` (the subject does not provide what the check needs); or `failed`.
        detail: What was found, what is missing, or why the check failed.
        seconds: How long the check ran.
    """

    check: str
    status: str
    detail: str = ""
    seconds: float = 0.0
