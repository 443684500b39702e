"""Tool calls and reasoning in the text of a model's output, in the formats of open models."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.errors import MalformedResponse
from modelport.layers.adapt.prompted_tools import read_calls
from modelport.protocols.output_text.call_formats import CALL_FORMATS
from modelport.protocols.output_text.calls import CallFormat, read_output
from modelport.protocols.output_text.json_calls import read_json_calls
from modelport.protocols.output_text.reasoning import ReasoningReader
from modelport.protocols.output_text.reasoning_formats import REASONING_FORMATS
from modelport.protocols.output_text.values import read_literal, value_from_text
from modelport.types.deltas import ChatMessageStreamDelta as Delta
from modelport.types.deltas import accumulate
from modelport.types.messages import ChatMessage
from tests.properties import examples

SCHEMAS = {
    "f": {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "n": {"type": "integer"},
            "any": {},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
    }
}
F, G = '{"name": "f", "arguments": {"a": "x"}}', '{"name": "g", "arguments": {}}'
FX, FY = ("f", {"a": "x"}), ("f", {"a": "y"})


def read(name: str, text: str) -> tuple[list[tuple[str, Any]], str]:
    calls, outside = read_output(text, CALL_FORMATS[name], SCHEMAS)
    return [(call.name, json.loads(call.arguments) if call.name else call.arguments) for call in calls], outside


@pytest.mark.parametrize(
    ("name", "text", "calls", "outside"),
    [
        # Parallel calls behind marks without an end, and text around calls
        ("Mistral", f"[TOOL_CALLS]{F}[TOOL_CALLS]{G}", [FX, ("g", {})], ""),
        ("Mistral", f"[TOOL_CALLS][{F}, {G}]", [FX, ("g", {})], ""),
        ("Mistral", '[TOOL_CALLS]f[ARGS]{"a": "x"}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}', [FX, ("g", {})], ""),
        ("Mistral", '[TOOL_CALLS]f{"a": "x"} so', [FX], "so"),
        ("Mistral", '[TOOL_CALLS]f[ARGS]{"a": "[TOOL_CALLS]g[ARGS]{}"}', [("f", {"a": "[TOOL_CALLS]g[ARGS]{}"})], ""),
        ("Llama", f"<|python_tag|>{F}<|python_tag|>{G}", [FX, ("g", {})], ""),
        ("Llama", f"{F}; {G}", [FX, ("g", {})], ""),
        ("Llama", '{"type": "function", "name": "f", "parameters": {"a": "x"}}', [FX], ""),
        ("Llama", '{"answer": 1}', [], '{"answer": 1}'),
        ("Llama", '{"name": "f", "param', [("", '{"name": "f", "param')], ""),
        ("Llama", "Paris { and }", [], "Paris { and }"),
        ("tagged JSON", f"a\n<tool_call>{F}</tool_call>\nb\n<tool_call>{G}</tool_call>\nc", [FX, ("g", {})], "a\nb\nc"),
        # An end mark within an argument does not end the call
        ("tagged JSON", f"<tool_call>{F.replace('x', '</tool_call>')}</tool_call>", [("f", {"a": "</tool_call>"})], ""),
        (
            "Qwen3-Coder",
            "<tool_call>\n<function=f>\n<parameter=a>\n</parameter> a </function></tool_call>\n</parameter>\n"
            "</function>\n</tool_call>",
            [("f", {"a": "</parameter> a </function></tool_call>"})],
            "",
        ),
        ("GLM", "<tool_call>f<arg_key>a</arg_key><arg_value></tool_call></arg_value></tool_call>",
         [("f", {"a": "</tool_call>"})], ""),
        # Values have the types of the schema
        ("GLM", "<tool_call>f<arg_key>a</arg_key><arg_value>7</arg_value>\n<arg_key>n</arg_key><arg_value>7</arg_value>"
         "</tool_call>", [("f", {"a": "7", "n": 7})], ""),
        ("Seed", "<seed:tool_call>\n<function=f>\n<parameter=any>{'b': [True, None]}</parameter>\n</function>\n"
         "</seed:tool_call>", [("f", {"any": {"b": [True, None]}})], ""),
        ("MiniMax M2", '<minimax:tool_call>\n<invoke name="f">\n<parameter name="maybe">null</parameter>\n</invoke>\n'
         '<invoke name="g">\n</invoke>\n</minimax:tool_call>', [("f", {"maybe": None}), ("g", {})], ""),
        ("MiniCPM", '<function name="f"><param name="a"><![CDATA[<b>\n]]></param></function> so',
         [("f", {"a": "<b>\n"})], "so"),
        ("LFM", "<|tool_call_start|>[f(a='it\\'s', n=-3), g()]<|tool_call_end|>ok",
         [("f", {"a": "it's", "n": -3}), ("g", {})], "ok"),
        ("Gemma 4", '<|tool_call>call:f{a:<|"|>{}]"<|"|>,any:[1,{b:null}]}<tool_call|>',
         [("f", {"a": '{}]"', "any": [1, {"b": None}]})], ""),
        ("FunctionGemma", "<start_function_call>call:f{a:<escape>x<escape>}<end_function_call>", [FX], ""),
        # gpt-oss writes the recipient before or in the channel
        ("harmony", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "x"}<|call|>', [FX], ""),
        ("harmony", '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a": "x"}', [FX], ""),
        ("harmony", '<|channel|>commentary to=f <|constrain|>json<|message|>{"a": "x"}<|call|>', [FX], ""),
        ("harmony", "<|channel|>analysis to=python code<|message|>1 + 1<|call|>",
         [("", "python code<|message|>1 + 1<|call|>")], ""),
        # An answer is no call
        ("Llama", '{"name": "Alice", "age": 7}', [], '{"name": "Alice", "age": 7}'),
        ("Llama", '{"name": "f"}', [("f", {})], ""),
        ("Llama", '{"name": "unknown", "parameters": {}}', [("unknown", {})], ""),
        ("Functionary 3.2", "Type >>> 1 + 1, and\n>>> print()", [], "Type >>> 1 + 1, and\n>>> print()"),
        ("Functionary 3.2", 'Type >>> 1.>>>f\n{"a": "x"}', [FX], "Type >>> 1."),
        ("Functionary 3.2", ">>>f\n{", [("", "f\n{")], ""),
        # Without its last mark, a call that is complete is read
        ("tagged JSON", f"<tool_call>{F}", [FX], ""),
        ("Qwen3-Coder", "<tool_call><function=f><parameter=a>x</parameter></function>", [FX], ""),
        ("DeepSeek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"x\"}", [FX], ""),
        ("tagged JSON", f"<tool_call>{F}\nI called it.", [FX], "I called it."),
        # Invalid calls keep their text
        ("tagged JSON", f"<tool_call>{F}}}</tool_call>", [("", F + "}")], ""),
        ("tagged JSON", f"<tool_call>no</tool_call><tool_call>{F}</tool_call>", [("", "no"), FX], ""),
        ("tagged JSON", '<tool_call>{"name": "f", "argum', [("", '{"name": "f", "argum')], ""),
        ("Qwen3-Coder", "<tool_call><function=f><parameter=a>x", [("", "<function=f><parameter=a>x")], ""),
        ("Kimi K2", "<|tool_calls_section_begin|><|tool_call_begin|>f", [("", "<|tool_call_begin|>f")], ""),
        ("LFM", "<|tool_call_start|>f(a)<|tool_call_end|>", [("", "f(a)")], ""),
        # Strings of Python have their escapes, and values that JSON does not have are refused
        ("LFM", r"<|tool_call_start|>f(a='\x41\U0001F600\ud83d\ude00\\d\d\n\UFFFFFFFF')<|tool_call_end|>",
         [("f", {"a": "A\U0001f600\U0001f600\\d\\d\n\\UFFFFFFFF"})], ""),
        ("LFM", "<|tool_call_start|>f(a=\'\'\'it's \"b\"\nc\'\'\', any=\"\"\"\"\"\")<|tool_call_end|>",
         [("f", {"a": "it's \"b\"\nc", "any": ""})], ""),
        ("LFM", "<|tool_call_start|>f(any=1e999)<|tool_call_end|>", [("", "f(any=1e999)")], ""),
        ("LFM", "<|tool_call_start|>f(any=007)<|tool_call_end|>", [("", "f(any=007)")], ""),
        ("Llama", '{"type": "Feature", "geometry": null}', [], '{"type": "Feature", "geometry": null}'),
        ("Llama", '{"type": "dog"}', [], '{"type": "dog"}'),
        ("Llama", '{"name": "my-lib", "function": "x"}', [], '{"name": "my-lib", "function": "x"}'),
        ("Llama", '{"name": "api", "routes": [{"parameters": {}}]}', [],
         '{"name": "api", "routes": [{"parameters": {}}]}'),
        ("Llama", '{"name": "g", "description": "d", "parameters": {}}', [],
         '{"name": "g", "description": "d", "parameters": {}}'),
        ("Llama", '{"name": "f", "input": {"a": "x"}}', [("", '{"name": "f", "input": {"a": "x"}}')], ""),
        ("Llama", '{"type": "function", "name": "g", "par', [("", '{"type": "function", "name": "g", "par')], ""),
        ("Llama", '{"type": "function", "function": {"name": "g", "parameters": {}}}', [("g", {})], ""),
        # Only MiniCPM writes CDATA
        ("GLM", "<tool_call>f<arg_key>a</arg_key><arg_value><![CDATA[x]]></arg_value></tool_call>",
         [("f", {"a": "<![CDATA[x]]>"})], ""),
        # A missing end of an argument does not join it with the next, but an argument may contain the same spelling
        ("Qwen3-Coder", "<tool_call>\n<function=f>\n<parameter=a>\nx\n<parameter=n>\n1\n</parameter>\n</function>\n"
         "</tool_call>", [("f", {"a": "x", "n": 1})], ""),
        ("Qwen3-Coder", "<tool_call>\n<function=f>\n<parameter=a>\nx\n<parameter=b>\n<parameter=n> <parameter=a>\n1\n"
         "</parameter>\n</function>\n</tool_call>",
         [("f", {"a": "x\n<parameter=b>\n<parameter=n> <parameter=a>\n1"})], ""),
        ("Qwen3-Coder", "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=a>\nx\n<parameter=n>\n"
         "1\n</parameter>\n</function>\n</tool_call>", [("f", {"n": 1, "a": "x\n<parameter=n>\n1"})], ""),
        # The rest of a section that is cut off is an invalid call, except a piece of a mark
        ("tagged JSON", f'<tool_call>{F}{{"na', [FX, ("", '{"na')], ""),
        ("tagged JSON", f"<tool_call>{F}</tool_c", [FX], ""),
        ("tagged JSON", f"<tool_call>{F}</tool_call>\n<tool_c", [FX], ""),
        ("LFM", "<|tool_call_start|>[f(a='x'), g", [FX, ("", "g")], ""),
        ("Mistral", f'[TOOL_CALLS]{F}{{"na', [FX, ("", '{"na')], ""),
        ("Kimi K2", "<|tool_calls_section_begin|><|tool_call_begin|>f<|tool_call_argument_begin|>{\"a\": \"x\"}"
         "<|tool_call_end|><|tool_call_begin|>g", [FX, ("", "<|tool_call_begin|>g")], ""),
        ("Functionary 3.1", '<function=f>{"a": "x"}</functio', [FX], ""),
        ("Functionary 3.2", '>>>f\n{"a": "x"}>>>g', [FX, ("", ">>>g")], ""),
        # Text behind a list of calls that is no call
        ("Granite", f"<|tool_call|>[{F}]\n\n[1] is the source", [FX], "[1] is the source"),
        ("Granite", f"<|tool_call|>[{F}]\n\n[a] is", [FX], "[a] is"),
        # A call behind JSON that is none
        ("Llama", f'{{"answer": 1}} so <|python_tag|>{F}', [FX], '{"answer": 1} so'),
    ],
)  # fmt: skip
def test_read_output_reads_calls_and_keeps_other_text(name: str, text: str, calls: Any, outside: str) -> None:
    assert read(name, text) == (calls, outside)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "f"}', {}),
        ('{"type": "function", "name": "f"}', {}),
        ('{"name": "f", "arguments": {"a": "x"}, "id": "123456789"}', {"a": "x"}),
        ('{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": "x"}}', {"a": "x"}),
        ('{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "x"}}}', {"a": "x"}),
        ('{"name": "f", "args": {"a": "x"}}', None),
        ('{"name": "f", "input": {"a": "x"}}', None),
        ('{"name": "f", "a": "x"}', None),
        ('{"name": "f", "id": 7}', None),
        ('{"name": "f", "arguments": {}, "parameters": {"a": "x"}}', None),
        ('{"name": "f", "arguments": {"a": "x"}, "limit": 3}', None),
        ('{"name": "f", "arguments": {"a": "x"}, "type": "x"}', None),
        ('{"name": "f", "tool_name": "g", "arguments": {}}', None),
        ('{"function": {"name": "f", "args": {"a": "x"}}}', None),
        ('{"function": {"name": "f"}, "arguments": {"a": "x"}}', None),
    ],
)  # fmt: skip
def test_call_with_an_unknown_key_is_invalid(text: str, arguments: Any) -> None:
    expected = [("", text)] if arguments is None else [("f", arguments)]
    assert read("tagged JSON", f"<tool_call>{text}</tool_call>") == (expected, "")


def test_read_output_keeps_the_digits_that_the_model_wrote() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"n": 1.10}}</tool_call>'
    assert read_output(text, CALL_FORMATS["tagged JSON"], {})[0][0].arguments == '{"n": 1.10}'


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("3", {"type": "string"}, "3"), ("3", {"type": "integer"}, 3), ("3", None, 3), ("3.5", {"type": "number"}, 3.5),
        ("true", {"type": "boolean"}, True), ("True", {"type": "boolean"}, True), ("x", {"type": "integer"}, "x"),
        ("null", {"type": ["string", "null"]}, None), ("7", {"type": ["string", "null"]}, "7"),
        ("7", {"enum": ["7"]}, "7"), ("7", {"enum": [7]}, 7), ("[1]", {"anyOf": [{"type": "string"}]}, "[1]"),
        ("[1]", {"type": "array"}, [1]), ("{'a': 1}", {"type": "object"}, {"a": 1}), ("", {"type": "integer"}, ""),
        ('"7"', {"type": ["string", "null"]}, '"7"'), ("007", None, "007"), ("-007", {}, "-007"), ("0", None, 0),
        ("1e999", None, "1e999"), ("[1e999]", None, "[1e999]"), ("+49", None, "+49"), ("0.5", None, 0.5),
        ("+.5", {"type": "number"}, 0.5),
    ],
)  # fmt: skip
def test_value_from_text_has_the_type_of_the_schema(text: str, schema: Any, value: Any) -> None:
    assert value_from_text(text, schema) == value
    assert type(value_from_text(text, schema)) is type(value)


def test_types_of_definitions_are_used() -> None:
    schema = {
        "type": "object",
        "properties": {
            "code": {"$ref": "#/$defs/Code"},
            "maybe": {"anyOf": [{"$ref": "#/$defs/Code"}, {"type": "null"}]},
            "endless": {"$ref": "#/$defs/Endless"},
            "old": {"$ref": "#/definitions/Old"},
            "deep": {"$ref": "#/$defs/Deep/properties/a~1b"},
            "item": {"$ref": "#/$defs/Deep/anyOf/0"},
            "away": {"$ref": "https://example.org/x"},
        },
        "additionalProperties": {"$ref": "#/$defs/Code"},
        "definitions": {"Old": {"type": "string"}},
        "$defs": {"Code": {"type": "string"}, "Endless": {"anyOf": [{"$ref": "#/$defs/Endless"}] * 50},
                  "Deep": {"properties": {"a/b": {"type": "string"}}, "anyOf": [{"type": "string"}]}},
    }  # fmt: skip
    arguments = "".join(
        f"<arg_key>{key}</arg_key><arg_value>{value}</arg_value>"
        for key, value in (
            ("code", "7"),
            ("maybe", "7"),
            ("endless", "7"),
            ("old", "7"),
            ("deep", "7"),
            ("item", "7"),
            ("away", "7"),
            ("extra", "7"),
        )
    )
    calls, _ = read_output(f"<tool_call>f{arguments}</tool_call>", CALL_FORMATS["GLM"], {"f": schema})
    assert json.loads(calls[0].arguments) == {
        "code": "7", "maybe": "7", "endless": 7, "old": "7", "deep": "7", "item": "7", "away": 7, "extra": "7"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["__import__('os')", "f()", "[1", "{1}", "1 2", "[" * 100 + "]" * 100, "1" * 2000, ""])
def test_read_literal_refuses_what_is_no_literal(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_literal(text)


MARKS = sorted({mark for form in CALL_FORMATS.values() for mark in (*form.begins, form.end) if mark})


@examples(400)
@given(
    st.sampled_from(sorted(CALL_FORMATS)),
    st.lists(st.sampled_from([*MARKS, F, '{"', "'", "f", "(", "a=", "<parameter=a>", "</parameter>", "\n", " x"])),
)
def test_read_output_of_any_text_raises_nothing_and_loses_no_words(name: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    calls, outside = read_output(text, CALL_FORMATS[name], SCHEMAS)
    if not calls:
        assert outside == text
    for call in calls:
        assert not call.name or isinstance(json.loads(call.arguments), dict)


HOSTILE = [
    "{0}" * 300_000,
    "{0}x{1}" * 100_000,
    "{0}<function=f><parameter=a>" * 40_000,
    "{0}<function=f>" + "<parameter=a>x</parameter>" * 40_000,
    "{0}<function=f><parameter=a>" + "</parameter> " * 100_000,
    "{0}<invoke name=\"f\">" + "<parameter name=\"a\"></parameter>" * 40_000,
    "{0}f<arg_key>" * 40_000,
    "{0}f<arg_key>a</arg_key><arg_value>" * 40_000,
    "{0}" + "]<]minimax[>[<a>" * 40_000,
    "{0}]<]minimax[>[<invoke name=\"f\">" + "]<]minimax[>[<a>" * 40_000,
    "{0}f(a=" * 40_000,
    "{0}f(a=" + "[" * 400_000,
    "{0}f(a='" + "' " * 400_000,
    "{0}f(a=[" + "1," * 200_000,
    "{0}call:f{{a:" + "{{a:" * 100_000,
    "{0}" + '{{"a":' * 100_000,
    "{0}functions.f<|message|>" * 40_000,
    "{0}" + "a" * 1_000_000,
    "{0}f(a=\'\'\'" * 20_000,
    "{0}" + " " * 1_000_000 + "{1}",
    "{0}" + "a " * 500_000,
    '{0}{{"name": "f"}}' * 1025,
]  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", CALL_FORMATS)
def test_read_output_of_hostile_text_takes_little_time(name: str) -> None:
    form = CALL_FORMATS[name]
    for pattern in HOSTILE:
        begin = time.process_time()
        for mark in form.begins:
            try:
                read_output(pattern.format(mark, form.end), form, SCHEMAS)
            except MalformedResponse:
                pass
        assert time.process_time() - begin < 1.5 * len(form.begins), pattern[:40]


# --- reasoning --------------------------------------------------------------------------------------------------------


def split(name: str, pieces: list[str], prompt: str = "") -> tuple[str, str]:
    form = REASONING_FORMATS[name]
    reader = ReasoningReader(form, form.tail_of(prompt))
    read = [reader.feed(piece) for piece in pieces] + [reader.finish()]
    return "".join(reasoning for reasoning, _ in read), "".join(content for _, content in read)


@pytest.mark.parametrize(
    ("name", "prompt", "text", "reasoning", "content"),
    [
        ("think", "", "<think>\nI think.\n</think>\n\nParis <think>", "I think.", "Paris <think>"),
        ("think", "<|im_start|>assistant\n<think>\n", "I think.\n</think>Paris", "I think.", "Paris"),
        ("think", "assistant\n<think>\n\n</think>\n\n", "Paris", "", "Paris"),
        ("think", "", "</think>\nParis", "", "Paris"),
        ("think", "", "Paris </think> is", "", "Paris </think> is"),
        ("think", "", "Use <think>x</think>.\n<think>\ny\n</think>z", "",
         "Use <think>x</think>.\n<think>\ny\n</think>z"),
        ("think", "", "\n <think>x</think>y", "x", " y"),
        ("Mistral", "", "Use [THINK]x[/THINK].", "", "Use [THINK]x[/THINK]."),
        ("harmony", "<|start|>assistant", "<|channel|>final<|constrain|>json<|message|>{}", "", "{}"),
        ("harmony", "<|start|>assistant", "<|channel|>commentary <|constrain|>json<|message|>{}", "", "{}"),
        # A prompt can end in the beginning of a mark that the model does not complete
        ("Muse", "<|start|>assistant", "Paris", "", "Paris"),
        ("Muse", "<|start|>assistant", " to the end", "", " to the end"),
        ("Mistral", "", "[THINK]I think.[/THINK]Paris", "I think.", "Paris"),
        ("Gemma 4", "", "<|channel>thought\nI think.\n<channel|>Paris", "I think.", "Paris"),
        ("Gemma 4", "<|channel>thought\n<channel|>", "Paris", "", "Paris"),
        ("harmony", "<|start|>assistant",
         "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
         "I think.", "Paris"),
        ("harmony", "<|start|>assistant",
         "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>",
         "I think.", "Wait."),
        ("harmony", "<|start|>assistant", " to=functions.f<|channel|>commentary json<|message|>{}",
         "", "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}"),
        ("Muse", "<|start|>assistant", " to=self<|message|>I think.<|eom|><|start|>assistant to=user<|message|>Paris",
         "I think.", "Paris"),
        ("Solar", "<|begin|>assistant", "<|think|>I think.<|end|><|begin|>assistant<|content|>Paris<|end|>",
         "I think.", "Paris"),
        ("Kimi K3", "<|open|>think<|sep|>",
         "I think.<|close|>think<|sep|><|open|>response<|sep|>Paris<|close|>response<|sep|>", "I think.", "Paris"),
        ("Cohere", "<|START_THINKING|>", "I think.<|END_THINKING|><|START_TEXT|>Paris<|END_TEXT|>",
         "I think.", "Paris"),
        ("Apriel", "Here are my reasoning steps:\n", "I think.\n[BEGIN FINAL RESPONSE]\nParis\n[END FINAL RESPONSE]",
         "I think.", "Paris\n"),
        ("Functionary 3.2", "assistant\n\n>>>", "all\nParis", "", "Paris"),
        ("MiniMax M3", "]~b]ai\n", "</mm:think>Paris", "", "Paris"),
    ],
)  # fmt: skip
def test_reasoning_and_content_are_apart(name: str, prompt: str, text: str, reasoning: str, content: str) -> None:
    for size in (1, 3, len(text)):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert split(name, pieces, prompt) == (reasoning, content)


@pytest.mark.parametrize(
    ("name", "mark", "text", "reasoning", "content"),
    [
        ("think", "<tool_call>", '<tool_call>{"a": "<think>x</think>"}', "", '<tool_call>{"a": "<think>x</think>"}'),
        ("think", "<tool_call>", "<think><tool_call></think>\n<tool_call></think>", "<tool_call>",
         "<tool_call></think>"),
        ("Mistral", "[TOOL_CALLS]", 'So [TOOL_CALLS]f[ARGS]{"a": "[THINK]"}', "",
         'So [TOOL_CALLS]f[ARGS]{"a": "[THINK]"}'),
        ("Apriel", "<tool_calls>", "[BEGIN FINAL RESPONSE]\n<tool_calls>[]</tool_calls>[END FINAL RESPONSE]", "",
         "<tool_calls>[]</tool_calls>[END FINAL RESPONSE]"),
        ("Gemma 4", "<|tool_call>", "<|channel>thought\nx<channel|><|tool_call>call:f{}<tool_call|>", "x",
         "<|tool_call>call:f{}<tool_call|>"),
    ],
)  # fmt: skip
def test_reasoning_reader_passes_calls_on_unchanged(
    name: str, mark: str, text: str, reasoning: str, content: str
) -> None:
    for size in (1, 3, len(text)):
        reader = ReasoningReader(REASONING_FORMATS[name], call_marks=(mark,))
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        parts = [*map(reader.feed, pieces), reader.finish()]
        assert tuple(map("".join, zip(*parts, strict=True))) == (reasoning, content)


def read_deltas(calls: str, reasoning: str, text: str, size: int, prompt: str = "") -> ChatMessage:
    """Read an output as a local engine does, in pieces of a size."""
    call_format, form = CALL_FORMATS[calls], REASONING_FORMATS[reasoning]

    async def backend() -> AsyncGenerator[Delta, None]:
        reader = ReasoningReader(form, prompt, call_format.begins)
        for start in range(0, len(text), size):
            thought, content = reader.feed(text[start : start + size], final=start + size >= len(text))
            yield Delta(content=content or None, reasoning=thought or None)
        yield Delta(finish_reason="stop")

    async def work() -> list[Delta]:
        return [delta async for delta in read_calls(backend(), False, call_format, SCHEMAS, form, prompt)]

    return accumulate(asyncio.run(work()))


HARMONY = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "%s"}<|call|>'
GEMMA = '<|tool_call>call:f{a:<|"|>%s<|"|>}<tool_call|>'


@pytest.mark.parametrize(
    ("calls", "reasoning", "template", "argument"),
    [
        ("harmony", "harmony", HARMONY, "a <|end|> b"),
        ("harmony", "harmony", HARMONY, "a <|start|>assistant b"),
        ("harmony", "harmony", HARMONY, "a <|channel|>analysis<|message|>b<|end|> c"),
        ("Gemma 4", "Gemma 4", GEMMA, "a <|channel>thought b<channel|> c"),
        ("Solar", "Solar", "<|tool_calls|><|tool_call:begin|>1<|tool_call:name|>f<|tool_call:args|>"
         '{"a": "%s"}<|tool_call:end|><|calls|>', "a <|end|> <|content|>b"),
        ("Cohere", "Cohere", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": "%s"}}]'
         "<|END_ACTION|>", "a <|START_TEXT|> b"),
        ("list of calls", "Apriel", '<tool_calls>[{"name": "f", "arguments": {"a": "%s"}}]</tool_calls>',
         "a [END FINAL RESPONSE] b"),
        ("Muse", "Muse", '<|start|>assistant to=f<|message|><atem:function_calls><atem:invoke name="f">'
         '<atem:parameter name="a">%s</atem:parameter></atem:invoke></atem:function_calls><|eom|>', "a <|eom|> b"),
        ("Kimi K3", "Kimi K3", '<|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|><|open|>argument key="a" '
         'type="string"<|sep|>%s<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
         "<|open|>think<|sep|>x<|close|>think<|sep|>"),
    ],
)  # fmt: skip
def test_marks_within_an_argument_are_a_part_of_it(calls: str, reasoning: str, template: str, argument: str) -> None:
    text = template % argument
    for size in (1, 7, len(text)):
        message = read_deltas(calls, reasoning, text, size)
        assert [(call.function.name, call.function.arguments) for call in message.tool_calls or ()] == [
            ("f", {"a": argument})
        ]
        assert (message.text, message.reasoning) == ("", None)


@pytest.mark.parametrize(
    ("calls", "reasoning", "text", "number", "thought", "content"),
    [
        ("harmony", "harmony", HARMONY % "x" + "<|start|>assistant<|channel|>analysis<|message|>" + HARMONY % "y"
         + "So.<|end|><|start|>assistant<|channel|>final<|message|>Paris<|end|>", 1, HARMONY % "y" + "So.", "Paris"),
        ("harmony", "harmony", HARMONY % "x" + "<|start|>assistant" + HARMONY % "y", 2, "", ""),
        ("Gemma 4", "Gemma 4", GEMMA % "x" + "<|channel>thought\nSo.<channel|>Paris", 1, "So.", "Paris"),
        ("list of calls", "Apriel", '<tool_calls>[{"name": "f"}]</tool_calls>\n[END FINAL RESPONSE]', 1, "", ""),
        ("tagged JSON", "think", "<tool_call>" + F + "</tool_call><think>x</think>", 1, "", "<think>x</think>"),
        ("Muse", "Muse", '<|start|>assistant to=f<|message|><atem:function_calls><atem:invoke name="f"></atem:invoke>'
         "</atem:function_calls><|eom|><|start|>assistant to=user<|message|>Paris<|eot|>", 1, "", "Paris"),
    ],
)  # fmt: skip
def test_reasoning_and_text_behind_a_call_are_read(
    calls: str, reasoning: str, text: str, number: int, thought: str, content: str
) -> None:
    for size in (1, 7, len(text)):
        message = read_deltas(calls, reasoning, text, size)
        assert [call.function.name for call in message.tool_calls or ()] == ["f"] * number
        assert (message.text.strip(), message.reasoning or "") == (content, thought)


@pytest.mark.parametrize(
    ("text", "content"), [("Paris.", "Paris."), ("all\nParis", "Paris"), ("1 >>> 2", "1 >>> 2"), ("f\n{}", "")]
)
def test_end_of_the_prompt_is_no_part_of_the_text(text: str, content: str) -> None:
    for size in (1, len(text)):
        assert read_deltas("Functionary 3.2", "Functionary 3.2", text, size, ">>>").text == content
        assert split("Functionary 3.2", [text], ">>>")[1] == (content or text)


@examples(300)
@given(st.data(), st.sampled_from(sorted(REASONING_FORMATS)))
def test_reasoning_reader_does_not_depend_on_how_the_text_is_split(data: Any, name: str) -> None:
    form = REASONING_FORMATS[name]
    marks = [mark for mark in (*form.begins, *form.ends, *form.content_marks, *form.kept) if mark]
    pieces = st.sampled_from([*marks, *(mark[: len(mark) // 2] for mark in marks), "\n", "ab", "<", "|>"])
    text = "".join(data.draw(st.lists(pieces, max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert split(name, [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]) == split(name, [text])


def test_own_format_of_a_library_is_read() -> None:
    form = CallFormat(("[CALL]",), "", read_json_calls)
    assert [call.name for call in read_output(f"[CALL]{F}[CALL]{G}", form, {})[0]] == ["f", "g"]
