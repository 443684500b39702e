"""Makes tools from Python functions and classes.

The name, the description and the schema of the arguments come from a function's signature and docstring, or from the
fields of a class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from modelport.errors import InvalidRequest
from modelport.inputs.docstrings import read_docstring
from modelport.schema.python_types import close_objects, schema_generator, type_adapter
from modelport.schema.references import inline_root_reference
from modelport.types.tools import Tool


def tool_from_class(cls: type, path: str) -> Tool:
    """Return the tool whose arguments are the fields of a pydantic model, dataclass or TypedDict.

    Args:
        cls: The class.
        path: The path of the class in the caller's arguments, for error messages.

    Raises:
        InvalidRequest: The class is none of these, or has a field that a JSON schema can't describe.
    """
    # The name of a generic model, such as `Box[int]`, has characters that services don't accept.
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", cls.__name__).strip("_")[:64]
    try:
        json_schema = getattr(cls, "model_json_schema", None) or type_adapter(cls).json_schema
        schema = inline_root_reference(close_objects(json_schema(schema_generator=schema_generator())))
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
    """Return the tool from a function, a method, a `functools.partial` or a callable object.

    Args:
        function: The function.
        path: The path of the function in the caller's arguments, for error messages.

    Raises:
        InvalidRequest: The function has no name, or an argument that a JSON schema can't describe or that can't be
            passed by its name.
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
    # The arguments that a partial has set are not the model's to choose.
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
    """Return the function's name, the function that has the annotations, and the docstring."""
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
        description: The description in the docstring. A description in the annotation takes precedence.
        path: The path of the function in the caller's arguments, for error messages.
    """

    def __init__(self, parameter: Any, hint: Any, description: str | None, path: str) -> None:
        from pydantic.fields import FieldInfo

        self.name, self.required, self.default = parameter.name, parameter.default is parameter.empty, parameter.default
        if isinstance(self.default, FieldInfo):  # The signature has `x: int = Field(ge=1)`, as a pydantic model can.
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

    def annotate(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema of the argument's type with the argument's description and default."""
        from pydantic_core import to_jsonable_python

        if self.description and "description" not in schema:
            schema = {**schema, "description": self.description}
        if self.required or "default" in schema:
            return schema
        try:
            return {**schema, "default": json.loads(json.dumps(to_jsonable_python(self.default), allow_nan=False))}
        except (TypeError, ValueError, RecursionError):
            # JSON can't hold the default. The argument is still optional, because it is not in `required`.
            return schema


def _arguments_schema(arguments: list[_Argument]) -> dict[str, Any]:
    from pydantic import TypeAdapter

    # pydantic generates all schemas in one call, so that two classes with the same name get a definition each.
    inputs: Any = [(argument.name, "validation", argument.adapter) for argument in arguments]
    schemas, shared = TypeAdapter.json_schemas(inputs, schema_generator=schema_generator()) if inputs else ({}, {})
    definitions: dict[str, Any] = dict(shared.get("$defs", {}))
    all_schemas = json.dumps([list(schemas.values()), definitions])
    properties: dict[str, Any] = {}
    for argument in arguments:
        schema = argument.annotate(schemas[argument.name, "validation"])
        reference = schema.get("$ref", "")
        if all_schemas.count(json.dumps(reference)) == 1:
            # Nothing else refers to the definition, so it replaces the reference.
            definition = definitions.pop(reference.removeprefix("#/$defs/"))
            schema = {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}
        properties[argument.name] = schema
    required = [argument.name for argument in arguments if argument.required]
    schema = {"type": "object", "properties": properties, "required": required}
    result: dict[str, Any] = close_objects({**schema, "$defs": definitions} if definitions else schema)
    return result
