"""Converts the argument `tools` to `Tool`s, and checks their names and schemas before anything is sent.

`modelport.inputs.tool_functions` converts Python functions and classes, and `modelport.inputs.foreign_tools` converts
tools in the formats of services and of other libraries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.foreign_tools import OBJECT_SOURCES, tool_from_dict, tool_from_object
from modelport.schema.json_text import excerpt
from modelport.schema.references import find_unresolved_reference, inline_root_reference
from modelport.schema.validation import checked_schema
from modelport.types.tools import Tool


def tools_from(values: Iterable[Any]) -> tuple[Tool, ...]:
    """Return the tools from a caller's `tools` argument.

    Args:
        values: The caller's tools. Each can be a Python function, a pydantic model, dataclass or TypedDict, a `Tool`,
            or a dict or an object in one of the formats of `modelport.inputs.foreign_tools`.

    Raises:
        InvalidRequest: A value is not a tool, or two tools have the same name; the message names the path of the value.
    """
    if isinstance(values, (str, dict)) or not isinstance(values, Iterable):
        raise InvalidRequest(f"tools must be a list of tools, not {type(values).__name__}")
    by_name: dict[str, Tool] = {}
    for index, value in enumerate(values):
        tool = _read_tool(value, f"tools[{index}]")
        if by_name.setdefault(tool.name, tool) is not tool:
            raise InvalidRequest(f"tools[{index}]: another tool is named {tool.name!r} too; names must differ")
    return tuple(by_name.values())


def _read_tool(value: Any, path: str) -> Tool:
    """Return a tool, converted and checked.

    Raises:
        InvalidRequest: It is not a tool, or reading it raises an exception. The attributes of another library's object
            may be properties, which run that library's code.
    """
    try:
        return _checked_tool(_tool_from(value, path), path)
    except InvalidRequest:
        raise
    except Exception as error:
        raise InvalidRequest(
            f"{path}: reading this {type(value).__name__} as a tool raised {type(error).__name__}: {excerpt(error)}"
        ) from error


def _tool_from(value: Any, path: str) -> Tool:
    if isinstance(value, Tool):
        return value
    if isinstance(value, dict):
        return tool_from_dict(value, path)
    # This comes before the check for functions, because some tool objects of other libraries can be called too.
    if (tool := tool_from_object(value, path)) is not None:
        return tool
    from modelport.inputs.tool_functions import tool_from_class, tool_from_function

    if isinstance(value, type):
        return tool_from_class(value, path)
    if callable(value):
        return tool_from_function(value, path)
    raise InvalidRequest(
        f"{path}: {type(value).__name__} is not a tool: pass a function, a dict with a name, a description "
        f"and parameters, a pydantic model, or a tool of {OBJECT_SOURCES}"
    )


def _checked_tool(tool: Tool, path: str) -> Tool:
    """Check a tool, and return it with a schema of type `object`, which services require.

    Raises:
        InvalidRequest: The tool's name or schema is not valid.
    """
    if not isinstance(tool.name, str) or not tool.name:
        raise InvalidRequest(f"{path}: the tool has no name: {excerpt(tool.name)}")
    # Services have different rules for names: OpenAI accepts up to 64 letters, digits, `_` and `-`; Anthropic accepts
    # 128 of them, and MCP also allows dots. This check refuses only names that no service accepts.
    if len(tool.name) > 128 or not tool.name.isprintable() or " " in tool.name:
        raise InvalidRequest(
            f"{path}: {excerpt(tool.name)} can't be the name of a tool: a name has at most 128 characters and no "
            "spaces; all services take up to 64 letters, digits, '_' and '-'"
        )
    path = f"{path} ({tool.name!r})"
    if not isinstance(tool.parameters, dict) or not isinstance(tool.description, str):
        raise InvalidRequest(f"{path}: 'parameters' must be a JSON schema (a dict), 'description' a string")
    if not isinstance(tool.strict, bool | None):
        raise InvalidRequest(f"{path}: 'strict' must be True or False, not {excerpt(tool.strict)}")
    parameters = inline_root_reference(tool.parameters)
    if (root_type := parameters.get("type", "object")) != "object":
        raise InvalidRequest(f"{path}: 'parameters' must be a JSON schema of type 'object', not {excerpt(root_type)}")
    try:
        text = json.dumps(parameters, allow_nan=False)
        check = _cached_problem_of_schema if len(text) <= _MAX_CACHED else _problem_of_schema
        problem = check(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path}: 'parameters' is not valid JSON: {error}") from None
    if problem is not None:
        raise InvalidRequest(f"{path}: {problem}")
    if "type" not in parameters:
        parameters = {"type": "object", **parameters}
    return tool if parameters is tool.parameters else replace(tool, parameters=parameters)


def _problem_of_schema(text: str) -> str | None:
    """Return why a schema (as JSON text, which can be a key of the cache) is not valid, or `None` if it is."""
    schema = json.loads(text)
    try:
        checked_schema(schema)
    except InvalidRequest as error:
        return error.message
    if (reference := find_unresolved_reference(schema)) is not None:
        return f"the JSON schema refers to {reference!r}, which is not in it, and nothing is fetched"
    return None


#: Longer schemas are not cached: the cache would keep up to 256 of them.
_MAX_CACHED = 2**16
_cached_problem_of_schema = lru_cache(256)(_problem_of_schema)  # An agent sends the same tools with each call.
