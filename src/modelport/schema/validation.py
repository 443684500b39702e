"""Checks that a JSON schema is valid, and that a value is valid against a schema."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest


def checked_schema(schema: Any) -> dict[str, Any]:
    """Return the schema unchanged if it is a valid JSON schema.

    Raises:
        InvalidRequest: The schema is not a dict, not JSON, or not valid; the message says where.
    """
    if not isinstance(schema, dict):
        raise InvalidRequest(f"a JSON schema must be a dict, not {type(schema).__name__}")
    try:
        problem = _problem_of_schema(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is not valid JSON: {error}") from None
    if problem is not None:
        raise InvalidRequest(problem)
    return schema


@lru_cache(64)  # The check takes milliseconds, and an agent sends the same schemas with each call.
def _problem_of_schema(text: str) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match

    try:
        Draft202012Validator.check_schema(json.loads(text))
    except SchemaError as error:
        # The error itself may only say "not valid under any of the given schemas". The errors that led to it are
        # specific, such as "'text' is not one of 'array', 'boolean', …".
        nearest = best_match(error.context) if error.context else error
        return f"the JSON schema is invalid at {error.json_path}: {_shorten(nearest.message)}"
    except (RecursionError, OverflowError) as error:  # Parsing a `pattern` can raise these.
        return f"the JSON schema can't be used: {error}"
    return None


def mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Return where and why the value is not valid against the JSON schema, or `None` if it is valid.

    The formats in `formats.CHECKED_FORMATS` are checked too.

    Raises:
        InvalidRequest: The schema itself is not valid, or checking the value takes too long.
    """
    from jsonschema.exceptions import best_match
    from referencing import Registry

    from modelport.schema.formats import format_checker
    from modelport.schema.time_limit import time_limit
    from modelport.schema.validators import validator_class

    try:
        # With an empty registry `jsonschema` does not fetch the URLs to which a schema refers.
        validator = validator_class()(schema, registry=Registry(), format_checker=format_checker())
        with time_limit():
            error = best_match(validator.iter_errors(value))
    except RecursionError:
        if _depth(value) > _SAFE_DEPTH:
            return "at $: the value is nested too deeply to be checked"
        raise InvalidRequest("the JSON schema can't be used: its references form an endless loop") from None
    except Exception as broken:
        # An invalid schema raises one of many exceptions, for example for an unknown type or an unresolved `$ref`.
        raise InvalidRequest(f"the JSON schema can't be used: {str(broken).splitlines()[0]}") from None
    return None if error is None else f"at {error.json_path}: {_shorten(error.message)}"


def _shorten(message: str) -> str:
    """Remove the middle of a long message. Messages quote the whole value, and may be sent to a model as feedback."""
    return message if len(message) <= 2000 else f"{message[:1000]} … {message[-1000:]}"


#: A value that is not nested deeper than this can be checked within Python's recursion limit, unless the references of
#: the schema form an endless loop.
_SAFE_DEPTH = 20


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [
        part for item in level if isinstance(item, dict | list)
        for part in (item.values() if isinstance(item, dict) else item)
    ]:  # fmt: skip
        depth += 1
    return depth
