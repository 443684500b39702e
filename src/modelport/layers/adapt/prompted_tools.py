"""Tools for backends without support for tools: the prompt describes them, and the model calls them in its text.

The rules of this format:

- The system message lists the tools, each as JSON with its name, its description and the JSON schema of its arguments.
- If the model may call a tool, it writes a call as `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, the format
  in which most open models were trained. The text outside of the calls is the text of the message.
- If the model must call a tool, its whole output is one call as JSON without the marks, or a list of calls if parallel
  calls are allowed. A backend that enforces every JSON schema enforces the schema of this output. Otherwise the model
  may also write the marks.
- Tool calls and tool results in earlier messages are written as text: calls in the format above, results between
  `<tool_response>` and `</tool_response>`.
- If a call cannot be parsed, its name is empty and its arguments are its whole text, so that the error can show it.
  The text of a list is shown once, however many of its items are no calls.
"""

from __future__ import annotations

import json
import uuid
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from modelport.errors import ModelError
from modelport.inputs.merging import append_to_system_message
from modelport.layers.base import Deltas
from modelport.layers.stop import StopScanner
from modelport.protocols.output_text.call_formats import TAGGED_JSON
from modelport.protocols.output_text.calls import CallFormat, Schemas, TextCall, read_output
from modelport.protocols.output_text.json_calls import calls_in
from modelport.protocols.output_text.reasoning import ReasoningFormat, split_behind_calls
from modelport.schema.json_text import json_size_problem
from modelport.schema.references import relocate
from modelport.types.capabilities import Capabilities
from modelport.types.content import Text, text_of
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
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
    call_format: CallFormat = TAGGED_JSON,
    schemas: Schemas = MappingProxyType({}),  # It is immutable.
    reasoning_format: ReasoningFormat | None = None,
    prompt_tail: str = "",
) -> Deltas:
    """Turn the tool calls in the text of these deltas into `tool_calls`.

    Args:
        deltas: The deltas of the backend.
        forced: Whether the whole text is one call as JSON, or a list of calls.
        call_format: How the model writes calls, unless `forced`.
        schemas: The schemas of the tools' arguments, by the tools' names. Some formats need them to read arguments.
        reasoning_format: How the model writes reasoning, which can also follow the calls.
        prompt_tail: The end of the prompt that may be the mark before a call.

    Yields:
        The text before the first call as soon as it arrives, but without the line breaks before the call. All calls and
        the text behind the first come at the end of the output.

    Raises:
        MalformedResponse: There are too many calls.
    """
    scanner = StopScanner(call_format.begins)
    in_call = forced
    is_blank = True  # Whether the text has only white space so far.
    line_breaks = ""  # The line breaks at the end of the text so far, which are not yielded yet.
    call_texts: list[str] = []
    closing = ChatMessageStreamDelta()
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text = delta.content or ""
                if not in_call and text:
                    if is_blank and call_format.is_whole_output and text.lstrip().startswith("{"):
                        in_call = True
                        call_texts.append(line_breaks + text)
                        text = line_breaks = ""
                    else:
                        not_emitted = scanner.buffered + text
                        text, found = scanner.feed(text)
                        if found:
                            in_call = True
                            call_texts.append(not_emitted[len(text) :])
                        is_blank = is_blank and not text.strip()
                        joined = line_breaks + text
                        text = joined.rstrip("\n")
                        line_breaks = joined[len(text) :]
                elif in_call:
                    call_texts.append(text)
                    text = ""
                emitted = replace(delta, content=text or None)
                # Finish reason and token usage are yielded after the calls, in the closing delta.
                if delta.finish_reason is not None or delta.token_usage is not None:
                    closing.finish_reason = delta.finish_reason or closing.finish_reason
                    closing.token_usage = delta.token_usage or closing.token_usage
                    emitted.finish_reason = emitted.token_usage = None
                if not emitted.is_empty:
                    yield emitted
        except ModelError:
            # An incomplete call is emitted as text, so that nothing is lost.
            if rest := line_breaks + ("".join(call_texts) or scanner.flush()):
                yield ChatMessageStreamDelta(content=rest)
            raise
    call_text = "".join(call_texts)
    reasoning = ""
    if forced:
        calls, rest = _read_forced(call_text)
    else:
        outside_calls = reasoning_format.outside_calls if reasoning_format is not None else {}
        calls, rest = read_output(call_text, call_format, schemas, outside_calls)
        if reasoning_format is not None:
            reasoning, rest = split_behind_calls(reasoning_format, rest, bool(calls))
    rest = rest.strip() if calls else rest
    if not calls:
        rest = rest.removeprefix(prompt_tail) if is_blank else rest
        rest = line_breaks + scanner.flush() + rest
    elif rest and not is_blank:
        rest = f"\n{rest}"
    if calls or rest or reasoning:
        yield ChatMessageStreamDelta(
            content=rest or None, reasoning=reasoning or None, tool_calls=_as_deltas(calls) or None
        )
    if calls and closing.finish_reason == "stop":
        closing.finish_reason = "tool_calls"
    yield closing


def _read_forced(text: str) -> tuple[list[TextCall], str]:
    """Return the calls in a text that should be one call as JSON, or a list of them, and the text outside of the calls.

    If the backend does not enforce this, the model may also write the marks in which it was trained, or no call at all.
    """
    if json_size_problem(text) is not None:
        return [TextCall("", text)], ""
    try:
        calls = calls_in(json.loads(text), text)
        return calls, "" if calls else text
    except (ValueError, RecursionError):
        is_json = text.lstrip().startswith(("{", "["))
        return ([TextCall("", text)], "") if is_json else read_output(text, TAGGED_JSON, {})


def _as_deltas(calls: list[TextCall]) -> list[ChatMessageToolCallStreamDelta]:
    return [
        ChatMessageToolCallStreamDelta(
            i, f"call_{uuid.uuid4().hex[:24]}", "function", ChatMessageToolCallFunction(call.arguments, call.name)
        )
        for i, call in enumerate(calls)
    ]
