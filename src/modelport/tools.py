"""Tools that a model may call, from the forms in which callers have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from modelport.errors import InvalidRequest, InvalidToolCall
from modelport.grammar import mismatch, type_adapter
from modelport.messages import ChatMessage


@dataclass(frozen=True)
class Tool:
    """A tool as models are told of it.

    Args:
        name: Letters, digits, `_` and `-`.
        description: What it does and when to use it.
        parameters: A JSON schema of type `object`.
    """

    name: str
    description: str
    parameters: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The tool in OpenAI's form."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.parameters},
        }

    def check(self, arguments: Any) -> None:
        """Holds a call's arguments against the schema.

        Raises:
            ValueError: They don't fit; the message says where.
            InvalidRequest: The schema itself is broken.
        """
        if (problem := mismatch(self.parameters, arguments)) is not None:
            raise ValueError(problem)


@dataclass(frozen=True)
class Named:
    """The tool choice "call this tool"."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | Named


def tools_from(values: Iterable[Any]) -> tuple[Tool, ...]:
    """The tools that a caller's `tools` argument means.

    Args:
        values: Python functions, OpenAI's tool dicts, pydantic models, `Tool`s, tools of the smolagents package or of
            LangChain, and MCP tools, mixed.

    Raises:
        InvalidRequest: One is no tool, or two have the same name; the message names its place.
    """
    if isinstance(values, (str, dict)) or not isinstance(values, Iterable):
        raise InvalidRequest(f"tools must be a list of tools, not {type(values).__name__}")
    tools = tuple(_tool_from(value, f"tools[{place}]") for place, value in enumerate(values))
    names = [tool.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidRequest(f"tools[{place}]: a tool named {name!r} is there already; names must differ")
    return tools


def tool_choice_from(value: Any, tools: tuple[Tool, ...]) -> ToolChoice:
    """The tool choice that a caller's argument means.

    Args:
        value: `auto`, `none`, `required` (also `any`), a tool's name, or OpenAI's
            `{"type": "function", "function": {"name": …}}`.
        tools: The tools of the request.

    Raises:
        InvalidRequest: It is none of these, or names a tool that is not there.
    """
    if value in ("auto", "none", "required"):
        if value == "required" and not tools:
            raise InvalidRequest("tool_choice='required' needs tools: pass tools=[…]")
        return value  # type: ignore[no-any-return]
    if value == "any":
        return tool_choice_from("required", tools)
    name = value
    if isinstance(value, Named):
        name = value.name
    elif isinstance(value, dict):
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
    names = [tool.name for tool in tools]
    if not isinstance(name, str) or name not in names:
        raise InvalidRequest(
            f"tool_choice={value!r} is unknown; it must be 'auto', 'none', 'required' or the name of a tool "
            f"({', '.join(map(repr, names)) or 'there are none'})"
        )
    return Named(name)


def check_calls(message: ChatMessage, tools: tuple[Tool, ...]) -> None:
    """Holds a message's tool calls against the tools of the request.

    Raises:
        InvalidToolCall: One is broken; the error keeps its raw text and the whole message.
    """
    by_name = {tool.name: tool for tool in tools}
    for place, call in enumerate(message.tool_calls or ()):
        name, arguments = call.function.name, call.function.arguments
        if isinstance(arguments, str):
            problem = "its arguments are no valid JSON"
        elif name not in by_name:
            problem = f"there is no such tool; there are {', '.join(map(repr, by_name)) or 'none'}"
        else:
            try:
                by_name[name].check(arguments)
                continue
            except ValueError as error:
                problem = f"its arguments don't fit the tool's schema {error}"
        raise InvalidToolCall(
            f"The model's tool call {place} ({name!r}) can't be used: {problem}",
            text=call.function.arguments_json(),
            partial=message,
            model_id=message.model_id,
        )


def _tool_from(value: Any, place: str) -> Tool:
    if isinstance(value, Tool):
        return value
    if isinstance(value, dict):
        return _from_dict(value, place)
    if isinstance(getattr(value, "inputs", None), dict) and isinstance(getattr(value, "name", None), str):
        return Tool(value.name, value.description or "", _smolagents_schema(value.inputs))
    for key in ("inputSchema", "input_schema"):  # an MCP tool; the second since version 2 of its package
        if isinstance(schema := getattr(value, key, None), dict):
            return Tool(value.name, getattr(value, "description", None) or "", schema)
    if hasattr(value, "args_schema") and isinstance(getattr(value, "name", None), str):
        # A LangChain tool: what a call must give, without the arguments that are injected.
        schema = getattr(value, "tool_call_schema", None) or value.args_schema
        return Tool(
            value.name, value.description or "", schema if isinstance(schema, dict) else schema.model_json_schema()
        )
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        return Tool(value.__name__, (value.__doc__ or "").strip(), value.model_json_schema())
    if callable(value):
        return _from_function(value, place)
    raise InvalidRequest(
        f"{place}: {type(value).__name__} is no tool: pass a function, a tool dict of OpenAI's form, a pydantic model, "
        "or a tool of smolagents, LangChain or MCP"
    )


def _from_dict(value: dict[str, Any], place: str) -> Tool:
    function = value.get("function", value)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{place}: the tool has no name; it looks like {json.dumps(_EXAMPLE)}")
    parameters = function.get("parameters", function.get("inputSchema")) or {"type": "object", "properties": {}}
    description = function.get("description") or ""
    if not isinstance(parameters, dict) or not isinstance(description, str):
        raise InvalidRequest(f"{place} ({name!r}): 'parameters' must be a JSON schema (a dict), 'description' a string")
    try:
        json.dumps(parameters)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{place} ({name!r}): 'parameters' is no JSON: {error}") from None
    return Tool(name, description, parameters)


_EXAMPLE = {
    "type": "function",
    "function": {"name": "get_weather", "description": "…", "parameters": {"type": "object"}},
}


_JSON_TYPES = {"string", "boolean", "integer", "number", "array", "object", "null"}


def _smolagents_schema(inputs: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a smolagents tool's `inputs`.

    "any", "image" and "audio" are no JSON types (agents pass the name of a variable), `nullable` is no keyword.
    """
    properties, required = {}, []
    for name, given in inputs.items():
        prop = {key: item for key, item in given.items() if key != "nullable"}
        kinds = prop.get("type")
        if not _JSON_TYPES.issuperset(kinds if isinstance(kinds, list) else [kinds]):
            prop.pop("type", None)
        if given.get("nullable"):
            if isinstance(prop.get("type"), str):
                prop["type"] = [prop["type"], "null"]
        else:
            required.append(name)
        properties[name] = prop
    return {"type": "object", "properties": properties, "required": required}


def _from_function(function: Callable[..., Any], place: str) -> Tool:
    import inspect
    import typing

    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise InvalidRequest(f"{place}: a function without a name can't be a tool; give it one with 'def'")
    doc = inspect.getdoc(function) or ""
    described = _argument_docs(doc)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{place} ({name}): its signature can't be read: {error}") from None
    properties: dict[str, Any] = {}
    required: list[str] = []
    definitions: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidRequest(
                f"{place} ({name}): *args and **kwargs can't be described to a model; name each argument"
            )
        try:
            schema = type_adapter(hints.get(parameter.name, Any)).json_schema(ref_template="#/$defs/{model}")
        except Exception as error:  # pydantic raises several kinds for what it can't describe.
            problem = str(error).splitlines()[0]
            raise InvalidRequest(f"{place} ({name}): {parameter.name!r} has a type without schema: {problem}") from None
        definitions |= schema.pop("$defs", {})
        if parameter.name in described:
            schema.setdefault("description", described[parameter.name])
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        else:
            try:
                schema.setdefault("default", json.loads(json.dumps(parameter.default)))
            except TypeError:
                pass  # A default that JSON can't hold is still a default: the argument is optional.
        properties[parameter.name] = schema
    parameters: dict[str, Any] = {
        "type": "object", "properties": properties, "required": required, "additionalProperties": False,
    }  # fmt: skip
    if definitions:
        parameters["$defs"] = definitions
    return Tool(name, doc.split("\n\n")[0].strip(), parameters)


def _argument_docs(doc: str) -> dict[str, str]:
    """The argument descriptions of a Google-style docstring."""
    lines = iter(doc.splitlines())
    if not any(line.strip() in ("Args:", "Arguments:", "Parameters:") for line in lines):
        return {}
    described: dict[str, str] = {}
    current, margin = "", None
    for line in lines:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        margin = depth if margin is None else margin
        if depth < margin or depth == 0:
            break
        head, colon, text = line.strip().partition(":")
        if depth == margin and colon:
            current = head.split("(")[0].strip(" *`")
            described[current] = text.strip()
        elif current:
            described[current] += " " + line.strip()
    return described
