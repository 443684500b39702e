"""A model's chat template: conversations rendered to prompts, and what the template can do, found by rendering."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.errors import InvalidRequest
from modelport.types.content import Image, Text
from modelport.types.messages import ChatMessage
from modelport.types.tools import Tool


@dataclass(frozen=True)
class CallFormat:
    """How a model writes a call.

    Args:
        begin: The mark before it.
        end: The mark after it; empty where a call goes on to the next or to the end of the answer.
        read: A library's parser for what stands between them, called with the text and the tools as OpenAI writes them;
            gives dicts with `name` and `arguments`, one or a list. `None` for JSON.
    """

    begin: str
    end: str
    read: Callable[[str, list[dict[str, Any]]], Any] | None = None


#: The formats that open models use whose calls are JSON.
JSON_CALLS = (
    CallFormat("<tool_call>", "</tool_call>"),
    CallFormat("[TOOL_CALLS]", ""),
    CallFormat("<|python_tag|>", ""),
)

_USER = {"role": "user", "content": "probe-user"}
_TOOL = Tool("probe_tool", "A probe.", {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]})
_CALL = {"id": "call00000", "type": "function", "function": {"name": "probe_tool", "arguments": {"x": "probe-x"}}}
_CALLING = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "content": "probe-result", "tool_call_id": "call00000", "name": "probe_tool"}


class Template:
    """A chat template.

    Args:
        apply: `apply_chat_template` of a tokenizer or processor.
        source: The template's own text.
        settings: Variables for every rendering, as `{"enable_thinking": False}`.
        parts: Whether contents are lists of parts, as the templates of vision-language models want them.
        calls: How the model writes calls, where the engine's library knows; else it is found in what the template
            writes.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        source: str,
        settings: Mapping[str, Any] | None = None,
        parts: bool = False,
        calls: CallFormat | None = None,
    ) -> None:
        self._apply = apply
        self._settings = dict(settings or {})
        self._parts = parts
        self.thinks = THINK_OPEN in source or THINK_CLOSE in source
        self.efforts = {"none"} if "enable_thinking" in source else set()
        self.efforts |= {"low", "medium", "high"} if "reasoning_effort" in source else set()
        self.calls = self._find_calls(calls)

    def render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = (), **variables: Any) -> str:
        """The prompt for a conversation, up to where the model's answer begins.

        Raises:
            InvalidRequest: The template refuses the conversation.
        """
        try:
            prompt = self._render([_plain(message) for message in messages], tools, **variables)
            prompt.encode()  # A half of a surrogate pair may be written as an escape in a call's arguments.
            return prompt
        except Exception as error:  # Templates raise what they like, jinja2's errors among it.
            raise InvalidRequest(f"the model's chat template refuses this conversation: {error}") from None

    def _render(self, messages: list[dict[str, Any]], tools: Sequence[Tool] = (), **variables: Any) -> str:
        if self._parts:
            messages = [{**m, "content": _as_parts(m["content"])} for m in messages]
        rendered = self._apply(
            messages,
            **{
                "tools": [tool.to_dict() for tool in tools] or None,
                "add_generation_prompt": True,
                **self._settings,
                **variables,
                "tokenize": False,
            },
        )
        return str(rendered)

    def capabilities(self) -> dict[str, Any]:
        """What the template can do, as changes of `Capabilities`."""
        system = [{"role": "system", "content": "probe-system"}, _USER]
        twice = [_USER, {"role": "user", "content": "probe-again"}]
        return {
            "system_role": self._shows(system, "probe-system"),
            "consecutive_roles": self._shows(twice, "probe-user", "probe-again"),
            "tools": self.calls is not None,
            "reasoning": self.thinks,
            "reasoning_efforts": self.efforts,
        }

    def _shows(self, messages: list[dict[str, Any]], *words: str, tools: Sequence[Tool] = ()) -> bool:
        try:
            rendered = self._render(messages, tools)
        except Exception:
            return False
        return all(word in rendered for word in words)

    def _find_calls(self, known: CallFormat | None) -> CallFormat | None:
        """The format of a call, where the template takes tools, calls and results, and writes calls in a known one.

        An unknown format is left to the port, which puts tools into the prompt itself.
        """
        if not self._shows([_USER], "probe_tool", tools=[_TOOL]):
            return None
        if not self._shows([_USER, _CALLING, _RESULT], "probe-x", "probe-result", tools=[_TOOL]):
            return None
        if known is not None:
            return known
        before = self._render([_USER], [_TOOL])
        written = self._render([_USER, _CALLING, _RESULT], [_TOOL])[len(before) - len(_common_end(before)) :]
        for calls in JSON_CALLS:
            if calls.begin in written:
                return calls
        return None


def _common_end(text: str) -> str:
    """The last line of a prompt, where the answer begins: templates may end it differently without an answer."""
    return text[text.rfind("\n") + 1 :]


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates want it: arguments as objects, no `None`."""
    content: Any = message.content
    if isinstance(content, tuple):
        content = [_part(part) for part in content]
        if all(part["type"] == "text" for part in content):
            content = "\n".join(part["text"] for part in content)
    result: dict[str, Any] = {"role": str(message.role), "content": content or ""}
    if message.tool_calls:
        result["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": _arguments(c)}}
            for c in message.tool_calls
        ]
    if message.reasoning:
        result["reasoning_content"] = message.reasoning
    for name in ("tool_call_id", "name"):
        if value := getattr(message, name):
            result[name] = value
    return result


def _arguments(call: Any) -> Any:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
    return arguments


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image"} if isinstance(part, Image) else {"type": part.kind}


def _as_parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
