"""A model's chat template: renders conversations to prompts, and detects which features the template supports.

Support for system messages, for consecutive messages of one role, and for tools is detected by rendering probe
conversations: a template supports tools, for instance, if the name of a probe tool appears in the rendered prompt.
Support for reasoning and for reasoning efforts is detected by words in the template's source, such as `<think>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.errors import InvalidRequest, ModelError
from modelport.local.bounds import parsed_arguments
from modelport.local.special_tokens import SpecialTokens, separator_for
from modelport.types.content import Image, Text
from modelport.types.messages import ChatMessage
from modelport.types.tools import Tool


@dataclass(frozen=True)
class ToolCallFormat:
    """How a model writes a tool call as text.

    Args:
        begin: The mark before a call.
        end: The mark after a call; empty if a call ends at the next call or at the end of the output.
        parse: A parser for the text between the marks, from the engine's library. It takes that text and the tools in
            OpenAI's format, and returns a dict with `name` and `arguments`, or a list of such dicts. `None` if the text
            is JSON.
    """

    begin: str
    end: str
    parse: Callable[[str, list[dict[str, Any]]], Any] | None = None


#: How open models write a tool call as JSON.
JSON_TOOL_CALL_FORMATS = (
    ToolCallFormat("<tool_call>", "</tool_call>"),
    ToolCallFormat("[TOOL_CALLS]", ""),
    ToolCallFormat("<|python_tag|>", ""),
)

# The messages and the tool of the probe conversations.
_USER = {"role": "user", "content": "probe-user"}
_PARAMETERS = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
_TOOLS = [Tool("probe_tool", "A probe.", _PARAMETERS).to_dict()]
_CALL = {"id": "call00000", "type": "function", "function": {"name": "probe_tool", "arguments": {"x": "probe-x"}}}
_ASSISTANT_CALL = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_TOOL_RESULT = {"role": "tool", "content": "probe-result", "tool_call_id": "call00000", "name": "probe_tool"}
#: Conversations that use the features of templates, each with its tools.
PROBES: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]] | None], ...] = (
    ([_USER], None),
    ([{"role": "system", "content": "probe-system"}, _USER, _USER], None),
    ([_USER, {"role": "assistant", "content": "probe-answer", "reasoning_content": "probe-reason"}, _USER], None),
    ([_USER], _TOOLS),
    ([_USER, _ASSISTANT_CALL, _TOOL_RESULT], _TOOLS),
)


class ChatTemplate:
    """A model's chat template, and the features that it supports.

    Args:
        apply: A function with the arguments of the method `apply_chat_template` of a tokenizer; see `renderer_for`.
        source: The template's source text, in Jinja. If there is no source, the tag that begins the model's reasoning,
            or an empty string.
        variables: Template variables for every rendering, as `{"enable_thinking": False}`.
        content_parts: Whether the template expects each message's content as a list of parts, as templates of
            vision-language models do.
        tool_call_format: How the model writes tool calls, if the engine's library knows it; if `None`, the format is
            detected in a rendered tool call.
        special_tokens: The model's special tokens.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        source: str,
        variables: Mapping[str, Any] | None = None,
        content_parts: bool = False,
        tool_call_format: ToolCallFormat | None = None,
        special_tokens: SpecialTokens | None = None,
    ) -> None:
        self._apply = apply
        self._variables = dict(variables or {})
        self._content_parts = content_parts
        self._special_tokens = special_tokens or SpecialTokens()
        self.supports_reasoning = THINK_OPEN in source or THINK_CLOSE in source
        self.reasoning_efforts = {"none"} if "enable_thinking" in source else set()
        self.reasoning_efforts |= {"low", "medium", "high"} if "reasoning_effort" in source else set()
        self.tool_call_format = self._detect_tool_call_format(tool_call_format)

    def render(
        self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = (), joined: bool = False, **variables: Any
    ) -> list[str]:
        """Render the prompt of a conversation, up to where the model's output begins.

        Args:
            messages: The conversation.
            tools: The tools that the model may call.
            joined: Whether the prompt must be one text. Then a space is put into the spelling of a special token.
            **variables: Further variables of the template.

        Returns:
            The parts of the prompt, to be encoded apart. There is only one, unless a message or a tool contains the
            spelling of a special token.

        Raises:
            InvalidRequest: The template refuses the conversation.
        """
        try:
            conversation: Any = [template_message(message) for message in messages], [tool.to_dict() for tool in tools]
            separator = None
            if self._special_tokens.occur_in(conversation):
                separator = " " if joined else separator_for(conversation)
                conversation = self._special_tokens.break_in(conversation, separator)
            prompt = self._render(*conversation, **variables)
            prompt.encode()  # Fails for half of a surrogate pair, which no tokenizer accepts.
            return [prompt] if joined or separator is None else prompt.split(separator)
        except ModelError:
            raise
        except Exception as error:  # Templates raise exceptions of any kind, among them those of jinja2.
            raise InvalidRequest(f"the model's chat template refuses this conversation: {error}") from None

    def has_special_tokens(self, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> bool:
        """Return whether a message or a tool contains the spelling of a special token."""
        return self._special_tokens.occur_in(([template_message(m) for m in messages], [t.to_dict() for t in tools]))

    def _render(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), **variables: Any) -> str:
        if self._content_parts:
            messages = [{**m, "content": _as_parts(m["content"])} for m in messages]
        rendered = self._apply(
            messages,
            **{
                "tools": list(tools) or None,
                "add_generation_prompt": True,
                **self._variables,
                **variables,
                "tokenize": False,
            },
        )
        return str(rendered)

    def capabilities(self) -> dict[str, Any]:
        """Return what the template supports, as values of `Capabilities` fields."""
        system_message = [{"role": "system", "content": "probe-system"}, _USER]
        two_user_messages = [_USER, {"role": "user", "content": "probe-again"}]
        return {
            "system_role": self._renders(system_message, "probe-system"),
            "consecutive_roles": self._renders(two_user_messages, "probe-user", "probe-again"),
            "tools": self.tool_call_format is not None,
            "reasoning": self.supports_reasoning,
            "reasoning_efforts": self.reasoning_efforts,
        }

    def _renders(self, messages: list[dict[str, Any]], *words: str, tools: Sequence[dict[str, Any]] = ()) -> bool:
        """Return whether the template accepts these messages, and all the words appear in the prompt."""
        try:
            rendered = self._render(messages, tools)
        except Exception:
            return False
        return all(word in rendered for word in words)

    def _detect_tool_call_format(self, known: ToolCallFormat | None) -> ToolCallFormat | None:
        """Return how the model writes tool calls.

        Args:
            known: The format that the engine's library knows, if any. Then the format is not detected.

        Returns:
            `None` if the template does not render tools, tool calls and tool results, or if the format of a rendered
            call is unknown. Then modelport describes the tools in the system message instead.
        """
        if not self._renders([_USER], "probe_tool", tools=_TOOLS):
            return None
        if not self._renders([_USER, _ASSISTANT_CALL, _TOOL_RESULT], "probe-x", "probe-result", tools=_TOOLS):
            return None
        if known is not None:
            return known
        before = self._render([_USER], _TOOLS)
        after = self._render([_USER, _ASSISTANT_CALL, _TOOL_RESULT], _TOOLS)
        # A template may render the last line of the prompt differently if an assistant message follows, so the rendered
        # call is searched from the beginning of that line.
        rendered_call = after[before.rfind("\n") + 1 :]
        for call_format in JSON_TOOL_CALL_FORMATS:
            if call_format.begin in rendered_call:
                return call_format
        return None


def template_message(message: ChatMessage) -> dict[str, Any]:
    """Return a message as chat templates expect it: with tool arguments as objects, and without `None` values."""
    content: Any = message.content
    if isinstance(content, tuple):
        content = [_template_part(part) for part in content]
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
    return parsed_arguments(arguments) if isinstance(arguments, str) else arguments


def _template_part(part: Any) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image"} if isinstance(part, Image) else {"type": part.kind}


def _as_parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
