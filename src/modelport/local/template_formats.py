"""Finds how a model writes reasoning and tool calls, by rendering conversations with its chat template.

A format counts only if it reads back what the template has written. If no format does, the template's support for tools
is not used: modelport describes the tools in the prompt instead, and reads calls in a format of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

from modelport.protocols.output_text.call_formats import CALL_FORMATS
from modelport.protocols.output_text.calls import CallFormat, CallReader, Schemas, TextCall, read_output
from modelport.protocols.output_text.json_calls import calls_in, read_json_calls
from modelport.protocols.output_text.reasoning import ReasoningFormat, ReasoningReader
from modelport.protocols.output_text.reasoning_formats import REASONING_FORMATS, THINK
from modelport.types.tools import Tool

#: Renders messages with tools; the third argument is whether the model's output follows. It raises errors of any kind.
Render = Callable[[list[dict[str, Any]], Sequence[dict[str, Any]], bool], str]

USER = {"role": "user", "content": "probe-user"}
_PARAMETERS = {
    "type": "object",
    "properties": {
        "x": {"type": "string", "description": "A text."},
        "n": {"type": "integer", "description": "A number."},
        "deep": {
            "type": "object",
            "description": "An object.",
            "properties": {"list": {"type": "array", "items": {"type": "string"}}},
        },
    },
    "required": ["x"],
}
TOOLS = [Tool(name, "A probe.", _PARAMETERS).to_dict() for name in ("probe_tool", "probe_other")]
_SCHEMAS: Schemas = {"probe_tool": _PARAMETERS, "probe_other": _PARAMETERS}
_ARGUMENTS = {"x": "probe-x", "n": 7, "deep": {"list": ["a", "b"]}}
_OTHER_ARGUMENTS = {"x": "probe-y"}
#: IDs like those that modelport gives to calls. Some templates accept only shorter ones.
_IDS = ("call_0123456789abcdef01234567", "call_fedcba9876543210fedcba98")
#: How many letters and digits the IDs have that Mistral's templates accept.
_SHORT_ID = 9
#: How many marks in a rendered text are tried as the one before a call. Ordinary texts have a few.
_MAX_MARKS = 64


def _call(index: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": _IDS[index], "type": "function", "function": {"name": name, "arguments": dict(arguments)}}


def _assistant(*calls: dict[str, Any], content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def _result(index: int, name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": _IDS[index], "name": name}


_FIRST, _SECOND = _call(0, "probe_tool", _ARGUMENTS), _call(1, "probe_other", _OTHER_ARGUMENTS)
ONE_CALL = [USER, _assistant(_FIRST), _result(0, "probe_tool", "probe-result")]
_TWO_CALLS = [
    USER,
    _assistant(_FIRST, _SECOND),
    _result(0, "probe_tool", "probe-result"),
    _result(1, "probe_other", "probe-other"),
]
_TEXT_AND_CALL = [
    USER,
    {**_assistant(_FIRST, content="probe-answer"), "reasoning_content": "probe-reason"},
    _result(0, "probe_tool", "probe-result"),
]


@dataclass(frozen=True)
class HistoryStyle:
    """How a template expects the tool calls of earlier messages.

    Args:
        arguments_as_text: Whether arguments are JSON text, and not objects.
        short_ids: Whether the IDs of calls are nine letters and digits.
        one_call: Whether a message has one call at most. Then each call is followed by its own result.
        text_beside_calls: Whether a message with reasoning and calls also has text. If not, the text is a message of
            its own.
        written_by: The format in which calls are written into the text of a message, because the template drops them.
    """

    arguments_as_text: bool = False
    short_ids: bool = False
    one_call: bool = False
    text_beside_calls: bool = True
    written_by: CallFormat | None = None

    def apply(self, messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return messages in this style."""
        messages = [self._message(message) for message in messages]
        if not self.text_beside_calls:
            messages = [part for message in messages for part in _text_apart(message)]
        return _one_call_each(messages) if self.one_call else messages

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.short_ids and isinstance(message.get("tool_call_id"), str):
            message = {**message, "tool_call_id": short_id(message["tool_call_id"])}
        if not message.get("tool_calls"):
            return message
        if self.written_by is not None and self.written_by.write is not None:
            calls = [
                (call["function"]["name"], _as_object(call["function"]["arguments"])) for call in message["tool_calls"]
            ]
            text, content = self.written_by.write(calls), message.get("content") or ""
            content = content + text if isinstance(content, str) else [*content, {"type": "text", "text": text}]
            return {name: value for name, value in message.items() if name != "tool_calls"} | {"content": content}
        return {**message, "tool_calls": [self._tool_call(call) for call in message["tool_calls"]]}

    def _tool_call(self, call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        if self.arguments_as_text and not isinstance(function["arguments"], str):
            function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
        identifier = short_id(call["id"]) if self.short_ids and isinstance(call.get("id"), str) else call.get("id")
        return {**call, "id": identifier, "function": function}


def _as_object(arguments: Any) -> dict[str, Any]:
    """Return the arguments of a call as an object. Text that is no object is the only argument of it."""
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def short_id(identifier: str) -> str:
    """Return the last nine letters and digits of the ID of a call. An ID that is shorter is filled up."""
    return re.sub(r"[^a-zA-Z0-9]", "", identifier)[-_SHORT_ID:].rjust(_SHORT_ID, "0")


def _text_apart(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message, or one with its text and one with its calls."""
    if not message.get("tool_calls") or not message.get("content"):
        return [message]
    return [{"role": message["role"], "content": message["content"]}, {**message, "content": ""}]


def _one_call_each(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages in which each tool call has a message of its own, followed by its result."""
    result: list[dict[str, Any]] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            result.append(message)
            continue
        answers = []
        while position < len(messages) and messages[position].get("role") == "tool":
            answers.append(messages[position])
            position += 1
        for index, call in enumerate(calls):
            own = [answer for answer in answers if answer.get("tool_call_id") == call.get("id")]
            first = message if not index else {"role": message["role"], "content": ""}
            result += [{**first, "tool_calls": [call]}, *own]
            answers = [answer for answer in answers if answer not in own]
        result += answers
    return result


def rendered_text(render: Render, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return what a template writes for the last message, as if the model had written it.

    Args:
        render: Renders conversations.
        messages: The conversation. The last message is the assistant's.
        tools: The tools.

    Returns:
        The prompt before the text, and the text. It starts where it differs from the prompt that the template writes
        for a new output, but not within a mark.
    """
    text = render(messages, tools, False)
    start = _common_length(text, render(messages[:-1], tools, True))
    least = _common_length(text, render(messages[:-1], tools, False))
    mark = max(text.rfind("<", 0, start), text.rfind("[", 0, start))
    if mark >= least and not re.search(r"[>\]]", text[mark:start]):
        start = mark
    return text[:start], text[start:]


def _common_length(first: str, second: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def find_style(render: Render) -> HistoryStyle | None:
    """Return the style in which a template renders tools, a call and its result; `None` if it does not render them."""
    if not _renders(render, [USER], "probe_tool"):
        return None
    for as_text, short in product((False, True), repeat=2):
        style = HistoryStyle(as_text, short)
        if _renders(render, style.apply(ONE_CALL), "probe-x", "probe-result"):
            words = ("probe-x", "probe-y", "probe-result", "probe-other")
            style = replace(style, one_call=not _renders(render, style.apply(_TWO_CALLS), *words))
            return replace(style, text_beside_calls=_renders(render, style.apply(_TEXT_AND_CALL), "probe-x"))
    for call_format in CALL_FORMATS.values():
        if any(_renders(render, [USER], hint) for hint in call_format.hints):
            style = HistoryStyle(written_by=call_format)
            return style if _renders(render, style.apply(_TWO_CALLS), "probe-x", "probe-result") else None
    return None


def _renders(render: Render, messages: list[dict[str, Any]], *words: str) -> bool:
    try:
        text = render(messages, TOOLS, True)
    except Exception:
        return False
    return all(word in text for word in words)


def find_call_format(
    render: Render, style: HistoryStyle, reasoning_format: ReasoningFormat | None, library: CallFormat | None = None
) -> CallFormat | None:
    """Return the format that reads back the calls that a template writes; `None` if none does.

    Args:
        render: Renders conversations.
        style: The style of the template's history.
        reasoning_format: The model's marks around reasoning.
        library: A format that the engine's library reads, if there is one.
    """
    cases = [([_FIRST], ONE_CALL)] + ([] if style.one_call else [([_FIRST, _SECOND], _TWO_CALLS)])
    texts = []
    for calls, conversation in cases:
        try:
            texts.append((calls, _written(render, style.apply(conversation[:2]), style.apply(conversation))))
        except Exception:
            return None
    formats = [*CALL_FORMATS.values(), _tagged_json(texts[0][1][1]), library]
    for call_format in filter(None, formats):
        if _is_time_over():
            return None
        if all(_reads(call_format, reasoning_format, *text, calls) for calls, text in texts):
            return call_format
    return None


def _is_time_over() -> bool:
    """Return whether the time for finding the features of a template is over. Reading a hostile text takes long."""
    from modelport.local.template_budget import is_shared_time_over  # jinja2 is loaded with a local model only.

    return is_shared_time_over()


def _written(render: Render, without_result: list[dict[str, Any]], whole: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the prompt, and what the template writes for a call. Some templates require a result behind it."""
    try:
        return rendered_text(render, without_result, TOOLS)
    except Exception:
        prompt, text = render([USER], TOOLS, False), render(whole, TOOLS, False)
        start = _common_length(prompt, text)
        return text[:start], text[start:]


def _reads(
    call_format: CallFormat,
    reasoning_format: ReasoningFormat | None,
    prompt: str,
    text: str,
    expected: list[dict[str, Any]],
) -> bool:
    """Return whether a format reads the expected calls in a text that follows a prompt."""
    outside_calls = dict[str, str]()
    if reasoning_format is not None:
        reader = ReasoningReader(reasoning_format, reasoning_format.tail_of(prompt), call_format.begins)
        text, outside_calls = reader.feed(text, final=True)[1], reasoning_format.outside_calls
    try:
        found, _ = read_output(text, call_format, _SCHEMAS, outside_calls)
        values = [(name, json.loads(arguments)) for name, arguments in found]
    except Exception:
        return False
    return values == [(call["function"]["name"], call["function"]["arguments"]) for call in expected]


def _tagged_json(text: str) -> CallFormat | None:
    """Return a format for calls in JSON between marks that no model of the table has."""
    for match in islice(re.finditer(r"(<[^\s<>]+>|\[[A-Z_]+\])\s*(?=[\[{])", text), _MAX_MARKS):
        try:
            _, position = read_json_calls(text, match.end(), _SCHEMAS)
        except ValueError:
            continue
        end = re.match(r"</[^\s<>]+>|\[/[A-Z_]+\]", text[position:].lstrip())
        return CallFormat((match[1],), end[0] if end else "", read_json_calls)
    return None


def library_format(begin: str, end: str, parse: Callable[[str, list[dict[str, Any]]], Any]) -> CallFormat:
    """Return a format whose calls an engine's library reads.

    Args:
        begin: The mark before a call.
        end: The mark after a call; empty if a call ends at the next one.
        parse: The library's parser. It takes the text between the marks, and the tools in OpenAI's format, and returns
            a dict with `name` and `arguments`, or a list of such dicts.
    """

    def read(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
        stop = text.find(end or begin, position)
        stop = len(text) if stop < 0 else stop
        tools = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in schemas.items()]
        try:
            return calls_in(parse(text[position:stop], tools), text[position:stop]), stop
        except Exception as error:  # Such parsers raise exceptions of any kind.
            raise ValueError(f"the library can't read the call: {error}") from None

    reader: CallReader = read
    return CallFormat((begin,), end, reader)


def find_reasoning_format(render: Render, source: str) -> ReasoningFormat | None:
    """Return the marks of a model around its reasoning; `None` if there are none.

    Args:
        render: Renders conversations.
        source: The template's source. Some templates contain the marks, but drop the reasoning of earlier messages.
    """
    conversation = [USER, {"role": "assistant", "content": "probe-answer", "reasoning_content": "probe-reason"}]
    try:
        prompt, text = rendered_text(render, conversation, ())
    except Exception:
        prompt = text = ""
    if "probe-reason" in text:
        for reasoning_format in REASONING_FORMATS.values():
            if _is_time_over():
                return None
            reader = ReasoningReader(reasoning_format, reasoning_format.tail_of(prompt))
            reasoning, content = reader.feed(text, final=True)
            if reasoning.strip() == "probe-reason" and "probe-answer" in content:
                return reasoning_format
        tags = re.search(r"(<[^\s<>/]+>|\[[A-Z_]+\])\s*probe-reason\s*(</[^\s<>]+>|\[/[A-Z_]+\])", prompt[-64:] + text)
        if tags:
            return ReasoningFormat(tags[1], tags[2])
    return reasoning_format_in(source)


def reasoning_format_in(source: str) -> ReasoningFormat | None:
    """Return the format whose marks the source of a chat template contains; `None` if it contains none."""
    for reasoning_format in REASONING_FORMATS.values():
        marks = tuple(filter(None, (reasoning_format.begin or reasoning_format.before_content, reasoning_format.end)))
        # Many templates contain only one of the marks of `<think>`.
        enough = any if reasoning_format is THINK else all
        if enough(mark in source or mark.replace("\n", "\\n") in source for mark in marks):
            return reasoning_format
    return None
