"""Target: outputs of local models, made of the marks of their formats, pieces of calls, JSON and words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import strategies as st

from modelport import ChatMessage, accumulate
from modelport.errors import ModelError
from modelport.layers.adapt.prompted_tools import read_calls
from modelport.protocols.output_text.call_formats import CALL_FORMATS
from modelport.protocols.output_text.reasoning import ReasoningReader
from modelport.protocols.output_text.reasoning_formats import REASONING_FORMATS
from modelport.testing import ScriptedModel
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from tests.fuzz.target import Target

_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "n": {"$ref": "#/$defs/n"}, "o": {"type": "object"}},
    "$defs": {"n": {"type": "integer"}},
}
_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": _SCHEMA}}
_PIECES = (
    '{"name": "f", "arguments": {"a": "x"}}', '{"name": "f", "parameters": {"n": 1}}', '{"name": "g", "args": {}}',
    '[{"name": "f"}, {"name": "f"}]', '{"f": {"a": "x"}}', '{"a": "', '"}', "{}", "[1]", "{", "}", "[", "]", '"', "'",
    "f(a='x', n=-1)", "f(", "a=", ", ", ")", 'call:f{a:<|"|>x<|"|>,n:1}', "call:f{", '<|"|>', "functions.f:0", "f\n",
    "<function=f>", "<parameter=a>\n", "\n</parameter>", "\n<parameter=n>\n", "</function>", '<invoke name="f">',
    '<parameter name="a">', "</invoke>", '<param name="a"><![CDATA[', "]]></param>", "<arg_key>a</arg_key>",
    "<arg_value>1</arg_value>", "<a>", "</a>", "Paris", " is ", "\n", "\n\n", "<", "|>", "é", "\\", "```json\n",
    "\\ud83d",
)  # fmt: skip


_JSON, _TAGS = '{"name": "f", "arguments": {"a": @json@}}', "<function=f>\n<parameter=a>\n@\n</parameter>\n</function>"
#: What stands between the marks of a call, if not the usual JSON: `@json@` is an argument as JSON, `@` as text.
_CALLS = {
    "Qwen3-Coder": _TAGS,
    "Seed": _TAGS,
    "GLM": "f<arg_key>a</arg_key><arg_value>@</arg_value>",
    "Apertus": '[{"f": {"a": @json@}}]',
    "Functionary 3.1": 'f>{"a": @json@}',
    "Functionary 3.2": 'f\n{"a": @json@}',
    "Kimi K2": '<|tool_call_begin|>f:0<|tool_call_argument_begin|>{"a": @json@}<|tool_call_end|>',
    "Kimi K3": '<|open|>call tool="f"<|sep|><|open|>argument key="a"<|sep|>@<|close|>argument<|sep|>'
    "<|close|>call<|sep|>",
    "DeepSeek": '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": @json@}<｜tool▁call▁end｜>',
    "DeepSeek markup": '<｜DSML｜invoke name="f"><｜DSML｜parameter name="a">@</｜DSML｜parameter></｜DSML｜invoke>',
    "Hunyuan": "<tool_call:opensource>f<tool_sep:opensource><arg_key:opensource>a</arg_key:opensource>"
    "<arg_value:opensource>@</arg_value:opensource></tool_call:opensource>",
    "MiniMax M2": '<invoke name="f"><parameter name="a">@</parameter></invoke>',
    "MiniMax M3": ']<]minimax[>[<invoke name="f">]<]minimax[>[<a>@]<]minimax[>[</a>]<]minimax[>[</invoke>',
    "MiniCPM": '"f"><param name="a">@</param></function>',
    "LFM": "f(a=@json@)",
    "Gemma 4": 'call:f{a:<|"|>@<|"|>}',
    "FunctionGemma": "call:f{a:<escape>@<escape>}",
    "harmony": 'functions.f<|channel|>commentary json<|message|>{"a": @json@}<|call|>',
    "Muse": 'f<|message|><atem:function_calls><atem:invoke name="f"><atem:parameter name="a">@</atem:parameter>'
    "</atem:invoke></atem:function_calls><|eom|>",
    "Solar": '<|tool_call:begin|>1<|tool_call:name|>f<|tool_call:args|>{"a": @json@}<|tool_call:end|>',
}


def _call(calls: str, argument: str) -> str:
    """Return a call of a tool as a model writes it."""
    form, text = CALL_FORMATS[calls], _CALLS.get(calls, _JSON)
    written = text.replace("@json@", json.dumps(argument)) if "@json@" in text else text.replace("@", argument)
    return form.begins[0] + written + form.end


class _Output(NamedTuple):
    """An output of a model, as pieces of text.

    Args:
        calls: The name of the format of its calls.
        reasoning: The name of the format of its reasoning; empty if there is none.
        prompt: The end of the prompt.
        pieces: The output.
        argument: The argument of the call that the whole output is; `None` if it is anything else.
    """

    calls: str
    reasoning: str
    prompt: str
    pieces: list[str]
    argument: str | None = None


@st.composite
def _outputs(draw: st.DrawFn) -> _Output:
    calls = draw(st.sampled_from(sorted(CALL_FORMATS)))
    names = [calls] if calls in REASONING_FORMATS else ["", "think"]
    reasoning = draw(st.sampled_from((*names, *names, *names, *REASONING_FORMATS)))
    marks = [*CALL_FORMATS[calls].begins, CALL_FORMATS[calls].end, *CALL_FORMATS[calls].names.split()]
    if form := REASONING_FORMATS.get(reasoning):
        marks += [*form.begins, *form.ends, *form.content_marks, *form.kept]
    marks = [mark for mark in marks if mark]
    piece = st.sampled_from([*marks, *marks, *(mark[: len(mark) // 2] for mark in marks), *_PIECES])
    pieces = draw(st.lists(piece | piece.map(lambda argument: _call(calls, argument)), max_size=24))
    argument = None
    if draw(st.integers(0, 3)) == 0:
        argument = (
            draw(st.text("xyz ", max_size=4)) if "@json@" not in _CALLS.get(calls, _JSON) else "".join(pieces[:9])
        )
        pieces = [_call(calls, argument)]
    elif draw(st.integers(0, 9)) == 0:  # Many calls, or many beginnings of one.
        pieces.insert(0, "".join(draw(st.lists(piece, max_size=3))) * draw(st.sampled_from((1030, 20_000))))
    text = "".join(pieces)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    streamed = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    if len(text) < 200 and draw(st.booleans()):
        streamed = list(text)
    prompt = draw(st.sampled_from(("", *marks))) if argument is None else ""
    return _Output(calls, reasoning, prompt, streamed, argument)


def _read(output: _Output, pieces: list[str]) -> ChatMessage | ModelError:
    """Read an output as local engines do."""
    call_format, form = CALL_FORMATS[output.calls], REASONING_FORMATS.get(output.reasoning)
    tail = form.tail_of(output.prompt) if form is not None else ""

    async def backend() -> AsyncGenerator[ChatMessageStreamDelta, None]:
        reader = ReasoningReader(form, tail, call_format.begins) if form is not None else None
        for index, piece in enumerate(pieces):
            final = index == len(pieces) - 1
            reasoning, content = reader.feed(piece, final) if reader is not None else ("", piece)
            yield ChatMessageStreamDelta(content=content or None, reasoning=reasoning or None)
        yield ChatMessageStreamDelta(finish_reason="stop")

    async def work() -> list[ChatMessageStreamDelta]:
        return [delta async for delta in read_calls(backend(), False, call_format, {"f": _SCHEMA}, form, tail)]

    try:
        return accumulate(asyncio.run(work()))
    except ModelError as error:
        return error


def _summary(result: ChatMessage | ModelError) -> Any:
    if isinstance(result, ModelError):
        return str(result)
    calls = [(call.function.name, call.function.arguments) for call in result.tool_calls or ()]
    return json.dumps([result.text, result.reasoning, calls, result.finish_reason])


def _play(output: _Output) -> ChatMessage:
    whole, streamed = _read(output, ["".join(output.pieces)]), _read(output, output.pieces)
    assert _summary(whole) == _summary(streamed), "a streamed output is not read as the whole output"
    if isinstance(whole, ModelError):
        raise whole
    if output.argument is not None and output.reasoning in ("", "think", output.calls):
        arguments = [call.function.arguments for call in whole.tool_calls or ()]
        assert arguments == [{"a": output.argument}], "an argument has changed"
        assert (whole.text, whole.reasoning) == ("", None), "a call has text or reasoning outside of it"
    calls = [
        ChatMessageToolCallStreamDelta(
            index, call.id, "function", ChatMessageToolCallFunction(call.function.arguments, call.function.name)
        )
        for index, call in enumerate(whole.tool_calls or ())
    ]
    delta = ChatMessageStreamDelta(content=whole.text, reasoning=whole.reasoning, tool_calls=calls or None)
    closing = ChatMessageStreamDelta(finish_reason=whole.finish_reason)
    return ScriptedModel([delta, closing], retry=False).generate("hi", tools=[_TOOL])


OUTPUTS = {"local models: texts with calls and reasoning": Target(_outputs(), _play)}
