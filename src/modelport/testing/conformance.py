"""The contract: what every backend promises, each promise as a row that runs on a model.

It is used by this project's own tests, by `modelport check`, and by authors of other backends::

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_conformance(check):
        outcome = run_check(Subject(make=MyModel), check)
        assert outcome.status != "broken", outcome.detail
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelport.errors import ModelError, UnsupportedFeature
from modelport.model import Model
from modelport.types.capabilities import Capabilities

#: What rows say to the model. A subject that can't answer these (a server of fixed answers) overrides them.
PROMPTS: dict[str, str] = {
    "plain": "What is the capital of France? Answer in one sentence.",
    "long": "Write a long story about a fox who finds a library in the forest.",
    "numbered": "Tell me a short fact about the number {n}.",
    "schema": "Make up a person and describe them as JSON with a name and an age.",
    "tool": "What is the weather in Paris?",
    "two tools": "What is the weather in Paris and in Rome?",
    "image": "What do you see?",
}


@dataclass
class Subject:
    """A model under test, and what its tester can add to what the model itself shows.

    Args:
        make: Gives the model; called for every row, so it may return one and the same.
        prompts: Instead of those of `PROMPTS`; with `reasoning`, a prompt that makes the model think first; with
            `too long`, one that exceeds its context.
        count_tokens: The prompt's tokens by the model's own tokenizer and template, for a list of message dicts.
        busy: How many requests the engine is working on.
        faults: Models that meet a fault, by its name: `401`, `404`, `429`, `500`, `time-out`, `refused`.
        secrets: Keys that must show up nowhere.
        strict_text: Whether equal requests at temperature 0 give equal text; batching changes it on some engines.
    """

    make: Callable[[], Model]
    prompts: Mapping[str, str] = field(default_factory=dict)
    count_tokens: Callable[[list[dict[str, Any]]], int] | None = None
    busy: Callable[[], int] | None = None
    faults: Mapping[str, Callable[[], Model]] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    strict_text: bool = True

    def prompt(self, name: str) -> str:
        """What to say to this subject."""
        return {**PROMPTS, **self.prompts}[name]


class NotChecked(Exception):
    """A row can't be judged with what the subject offers; the text says what is missing."""


@dataclass(frozen=True)
class Check:
    """A promise, and the function that holds a model to it.

    Args:
        name: Short, for the table.
        promise: In one sentence.
        run: Raises AssertionError where the promise is broken, `NotChecked` where it can't tell.
        offered: Whether the capabilities offer it; where not, `refusal` is checked instead.
        refusal: Asks for it all the same; must raise `UnsupportedFeature` before anything is sent. `None` where there
            is nothing to ask for, only something not reported.
    """

    name: str
    promise: str
    run: Callable[[Subject, Model], object]
    offered: Callable[[Capabilities], bool] = lambda capabilities: True
    refusal: Callable[[Subject, Model], Any] | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """What came of a row: `works`, `unsupported` (the backend says it can't, and refuses), `not checked` or `broken`."""

    check: str
    status: str
    detail: str = ""
    seconds: float = 0.0


def run_check(subject: Subject, check: Check) -> Outcome:
    """Holds a subject to one row.

    Args:
        subject: The model under test.
        row: Of `CHECKS`, or one of your own.

    Returns:
        What came of it; whatever the model raises is in it, and is not raised.
    """
    begin = time.perf_counter()
    try:
        status, detail = _judge(subject, check)
    except NotChecked as reason:
        status, detail = "not checked", str(reason)
    except AssertionError as error:
        status, detail = "broken", f"{error or _where(error)}"
    except ModelError as error:
        status, detail = "broken", f"{type(error).__name__}: {error}"
    except Exception as error:  # whatever a broken backend raises is the row's outcome, not the run's end
        status, detail = "broken", f"{type(error).__name__}: {error} ({_where(error)})"
    return Outcome(check.name, status, detail, time.perf_counter() - begin)


def run_checks(subject: Subject, checks: tuple[Check, ...] | None = None) -> Iterator[Outcome]:
    """Holds a subject to every row, one after another.

    Args:
        subject: The model under test.
        rows: By default all of `CHECKS`.
    """
    for check in CHECKS if checks is None else checks:
        yield run_check(subject, check)


def _judge(subject: Subject, check: Check) -> tuple[str, str]:
    model = subject.make()
    if check.offered(model.capabilities):
        return "works", str(check.run(subject, model) or "")
    if check.refusal is None:
        return "unsupported", "not offered"
    try:
        check.refusal(subject, model)
    except UnsupportedFeature as error:
        return "unsupported", str(error)
    raise AssertionError("declared as not offered, but a request for it was not refused")


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}: {frame.line}"


def _all_checks() -> tuple[Check, ...]:
    from modelport.testing.checks import runtime, structured_output, text, tools

    return (*text.CHECKS, *structured_output.CHECKS, *tools.CHECKS, *runtime.CHECKS)


CHECKS: tuple[Check, ...] = _all_checks()
