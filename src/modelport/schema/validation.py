"""Checks that a JSON schema is valid, and that a value is valid against a schema."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.json_text import shorten
from modelport.schema.time_limit import check_time, new_memo, time_limit

#: The most characters that a schema may have as JSON text. Each walk over such a schema takes up to 0.1 s.
MAX_SCHEMA_LENGTH = 2**20
#: The most objects, lists and booleans that a schema may have. Collecting the names of so many parts takes 0.1 s.
MAX_SCHEMA_PARTS = 10_000


def checked_schema(schema: Any) -> dict[str, Any]:
    """Return the schema unchanged if it is a valid JSON schema.

    Raises:
        InvalidRequest: The schema is not a dict, not JSON, too long, or not valid; the message says where.
    """
    if not isinstance(schema, dict):
        raise InvalidRequest(f"a JSON schema must be a dict, not {type(schema).__name__}")
    try:
        text = json.dumps(schema)
        problem = _problem_of_length(len(text)) or _problem_of_schema(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is not valid JSON: {error}") from None
    if problem is not None:
        raise InvalidRequest(problem)
    return schema


def _problem_of_length(length: int) -> str | None:
    """Return why a schema is too long, or `None`. This is not cached, because the cache would keep the text."""
    if length <= MAX_SCHEMA_LENGTH:
        return None
    return f"the JSON schema has {length} characters, and may have {MAX_SCHEMA_LENGTH}: simplify it"


@lru_cache(64)  # The check takes up to 0.1 s, and an agent sends the same schemas with each call.
def _problem_of_schema(text: str) -> str | None:
    from modelport.schema.metaschema import find_mistake

    # Each part of a schema is an object or a boolean. They are counted in the text, which takes a millisecond.
    if (count := sum(map(text.count, ("{", "[", "true", "false")))) > MAX_SCHEMA_PARTS:
        return f"the JSON schema has {count} objects, lists and booleans, and may have {MAX_SCHEMA_PARTS}: simplify it"
    try:
        mistake = find_mistake(json.loads(text))
    except (RecursionError, OverflowError) as error:  # Parsing a `pattern` can raise these.
        return f"the JSON schema can't be used: {error}"
    return None if mistake is None else f"the JSON schema is invalid {shorten(mistake)}"


def mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Return where and why the value is not valid against the JSON schema, or `None` if it is valid.

    The formats in `formats.CHECKED_FORMATS` are checked too.

    Raises:
        InvalidRequest: The schema itself is not valid, or checking the value takes too long.
    """
    check_time(long_step="jsonschema" not in sys.modules)  # Importing it takes up to a second.
    from jsonschema.exceptions import best_match
    from jsonschema_specifications import REGISTRY

    from modelport.schema.formats import format_checker
    from modelport.schema.references import resolver_for
    from modelport.schema.validators import validator_class

    try:
        # With this registry, which has only the drafts of JSON Schema, URLs to which a schema refers are not fetched.
        resolver = resolver_for(schema, REGISTRY)
        validator = validator_class()(schema, registry=REGISTRY, _resolver=resolver, format_checker=format_checker())
        with time_limit():
            new_memo()
            error = best_match(_with_time_check(validator.iter_errors(value)))
    except BaseException as broken:
        if isinstance(broken, RecursionError) or _is_panic(broken):
            if _depth(value) > _SAFE_DEPTH:
                return "at $: the value is nested too deeply to be checked"
            raise InvalidRequest("the JSON schema can't be used: its references form an endless loop") from None
        if not isinstance(broken, Exception):
            raise
        # An invalid schema raises one of many exceptions, for example for an unknown type or an unresolved `$ref`.
        raise InvalidRequest(f"the JSON schema can't be used: {str(broken).splitlines()[0]}") from None
    return None if error is None else f"at {error.json_path}: {shorten(error.message)}"


def _is_panic(error: BaseException) -> bool:
    """Return whether a package in Rust, on which jsonschema depends, met Python's limit of recursion and panicked."""
    return type(error).__name__ == "PanicException"


def _with_time_check(errors: Iterator[Any]) -> Iterator[Any]:
    """Check the limit at each error: one keyword, such as `required`, can yield 80,000 of them."""
    for error in errors:
        check_time()
        yield error


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
