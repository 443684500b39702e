"""Where tools come from: the forms in which callers have them, made one and checked before anything is sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.output_types import grammar_from
from modelport.schema.python_types import closed, tight
from modelport.schema.references import rooted, unresolved
from modelport.types.output_types import JSONSchema
from modelport.types.tools import Tool


def tools_from(values: Iterable[Any]) -> tuple[Tool, ...]:
    """The tools that a caller's `tools` argument means.

    Args:
        values: Python functions, tool dicts of OpenAI, Anthropic or MCP, pydantic models, dataclasses, TypedDicts,
            `Tool`s, tools of the smolagents package or of LangChain, and MCP tools, mixed.

    Raises:
        InvalidRequest: One is no tool, or two have the same name; the message names its place.
    """
    if isinstance(values, (str, dict)) or not isinstance(values, Iterable):
        raise InvalidRequest(f"tools must be a list of tools, not {type(values).__name__}")
    tools = tuple(
        _checked(_tool_from(value, place), place)
        for value, place in ((value, f"tools[{n}]") for n, value in enumerate(values))
    )
    names = [tool.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidRequest(f"tools[{place}]: a tool named {name!r} is there already; names must differ")
    return tools


def _tool_from(value: Any, place: str) -> Tool:
    if isinstance(value, Tool):
        return value
    if isinstance(value, dict):
        return _from_dict(value, place)
    name, description = getattr(value, "name", None), getattr(value, "description", None) or ""
    if isinstance(inputs := getattr(value, "inputs", None), dict) and isinstance(name, str):
        return Tool(name, description, _smolagents_schema(inputs, place))
    for key in ("inputSchema", "input_schema"):  # an MCP tool; the second since version 2 of its package
        if isinstance(schema := getattr(value, key, None), dict):
            return Tool(name, description, schema)  # type: ignore[arg-type]  # The name is checked.
    if hasattr(value, "args_schema") and isinstance(name, str):
        return Tool(name, description, _langchain_schema(value, place))
    from modelport.inputs.tool_functions import tool_from_class, tool_from_function

    if isinstance(value, type):
        return tool_from_class(value, place)
    if callable(value):
        return tool_from_function(value, place)
    raise InvalidRequest(
        f"{place}: {type(value).__name__} is no tool: pass a function, a tool dict of OpenAI's form, a pydantic model, "
        "or a tool of smolagents, LangChain or MCP"
    )


# --- dicts ------------------------------------------------------------------------------------------------------------

_EXAMPLE = {
    "type": "function",
    "function": {"name": "get_weather", "description": "…", "parameters": {"type": "object"}},
}
_SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
_KEYS = {"name", "description", "strict", *_SCHEMA_KEYS}
#: What MCP, and the `get_json_schema` of transformers, say to programs and not to models.
_FOR_PROGRAMS = {
    "title", "annotations", "outputSchema", "output_schema", "icons", "_meta", "meta", "execution", "return",
}  # fmt: skip


def _from_dict(value: dict[str, Any], place: str) -> Tool:
    given = {key: item for key, item in value.items() if item is not None}
    kind = given.pop("type", "function")
    # "custom" is to Anthropic what "function" is to OpenAI, and to OpenAI a tool that takes free text.
    if kind != "function" and not (kind == "custom" and "input_schema" in given):
        raise InvalidRequest(f"{place}: tools of type {kind!r} are not known here; they look like {_example()}")
    function, beside = given, set[str]()
    if "function" in given:
        function, beside = given["function"], set(given) - {"function"}
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{place}: the tool has no name; it looks like {_example()}")
    function = {key: item for key, item in function.items() if item is not None}
    if unknown := sorted(map(str, beside | (set(function) - _KEYS - _FOR_PROGRAMS))):
        raise InvalidRequest(f"{place} ({name!r}): the key {unknown[0]!r} is unknown; a tool looks like {_example()}")
    schemas = [function[key] for key in _SCHEMA_KEYS if key in function]
    if len(schemas) > 1:
        raise InvalidRequest(f"{place} ({name!r}): give one of {', '.join(map(repr, _SCHEMA_KEYS))}")
    parameters = (schemas or [None])[0] or {"type": "object", "properties": {}}
    return Tool(name, function.get("description", ""), parameters, function.get("strict"))


def _example() -> str:
    return json.dumps(_EXAMPLE, ensure_ascii=False)


# --- other packages' tools --------------------------------------------------------------------------------------------

_JSON_TYPES = {"string", "boolean", "integer", "number", "array", "object", "null"}


def _smolagents_schema(inputs: dict[str, Any], place: str) -> dict[str, Any]:
    """The JSON schema of a smolagents tool's `inputs`.

    "any", "image" and "audio" are no JSON types (agents pass the name of a variable), `nullable` is no keyword.
    """
    properties, required = {}, []
    for name, given in inputs.items():
        if not isinstance(name, str) or not isinstance(given, dict):
            raise InvalidRequest(f"{place}: inputs[{name!r}] must be a dict such as {{'type': 'string'}}, by its name")
        prop = {key: item for key, item in given.items() if key != "nullable"}
        kinds = prop.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if not all(isinstance(kind, str | None) for kind in kinds):
            raise InvalidRequest(f"{place}: inputs[{name!r}]['type'] must be a type's name, not {prop['type']!r}")
        if not _JSON_TYPES.issuperset(kinds):
            prop.pop("type", None)
        if not given.get("nullable"):
            required.append(name)
        else:
            if "type" in prop and "null" not in kinds:
                prop["type"] = [*kinds, "null"]
            if isinstance(prop.get("enum"), list) and None not in prop["enum"]:
                prop["enum"] = [*prop["enum"], None]
        properties[name] = prop
    return {"type": "object", "properties": properties, "required": required}


def _langchain_schema(tool: Any, place: str) -> Any:
    """What a call of a LangChain tool must give, without the arguments that are injected."""
    module = sys.modules.get("langchain_core.tools")
    if module is not None and isinstance(tool, module.Tool) and not tool.args_schema:
        # Its function takes one text, whatever its name; LangChain's own converter calls it so.
        argument = {"title": "__arg1", "type": "string"}
        return {"type": "object", "properties": {"__arg1": argument}, "required": ["__arg1"]}
    schema = getattr(tool, "tool_call_schema", None) or tool.args_schema
    if isinstance(schema, dict):
        return schema
    try:
        return closed(schema.model_json_schema(schema_generator=tight()))
    except Exception as error:  # pydantic raises several kinds for what it can't describe.
        raise InvalidRequest(f"{place} ({tool.name!r}): its args_schema can't be used: {error}") from None


# --- checks -----------------------------------------------------------------------------------------------------------


def _checked(tool: Tool, place: str) -> Tool:
    """The tool, with the root of its schema as services want it.

    Raises:
        InvalidRequest: It can't be sent, or no call could be held against it.
    """
    if not isinstance(tool.name, str) or not tool.name:
        raise InvalidRequest(f"{place}: the tool has no name: {tool.name!r}")
    # Each service has its own rule: OpenAI takes 64 letters, digits, `_` and `-`; MCP and Anthropic 128 characters, MCP
    # dots too. Only what none of them takes is refused here.
    if len(tool.name) > 128 or not tool.name.isprintable() or " " in tool.name:
        raise InvalidRequest(
            f"{place}: the name {tool.name!r} can't be a tool's: it must be at most 128 characters without spaces; "
            "all services take up to 64 letters, digits, '_' and '-'"
        )
    place = f"{place} ({tool.name!r})"
    if not isinstance(tool.parameters, dict) or not isinstance(tool.description, str):
        raise InvalidRequest(f"{place}: 'parameters' must be a JSON schema (a dict), 'description' a string")
    if not isinstance(tool.strict, bool | None):
        raise InvalidRequest(f"{place}: 'strict' must be True or False, not {tool.strict!r}")
    parameters = rooted(tool.parameters)
    if (kind := parameters.get("type", "object")) != "object":
        raise InvalidRequest(f"{place}: 'parameters' must be a JSON schema of type 'object', not {kind!r}")
    try:
        problem = _problem_of(json.dumps(parameters, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{place}: 'parameters' is no JSON: {error}") from None
    if problem is not None:
        raise InvalidRequest(f"{place}: {problem}")
    if "type" not in parameters:
        parameters = {"type": "object", **parameters}
    return tool if parameters is tool.parameters else replace(tool, parameters=parameters)


@lru_cache(256)  # An agent sends the same tools with each call.
def _problem_of(text: str) -> str | None:
    schema = json.loads(text)
    try:
        grammar_from(JSONSchema(schema))
    except InvalidRequest as error:
        return error.message
    if (reference := unresolved(schema)) is not None:
        return f"the JSON schema refers to {reference!r}, which is not in it, and nothing is fetched"
    return None
