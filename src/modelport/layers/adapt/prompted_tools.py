"""Tools for models whose backend has none: described in the prompt, called by text, read back into tool calls.

The form is the one that most open models have seen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. A forced
call is bare JSON, held to a schema by the backend's grammar where it has one.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from modelport.errors import ModelError
from modelport.layers.adapt.capabilities import with_system_text
from modelport.layers.base import Deltas
from modelport.layers.stop import StopScanner
from modelport.schema.references import relocate
from modelport.types.capabilities import Capabilities
from modelport.types.content import Text, text_of
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction, MessageRole
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def prompted(request: Request, capabilities: Capabilities) -> tuple[Request, bool]:
    """The request with its tools in the prompt, and whether the whole answer is to be a call.

    Args:
        request: Holds tools, or messages with tool calls in them.
        capabilities: Of the backend, whose grammar holds a forced call to its schema.
    """
    messages = tuple(_as_text(message) for message in request.messages)
    tools = request.tools
    if isinstance(request.tool_choice, NamedToolChoice):
        tools = tuple(tool for tool in tools if tool.name == request.tool_choice.name)
    parameters = {key: value for key, value in request.parameters.items() if key != "parallel_tool_calls"}
    if not tools or request.tool_choice == "none":
        return request.replace(messages=messages, tools=(), tool_choice="auto", parameters=parameters), False
    forced = request.tool_choice != "auto"
    many = bool(request.parameters.get("parallel_tool_calls"))
    messages = with_system_text(messages, _instructions(tools, forced, many))
    grammar: Any = request.grammar
    if forced:
        # Where a backend takes a subset of schemas, tools' own are not made to fit it.
        holds = JSONSchema in capabilities.grammars and capabilities.schema_rules is None
        grammar = JSONSchema(call_schema(tools, many), name="tool_call") if holds else None
    return (
        request.replace(
            messages=messages, tools=(), tool_choice="auto", grammar=grammar, parameters=parameters,
            # Stop sequences are for text; a call's JSON may hold them.
            stop_sequences=() if forced else request.stop_sequences,
        ),
        forced,
    )  # fmt: skip


def _instructions(tools: tuple[Tool, ...], forced: bool, many: bool) -> str:
    # Without `strict`, which is a word to services.
    listed = "\n".join(json.dumps(replace(tool, strict=None).to_dict()["function"]) for tool in tools)
    call = '{"name": <name of the tool>, "arguments": <its arguments>}'
    if forced:
        how = (
            f"Answer with {'a JSON list of calls, each' if many else 'one call'} of this form, and nothing else: {call}"
        )
    else:
        how = f"To call one, answer with {OPEN}{call}{CLOSE}; otherwise answer as usual."
    return f"You can call these tools, given with the JSON schema of their arguments:\n{listed}\n{how}"


def call_schema(tools: tuple[Tool, ...], many: bool) -> dict[str, Any]:
    """The JSON schema of one call of these tools, or of a list of calls."""
    definitions: dict[str, Any] = {}
    calls = []
    for place, tool in enumerate(tools):
        arguments = relocate(tool.parameters, f"/$defs/tool{place}")
        if arguments != tool.parameters:
            # It refers to itself, or to definitions, whose names another tool may use too: all of it stays together.
            definitions[f"tool{place}"] = arguments
            arguments = {"$ref": f"#/$defs/tool{place}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if many:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 8}
    return {**schema, "$defs": definitions} if definitions else schema


def _as_text(message: ChatMessage) -> ChatMessage:
    """A message of the history with its calls, or its tool result, written as text."""
    if message.role == MessageRole.TOOL:
        head, tail = "<tool_response>\n", "\n</tool_response>"
        if isinstance(message.content, tuple):  # which may hold images
            return ChatMessage(MessageRole.USER, (Text(head), *message.content, Text(tail)))
        return ChatMessage(MessageRole.USER, f"{head}{text_of(message.content)}{tail}")
    if not message.tool_calls:
        return message
    functions = [call.function for call in message.tool_calls]
    written = [
        # Arguments that are JSON text already stay the object that they are.
        f'{OPEN}{{"name": {json.dumps(f.name)}, "arguments": {f.arguments_json() or "{}"}}}{CLOSE}'
        for f in functions
    ]
    content = "\n".join([*filter(None, [text_of(message.content)]), *written])
    return replace(message, content=content, tool_calls=None)


async def read_calls(
    deltas: Deltas,
    forced: bool,
    marks: tuple[str, str] = (OPEN, CLOSE),
    read: Callable[[str], Any] | None = None,
) -> Deltas:
    """Turns the text of calls in these deltas into tool calls.

    Text before the first call passes on as it comes; calls are given out whole, when the answer has ended.

    Args:
        deltas: Of the backend.
        forced: Whether the whole text is a call, or a list of calls.
        marks: What a call begins and ends with; a call without an end mark goes on to the end of the answer.
        read: Makes a dict with `name` and `arguments`, or a list of them, of the text between the marks; `None` where
            it can't. By default the text is JSON, as that of a forced call always is.
    """
    scanner = StopScanner([marks[0]])
    calling = forced
    written = ""
    closing = ChatMessageStreamDelta()
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text = delta.content or ""
                if not calling and text:
                    whole = scanner.buffered + text
                    text, found = scanner.feed(text)
                    if found:
                        calling, written = True, whole[len(text) :]
                elif calling:
                    written += text
                    text = ""
                ends = delta.finish_reason is not None or delta.token_usage is not None
                if ends:
                    closing = replace(delta, content=None)
                rest = ChatMessageStreamDelta(content=text or None) if ends else replace(delta, content=text or None)
                if not rest.is_empty:
                    yield rest
        except ModelError:
            if left := written or scanner.flush():  # Nothing is lost: half a call goes out as the text that it is.
                yield ChatMessageStreamDelta(content=left)
            raise
    calls = _calls(written, forced, marks, read)
    left = scanner.flush() if calls else scanner.flush() + written
    if calls or left:
        yield ChatMessageStreamDelta(content=left or None, tool_calls=calls or None)
    if calls and closing.finish_reason == "stop":
        closing = replace(closing, finish_reason="tool_calls")
    yield closing


def _calls(
    written: str, forced: bool, marks: tuple[str, str], read: Callable[[str], Any] | None
) -> list[ChatMessageToolCallStreamDelta]:
    """The calls in this text; one that can't be read keeps its raw text as its arguments."""
    if forced:
        pieces = [written]
    else:
        begin, end = (re.escape(mark) for mark in marks)
        pieces = [m[1] for m in re.finditer(f"{begin}(.*?)(?:{end or begin}|$)", written, re.DOTALL)]
    found: list[tuple[str, Any]] = []
    for piece in filter(str.strip, pieces):
        try:
            value = json.loads(piece) if forced or read is None else read(piece)
        except (ValueError, RecursionError):
            value = None
        for call in value if isinstance(value, list) else [value]:
            if isinstance(call, dict) and isinstance(call.get("name"), str):
                key = "arguments" if "arguments" in call else "parameters"
                arguments = call.get(key, {})
                if not isinstance(arguments, str):
                    is_all = call is value and (forced or read is None)
                    arguments = (_as_written(piece, key) if is_all else None) or json.dumps(arguments)
                found.append((call["name"], arguments))
            else:
                found.append(("", piece))
    return [
        ChatMessageToolCallStreamDelta(
            i, f"call_{uuid.uuid4().hex[:24]}", "function", ChatMessageToolCallFunction(arguments, name)
        )
        for i, (name, arguments) in enumerate(found)
    ]


_KEY = re.compile(r'[\s{,]*("(?:[^"\\]|\\.)*")\s*:\s*')


def _as_written(text: str, key: str) -> str | None:
    """The JSON text of the key's value in the text of an object; `None` where it has no such key."""
    found, place, decoder = None, 0, json.JSONDecoder()
    while head := _KEY.match(text, place):
        _, place = decoder.raw_decode(text, head.end())
        if json.loads(head[1]) == key:
            found = text[head.end() : place]
    return found
