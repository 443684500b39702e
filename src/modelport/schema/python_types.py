"""Python types as forms: the schema of a type's JSON, and the value that a JSON text is to the type."""

from __future__ import annotations

import re
import sys
import types
import typing
from functools import cache, reduce
from operator import or_
from typing import Any

from modelport.errors import InvalidRequest


def schema_of(kind: Any) -> tuple[dict[str, Any], str]:
    """The JSON schema of a type, and a name for it that services take.

    Raises:
        InvalidRequest: It is no type that pydantic can describe.
    """
    try:
        schema = type_adapter(kind).json_schema(schema_generator=tight())
    except Exception as error:  # pydantic raises several kinds for what it can't describe.
        if getattr(error, "code", "") == "typed-dict-version":
            raise InvalidRequest(
                f"grammar={kind!r}: before Python 3.12 a TypedDict that is generic, or within a dataclass, must be "
                "typing_extensions.TypedDict, not typing.TypedDict"
            ) from None
        raise InvalidRequest(
            f"grammar={kind!r} is no form known here: pass a JSON schema, a pydantic model, dataclass, TypedDict, "
            f"Enum or Literal, or Regex, Choice, JSONSchema, Lark ({str(error).splitlines()[0].partition('. ')[0]})"
        ) from None
    return closed(schema), service_name(getattr(kind, "__name__", "answer"))


def service_name(name: str) -> str:
    """The name as services take it: letters, digits, `_` and `-`, up to 64."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "answer"


def parsed(kind: Any, text: str) -> Any:
    """The value of the type that the JSON text holds.

    Raises:
        ValueError: It holds none; the message says where. What a validator of the type's own raised is its cause.
    """
    from pydantic import ValidationError

    try:
        return type_adapter(kind).validate_json(text)
    except ValidationError as error:  # whose own text has many lines and an address
        found = [(_path(item["loc"]), item["msg"]) for item in error.errors(include_url=False)]
        raise ValueError("; ".join(f"at {path}: {problem}" for path, problem in found)) from None
    except Exception as error:  # pydantic passes on what is neither a ValueError nor an AssertionError
        says = " ".join(str(error).split())
        raise ValueError(f"a validator of {_name(kind)} failed on it: {type(error).__name__}: {says}") from error


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _path(keys: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def type_adapter(kind: Any) -> Any:
    """What pydantic knows of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(_portable(kind, {}) if sys.version_info < (3, 12) else kind)


_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[A-Za-z0-9]+(-[A-Za-z0-9]+)*"
_HOST = f"(({_LABEL}\\.)*[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*|{_OCTET}(\\.{_OCTET}){{3}})"
_REST = "[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"
_URL = f"{_HOST}(:[1-9][0-9]{{0,3}})?(/({_REST})*)*(\\?({_REST}|[/?])*)?(#({_REST}|[/?])*)?"
_SPAN = "T([0-9]{1,6}H([0-9]{1,6}M([0-9]{1,6}S)?)?|[0-9]{1,6}M([0-9]{1,6}S)?|[0-9]{1,6}S)"
_DURATION = f"^P([0-9]{{1,6}}D({_SPAN})?|{_SPAN}|[0-9]{{1,5}}W)$"
_FLOAT = "(0|[1-9][0-9]{0,15})(\\.[0-9]{1,16})?"


@cache
def tight() -> Any:
    """pydantic's generator of schemas, where its own are looser than the types.

    A mask would let through what the type then does not take, and services would write it.
    """
    from pydantic.json_schema import GenerateJsonSchema

    class Tight(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> Any:
            # Its own takes any string beside the number. How many digits there may be no keyword says.
            whole = super().decimal_schema(schema)
            return next((part for part in whole.get("anyOf", ()) if part.get("type") == "number"), whole)

        def url_schema(self, schema: Any) -> Any:
            whole, schemes = super().url_schema(schema), schema.get("allowed_schemes")
            if schemes:
                whole["pattern"] = f"^({'|'.join(map(re.escape, schemes))})://{_URL}$"
            return whole

        def dict_schema(self, schema: Any) -> Any:
            whole = super().dict_schema(schema)
            if schema.get("keys_schema", {}).get("type") == "int":
                whole["patternProperties"] = {"^(0|-?[1-9][0-9]{0,17})$": whole["additionalProperties"]}
                whole["additionalProperties"] = False
            return whole

        def timedelta_schema(self, schema: Any) -> Any:
            whole = super().timedelta_schema(schema)
            return {**whole, "pattern": _DURATION} if whole.get("format") == "duration" else whole

        def complex_schema(self, schema: Any) -> Any:
            return {**super().complex_schema(schema), "pattern": f"^-?{_FLOAT}([+-]{_FLOAT}j)?$"}

    return Tight


_MAPS = ("properties", "patternProperties", "$defs")


def closed(schema: Any) -> Any:
    """The schema of a Python type with its objects closed, unless they say that they take more.

    The type would drop what it does not know, and a weak model that may go on with properties of its own does.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: {name: closed(item) for name, item in value.items()} if key in _MAPS
        else value if key in ("const", "enum", "default", "examples")
        else closed(value)
        for key, value in schema.items()
    }  # fmt: skip
    if schema.get("type") == "object" and "properties" in schema:
        result.setdefault("additionalProperties", False)
    return result


def _portable(kind: Any, made: dict[Any, Any]) -> Any:
    """The type with every TypedDict in it made by typing_extensions, as pydantic wants it before Python 3.12.

    Args:
        kind: The type.
        made: Those that were made: a TypedDict may hold itself.
    """
    if typing.is_typeddict(kind) and type(kind).__module__ == "typing":
        import typing_extensions

        if kind in made:
            return made[kind]
        make: Any = typing_extensions.TypedDict
        new = made[kind] = make(kind.__name__, {})
        required = set()
        for key, hint in typing.get_type_hints(kind, include_extras=True).items():
            needed = key in kind.__required_keys__
            if (own := typing.get_origin(hint)) in (typing.Required, typing.NotRequired):
                # Which `__required_keys__` misses where it is a string.
                needed, hint = own is typing.Required, typing.get_args(hint)[0]
            new.__annotations__[key] = _portable(hint, made)
            if needed:
                required.add(key)
        new.__required_keys__ = frozenset(required)
        new.__optional_keys__ = frozenset(new.__annotations__) - required
        new.__doc__, new.__module__ = kind.__doc__, kind.__module__
        return new
    arguments = typing.get_args(kind)
    # What a Literal or an Annotated holds beside types is left as it is.
    changed = tuple(_portable(argument, made) for argument in arguments)
    if all(a is b for a, b in zip(arguments, changed, strict=True)):
        return kind
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        return reduce(or_, changed)
    return kind.copy_with(changed[:1]) if origin is typing.Annotated else origin[changed]
