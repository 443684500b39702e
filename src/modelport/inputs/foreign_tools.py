"""Converts tools in the formats of services and of other libraries to `Tool`s.

No other module knows these formats. To add one, add its key to `_SCHEMA_KEYS` if a tool is a dict, or a function to
`tool_from_object` if a tool is an object.

A dict has a name, a description and a JSON schema of the arguments. The key of the schema depends on the format:

- OpenAI: `parameters`, in the dict itself or in `{"type": "function", "function": {…}}`;
- Anthropic: `input_schema`, optionally with `"type": "custom"`;
- MCP: `inputSchema`.

An object is recognised by the attribute that describes its arguments, so that its library need not be imported:

- smolagents: `inputs`, a dict with a description of each argument;
- MCP: `inputSchema` (since version 2 of the `mcp` package: `input_schema`), a JSON schema;
- LangChain: `args_schema`, a pydantic model or a JSON schema.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.json_text import excerpt, shorten
from modelport.schema.python_types import forbid_additional_properties, schema_generator
from modelport.types.tools import Tool

#: The libraries whose tool objects are supported, for error messages.
OBJECT_SOURCES = "smolagents, LangChain or MCP"

_EXAMPLE = {
    "type": "function",
    "function": {"name": "get_weather", "description": "…", "parameters": {"type": "object"}},
}
_SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
_KNOWN_KEYS = {"name", "description", "strict", *_SCHEMA_KEYS}
#: Keys of MCP tools, and the key `return` that `transformers.utils.get_json_schema` writes. They have no meaning for a
#: model and are dropped.
_IGNORED_KEYS = {
    "title", "annotations", "outputSchema", "output_schema", "icons", "_meta", "meta", "execution", "return",
}  # fmt: skip


def tool_from_dict(value: dict[str, Any], path: str) -> Tool:
    """Return the tool that a dict in one of the supported formats describes.

    Args:
        value: The dict.
        path: The path of the dict in the caller's arguments, for error messages.

    Raises:
        InvalidRequest: The dict has no name, an unknown key, an unknown type, or more than one schema.
    """
    given = {key: item for key, item in value.items() if item is not None}
    tool_type = given.pop("type", "function")
    # Anthropic writes "custom" where OpenAI writes "function", and has the schema under `input_schema`. OpenAI's tools
    # of type "custom" take free text and have no schema. They are not supported.
    if tool_type != "function" and not (tool_type == "custom" and "input_schema" in given):
        raise InvalidRequest(
            f"{path}: tools of type {excerpt(tool_type)} are not supported; a tool looks like {_example()}"
        )
    function, keys_beside_function = given, set[str]()
    if "function" in given:
        function, keys_beside_function = given["function"], set(given) - {"function"}
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}: the tool has no name; a tool looks like {_example()}")
    function = {key: item for key, item in function.items() if item is not None}
    if unknown := sorted(map(str, keys_beside_function | (set(function) - _KNOWN_KEYS - _IGNORED_KEYS))):
        raise InvalidRequest(
            f"{path} ({excerpt(name)}): the key {excerpt(unknown[0])} is unknown; a tool looks like {_example()}"
        )
    schemas = [function[key] for key in _SCHEMA_KEYS if key in function]
    if len(schemas) > 1:
        raise InvalidRequest(f"{path} ({excerpt(name)}): give one of {', '.join(map(repr, _SCHEMA_KEYS))}")
    parameters = (schemas or [None])[0] or {"type": "object", "properties": {}}
    return Tool(name, function.get("description", ""), parameters, function.get("strict"))


def _example() -> str:
    return json.dumps(_EXAMPLE, ensure_ascii=False)


def tool_from_object(value: Any, path: str) -> Tool | None:
    """Return the tool that an object of another library describes, or `None` if the object is not such a tool.

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
    """Return the tool that an object of smolagents describes, or `None` for other objects.

    Its `inputs` are like the `properties` of a JSON schema, except for two things that JSON Schema does not have:
    `nullable`, which makes an argument optional, and the types "any", "image" and "audio". An argument of these types
    gets a schema without a type, because a model passes an image or audio as the name of a variable.
    """
    inputs, tool_name = getattr(value, "inputs", None), getattr(value, "name", None)
    if not isinstance(inputs, dict) or not isinstance(tool_name, str):
        return None
    properties, required = {}, []
    for name, given in inputs.items():
        if not isinstance(name, str) or not isinstance(given, dict):
            raise InvalidRequest(
                f"{path}: inputs[{excerpt(name)}] must be a dict such as {{'type': 'string'}}, by its name"
            )
        schema = {key: item for key, item in given.items() if key != "nullable"}
        types = schema.get("type")
        types = types if isinstance(types, list) else [types]
        if not all(isinstance(item, str | None) for item in types):
            raise InvalidRequest(
                f"{path}: inputs[{excerpt(name)}]['type'] must be a type's name, not {excerpt(schema['type'])}"
            )
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
    """Return the tool that an object of LangChain describes, or `None` for other objects.

    The schema is `tool_call_schema`, which lacks the arguments that LangChain itself passes to the tool (injected
    arguments). An object without it is described by its `args_schema`.
    """
    name = getattr(value, "name", None)
    if not hasattr(value, "args_schema") or not isinstance(name, str):
        return None
    module = sys.modules.get("langchain_core.tools")
    if module is not None and isinstance(value, module.Tool) and not value.args_schema:
        # The tool's function takes one string. Its name in the schema is the one that LangChain uses for such tools.
        argument = {"title": "__arg1", "type": "string"}
        one_text = {"type": "object", "properties": {"__arg1": argument}, "required": ["__arg1"]}
        return Tool(name, _description(value), one_text)
    schema = getattr(value, "tool_call_schema", None) or value.args_schema
    if not isinstance(schema, dict):
        try:
            schema = forbid_additional_properties(schema.model_json_schema(schema_generator=schema_generator()))
        except Exception as error:  # pydantic raises several exception types for a type that it can't describe.
            raise InvalidRequest(
                f"{path} ({excerpt(name)}): its args_schema can't be used: {shorten(str(error))}"
            ) from None
    return Tool(name, _description(value), schema)


def _description(value: Any) -> str:
    return getattr(value, "description", None) or ""
