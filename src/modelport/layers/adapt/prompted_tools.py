"""Tools for backends without support for tools: the prompt describes them, and the model calls them in its text.

The rules of this format:

- The system message lists the tools, each as JSON with its name, its description and the JSON schema of its arguments.
- If the model may call a tool, it writes a call as `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, the format
  in which most open models were trained. The text before the first call is the text of the message.
- If the model must call a tool, its whole output is one call as JSON without the marks, or a list of calls if parallel
  calls are allowed. A backend that enforces every JSON schema enforces the schema of this output.
- Tool calls and tool results in earlier messages are written as text: calls in the format above, results between
  `<tool_response>` and `</tool_response>`.
- If a call cannot be parsed, its name is empty and its arguments are its whole text, so that the error can show it.
  The text of a list is shown once, however many of its items are no calls.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed lacks it.
from typing import Any

from modelport.errors import MalformedResponse, ModelError
from modelport.inputs.merging import append_to_system_message
from modelport.layers.base import Deltas
from modelport.layers.stop import StopScanner
from modelport.schema.json_text import json_size_problem
from modelport.schema.references import relocate
from modelport.types.capabilities import Capabilities
from modelport.types.content import Text, text_of
from modelport.types.deltas import MAX_TOOL_CALLS, ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction, MessageRole
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool

#: The marks around a tool call in the text.
OPEN, CLOSE = "<tool_call>", "</tool_call>"


def put_tools_into_prompt(request: Request, capabilities: Capabilities) -> tuple[Request, bool]:
    """Return the request with its tools described in the prompt, and whether the whole output must be a tool call.

    Args:
        request: A request with tools, or with tool calls in its messages.
        capabilities: What the backend supports. If it enforces every JSON schema, and not only a subset, the schema of
            a required call becomes the output type of the request.
    """
    messages = tuple(_as_text(message) for message in request.messages)
    tools = request.tools
    if isinstance(request.tool_choice, NamedToolChoice):
        tools = tuple(tool for tool in tools if tool.name == request.tool_choice.name)
    parameters = {key: value for key, value in request.parameters.items() if key != "parallel_tool_calls"}
    if not tools or request.tool_choice == "none":
        return request.replace(messages=messages, tools=(), tool_choice="auto", parameters=parameters), False
    forced = request.tool_choice != "auto"  # The model must call a tool.
    parallel = bool(request.parameters.get("parallel_tool_calls"))
    messages = append_to_system_message(messages, _instructions(tools, forced=forced, parallel=parallel))
    grammar: Any = request.grammar
    if forced:
        # `schema_rules` means that the backend enforces only a subset of JSON Schema. The schema of a call is not
        # rewritten to the subset, so such a backend cannot enforce it.
        enforceable = JSONSchema in capabilities.grammars and capabilities.schema_rules is None
        grammar = JSONSchema(call_schema(tools, parallel=parallel), name="tool_call") if enforceable else None
    return (
        request.replace(
            messages=messages, tools=(), tool_choice="auto", grammar=grammar, parameters=parameters,
            # A stop sequence could occur in the JSON of the call, and would truncate it.
            stop_sequences=() if forced else request.stop_sequences,
        ),
        forced,
    )  # fmt: skip


def _instructions(tools: tuple[Tool, ...], *, forced: bool, parallel: bool) -> str:
    """Return the text that describes the tools and how to call them."""
    # `strict` is left out: it is an option for a service, and means nothing to the model.
    listed = "\n".join(json.dumps(replace(tool, strict=None).to_dict()["function"]) for tool in tools)
    call = '{"name": <name of the tool>, "arguments": <its arguments>}'
    if forced:
        calls = "a JSON list of calls, each" if parallel else "one call"
        how = f"Answer with {calls} of this form, and nothing else: {call}"
    else:
        how = f"To call one, answer with {OPEN}{call}{CLOSE}; otherwise answer as usual."
    return f"You can call these tools, given with the JSON schema of their arguments:\n{listed}\n{how}"


def call_schema(tools: tuple[Tool, ...], *, parallel: bool) -> dict[str, Any]:
    """Return the JSON schema of one call of these tools, or of a list of calls if parallel calls are allowed."""
    definitions: dict[str, Any] = {}
    calls = []
    for index, tool in enumerate(tools):
        arguments = relocate(tool.parameters, f"/$defs/tool{index}")
        if arguments != tool.parameters:
            # `relocate` has changed references, so the schema refers to its own root or to its own `$defs`. Other tools
            # may use the same names in `$defs`. So the whole schema becomes a definition with a name of its own.
            definitions[f"tool{index}"] = arguments
            arguments = {"$ref": f"#/$defs/tool{index}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if parallel:
        # `maxItems` keeps a weak model from writing calls without end.
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 8}
    return {**schema, "$defs": definitions} if definitions else schema


def _as_text(message: ChatMessage) -> ChatMessage:
    """Return an earlier message with its tool calls or its tool result written as text."""
    if message.role == MessageRole.TOOL:
        begin, end = "<tool_response>\n", "\n</tool_response>"
        if isinstance(message.content, tuple):  # The parts may be images, so they are not joined into one text.
            return ChatMessage(MessageRole.USER, (Text(begin), *message.content, Text(end)))
        return ChatMessage(MessageRole.USER, f"{begin}{text_of(message.content)}{end}")
    if not message.tool_calls:
        return message
    functions = [call.function for call in message.tool_calls]
    calls = [
        # `arguments_json` returns the arguments as JSON text; arguments that are JSON text already stay unchanged.
        f'{OPEN}{{"name": {json.dumps(function.name)}, "arguments": {function.arguments_json() or "{}"}}}{CLOSE}'
        for function in functions
    ]
    content = "\n".join([*filter(None, [text_of(message.content)]), *calls])
    return replace(message, content=content, tool_calls=None)


async def read_calls(
    deltas: Deltas,
    forced: bool,
    marks: tuple[str, str] = (OPEN, CLOSE),
    parse: Callable[[str], Any] | None = None,
) -> Deltas:
    """Turn the tool calls in the text of these deltas into `tool_calls`.

    Args:
        deltas: The deltas of the backend.
        forced: Whether the whole text is one call, or a list of calls.
        marks: The texts at which a call begins and ends. If the second is empty, a call ends where the next call
            begins, or at the end of the output.
        parse: A function that parses the text between the marks into a dict with `name` and `arguments`, or into a list
            of such dicts. It returns `None` if the text is not valid. By default, and always if `forced`, the text is
            parsed as JSON.

    Yields:
        The text before the first call as soon as it arrives, and all calls at the end of the output.

    Raises:
        MalformedResponse: There are too many calls.
    """
    scanner = StopScanner([marks[0]])
    in_call = forced
    call_texts: list[str] = []
    closing = ChatMessageStreamDelta()
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text = delta.content or ""
                if not in_call and text:
                    not_emitted = scanner.buffered + text
                    text, found = scanner.feed(text)
                    if found:
                        in_call = True
                        call_texts.append(not_emitted[len(text) :])
                elif in_call:
                    call_texts.append(text)
                    text = ""
                # Finish reason and token usage are yielded after the calls, in the closing delta.
                is_last = delta.finish_reason is not None or delta.token_usage is not None
                if is_last:
                    closing = replace(delta, content=None)
                emitted = (
                    ChatMessageStreamDelta(content=text or None) if is_last else replace(delta, content=text or None)
                )
                if not emitted.is_empty:
                    yield emitted
        except ModelError:
            if (
                rest := "".join(call_texts) or scanner.flush()
            ):  # An incomplete call is emitted as text, so that nothing is lost.
                yield ChatMessageStreamDelta(content=rest)
            raise
    call_text = "".join(call_texts)
    calls = _parse_calls(call_text, forced, marks, parse)
    rest = scanner.flush() if calls else scanner.flush() + call_text
    if calls or rest:
        yield ChatMessageStreamDelta(content=rest or None, tool_calls=calls or None)
    if calls and closing.finish_reason == "stop":
        closing = replace(closing, finish_reason="tool_calls")
    yield closing


def _parse_calls(
    text: str, forced: bool, marks: tuple[str, str], parse: Callable[[str], Any] | None
) -> list[ChatMessageToolCallStreamDelta]:
    """Return the calls in this text. A call that cannot be parsed has an empty name, and its text as its arguments.

    Text that is too large to be parsed is one such call.

    Raises:
        MalformedResponse: There are too many calls.
    """
    if not text:
        return []
    found: list[tuple[str, str]] = []
    if json_size_problem(text) is not None:
        found.append(("", text))
    else:
        for call_text in filter(str.strip, [text] if forced else _texts_between(text, *marks)):
            found += _calls_in(call_text, None if forced else parse)
            _check_number(len(found))
    return [
        ChatMessageToolCallStreamDelta(
            i, f"call_{uuid.uuid4().hex[:24]}", "function", ChatMessageToolCallFunction(arguments, name)
        )
        for i, (name, arguments) in enumerate(found)
    ]


def _texts_between(text: str, begin: str, end: str) -> list[str]:
    """Return the texts between the marks. Without an end mark, a call ends where the next one begins."""
    if not begin:
        return [text]
    texts = []
    position = text.find(begin)
    while position >= 0:
        start = position + len(begin)
        stop = text.find(end or begin, start)
        texts.append(text[start:stop] if stop >= 0 else text[start:].removesuffix("\n"))
        _check_number(len(texts))
        position = text.find(begin, stop + len(end)) if stop >= 0 else -1
    return texts


def _check_number(calls: int) -> None:
    if calls > MAX_TOOL_CALLS:
        raise MalformedResponse(f"The response has more than {MAX_TOOL_CALLS} tool calls.")


def _calls_in(text: str, parse: Callable[[str], Any] | None) -> list[tuple[str, str]]:
    """Return the names and the arguments of the calls in the text between two marks.

    However many items of a list are no calls, the text is returned once for all of them.
    """
    try:
        value = json.loads(text) if parse is None else parse(text)
    except Exception:  # Parsers of an engine's library raise exceptions of any kind.
        value = None
    found: list[tuple[str, str]] = []
    is_valid = True
    for call in value if isinstance(value, list) else [value]:
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            # Some models write `parameters` instead of `arguments`.
            key = "arguments" if "arguments" in call else "parameters"
            arguments = call.get(key, {})
            if not isinstance(arguments, str):
                # Arguments that the model wrote as JSON are returned as the same text. Encoding them again could
                # change them, for example the digits of a number.
                original = _original_json(text, key) if call is value and parse is None else None
                arguments = original or _as_json(arguments) or text
            found.append((call["name"], arguments))
            _check_number(len(found))
        elif is_valid:
            is_valid = False
            found.append(("", text))
    return found


def _as_json(arguments: Any) -> str | None:
    try:
        return json.dumps(arguments)
    except (TypeError, ValueError, RecursionError):  # A parser returned a Python object that JSON does not have.
        return None


#: The most keys of a call that `_original_json` reads. A call has two.
_MAX_KEYS = 32
_BEFORE_KEY, _BEFORE_VALUE = re.compile(r'[\s{,]*+"'), re.compile(r"\s*+:\s*+")


def _original_json(text: str, key: str) -> str | None:
    """Return the text of the value that a key has in the text of a JSON object, or `None` if the object lacks the key.

    If the key occurs several times, the last value counts, as in `json.loads`. An object with many keys is no call that
    a model would write: the result is `None`, because reading them one by one would take long.
    """
    value_text, position, decoder = None, 0, json.JSONDecoder()
    for _ in range(_MAX_KEYS):
        if (before := _BEFORE_KEY.match(text, position)) is None:
            return value_text
        name, position = scanstring(text, before.end())
        between = _BEFORE_VALUE.match(text, position)
        assert between is not None  # The text is a valid JSON object.
        _, position = decoder.raw_decode(text, between.end())
        if name == key:
            value_text = text[between.end() : position]
    return None
