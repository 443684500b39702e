"""A model's chat template: renders conversations to prompts, and detects which features the template supports.

Support for system messages, for consecutive messages of one role, and for tools is detected by rendering probe
conversations. A template supports tools if it renders a tool, a call and its result, and if the call can be read back
from the rendered text (`template_formats`). Support for reasoning efforts is detected by words in the template's
source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from modelport.errors import InvalidRequest, ModelError
from modelport.local.bounds import parsed_arguments
from modelport.local.detokenizer import special_token_ids
from modelport.local.special_tokens import SpecialTokens, separator_for
from modelport.local.template_formats import (
    ONE_CALL,
    TOOLS,
    USER,
    HistoryStyle,
    find_call_format,
    find_reasoning_format,
    find_style,
)
from modelport.protocols.output_text.calls import CallFormat
from modelport.types.content import Image, Text
from modelport.types.messages import ChatMessage
from modelport.types.tools import Tool

#: Conversations that use the features of templates, each with its tools.
PROBES: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]] | None], ...] = (
    ([USER], None),
    ([{"role": "system", "content": "probe-system"}, USER, USER], None),
    ([USER, {"role": "assistant", "content": "probe-answer", "reasoning_content": "probe-reason"}, USER], None),
    ([USER], TOOLS),
    (ONE_CALL, TOOLS),
)
#: How long the rendering of a conversation of probes may be. What is longer is not searched for marks: the template
#: counts as one without that feature. Templates of 70 published models render less than 8,000 characters.
_MAX_PROBE = 2**17


class ChatTemplate:
    """A model's chat template, and the features that it supports.

    Args:
        apply: A function with the arguments of the method `apply_chat_template` of a tokenizer; see `renderer_for`.
        source: The template's source text, in Jinja. If there is no source, the tag that begins the model's reasoning,
            or an empty string.
        variables: Template variables for every rendering, as `{"enable_thinking": False}`.
        content_parts: Whether the template expects each message's content as a list of parts, as templates of
            vision-language models do.
        library_calls: How the model writes tool calls, if the engine's library can read them. It is used where no
            format of modelport's own reads a rendered call.
        special_tokens: The model's special tokens.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        source: str,
        variables: Mapping[str, Any] | None = None,
        content_parts: bool = False,
        library_calls: CallFormat | None = None,
        special_tokens: SpecialTokens | None = None,
    ) -> None:
        self._apply = apply
        self._variables = dict(variables or {})
        self._content_parts = content_parts
        self._special_tokens = special_tokens or SpecialTokens()
        self._hidden_tokens: frozenset[int] | None = None
        from modelport.local.template_budget import shared_time

        with shared_time():
            self._detect(source, library_calls)

    def _detect(self, source: str, library_calls: CallFormat | None) -> None:
        """Detect the features by rendering conversations."""
        #: The marks around the model's reasoning and its content; `None` if there are none.
        self.reasoning_format = find_reasoning_format(self.probe, source)
        #: Whether the model reasons. Some models have marks around their content alone.
        self.supports_reasoning = self.reasoning_format is not None and bool(self.reasoning_format.begin)
        self.reasoning_efforts = {"none"} if "enable_thinking" in source else set()
        self.reasoning_efforts |= {"low", "medium", "high"} if "reasoning_effort" in source else set()
        style = find_style(self.probe)
        #: How the template expects the tool calls of earlier messages.
        self.style = style or HistoryStyle()
        #: How the model writes tool calls; `None` if the template does not support tools, or if its calls can't be
        #: read. Then modelport describes the tools in the system message instead.
        self.call_format = None
        if style is not None:
            self.call_format = find_call_format(self.probe, style, self.reasoning_format, library_calls)
        system_message = [{"role": "system", "content": "probe-system"}, USER]
        two_user_messages = [USER, {"role": "user", "content": "probe-again"}]
        self._system_role = self._renders(system_message, "probe-system")
        self._consecutive_roles = self._renders(two_user_messages, "probe-user", "probe-again")

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
            prompt = self._render(self.style.apply(conversation[0]), conversation[1], **variables)
            prompt.encode()  # Fails for half of a surrogate pair, which no tokenizer accepts.
            return [prompt] if joined or separator is None else prompt.split(separator)
        except ModelError:
            raise
        except Exception as error:  # Templates raise exceptions of any kind, among them those of jinja2.
            raise InvalidRequest(f"the model's chat template refuses this conversation: {error}") from None

    def has_special_tokens(self, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> bool:
        """Return whether a message or a tool contains the spelling of a special token."""
        return self._special_tokens.occur_in(([template_message(m) for m in messages], [t.to_dict() for t in tools]))

    def probe(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], generation_prompt: bool) -> str:
        """Render messages to find what the template supports. It may raise an exception of any kind."""
        text = self._render(messages, tools, add_generation_prompt=generation_prompt)
        if len(text) > _MAX_PROBE:
            raise InvalidRequest(f"the chat template renders a short conversation as {len(text)} characters")
        return text

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
        return {
            "system_role": self._system_role,
            "consecutive_roles": self._consecutive_roles,
            "tools": self.call_format is not None,
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

    def hidden_tokens(self, tokenizer: Any, eos: Iterable[int]) -> frozenset[int]:
        """Return the ids of the tokens that are not part of an output's text.

        Args:
            tokenizer: The model's tokenizer. Its special tokens are hidden, except those in marks.
            eos: The token ids that end an output. They are hidden too.
        """
        if self._hidden_tokens is None:
            marks = " ".join(form.marks for form in (self.reasoning_format, self.call_format) if form is not None)
            tokens = special_token_ids(tokenizer)
            self._hidden_tokens = frozenset([*eos, *(number for text, number in tokens.items() if text not in marks)])
        return self._hidden_tokens


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
