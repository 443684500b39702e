"""What rendering one chat template may cost: processor time, text, recursion.

A chat template is a program that comes with a model, so it may never end, or produce more text than there is memory.
`Budget` counts what one rendering does, and ends it with `TemplateLimit`. Each single operation is checked before it
runs, because Python can't interrupt it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from modelport.runtime.threads import is_abandoned

#: How many seconds of processor time a rendering may take. Ordinary ones take milliseconds.
MAX_SECONDS = 5.0
#: How many characters a rendering may produce, intermediate results included, beside `_PER_CHARACTER` for each of its
#: input.
MAX_CHARACTERS = 2**25
_PER_CHARACTER = 32
#: How deep macros may call each other.
MAX_DEPTH = 100
#: The largest argument of a filter or a method, such as the width of `center`.
MAX_NUMBER = 100_000
_MAX_BITS = 512
_WIDTH_IN_FORMAT = re.compile(r"\d{6}")
#: After how many steps the clock is read.
_STEPS_PER_CHECK = 256


class TemplateLimit(Exception):
    """A rendering has reached a limit; the text says which."""


class Budget:
    """Counts what one rendering does.

    Args:
        input_size: The number of characters of the conversation.
    """

    def __init__(self, input_size: int = 0) -> None:
        self._end = time.thread_time() + MAX_SECONDS
        self._characters_left = MAX_CHARACTERS + _PER_CHARACTER * input_size
        self._steps_left = _STEPS_PER_CHECK
        self._depth = 0

    def step(self, steps: int = 1) -> None:
        """Count operations.

        Raises:
            TemplateLimit: The time is over, or nobody waits any more.
        """
        self._steps_left -= steps
        if self._steps_left < 0:
            self._steps_left = _STEPS_PER_CHECK
            if is_abandoned():
                raise TemplateLimit("its call has ended")
            if time.thread_time() > self._end:
                raise TemplateLimit(f"it computes for more than {MAX_SECONDS:g} s")

    def spend(self, characters: int) -> None:
        """Count characters, or items of a list, that an operation will make or read.

        Raises:
            TemplateLimit: They are too many.
        """
        self._characters_left -= characters
        if self._characters_left < 0:
            raise TemplateLimit(f"it produces more than {MAX_CHARACTERS} characters")
        self.step(1 + characters // 10_000)

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """Count a call for as long as it runs.

        Raises:
            TemplateLimit: Too many calls run inside each other.
        """
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise TemplateLimit(f"its macros call each other more than {MAX_DEPTH} levels deep")
            yield
        finally:
            self._depth -= 1

    def read(self, value: Any) -> None:
        """Count all texts and items inside a value. A list that contains itself twice, 40 times over, has 2**40.

        Raises:
            TemplateLimit: They are too many.
        """
        if isinstance(value, str):
            self.spend(len(value))
            return
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self.spend(len(item))
            elif isinstance(item, dict):
                self.spend(1 + len(item))
                stack += item.values()
            elif isinstance(item, list | tuple | set):
                self.spend(1 + len(item))
                stack += item

    def result(self, value: Any) -> Any:
        """Count what an operation has made, and return it.

        Raises:
            TemplateLimit: It is too large.
        """
        if isinstance(value, str | bytes | list | tuple | dict | set):
            self.spend(len(value))
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise TemplateLimit(f"it computes a number of more than {_MAX_BITS} bits")
        elif isinstance(value, Iterator):
            return self.items(value)
        return value

    def items(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the items of a loop, and count them."""
        for value in values:
            self.step()
            yield value


def check_numbers(values: Iterable[Any]) -> None:
    """Check the arguments of a filter or a method.

    Raises:
        TemplateLimit: One is a number that is too large.
    """
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise TemplateLimit(f"a filter or method has the argument {value}; at most {MAX_NUMBER} is accepted")


def check_format(text: str) -> None:
    """Check a format string, such as `%8d`.

    Raises:
        TemplateLimit: It contains a width that is too large.
    """
    if _WIDTH_IN_FORMAT.search(text):
        raise TemplateLimit("a format string has a width of six digits or more")


_current: ContextVar[Budget | None] = ContextVar("modelport_template_budget", default=None)


def current() -> Budget:
    """Return the budget of the rendering in this context; a new one while a template is compiled."""
    return _current.get() or Budget()


@contextmanager
def limited(budget: Budget) -> Iterator[None]:
    """Make this the current budget."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)
