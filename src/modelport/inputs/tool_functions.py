"""Converts Python functions and classes to `Tool`s.

The schema of the arguments comes from the signature of a function or the fields of a class, and the descriptions come
from the docstring.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from modelport.errors import InvalidRequest
from modelport.inputs.docstrings import read_docstring
from modelport.schema.python_types import forbid_additional_properties, schema_generator, type_adapter
from modelport.schema.references import inline_root_reference
from modelport.types.tools import Tool


def tool_from_class(cls: type, path: str) -> Tool:
    """Return a tool whose arguments are the fields of a pydantic model, dataclass or TypedDict.

    Args:
        cls: The class.
        path: The path of the class in the caller's arguments, for error messages.

    Raises:
        InvalidRequest: The class is of another kind, or has a field that a JSON schema can't describe.
    """
    # Services don't accept brackets in names, which a generic pydantic model has (`Box[int]`).
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", cls.__name__).strip("_")[:64]
    try:
        json_schema = getattr(cls, "model_json_schema", None) or type_adapter(cls).json_schema
        schema = inline_root_reference(forbid_additional_properties(json_schema(schema_generator=schema_generator())))
        has_fields = schema.get("type") == "object" and "properties" in schema
        problem = "" if has_fields else f"its schema is {json.dumps(schema)[:80]}"
    except Exception as error:  # pydantic raises several exception types for a type that it can't describe.
        schema, problem = {}, str(error).splitlines()[0]
    if problem:
        raise InvalidRequest(
            f"{path} ({name}): a class can be a tool if its fields are the arguments: a pydantic model, dataclass or "
            f"TypedDict; {problem}"
        )
    return Tool(name, schema.get("description", ""), schema)


def tool_from_function(function: Callable[..., Any], path: str) -> Tool:
    """Return a tool for a function, a method, a `functools.partial` or an object with `__call__`.

    Args:
        function: The function.
        path: The path of the function in the caller's arguments, for error messages.

    Raises:
        InvalidRequest: The function has no name, or it has an argument that a JSON schema can't describe or that can't
            be passed by keyword.
    """
    import inspect
    import typing

    name, annotated, doc = _unwrap(function)
    if not name.isidentifier():
        raise InvalidRequest(f"{path}: a function without a name can't be a tool; give it one with 'def'")
    try:
        hints = typing.get_type_hints(annotated, include_extras=True)
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{path} ({name}): its signature can't be read: {error}") from None
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self":
        raise InvalidRequest(f"{path} ({name}): a method needs its object; pass a bound method, as in obj.{name}")
    # The model must not choose the arguments that a `functools.partial` has already set.
    fixed = function.keywords if isinstance(function, partial) else {}
    parameters = [parameter for parameter in parameters if parameter.name not in fixed]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidRequest(
                f"{path} ({name}): *args and **kwargs can't be described to a model; name each argument"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidRequest(
                f"{path} ({name}): {parameter.name!r} can't be given by its name, as a call's arguments are; take the "
                "'/' out of the signature"
            )
    description, descriptions = read_docstring(doc)
    arguments = [_Argument(p, hints.get(p.name, Any), descriptions.get(p.name), f"{path} ({name})") for p in parameters]
    return Tool(name, description, _arguments_schema(arguments))


def _unwrap(function: Callable[..., Any]) -> tuple[str, Callable[..., Any], str]:
    """Return the function's name, the function with the annotations, and the docstring.

    The function inside of a `functools.partial`, and the `__call__` of an object, have the annotations.
    """
    import inspect

    if isinstance(function, partial):
        return _unwrap(function.func)
    if hasattr(function, "__name__"):
        return function.__name__, function, inspect.getdoc(function) or ""
    cls = type(function)
    return cls.__name__, cls.__call__, inspect.cleandoc(cls.__call__.__doc__ or cls.__doc__ or "")


class _Argument:
    """An argument of a function.

    Args:
        parameter: The argument's entry in the signature.
        hint: The argument's annotation.
        description: The description in the docstring. A description in the annotation (`Annotated[int, "…"]`) is used
            instead of it.
        path: The path of the function in the caller's arguments, for error messages.
    """

    def __init__(self, parameter: Any, hint: Any, description: str | None, path: str) -> None:
        from pydantic.fields import FieldInfo

        self.name, self.required, self.default = parameter.name, parameter.default is parameter.empty, parameter.default
        if isinstance(self.default, FieldInfo):  # The signature has `x: int = Field(ge=1)`.
            hint, field = Annotated[hint, self.default], self.default
            self.required, self.default = field.is_required(), field.default
        notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, str)]
        self.description = notes[0] if notes else description
        try:
            self.adapter = type_adapter(hint)
            self.adapter.json_schema()
        except Exception as error:  # pydantic raises several exception types for a type that it can't describe.
            problem = str(error).splitlines()[0]
            raise InvalidRequest(f"{path}: {self.name!r} has a type without schema: {problem}") from None

    def add_description_and_default(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema of the argument's type, with the description and the default of the argument added."""
        from pydantic_core import to_jsonable_python

        if self.description and "description" not in schema:
            schema = {**schema, "description": self.description}
        if self.required or "default" in schema:
            return schema
        try:
            return {**schema, "default": json.loads(json.dumps(to_jsonable_python(self.default), allow_nan=False))}
        except (TypeError, ValueError, RecursionError):
            # The default has no JSON form, so it is left out of the schema. The argument is still optional, because it
            # is not in the list `required`.
            return schema


def _arguments_schema(arguments: list[_Argument]) -> dict[str, Any]:
    from pydantic import TypeAdapter

    # All schemas are generated in one call, because only then pydantic gives two different classes with the same name
    # two different names in `$defs`.
    inputs: Any = [(argument.name, "validation", argument.adapter) for argument in arguments]
    schemas, shared = TypeAdapter.json_schemas(inputs, schema_generator=schema_generator()) if inputs else ({}, {})
    definitions: dict[str, Any] = dict(shared.get("$defs", {}))
    all_schemas = json.dumps([list(schemas.values()), definitions])
    properties: dict[str, Any] = {}
    for argument in arguments:
        schema = argument.add_description_and_default(schemas[argument.name, "validation"])
        reference = schema.get("$ref")
        if reference is not None and all_schemas.count(json.dumps(reference)) == 1:
            # This is the only reference to the definition, so the definition replaces it.
            definition = definitions.pop(reference.removeprefix("#/$defs/"))
            schema = {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}
        properties[argument.name] = schema
    required = [argument.name for argument in arguments if argument.required]
    schema = {"type": "object", "properties": properties, "required": required}
    result: dict[str, Any] = forbid_additional_properties({**schema, "$defs": definitions} if definitions else schema)
    return result
