"""The time that the validation of one response may take, whatever the schema and the values are.

The time is that of the processor: whether a value is valid must not depend on what else the machine does.

On an event loop, validation may take only `LOOP_TIMEOUT`, because nothing else runs meanwhile. Validation that takes
longer raises `ThreadNeeded`, and its caller starts it again in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from modelport.errors import InvalidRequest

#: How long the validation of one response may take, in seconds of the processor. Most validations take milliseconds.
VALIDATION_TIMEOUT = 5.0
#: How long validation may take on an event loop, in seconds of the processor.
LOOP_TIMEOUT = 0.02
#: Texts with more characters are not parsed on an event loop.
LONG_TEXT = 100_000


class ThreadNeeded(BaseException):
    """Validation takes too long for an event loop, and has to be done in a thread.

    It is no `Exception`, because the code that validates takes an `Exception` for an error of the schema.
    """


class Abandoned(BaseException):
    """Nobody waits for the result of the validation any more."""


class _Limit:
    """The limit of one thread.

    Attributes:
        memo: The results of parts of the current check; see `modelport.schema.validators`.
    """

    __slots__ = ("thread", "_end", "_on_loop", "_is_abandoned", "memo")

    def __init__(self, on_loop: bool, is_abandoned: Callable[[], bool]) -> None:
        self.thread = threading.get_ident()
        self._end = time.thread_time() + (LOOP_TIMEOUT if on_loop else VALIDATION_TIMEOUT)
        self._on_loop, self._is_abandoned = on_loop, is_abandoned
        self.memo: dict[Any, Any] = {}

    def check(self, long_step: bool = False) -> None:
        if self._is_abandoned():
            raise Abandoned
        is_over = time.thread_time() > self._end
        if self._on_loop and (is_over or long_step):
            raise ThreadNeeded
        if is_over:
            raise InvalidRequest(
                f"checking the response against the schema takes more than {VALIDATION_TIMEOUT:g} s: "
                "simplify the schema"
            )


#: The limit of the validation that runs in this context; `None` without a limit.
_limit: ContextVar[_Limit | None] = ContextVar("modelport_validation_limit", default=None)


@contextmanager
def time_limit(*, on_loop: bool = False, is_abandoned: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Limit the time of all validation inside the `with` block. A block inside has no effect.

    Args:
        on_loop: Whether the limit is `LOOP_TIMEOUT`, and not `VALIDATION_TIMEOUT`.
        is_abandoned: Returns whether nobody waits for the result any more.

    Raises:
        InvalidRequest: The validation took longer.
        ThreadNeeded: The validation took longer, or has a long step, and `on_loop` is true.
        Abandoned: Nobody waits for the result any more.
    """
    if _current() is not None:
        yield
        return
    token = _limit.set(_Limit(on_loop, is_abandoned))
    try:
        yield
    finally:
        _limit.reset(token)


def _current() -> _Limit | None:
    """Return the limit of this thread. A thread that runs in a copy of the context has a limit of its own."""
    limit = _limit.get()
    return limit if limit is not None and limit.thread == threading.get_ident() else None


def check_time(*, long_step: bool = False) -> None:
    """Raise an error if the limit has passed.

    Args:
        long_step: Whether the next step of the validation may take long and can't be interrupted. On an event loop, it
            counts as if the limit had passed.

    Raises:
        InvalidRequest: The limit has passed.
        ThreadNeeded: The same, on an event loop.
        Abandoned: Nobody waits for the result any more.
    """
    if (limit := _current()) is not None:
        limit.check(long_step)


def new_memo() -> None:
    """Forget the results of the last check, because another one begins."""
    if (limit := _current()) is not None:
        limit.memo = {}


def memo() -> dict[Any, Any]:
    """Return the results of the current check, or an empty dict if there is no limit."""
    return {} if (limit := _current()) is None else limit.memo
