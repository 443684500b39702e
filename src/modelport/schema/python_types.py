"""Python types as output types: the JSON schema of a type, and the parsing of JSON text to a value of the type.

pydantic does both. `schema_generator` makes pydantic's schemas stricter. Otherwise an engine or a service that enforces
the schema would let the model write a value that the type then refuses.
`forbid_additional_properties` forbids unknown properties in all objects.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.json_text import json_size_problem
from modelport.schema.time_limit import check_time


def schema_from_type(python_type: Any, argument: str = "grammar") -> tuple[dict[str, Any], str]:
    """Return the JSON schema of a Python type, and the schema's name.

    Raises:
        InvalidRequest: pydantic can't describe the type.
    """
    try:
        schema = type_adapter(python_type).json_schema(schema_generator=schema_generator())
    except Exception as error:  # pydantic raises several exception types for a type that it can't describe.
        if getattr(error, "code", "") == "typed-dict-version":
            raise InvalidRequest(
                f"{argument}={python_type!r}: before Python 3.12 use typing_extensions.TypedDict, not typing.TypedDict"
            ) from None
        raise InvalidRequest(
            f"{argument}={python_type!r} is not an output type: pass a JSON schema, a pydantic model, dataclass, "
            "TypedDict, Enum or Literal, or Regex, Choice, JSONSchema, Lark "
            f"({str(error).splitlines()[0].partition('. ')[0]})"
        ) from None
    return forbid_additional_properties(schema), to_schema_name(getattr(python_type, "__name__", "answer"))


def to_schema_name(name: str) -> str:
    """Return the name in the form that services require for a schema: up to 64 letters, digits, `_` and `-`."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "answer"


def parse_json_as(python_type: Any, text: str) -> Any:
    """Parse JSON text to a value of a Python type.

    Raises:
        ValueError: The text is too large, or not a value of the type; the message says where. If one of the type's own
            validators raised another exception, that exception is the cause.
    """
    from pydantic import ValidationError

    if (problem := json_size_problem(text)) is not None:
        raise ValueError(problem)
    check_time(long_step=True)  # The type's own validators may take any time.
    try:
        return type_adapter(python_type).validate_json(text)
    except ValidationError as error:
        # The error's own text has several lines and a URL.
        problems = [(_json_path(item["loc"]), item["msg"]) for item in error.errors(include_url=False)]
        raise ValueError("; ".join(f"at {path}: {problem}" for path, problem in problems)) from None
    except Exception as error:
        # pydantic does not wrap what a validator raises, unless it is a ValueError or an AssertionError.
        message = " ".join(str(error).split())
        name = getattr(python_type, "__name__", python_type)
        raise ValueError(f"a validator of {name} raised {type(error).__name__}: {message}") from error


def _json_path(keys: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def type_adapter(python_type: Any) -> Any:
    """Return pydantic's `TypeAdapter` of a type. The function delays the import of pydantic until it is needed."""
    from pydantic import TypeAdapter

    return TypeAdapter(python_type)


# Patterns that `StrictSchemaGenerator` writes into schemas, and their parts. `_URL` matches what follows "scheme://".
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HOST_LABEL = "[A-Za-z0-9]+(-[A-Za-z0-9]+)*"
_HOST = f"(({_HOST_LABEL}\\.)*[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*|{_OCTET}(\\.{_OCTET}){{3}})"
_URL_CHARACTER = "[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"
_URL = f"{_HOST}(:[1-9][0-9]{{0,3}})?(/({_URL_CHARACTER})*)*(\\?({_URL_CHARACTER}|[/?])*)?(#({_URL_CHARACTER}|[/?])*)?"
_DURATION_TIME = "T([0-9]{1,6}H([0-9]{1,6}M([0-9]{1,6}S)?)?|[0-9]{1,6}M([0-9]{1,6}S)?|[0-9]{1,6}S)"
_DURATION = f"^P([0-9]{{1,6}}D({_DURATION_TIME})?|{_DURATION_TIME}|[0-9]{{1,5}}W)$"
_FLOAT = "(0|[1-9][0-9]{0,15})(\\.[0-9]{1,16})?"


@cache
def schema_generator() -> Any:
    """Return a subclass of pydantic's schema generator that changes schemas which allow more than the type accepts.

    With pydantic's own schema, a model could write a value that the type refuses, even if the schema is enforced.
    """
    from pydantic.json_schema import GenerateJsonSchema

    class StrictSchemaGenerator(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> Any:
            # pydantic's schema allows any string besides a number; only the number is left. JSON Schema has no keyword
            # for the type's `max_digits`.
            result = super().decimal_schema(schema)
            return next((part for part in result.get("anyOf", ()) if part.get("type") == "number"), result)

        def url_schema(self, schema: Any) -> Any:
            result, schemes = super().url_schema(schema), schema.get("allowed_schemes")
            if schemes:
                result["pattern"] = f"^({'|'.join(map(re.escape, schemes))})://{_URL}$"
            return result

        def dict_schema(self, schema: Any) -> Any:
            result = super().dict_schema(schema)
            # In JSON all keys are strings. For integer keys, pydantic's schema allows any string.
            if schema.get("keys_schema", {}).get("type") == "int":
                result["patternProperties"] = {"^(0|-?[1-9][0-9]{0,17})$": result["additionalProperties"]}
                result["additionalProperties"] = False
            return result

        def timedelta_schema(self, schema: Any) -> Any:
            result = super().timedelta_schema(schema)
            return {**result, "pattern": _DURATION} if result.get("format") == "duration" else result

        def complex_schema(self, schema: Any) -> Any:
            return {**super().complex_schema(schema), "pattern": f"^-?{_FLOAT}([+-]{_FLOAT}j)?$"}

    return StrictSchemaGenerator


#: Keywords whose value is a dict of schemas by name.
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs")


def forbid_additional_properties(schema: Any) -> Any:
    """Return the schema of a Python type with `additionalProperties: false` in each object that does not set it.

    pydantic accepts and drops unknown properties. But if the schema allows them, weak models write them.
    """
    if isinstance(schema, list):
        return [forbid_additional_properties(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: {name: forbid_additional_properties(item) for name, item in value.items()} if key in _SCHEMA_MAPS
        else value if key in ("const", "enum", "default", "examples")
        else forbid_additional_properties(value)
        for key, value in schema.items()
    }  # fmt: skip
    if schema.get("type") == "object" and "properties" in schema:
        result.setdefault("additionalProperties", False)
    return result
