"""The types of the conformance checks: a check, its outcome, and the exception of a check that can't be decided.

A check runs on a `Subject`: the model under test, and what its tester knows about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelport.model import Model
from modelport.testing.subject import Subject
from modelport.types.capabilities import Capabilities


class NotChecked(Exception):
    """The check can't be decided with what the subject provides, or with what the model did; the text says why."""


@dataclass(frozen=True)
class Check:
    """One behaviour that every backend must have, and the function that tests a model for it.

    `run` and `request_unsupported` take the subject, and the model that `subject.make()` has returned.

    Args:
        name: A short name, for tables and for `modelport check --only`.
        description: The behaviour in one sentence.
        run: Tests the model. Raises `AssertionError` if the behaviour is wrong, and `NotChecked` if the check can't be
            decided. A value that it returns becomes the detail of the outcome.
        is_supported: Returns whether a model with these capabilities supports the feature that the check tests. If it
            does not, `request_unsupported` is called instead of `run`.
        request_unsupported: Requests the feature from a model that does not support it. The model must raise
            `UnsupportedFeature` before anything is sent. `None` if no request can ask for the feature, because it only
            adds information to responses.
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
        status: `passed`; `unsupported` (the model declares that it lacks the feature, and refuses a request for it, if
            one is possible); `not checked` (the check can't be decided, for example because the model did not follow
            tools that only the prompt describes); or `failed`.
        detail: What the check found, why it can't be decided, or why it failed; may be empty.
        seconds: How long the check ran.
    """

    check: str
    status: str
    detail: str = ""
    seconds: float = 0.0
