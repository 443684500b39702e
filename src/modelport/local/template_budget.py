"""What rendering one chat template may cost: processor time, text, recursion.

A chat template is a program that comes with a model, so it may never end, or produce more text than there is memory.
`Budget` counts what one rendering does, and ends it with `TemplateLimit`. Each single operation is checked before it
runs, because Python can't interrupt it: comparing lists that contain the same list twice,
40 times over, takes for ever.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

from jinja2 import Undefined

from modelport.runtime.threads import is_abandoned

#: How many seconds of processor time a rendering may take, or all renderings at the load of a model together. Ordinary
#: ones take milliseconds.
MAX_SECONDS = 5.0
#: How many characters a rendering may produce, intermediate results included, beside `_PER_CHARACTER` for each of its
#: input.
MAX_CHARACTERS = 2**25
_PER_CHARACTER = 32
#: How deep macros may call each other.
MAX_DEPTH = 100
#: The largest argument of a filter or a method, such as the width of `center`.
MAX_NUMBER = 100_000
#: How deep lists may be nested. Python ends the process when it hashes a tuple that is nested too deeply.
MAX_NESTING = 500
#: What an operation can look into: lists, dicts and so on.
CONTAINERS: tuple[type[Collection[Any]], ...] = (
    list,
    tuple,
    dict,
    set,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
#: Values with a length.
SIZED: tuple[type[Collection[Any]], ...] = (str, range, *CONTAINERS)
#: What a list costs beside its items.
_PER_CONTAINER = 8
#: What making an item of a list costs. Its place takes eight bytes.
PER_ITEM = 8
#: What writing an item of a list as text costs. Numbers have up to 155 digits, and need up to half a microsecond.
PER_WRITTEN_ITEM = 64
#: What a field of a format string costs: `{}` is formatted by Python code.
_PER_FIELD = 256
#: What reading a character of a format string costs.
_PER_FORMAT = 16
#: What a namespace costs.
NAMESPACE_SIZE = 100
_MAX_BITS = 512
_NUMBER = re.compile(r"[0-9]+")
#: A width that is one of the values, as in `{:{}}`, where `{{` is an ordinary character.
_INNER_FIELD = re.compile(r"\{[^{}]*\{")
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
        self._end = _shared_end.get() or time.thread_time() + MAX_SECONDS
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

    def read(self, value: Any, per_item: int = 1) -> None:
        """Count all texts and items inside a value. A list that contains itself twice, 40 times over, has 2**40.

        Args:
            value: The value.
            per_item: What an item costs, beside the characters of a text.

        Raises:
            TemplateLimit: They are too many.
        """
        if isinstance(value, str | range):
            self.spend(len(value))
        if not isinstance(value, CONTAINERS):
            return
        stack: list[Iterator[Any]] = [iter((value,))]
        while stack:
            for item in stack[-1]:
                if isinstance(item, str):
                    self.spend(len(item))
                elif isinstance(item, CONTAINERS):
                    self.spend(1 + per_item * len(item))
                    stack.append(chain(item, item.values()) if isinstance(item, dict) else iter(item))
                    break
            else:
                stack.pop()
            if len(stack) > MAX_NESTING:
                raise TemplateLimit(f"its lists are nested more than {MAX_NESTING} levels deep")

    def write(self, value: Any) -> None:
        """Count what writing a value as text costs.

        Raises:
            TemplateLimit: It is too much.
        """
        self.read(value, PER_WRITTEN_ITEM)

    def read_format(self, text: str, values: Iterable[Any] = ()) -> None:
        """Count what a format string, such as `%8d` or `{:8}`, can produce from values.

        Raises:
            TemplateLimit: It is too much, or can't be known.
        """
        self.spend(_PER_FORMAT * len(text))
        widths = [int(number[:9]) for number in _NUMBER.findall(text)]
        if max(widths, default=0) > MAX_NUMBER or _INNER_FIELD.search(text.replace("{{", "")):
            raise TemplateLimit(f"a format string has a width of more than {MAX_NUMBER}, or one that is a value")
        longest = 0
        for value in values:
            self.write(value)
            self.spend(PER_WRITTEN_ITEM)
            if not (value is None or isinstance(value, (str, int, float, Undefined, *CONTAINERS))):
                raise TemplateLimit(f"it formats a value of the type {type(value).__name__!r}")
            longest = max(longest, len(str(value)))
        fields = max(text.count("%"), text.count("{"))
        self.spend(sum(widths) + fields * (longest + PER_ITEM) + text.count("{") * _PER_FIELD)

    def result(self, value: Any) -> Any:
        """Count what an operation has made, and return it.

        Raises:
            TemplateLimit: It is too large.
        """
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, CONTAINERS):
            self.spend(_PER_CONTAINER + size_of(value))
            if isinstance(value, dict):  # Comparing keys with the same hash takes longer.
                self.step(len(value))
        elif isinstance(value, bytes):
            raise TemplateLimit("it makes bytes")
        elif isinstance(value, int):
            check_bits(value)
        elif isinstance(value, Iterator):
            return map(self.result, self.items(value))
        return value

    def items(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the items of a loop, and count them."""
        for value in values:
            self.step()
            yield value


def size_of(value: Collection[Any]) -> int:
    """Return what copying a text or a list costs."""
    return len(value) if isinstance(value, str) else PER_ITEM * len(value)


def check_bits(value: Any) -> None:
    """Check a number that a template has or computes.

    Raises:
        TemplateLimit: It is too large.
    """
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise TemplateLimit(f"it has or computes a number of more than {_MAX_BITS} bits")


def check_numbers(values: Iterable[Any]) -> None:
    """Check the arguments of a filter or a method.

    Raises:
        TemplateLimit: One is a number that is too large.
    """
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise TemplateLimit(f"a filter or method has the argument {value}; at most {MAX_NUMBER} is accepted")


_current: ContextVar[Budget | None] = ContextVar("modelport_template_budget", default=None)
#: When the time of several renderings ends, on the clock of this thread.
_shared_end: ContextVar[float | None] = ContextVar("modelport_template_end", default=None)


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


@contextmanager
def shared_time() -> Iterator[None]:
    """Give all renderings in this context, which must be in one thread, the time of one.

    What reads the rendered texts asks `is_shared_time_over`.
    """
    token = _shared_end.set(_shared_end.get() or time.thread_time() + MAX_SECONDS)
    try:
        yield
    finally:
        _shared_end.reset(token)


def is_shared_time_over() -> bool:
    """Return whether the time of `shared_time` in this context is over, or nobody waits for the result any more."""
    end = _shared_end.get()
    return end is not None and (is_abandoned() or time.thread_time() > end)


def width_of(option: Any) -> int:
    """Return how wide an option of a filter makes each line: the length of a text, or a number."""
    if isinstance(option, tuple | list):  # The separators of JSON.
        return sum(map(width_of, option))
    return len(option) if isinstance(option, str) else option if isinstance(option, int) else 0


def count_items(value: Any, depth: int = 1) -> int:
    """Return how many items `tojson` writes, each as often as it is indented."""
    if isinstance(value, dict):
        return depth + sum(count_items(item, depth + 1) for item in value.values())
    if isinstance(value, list | tuple):
        return depth + sum(count_items(item, depth + 1) for item in value)
    return depth
