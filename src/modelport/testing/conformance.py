"""The conformance checks, and the functions that run them.

Each check tests one behaviour that modelport promises for every backend. This project's own tests run the checks on
every backend, `modelport check` runs them on a user's model, and authors of other backends run them in their tests:

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_conformance(check):
        outcome = run_check(Subject(make=MyModel), check)
        assert outcome.status != "failed", outcome.detail

A check passes through these steps. The subject makes the model. If the model's capabilities include the feature that
the check tests, the check runs. Otherwise the feature is requested, if a request can ask for it, and the model must
refuse the request. An exception in any step becomes part of the `Outcome`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator

from modelport.errors import ModelError, UnsupportedFeature
from modelport.testing.check import Check, NotChecked, Outcome
from modelport.testing.checks import images, reasoning, runtime, special_tokens, structured_output, text, tools
from modelport.testing.subject import Subject

CHECKS: tuple[Check, ...] = (
    *text.CHECKS,
    *special_tokens.CHECKS,
    *structured_output.CHECKS,
    *images.CHECKS,
    *reasoning.CHECKS,
    *tools.CHECKS,
    *runtime.CHECKS,
)


def run_check(subject: Subject, check: Check) -> Outcome:
    """Run one check on a subject.

    Args:
        subject: The model under test, and what its tester knows about it.
        check: One of `CHECKS`, or one of your own.

    Returns:
        The outcome. An exception that the model raises is part of the outcome; it is not raised.
    """
    begin = time.perf_counter()
    try:
        status, detail = _run(subject, check)
    except NotChecked as reason:
        status, detail = "not checked", str(reason)
    except AssertionError as error:
        status, detail = "failed", f"{error or _failed_line(error)}"
    except ModelError as error:
        status, detail = "failed", f"{type(error).__name__}: {error}"
    except Exception as error:  # A backend may raise any exception: the check has failed, but the others must run.
        status, detail = "failed", f"{type(error).__name__}: {error} ({_failed_line(error)})"
    return Outcome(check.name, status, detail, time.perf_counter() - begin)


def run_checks(subject: Subject, checks: tuple[Check, ...] | None = None) -> Iterator[Outcome]:
    """Run several checks on a subject, one after another.

    Args:
        subject: The model under test, and what its tester knows about it.
        checks: The checks to run; by default all of `CHECKS`.

    Yields:
        The outcome of each check, as soon as it is known.
    """
    for check in CHECKS if checks is None else checks:
        yield run_check(subject, check)


def _run(subject: Subject, check: Check) -> tuple[str, str]:
    model = subject.make()
    if check.is_supported(model.capabilities):
        return "passed", str(check.run(subject, model) or "")
    if check.request_unsupported is None:
        return "unsupported", "the model's capabilities do not include it"
    try:
        check.request_unsupported(subject, model)
    except UnsupportedFeature as error:
        return "unsupported", str(error)
    raise AssertionError("the model's capabilities do not include it, but a request for it was not refused")


def _failed_line(error: BaseException) -> str:
    """Return the line of code that raised the exception, with the name of its function."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}: {frame.line}"
