"""Converts the argument `tool_choice` to a `ToolChoice`."""

from __future__ import annotations

from typing import Any

from modelport.errors import InvalidRequest
from modelport.types.tools import NamedToolChoice, Tool, ToolChoice


def tool_choice_from(value: Any, tools: tuple[Tool, ...] | None = None) -> ToolChoice:
    """Return the tool choice from a caller's argument.

    Args:
        value: `auto`, `none`, `required` (also `any`), a tool's name, or the chat completions format
            `{"type": "function", "function": {"name": …}}`.
        tools: The tools of the request; a tool that `value` names must be one of them. `None` for the default
            `tool_choice` that is passed to a model's constructor: without a request, the name can't be compared yet.

    Raises:
        InvalidRequest: `value` is none of these, or requires a tool that the request does not have.
    """
    if value in ("auto", "none", "required"):
        if value == "required" and tools == ():
            raise InvalidRequest("tool_choice='required' needs tools: pass tools=[…]")
        return value  # type: ignore[no-any-return]
    if value == "any":
        return tool_choice_from("required", tools)
    name = value
    if isinstance(value, NamedToolChoice):
        name = value.name
    elif isinstance(value, dict):
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
    names = None if tools is None else [tool.name for tool in tools]
    if not isinstance(name, str) or (names is not None and name not in names):
        given = value.name if isinstance(value, NamedToolChoice) else value
        known = "" if names is None else f" ({', '.join(map(repr, names)) or 'there are none'})"
        raise InvalidRequest(
            f"tool_choice={given!r} is unknown; it must be 'auto', 'none', 'required' or the name of a tool{known}"
        )
    return NamedToolChoice(name)
