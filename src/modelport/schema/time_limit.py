"""The time that the validation of one response may take, whatever the schema and the values are.

The time is that of the processor: whether a value is valid must not depend on what else the machine does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from modelport.errors import InvalidRequest

#: How long the validation of one response may take, in seconds of the processor. Most validations take milliseconds.
VALIDATION_TIMEOUT = 5.0
#: The thread that validates, and its processor time at which its limit ends; `None` without a limit.
_limit: ContextVar[tuple[int, float] | None] = ContextVar("modelport_validation_limit", default=None)


@contextmanager
def time_limit() -> Iterator[None]:
    """Limit the time of all validation inside the `with` block to `VALIDATION_TIMEOUT`. A block inside has no effect.

    Raises:
        InvalidRequest: The validation took longer.
    """
    thread, outer = threading.get_ident(), _limit.get()
    if outer is not None and outer[0] == thread:
        yield
        return
    token = _limit.set((thread, time.thread_time() + VALIDATION_TIMEOUT))
    try:
        yield
    finally:
        _limit.reset(token)


def check_time() -> None:
    """Raise an error if the limit has passed.

    Raises:
        InvalidRequest: It has.
    """
    limit = _limit.get()
    if limit is not None and limit[0] == threading.get_ident() and time.thread_time() > limit[1]:
        raise InvalidRequest(
            f"checking the response against the schema takes more than {VALIDATION_TIMEOUT:g} s: simplify the schema"
        )
