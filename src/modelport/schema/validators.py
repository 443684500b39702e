"""The `jsonschema` package's validator, made safe for schemas and values from untrusted sources.

Some inputs make the package's own validator run almost without end: a regular expression that backtracks, a schema in
which each reference doubles the work, or a long list in which all items are compared with each other. `validator_class`
returns a variant of the package's class:

- Regular expressions are matched by `modelport.schema.regexes`, which takes bounded time.
- The limit of `modelport.schema.time_limit` is checked at each part of a schema.
- Keywords that compare the items of lists use sets.

`multipleOf` is also replaced, because it is not exact in the package: it computes with floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any

from modelport.schema import regexes
from modelport.schema.time_limit import check_time


@cache
def validator_class() -> Any:
    """Return the validator class for draft 2020-12.

    The class also validates parts of a schema that name another draft in their `$schema`. `jsonschema` would validate
    them with its class for that draft, which has none of the safeguards.
    """
    import attrs  # A dependency of `jsonschema`.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    def evolve(self: Any, **changes: Any) -> Any:
        check_time()  # `jsonschema` calls this method for every part of a schema and for every reference.
        return attrs.evolve(self, **changes)

    keywords = {
        "pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of, "uniqueItems": _unique_items, **_unevaluated_keywords(),
    }  # fmt: skip
    untyped_extend: Any = extend
    validator = untyped_extend(Draft202012Validator, keywords)
    validator.evolve = evolve
    return validator


def _search(pattern: str, text: str) -> bool:
    check_time()
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


def _additional_properties(validator: Any, additional: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    extras = [name for name in instance if name not in schema.get("properties", {})]
    for pattern in schema.get("patternProperties", {}):
        extras = [name for name in extras if not _search(pattern, name)]
    if validator.is_type(additional, "object"):
        for name in extras:
            yield from validator.descend(instance[name], additional, path=name)
    elif not additional and extras:
        what = f"{', '.join(map(repr, extras))} {'was' if len(extras) == 1 else 'were'} unexpected"
        yield _error(f"Additional properties are not allowed ({what})")


def _multiple_of(validator: Any, factor: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Check `multipleOf` with exact decimals. Computed with floats, 0.3 is not a multiple of 0.1."""
    if validator.is_type(instance, "number") and _to_fraction(instance) % _to_fraction(factor):
        yield _error(f"{instance!r} is not a multiple of {factor}")


def _to_fraction(number: Any) -> Fraction:
    return Fraction(number if isinstance(number, int) else repr(number))


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if unique and validator.is_type(instance, "array") and len({*map(_to_hashable, instance)}) < len(instance):
        yield _error(f"{instance!r} has non-unique elements")


def _to_hashable(value: Any) -> Any:
    """Return a hashable key for a JSON value. Two keys are equal if and only if JSON Schema calls the values equal.

    So `1` and `1.0` have the same key, but not `1` and `true`. In keys, numbers are text: the model could write a list
    of different numbers with the same hash, which would make a set as slow as comparing all items with each other.
    """
    if isinstance(value, dict):
        return dict, frozenset((key, _to_hashable(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return list, tuple(map(_to_hashable, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", hex(int(value)) if value == value // 1 else repr(value)
    return type(value).__name__, value


def _unevaluated_keywords() -> dict[str, Any]:
    """Return safe copies of the package's functions for `unevaluatedProperties` and `unevaluatedItems`.

    In the copies `re.search` is replaced by `_search`, and the helpers return sets instead of lists. If a version of
    the package has these functions under other names, its own functions are used.
    """
    from jsonschema import _keywords, _utils

    finders = ("find_evaluated_property_keys_by_schema", "find_evaluated_item_indexes_by_schema")
    keywords = ("unevaluatedProperties", "unevaluatedItems")
    if not all(hasattr(_utils, name) for name in finders) or not all(hasattr(_keywords, name) for name in keywords):
        return {}
    finder_globals: dict[str, Any] = {**vars(_utils), "re": SimpleNamespace(search=_search)}
    finder_globals.update({name: FunctionType(getattr(_utils, name).__code__, finder_globals) for name in finders})
    keyword_globals = {**vars(_keywords), **{name: _returning_set(finder_globals[name]) for name in finders}}
    return {name: FunctionType(getattr(_keywords, name).__code__, keyword_globals) for name in keywords}


def _returning_set(find: Any) -> Any:
    return lambda *arguments: set(find(*arguments))


def _error(message: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message)
