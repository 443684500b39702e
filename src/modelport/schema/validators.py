"""The `jsonschema` package's validator, made fit for the schemas of strangers and the answers of models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema import regexes

#: Seconds that checking one value may take: usual ones take milliseconds. Schemas can be written whose parts, or whose
#: references, double the work of those before.
LONGEST = 5.0
_ends: ContextVar[float] = ContextVar("modelport_validation_ends", default=float("inf"))


@contextmanager
def in_time() -> Iterator[None]:
    """All checking inside takes no longer than `LONGEST`.

    Raises:
        InvalidRequest: It does.
    """
    token = _ends.set(time.monotonic() + LONGEST)
    try:
        yield
    finally:
        _ends.reset(token)


def _look_at_the_clock() -> None:
    if time.monotonic() > _ends.get():
        raise InvalidRequest(f"checking a value against it takes more than {LONGEST:g} s: write it more simply")


@cache
def validator_class() -> Any:
    """The class for draft 2020-12 that takes no longer than it may, for patterns and lists only as long as they are.

    A part that names another draft in its `$schema` is read as this one too: its own class would have none of that.
    """
    import attrs  # on which the package itself stands
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    def evolve(self: Any, **changes: Any) -> Any:
        _look_at_the_clock()  # Every part of a schema, and every reference, is gone into through here.
        return attrs.evolve(self, **changes)

    keywords = {
        "pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of, "uniqueItems": _unique_items, **_unevaluated(),
    }  # fmt: skip
    extended: Any = extend
    made = extended(Draft202012Validator, keywords)
    made.evolve = evolve
    return made


def _search(pattern: str, text: str) -> bool:
    _look_at_the_clock()
    return regexes.search(pattern, text)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "string") and not _search(pattern, instance):
        yield _error(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: dict[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "object"):
        for pattern, part in patterns.items():
            for name, value in instance.items():
                if _search(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    extras = [name for name in instance if name not in schema.get("properties", {})]
    for pattern in schema.get("patternProperties", {}):
        extras = [name for name in extras if not _search(pattern, name)]
    if validator.is_type(wanted, "object"):
        for name in extras:
            yield from validator.descend(instance[name], wanted, path=name)
    elif not wanted and extras:
        what = f"{', '.join(map(repr, extras))} {'was' if len(extras) == 1 else 'were'} unexpected"
        yield _error(f"Additional properties are not allowed ({what})")


def _multiple_of(validator: Any, factor: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """In decimals, as both are written: to Python 0.3 is no multiple of 0.1."""
    if validator.is_type(instance, "number") and _exact(instance) % _exact(factor):
        yield _error(f"{instance!r} is not a multiple of {factor}")


def _exact(number: Any) -> Fraction:
    return Fraction(number if isinstance(number, int) else repr(number))


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if wanted and validator.is_type(instance, "array") and len({*map(_hashable, instance)}) < len(instance):
        yield _error(f"{instance!r} has non-unique elements")


def _hashable(value: Any) -> Any:
    """Equal for what JSON schemas call equal: `1` and `1.0`, but not `1` and `true`.

    Numbers are text: an answer could be written whose numbers all have one hash.
    """
    if isinstance(value, dict):
        return dict, frozenset((key, _hashable(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return list, tuple(map(_hashable, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", hex(int(value)) if value == value // 1 else repr(value)
    return type(value).__name__, value


def _unevaluated() -> dict[str, Any]:
    """The package's own functions for the two keywords that follow references, with another `re` and sets for lists.

    A version of the package that keeps them elsewhere is used as it is.
    """
    from jsonschema import _keywords, _utils

    finders = ("find_evaluated_property_keys_by_schema", "find_evaluated_item_indexes_by_schema")
    keywords = ("unevaluatedProperties", "unevaluatedItems")
    if not all(hasattr(_utils, name) for name in finders) or not all(hasattr(_keywords, name) for name in keywords):
        return {}
    inner: dict[str, Any] = {**vars(_utils), "re": SimpleNamespace(search=_search)}
    inner.update({name: FunctionType(getattr(_utils, name).__code__, inner) for name in finders})
    outer = {**vars(_keywords), **{name: _as_set(inner[name]) for name in finders}}
    return {name: FunctionType(getattr(_keywords, name).__code__, outer) for name in keywords}


def _as_set(find: Any) -> Any:
    return lambda *arguments: set(find(*arguments))


def _error(message: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message)
