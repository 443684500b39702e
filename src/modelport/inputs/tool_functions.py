"""Tools made from Python: what a function's signature and docstring, or a class's fields, say to a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from modelport.errors import InvalidRequest
from modelport.inputs.docstrings import read_docstring
from modelport.schema.python_types import closed, tight, type_adapter
from modelport.schema.references import rooted
from modelport.types.tools import Tool


def tool_from_class(kind: type, place: str) -> Tool:
    """The tool whose arguments are the fields of a pydantic model, dataclass or TypedDict.

    Raises:
        InvalidRequest: The class is none of these, or has a field that JSON schemas can't describe.
    """
    # Of a generic model's name, `Box[int]`, services take only letters, digits, `_` and `-`.
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", kind.__name__).strip("_")[:64]
    try:
        of_model = getattr(kind, "model_json_schema", None) or type_adapter(kind).json_schema
        schema = rooted(closed(of_model(schema_generator=tight())))
        fits = schema.get("type") == "object" and "properties" in schema
        problem = "" if fits else f"it is {json.dumps(schema)[:80]}"
    except Exception as error:  # pydantic raises several kinds for what it can't describe.
        schema, problem = {}, str(error).splitlines()[0]
    if problem:
        raise InvalidRequest(
            f"{place} ({name}): a class is a tool where its fields are the arguments: a pydantic model, dataclass or "
            f"TypedDict; {problem}"
        )
    return Tool(name, schema.get("description", ""), schema)


def tool_from_function(function: Callable[..., Any], place: str) -> Tool:
    """The tool that a function is, a method, a `functools.partial` or an object that can be called.

    Raises:
        InvalidRequest: It has no name, or an argument can't be told to a model or be given by its name.
    """
    import inspect
    import typing

    name, inner, doc = _what_is_called(function)
    if not name.isidentifier():
        raise InvalidRequest(f"{place}: a function without a name can't be a tool; give it one with 'def'")
    try:
        hints = typing.get_type_hints(inner, include_extras=True)
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{place} ({name}): its signature can't be read: {error}") from None
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self":
        raise InvalidRequest(f"{place} ({name}): a method needs its object; pass that of an object, as in obj.{name}")
    # What a partial has set is not the model's to say.
    fixed = function.keywords if isinstance(function, partial) else {}
    parameters = [parameter for parameter in parameters if parameter.name not in fixed]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidRequest(
                f"{place} ({name}): *args and **kwargs can't be described to a model; name each argument"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidRequest(
                f"{place} ({name}): {parameter.name!r} can't be given by its name, as a call's arguments are; take the "
                "'/' out of the signature"
            )
    description, described = read_docstring(doc)
    arguments = [_Argument(p, hints.get(p.name, Any), described.get(p.name), f"{place} ({name})") for p in parameters]
    return Tool(name, description, _schema_of(arguments))


def _what_is_called(function: Callable[..., Any]) -> tuple[str, Callable[..., Any], str]:
    """Its name, the function that has its annotations, and its docstring."""
    import inspect

    if isinstance(function, partial):
        return _what_is_called(function.func)
    if hasattr(function, "__name__"):
        return function.__name__, function, inspect.getdoc(function) or ""
    kind = type(function)
    return kind.__name__, kind.__call__, inspect.cleandoc(kind.__call__.__doc__ or kind.__doc__ or "")


class _Argument:
    """An argument of a function.

    Args:
        parameter: Of its signature.
        hint: Its annotation.
        described: What the docstring says of it; a description in the annotation goes before that.
        place: For errors.
    """

    def __init__(self, parameter: Any, hint: Any, described: str | None, place: str) -> None:
        from pydantic.fields import FieldInfo

        self.name, self.required, self.default = parameter.name, parameter.default is parameter.empty, parameter.default
        if isinstance(self.default, FieldInfo):  # `x: int = Field(ge=1)`, as in a model
            hint, field = Annotated[hint, self.default], self.default
            self.required, self.default = field.is_required(), field.default
        notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, str)]
        self.description = notes[0] if notes else described
        try:
            self.adapter = type_adapter(hint)
            self.adapter.json_schema()
        except Exception as error:  # pydantic raises several kinds for what it can't describe.
            problem = str(error).splitlines()[0]
            raise InvalidRequest(f"{place}: {self.name!r} has a type without schema: {problem}") from None

    def completed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema of the argument's type with what is known of the argument itself."""
        from pydantic_core import to_jsonable_python

        if self.description and "description" not in schema:
            schema = {**schema, "description": self.description}
        if self.required or "default" in schema:
            return schema
        try:
            return {**schema, "default": json.loads(json.dumps(to_jsonable_python(self.default), allow_nan=False))}
        except (TypeError, ValueError, RecursionError):
            return schema  # A default that JSON can't hold is still a default: the argument is optional.


def _schema_of(arguments: list[_Argument]) -> dict[str, Any]:
    from pydantic import TypeAdapter

    # All at once, so that two classes of one name get a definition each.
    inputs: Any = [(argument.name, "validation", argument.adapter) for argument in arguments]
    schemas, rest = TypeAdapter.json_schemas(inputs, schema_generator=tight()) if inputs else ({}, {})
    definitions: dict[str, Any] = dict(rest.get("$defs", {}))
    written = json.dumps([list(schemas.values()), definitions])
    properties: dict[str, Any] = {}
    for argument in arguments:
        schema = argument.completed(schemas[argument.name, "validation"])
        reference = schema.get("$ref", "")
        if written.count(json.dumps(reference)) == 1:  # A definition that nothing else uses stands in its place.
            definition = definitions.pop(reference.removeprefix("#/$defs/"))
            schema = {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}
        properties[argument.name] = schema
    required = [argument.name for argument in arguments if argument.required]
    whole = {"type": "object", "properties": properties, "required": required}
    result: dict[str, Any] = closed({**whole, "$defs": definitions} if definitions else whole)
    return result
