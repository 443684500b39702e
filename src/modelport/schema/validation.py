"""Checks a schema, and a value against a schema."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest


def _checked(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise InvalidRequest(f"a JSON schema must be a dict, not {type(schema).__name__}")
    try:
        problem = _problem_of_schema(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is no JSON: {error}") from None
    if problem is not None:
        raise InvalidRequest(problem)
    return schema


@lru_cache(64)  # it takes milliseconds, and an agent sends the same schemas with each call
def _problem_of_schema(text: str) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match

    try:
        Draft202012Validator.check_schema(json.loads(text))
    except SchemaError as error:
        # Of what may stand there the nearest: "not one of 'array', 'boolean', …" instead of "none of the schemas".
        near = best_match(error.context) if error.context else error
        return f"the JSON schema is invalid at {error.json_path}: {_short(near.message)}"
    except (RecursionError, OverflowError) as error:  # of reading a `pattern`
        return f"the JSON schema can't be used: {error}"
    return None


def mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Where the value does not fit the JSON schema, in words; `None` where it does.

    Formats are checked too: those of `formats.CHECKED`.

    Raises:
        InvalidRequest: The schema itself is broken.
    """
    from jsonschema.exceptions import best_match
    from referencing import Registry

    from modelport.schema.formats import format_checker
    from modelport.schema.validators import in_time, validator_class

    try:
        # With a registry of its own, the library does not fetch the addresses that a schema names.
        validator = validator_class()(schema, registry=Registry(), format_checker=format_checker())
        with in_time():
            error = best_match(validator.iter_errors(value))
    except RecursionError:
        if _depth(value) > _DEEP:
            return "at $: it is nested too deeply to be checked"
        raise InvalidRequest("the JSON schema can't be used: it refers to itself without an end") from None
    except Exception as broken:  # Of many kinds: an unknown type, a `$ref` to nowhere, a `pattern` that is none.
        raise InvalidRequest(f"the JSON schema can't be used: {str(broken).splitlines()[0]}") from None
    return None if error is None else f"at {error.json_path}: {_short(error.message)}"


def _short(message: str) -> str:
    """Without the middle: values stand in it as a whole, and a model may be told it."""
    return message if len(message) <= 2000 else f"{message[:1000]} … {message[-1000:]}"


#: A value that is not nested deeper can be checked.
_DEEP = 20


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [
        part for item in level if isinstance(item, dict | list)
        for part in (item.values() if isinstance(item, dict) else item)
    ]:  # fmt: skip
        depth += 1
    return depth
