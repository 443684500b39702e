"""The only module that knows the tool formats of services and other libraries.

`modelport.inputs.tools` passes each dict to `tool_from_dict`, and each object to `tool_from_object`. A new format is
added here: a key for a dict, a function for an object.

Dicts have a name, a description and a JSON schema of the arguments. The schema's key depends on the format:

- OpenAI: `parameters`, in the dict itself or in `{"type": "function", "function": {…}}`;
- Anthropic: `input_schema`, optionally with `"type": "custom"`;
- MCP: `inputSchema`.

Objects are recognised by an attribute, so that no other library is imported:

- the smolagents package: `inputs`, a dict of the arguments;
- MCP: `inputSchema`, or `input_schema` since version 2 of its package;
- LangChain: `args_schema`, a pydantic model or a JSON schema.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.python_types import close_objects, schema_generator
from modelport.types.tools import Tool

#: The libraries whose tool objects are supported, for error messages.
OBJECT_SOURCES = "smolagents, LangChain or MCP"

_EXAMPLE = {
    "type": "function",
    "function": {"name": "get_weather", "description": "…", "parameters": {"type": "object"}},
}
_SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
_KEYS = {"name", "description", "strict", *_SCHEMA_KEYS}
#: Keys of MCP, and of `get_json_schema` of transformers, that are meant for programs. They are not sent to a model.
_IGNORED_KEYS = {
    "title", "annotations", "outputSchema", "output_schema", "icons", "_meta", "meta", "execution", "return",
}  # fmt: skip


def tool_from_dict(value: dict[str, Any], path: str) -> Tool:
    """Return the tool from a dict of one of the formats above.

    Args:
        value: The dict.
        path: The path of the dict in the caller's arguments, for error messages.

    Raises:
        InvalidRequest: The dict has no name, an unknown key, an unknown type, or several schemas.
    """
    given = {key: item for key, item in value.items() if item is not None}
    tool_type = given.pop("type", "function")
    # Anthropic's type "custom" means what "function" means to OpenAI. OpenAI's type "custom" is a tool that takes free
    # text, which is not supported; it has no `input_schema`.
    if tool_type != "function" and not (tool_type == "custom" and "input_schema" in given):
        raise InvalidRequest(f"{path}: tools of type {tool_type!r} are not supported; a tool looks like {_example()}")
    function, keys_beside_function = given, set[str]()
    if "function" in given:
        function, keys_beside_function = given["function"], set(given) - {"function"}
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}: the tool has no name; a tool looks like {_example()}")
    function = {key: item for key, item in function.items() if item is not None}
    if unknown := sorted(map(str, keys_beside_function | (set(function) - _KEYS - _IGNORED_KEYS))):
        raise InvalidRequest(f"{path} ({name!r}): the key {unknown[0]!r} is unknown; a tool looks like {_example()}")
    schemas = [function[key] for key in _SCHEMA_KEYS if key in function]
    if len(schemas) > 1:
        raise InvalidRequest(f"{path} ({name!r}): give one of {', '.join(map(repr, _SCHEMA_KEYS))}")
    parameters = (schemas or [None])[0] or {"type": "object", "properties": {}}
    return Tool(name, function.get("description", ""), parameters, function.get("strict"))


def _example() -> str:
    return json.dumps(_EXAMPLE, ensure_ascii=False)


def tool_from_object(value: Any, path: str) -> Tool | None:
    """Return the tool from a tool object of another library, or `None` if `value` is something else.

    Args:
        value: Any object.
        path: The path of the object in the caller's arguments, for error messages.

    Raises:
        InvalidRequest: The object is a tool, but the schema of its arguments can't be used.
    """
    for read in (_from_smolagents, _from_mcp, _from_langchain):
        if (tool := read(value, path)) is not None:
            return tool
    return None


_JSON_TYPES = {"string", "boolean", "integer", "number", "array", "object", "null"}


def _from_smolagents(value: Any, path: str) -> Tool | None:
    """Read a tool of the smolagents package, whose `inputs` are nearly the `properties` of a JSON schema.

    They differ in two ways: the types "any", "image" and "audio" are not JSON types (for the last two, agents pass the
    name of a variable), and `nullable` is not a keyword.
    """
    inputs, tool_name = getattr(value, "inputs", None), getattr(value, "name", None)
    if not isinstance(inputs, dict) or not isinstance(tool_name, str):
        return None
    properties, required = {}, []
    for name, given in inputs.items():
        if not isinstance(name, str) or not isinstance(given, dict):
            raise InvalidRequest(f"{path}: inputs[{name!r}] must be a dict such as {{'type': 'string'}}, by its name")
        schema = {key: item for key, item in given.items() if key != "nullable"}
        types = schema.get("type")
        types = types if isinstance(types, list) else [types]
        if not all(isinstance(item, str | None) for item in types):
            raise InvalidRequest(f"{path}: inputs[{name!r}]['type'] must be a type's name, not {schema['type']!r}")
        if not _JSON_TYPES.issuperset(types):
            schema.pop("type", None)
        if not given.get("nullable"):
            required.append(name)
        else:
            if "type" in schema and "null" not in types:
                schema["type"] = [*types, "null"]
            if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
                schema["enum"] = [*schema["enum"], None]
        properties[name] = schema
    return Tool(tool_name, _description(value), {"type": "object", "properties": properties, "required": required})


def _from_mcp(value: Any, path: str) -> Tool | None:
    for key in ("inputSchema", "input_schema"):
        if isinstance(schema := getattr(value, key, None), dict):
            return Tool(getattr(value, "name", None), _description(value), schema)  # type: ignore[arg-type]
    return None


def _from_langchain(value: Any, path: str) -> Tool | None:
    """Read a tool of LangChain. Arguments that LangChain injects are not part of the schema."""
    name = getattr(value, "name", None)
    if not hasattr(value, "args_schema") or not isinstance(name, str):
        return None
    module = sys.modules.get("langchain_core.tools")
    if module is not None and isinstance(value, module.Tool) and not value.args_schema:
        # The tool's function takes one text. LangChain's own converter gives the argument this name.
        argument = {"title": "__arg1", "type": "string"}
        one_text = {"type": "object", "properties": {"__arg1": argument}, "required": ["__arg1"]}
        return Tool(name, _description(value), one_text)
    schema = getattr(value, "tool_call_schema", None) or value.args_schema
    if not isinstance(schema, dict):
        try:
            schema = close_objects(schema.model_json_schema(schema_generator=schema_generator()))
        except Exception as error:  # pydantic raises several exception types for a type that it can't describe.
            raise InvalidRequest(f"{path} ({name!r}): its args_schema can't be used: {error}") from None
    return Tool(name, _description(value), schema)


def _description(value: Any) -> str:
    return getattr(value, "description", None) or ""
