"""The parameters of a call: one table with each parameter's name, other names, check and capability."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.settings import check_kind


def _number(
    low: float, high: float = math.inf, *, whole: bool = False, above: bool = False
) -> Callable[[Any], str | None]:
    kind = "a whole number" if whole else "a number"
    span = f"{'above' if above else 'of at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")

    def problem(value: Any) -> str | None:
        right_type = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if right_type and (value > low if above else value >= low) and value <= high and value != math.inf:
            return None
        return f"must be {kind} {span}"

    return problem


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be True or False"


def _one(value: Any) -> str | None:
    return None if value == 1 else "must be 1: a call returns one message; call again for another"


def _whole(value: Any) -> str | None:
    return None if value is False else "is not for a parameter to say: call generate_stream for a stream"


#: What `reasoning_effort` may be, from no thinking at all to as much as the model can.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def _effort(value: Any) -> str | None:
    return None if value in EFFORTS else f"must be one of {', '.join(EFFORTS)}"


#: Seconds; a loop's clock can't hold just any number.
_LONGEST = 1e9


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "max_tokens": _number(1, whole=True),
    "temperature": _number(0),
    "top_p": _number(0, 1, above=True),
    "min_p": _number(0, 1),
    "top_k": _number(0, whole=True),
    "seed": _number(-(2**63), 2**64, whole=True),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, above=True),
    "logprobs": _flag,
    "top_logprobs": _number(0, 20, whole=True),
    "parallel_tool_calls": _flag,
    "reasoning_effort": _effort,
    "reasoning_budget": _number(1, whole=True),
    "n": _one,
    "stream": _whole,
    "timeout": _number(0, _LONGEST, above=True),
    "first_token_timeout": _number(0, _LONGEST, above=True),
    "idle_timeout": _number(0, _LONGEST, above=True),
}


_OTHER_NAMES = {"max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}


#: The parameters that the port itself knows; all others belong to a backend.
KNOWN_PARAMETERS = frozenset(_CHECKS)


#: What some backends take beside them; each is a dict.
_EXTRAS = frozenset({"extra_body", "extra_headers", "extra_query"})


def normalise_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters under one name each, checked; `None` means "not given".

    Raises:
        InvalidRequest: A value is out of its range, or one parameter was given under two names.
    """
    result: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key in _EXTRAS:
            check_kind(Mapping, **{key: value})
        name = _OTHER_NAMES.get(key, key)
        check = _CHECKS.get(name)
        if check is not None and (problem := check(value)) is not None:
            raise InvalidRequest(f"{key}={value!r}: {problem}", parameter=key)
        if name in result and result[name] != value:
            raise InvalidRequest(
                f"{key}={value!r} and {name}={result[name]!r} are two names of one parameter: give one"
            )
        result[name] = value
    if result.get("top_logprobs") and not result.setdefault("logprobs", True):
        raise InvalidRequest("top_logprobs needs logprobs=True")
    if "reasoning_effort" in result and "reasoning_budget" in result:
        raise InvalidRequest("reasoning_effort and reasoning_budget both say how much to think: give one")
    for name in ("n", "stream"):
        result.pop(name, None)
    return result


def normalise_stop(value: Any) -> tuple[str, ...]:
    """The stop sequences: each once, in order.

    Raises:
        InvalidRequest: It is no string or list of strings, or one is empty.
    """
    values = [value] if isinstance(value, str) else () if value is None else value
    if not isinstance(values, Iterable) or isinstance(values, bytes):
        raise InvalidRequest(f"stop_sequences must be a list of strings, not {type(value).__name__}")
    values = tuple(values)
    for place, stop in enumerate(values):
        if not isinstance(stop, str) or not stop:
            raise InvalidRequest(f"stop_sequences[{place}]={stop!r}: must be a string that is not empty")
    return tuple(dict.fromkeys(values))
