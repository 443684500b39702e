"""Bounds of the time that a regular expression takes, computed from its syntax tree, before it is compiled."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.time_limit import check_time

#: The most characters of a pattern. Parsing such a pattern takes up to 50 ms.
MAX_PATTERN_LENGTH = 30_000
#: Python's engine takes up to 2 ms to compile a wide class.
_STEPS_OF_WIDE_CLASS, _STEPS_OF_CHARACTER = 20_000, 30


def check(pattern: str) -> None:
    """Raise an error if the pattern is not a regular expression of Python, or is too long.

    Raises:
        re.error: The pattern is not a regular expression.
        RecursionError: The pattern is nested too deeply.
        OverflowError: A number in the pattern is too large.
        InvalidRequest: The pattern is longer than `MAX_PATTERN_LENGTH`.
    """
    for name, argument in _nodes(parse(pattern)):
        # Python's parser leaves this check to the compiler.
        if name in ("ASSERT", "ASSERT_NOT") and argument[0] < 0:
            shortest, longest = argument[1].getwidth()
            if shortest != longest:
                raise re.error("look-behind requires fixed-width pattern")


@lru_cache(64)
def parse(pattern: str) -> Any:
    """Return the syntax tree that Python's `re` makes of a pattern: a list of pairs of an opcode and its argument.

    Raises:
        re.error: The pattern is not a regular expression.
        InvalidRequest: The pattern is longer than `MAX_PATTERN_LENGTH`.
    """
    from re import _parser  # type: ignore[attr-defined]

    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidRequest(
            f"a regular expression has {len(pattern)} characters, and may have {MAX_PATTERN_LENGTH}: shorten it"
        )
    check_time(long_step=len(pattern) > 1000)
    return _parser.parse(pattern)


def _nodes(tree: Any) -> Iterator[tuple[str, Any]]:
    """Return the names of the opcodes and their arguments in all parts of a syntax tree."""
    from re import _parser  # type: ignore[attr-defined]

    trees = [tree]
    while trees:
        for opcode, argument in trees.pop():
            yield str(opcode), argument
            if isinstance(argument, _parser.SubPattern):
                trees.append(argument)
            elif isinstance(argument, tuple):
                parts = (part for item in argument for part in (item if isinstance(item, list) else [item]))
                trees += [part for part in parts if isinstance(part, _parser.SubPattern)]


def wide_class_count(tree: Any) -> int:
    """Return how many classes of a pattern have characters beyond Latin-1, which take long to compile.

    Under `(?i)` each counts three times. An escape such as `\\w` is a class too.
    """
    count, flags = 0, tree.state.flags
    for name, argument in _nodes(tree):
        if name == "SUBPATTERN":
            flags |= argument[1]
        elif name == "IN":
            count += any(_is_wide(*item) for item in argument)
    return count * (3 if flags & re.IGNORECASE else 1)


def _is_wide(opcode: Any, argument: Any) -> bool:
    name = str(opcode)
    return name == "CATEGORY" or (name == "RANGE" and argument[1] > 255) or (name == "LITERAL" and argument > 255)


def state_count(tree: Any) -> float:
    """Return an upper bound of the number of states in which Rust's engine can be at the same time."""
    count = 0.0
    for opcode, argument in tree:
        name = str(opcode)
        if name == "SUBPATTERN":
            count += state_count(argument[3])
        elif name in ("ASSERT", "ASSERT_NOT"):
            count += state_count(argument[1])
        elif name == "BRANCH":
            count += sum(map(state_count, argument[1]))
        elif name.endswith("_REPEAT"):
            low, high, repeated = argument
            count += state_count(repeated) * min(max(low + 1, high if high < _UNBOUNDED else 0), 10**9)
        else:
            count += 1
    return count


#: In a syntax tree, a count of repetitions that is at least this large means "without an upper bound". The exact number
#: differs between versions of Python.
_UNBOUNDED = 2**31 - 1


def max_python_steps(pattern: str, length: int, full: bool) -> float:
    """Return an upper bound of the steps that Python's engine takes to compile a pattern and match a text."""
    tree = parse(pattern)
    # An anchored pattern is tried only at the start of the text, every other pattern at each position.
    anchored = full or (str(next(iter(tree), [0, 0])[1]) in _TEXT_STARTS and not tree.state.flags & re.MULTILINE)
    steps_at_one_position = _ways_and_steps(tree, length)[1]
    steps_of_compiling = wide_class_count(tree) * _STEPS_OF_WIDE_CLASS + len(pattern) * _STEPS_OF_CHARACTER
    return steps_of_compiling + steps_at_one_position * (1 if anchored else length + 1)


_TEXT_STARTS = {"AT_BEGINNING", "AT_BEGINNING_STRING"}


def _ways_and_steps(tree: Any, length: int) -> tuple[float, float]:
    """Return how many ways a pattern can match at one position, and how many steps it takes to try all of them.

    Both numbers are upper bounds. The number of ways is capped, so that no float overflows.

    Args:
        tree: The syntax tree of the pattern or of a part of it.
        length: The length of the text.
    """
    total_ways, total_steps = 1.0, 0.0
    for opcode, argument in tree:
        name, ways, steps = str(opcode), 1.0, 1.0
        if name == "SUBPATTERN":
            ways, steps = _ways_and_steps(argument[3], length)
        elif name in ("ASSERT", "ASSERT_NOT"):
            steps += _ways_and_steps(argument[1], length)[1]
        elif name == "ATOMIC_GROUP":
            steps += _ways_and_steps(argument, length)[1]
        elif name in ("BRANCH", "GROUPREF_EXISTS"):
            branches = argument[1] if name == "BRANCH" else [branch or [] for branch in argument[1:]]
            bounds = [_ways_and_steps(branch, length) for branch in branches]
            ways, steps = sum(bound[0] for bound in bounds), 1 + sum(bound[1] for bound in bounds)
        elif name.endswith("_REPEAT"):
            low, high, repeated = argument
            high = max(low, min(high, length))
            ways, steps = _ways_and_steps(repeated, length)
            if ways > 1:
                ways = 2 ** min(200.0, (high + 1) * math.log2(ways))
                steps = ways * (steps + 1)
            else:
                ways, steps = high - low + 1.0, high * steps + 1
            ways = 1 if name.startswith("POSSESSIVE") else ways
        elif name == "GROUPREF":
            steps = length + 1.0
        total_steps += total_ways * steps
        total_ways = min(total_ways * ways, 2.0**400)
    return total_ways, total_steps
