"""The `jsonschema` package's validator, made safe for schemas and values from untrusted sources.

Some inputs make the package's own validator run almost without end: a regular expression that backtracks, a schema in
which each reference doubles the work, or a long list in which all items are compared with each other. `validator_class`
returns a variant of the package's class:

- Regular expressions are matched by `modelport.schema.regexes`, which takes bounded time.
- A value is validated against the same part of a schema at most twice; see `_descend_with_memo`.
- Errors of alternatives, which are kept until all alternatives have failed, are few and short.
- The limit of `modelport.schema.time_limit` is checked at each part of a schema.
- Keywords that compare the items of lists use sets; `enum` and `const` check the limit at each item.

`multipleOf` is also replaced, because it is not exact in the package: it computes with floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from itertools import islice
from types import FunctionType, SimpleNamespace
from typing import Any

from modelport.schema import regexes
from modelport.schema.json_text import shorten
from modelport.schema.time_limit import check_time, memo

#: How many errors of one alternative (of `anyOf` and `oneOf`) are kept. The best of them explains the failure.
_MAX_ERRORS = 10
#: How many results are kept at a time. Each takes about 300 bytes.
_MAX_RESULTS = 100_000


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
        "multipleOf": _multiple_of, "uniqueItems": _unique_items, "anyOf": _any_of, "oneOf": _one_of,
        "enum": _enum, "const": _const,
        **_unevaluated_keywords(),
    }  # fmt: skip
    untyped_extend: Any = extend
    validator = untyped_extend(Draft202012Validator, keywords)
    validator.evolve = evolve
    validator.descend = _descend_with_memo(validator.descend)
    validator.is_valid = _is_valid
    return validator


class _Result:
    """The result of validating a value against a part of a schema. It refers to both, so that their ids stay theirs.

    Attributes:
        is_valid: `None` if it is not known yet.
        error: A copy of the first error.
        runs: How often the value was validated.
        found: What functions have found that look for the evaluated properties and items, by their names.
    """

    __slots__ = ("key", "is_valid", "error", "runs", "found")

    def __init__(self, *key: Any) -> None:
        self.key = key
        self.is_valid: bool | None = None
        self.error: Any = None
        self.runs = 0
        self.found: dict[str, set[Any]] = {}


def _descend_with_memo(descend: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return a variant of the package's method, which validates a value against a part of a schema.

    If each of 30 definitions refers twice to the next one, there are 2^30 ways to the last one, but only 31 pairs of a
    definition and a value. So results are kept in a memo. A valid pair is validated once. An invalid pair is validated
    twice, because the first time may have ended at the first error; after that, only its first error is repeated.

    A result depends on the part, on the value, and on the documents through which references led to the part. Results
    for parts of the value (with a `path`) are not kept: each part of a schema describes them only once.
    """

    def descend_with_memo(
        self: Any, instance: Any, schema: Any, path: Any = None, schema_path: Any = None, resolver: Any = None
    ) -> Iterator[Any]:
        validated = descend(self, instance, schema, path, schema_path, resolver)
        if path is not None or not isinstance(schema, dict):
            return validated
        return _with_memo(_result_for(instance, schema, resolver or self._resolver), validated)

    return descend_with_memo


def _with_memo(result: _Result, errors: Iterator[Any]) -> Iterator[Any]:
    if result.is_valid:
        return
    if result.runs == 2 and result.error is not None:
        yield _copy(result.error)
        return
    result.runs += 1
    for error in errors:
        if result.error is None:
            result.is_valid, result.error = False, _copy(error)
        yield error
    result.is_valid = result.error is None


def _is_valid(self: Any, instance: Any) -> bool:
    if not isinstance(self.schema, dict):
        return self.schema is not False
    result = _result_for(instance, self.schema, self._resolver)
    if result.is_valid is None:
        result.is_valid = next(self.iter_errors(instance), None) is None
    return result.is_valid


def _result_for(instance: Any, schema: Any, resolver: Any) -> _Result:
    """Return the result of the pair; a new one if it has not been validated yet."""
    results = memo()
    documents = (resolver._base_uri, *(uri for uri, _ in resolver.dynamic_scope()))
    key = id(schema), id(instance), documents
    result: _Result | None = results.get(key)
    if result is None:
        if len(results) >= _MAX_RESULTS:
            results.clear()
        result = results[key] = _Result(schema, instance)
    return result


def _copy(error: Any) -> Any:
    """Return a copy of an error without the errors that led to it, because these refer to the original."""
    return _error(
        shorten(error.message), path=error.relative_path.copy(), schema_path=error.relative_schema_path.copy(),
        validator=error.validator, validator_value=error.validator_value, instance=error.instance, schema=error.schema,
        type_checker=error._type_checker,
    )  # fmt: skip


def _any_of(validator: Any, parts: list[Any], instance: Any, schema: Any) -> Iterator[Any]:
    _, error = _first_valid(validator, parts, instance)
    if error is not None:
        yield error


def _one_of(validator: Any, parts: list[Any], instance: Any, schema: Any) -> Iterator[Any]:
    first, error = _first_valid(validator, parts, instance)
    if error is not None:
        yield error
        return
    valid = [part for part in parts[first + 1 :] if validator.evolve(schema=part).is_valid(instance)]
    if valid:
        yield _error(f"{instance!r} is valid under each of {', '.join(map(repr, [*valid, parts[first]]))}")


def _first_valid(validator: Any, parts: list[Any], instance: Any) -> tuple[int, Any]:
    """Return the index of the first schema that the value is valid for, or an error with the errors of all of them."""
    context: list[Any] = []
    for index, part in enumerate(parts):
        count = len(context)
        for error in islice(validator.descend(instance, part, schema_path=index), _MAX_ERRORS):
            error.message = shorten(error.message)
            context.append(error)
        if len(context) == count:
            return index, None
    return len(parts), _error(f"{instance!r} is not valid under any of the given schemas", context=context)


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


def _enum(validator: Any, options: list[Any], instance: Any, schema: Any) -> Iterator[Any]:
    key = _to_hashable(instance)
    if all(_to_hashable(option) != key for option in options):
        check_time(long_step=len(options) > 10_000)
        yield _error(f"{instance!r} is not one of {options!r}")


def _const(validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if _to_hashable(expected) != _to_hashable(instance):
        yield _error(f"{expected!r} was expected")


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if unique and validator.is_type(instance, "array") and len({*map(_to_hashable, instance)}) < len(instance):
        yield _error(f"{instance!r} has non-unique elements")


def _to_hashable(value: Any) -> Any:
    """Return a hashable key for a JSON value. Two keys are equal if and only if JSON Schema calls the values equal.

    So `1` and `1.0` have the same key, but not `1` and `true`. In keys, numbers are text: the model could write a list
    of different numbers with the same hash, which would make a set as slow as comparing all items with each other.
    """
    check_time()
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
    finder_globals.update({name: _finder_with_memo(name, getattr(_utils, name), finder_globals) for name in finders})
    keyword_globals = {**vars(_keywords), **{name: finder_globals[name] for name in finders}}
    return {name: FunctionType(getattr(_keywords, name).__code__, keyword_globals) for name in keywords}


def _finder_with_memo(name: str, original: Any, finder_globals: dict[str, Any]) -> Any:
    """Return a copy of a function that returns a set, and that is called once for each value and part of a schema."""
    find_anew = FunctionType(original.__code__, finder_globals)

    def find(validator: Any, instance: Any, schema: Any) -> set[Any]:
        if not isinstance(schema, dict):
            return set()
        result = _result_for(instance, schema, validator._resolver)
        if name not in result.found:
            result.found[name] = set(find_anew(validator, instance, schema))
        return result.found[name]

    return find


def _error(message: str, **details: Any) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message, **details)
