"""Calls that chat templates of today's open models write are read back: names, arguments, reasoning and text."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.local.chat_templates import apply_function, load_template, templates_folder

from modelport.layers.adapt.prompted_tools import read_calls
from modelport.local.chat_template import ChatTemplate, template_message
from modelport.local.template_formats import TOOLS, USER, library_format, rendered_text
from modelport.protocols.output_text.call_formats import CALL_FORMATS
from modelport.protocols.output_text.calls import read_output, schemas_of
from modelport.protocols.output_text.reasoning import ReasoningFormat, ReasoningReader, split_behind_calls
from modelport.protocols.output_text.reasoning_formats import REASONING_FORMATS
from modelport.types.deltas import ChatMessageStreamDelta as Delta
from modelport.types.deltas import accumulate
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.tools import Tool

#: The name of a template -> the names of the formats of its calls and of its reasoning. `None` as the first means that
#: the tools are put into the prompt.
TEMPLATES: dict[str, tuple[str | None, str | None]] = {
    "Apertus-8B-Instruct": ("Apertus", "Apertus"),
    "Apriel-1.6-15b-Thinker-fixed": ("list of calls", "Apriel"),
    "Bielik-11B-v3.0-Instruct": ("tagged JSON", "think"),
    "ByteDance-Seed-OSS": ("Seed", "Seed"),
    "Cohere2MoE": ("Cohere", "Cohere"),
    "CohereForAI-c4ai-command-r-plus-tool_use": (None, None),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("Cohere", "Cohere"),
    "GLM-4.6": ("GLM", "think"),
    "GLM-4.7-Flash": ("GLM", "think"),
    "GigaChat3-10B-A1.8B": ("GigaChat", None),
    "GigaChat3.1-10B-A1.8B": ("GigaChat", None),
    "HuggingFaceTB-SmolLM3-3B": (None, "think"),
    "Kimi-K2-Instruct": ("Kimi K2", None),
    "Kimi-K2-Thinking": ("Kimi K2", "think"),
    "Kimi-K3": ("Kimi K3", "Kimi K3"),
    "LFM2-8B-A1B": ("LFM", None),
    "LFM2.5-8B-A1B": ("LFM", "think"),
    "LFM2.5-Instruct": ("LFM", "think"),
    "MiMo-VL": ("tagged JSON", None),
    "MiniMax-M1": ("list of calls", None),
    "MiniMax-M2": ("MiniMax M2", "think"),
    "MiniMax-M3": ("MiniMax M3", "MiniMax M3"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("Mistral", None),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("Qwen3-Coder", "think"),
    "NVIDIA-Nemotron-Nano-v2": ("Nemotron", "think"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("tagged JSON", None),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("tagged JSON", None),
    "Qwen-QwQ-32B": ("tagged JSON", "think"),
    "Qwen-Qwen2.5-7B-Instruct": ("tagged JSON", None),
    "Qwen-Qwen3-0.6B": ("tagged JSON", "think"),
    "Qwen3-Coder": ("Qwen3-Coder", None),
    "Qwen3.5-4B": ("Qwen3-Coder", "think"),
    "Reka-Edge": ("tagged JSON", "think"),
    "Spark2.5": ("GLM", "think"),
    "StepFun3.5-Flash": ("Qwen3-Coder", "think"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (None, "think"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (None, "think"),
    "deepseek-ai-DeepSeek-V3.1": (None, "think"),
    "deepseek-ai-DeepSeek-V3.2": ("DeepSeek markup", "think"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": ("DeepSeek markup", "think"),
    "deepseek-ai-DeepSeek-V4": ("DeepSeek markup", "think"),
    "fireworks-ai-llama-3-firefunction-v2": (None, None),
    "google-gemma-2-2b-it": (None, None),
    "google-gemma-4-31B-it-interleaved": ("Gemma 4", "Gemma 4"),
    "google-gemma-4-31B-it": ("Gemma 4", "Gemma 4"),
    "ibm-granite-granite-3.3-2B-Instruct": ("Granite", "think"),
    "ibm-granite-granite-4.0": ("tagged JSON", None),
    "ibm-granite-granite-4.1": ("tagged JSON", None),
    "inclusionai-ling-3.0-flash": ("GLM", "think"),
    "llama-cpp-deepseek-r1": ("DeepSeek", "think"),
    "llama-cpp-rwkv-world": (None, "think"),
    "meetkai-functionary-medium-v3.1": ("Functionary 3.1", None),
    "meetkai-functionary-medium-v3.2": ("Functionary 3.2", "Functionary 3.2"),
    "meta-llama-Llama-3.1-8B-Instruct": ("Llama", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("Llama", None),
    "meta-llama-Llama-3.3-70B-Instruct": ("Llama", None),
    "microsoft-Phi-3.5-mini-instruct": (None, None),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("Mistral", "Mistral"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("Mistral", None),
    "moonshotai-Kimi-K2": ("Kimi K2", None),
    "muse-glimmer": ("Muse", "Muse"),
    "openai-gpt-oss-120b": ("harmony", "harmony"),
    "openbmb-MiniCPM5-1B": ("MiniCPM", "think"),
    "poolside-Laguna-S-2.1": ("GLM", "think"),
    "poolside-Laguna-XS-2.1": ("GLM", "think"),
    "poolside-Laguna-XS.2": ("GLM", "think"),
    "tencent-Hy3": ("Hunyuan", "Hunyuan"),
    "unsloth-Apriel-1.5": ("list of calls", None),
    "unsloth-mistral-Devstral-Small-2507": ("Mistral", None),
    "upstage-Solar-Open-100B": ("Solar", "Solar"),
}
#: These list no tools, or need variables that callers have to give.
WITHOUT_TOOLS = frozenset({
    "CohereForAI-c4ai-command-r-plus-tool_use", "HuggingFaceTB-SmolLM3-3B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3.1", "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it", "llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct",
})  # fmt: skip
NATIVE = sorted(name for name, (calls, _) in TEMPLATES.items() if calls is not None)
#: The template writes the reasoning of an earlier message without the mark before it, or the text without one after
#: it, where the message is the last. The output of the model has them.
INCOMPLETE_MARKS = frozenset({"Apriel-1.6-15b-Thinker-fixed", "NVIDIA-Nemotron-Nano-v2"})

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "A text."},
        "digits": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "flag": {"type": "boolean"},
        "deep": {
            "type": "object",
            "properties": {"list": {"type": "array", "items": {"type": "string"}}, "n": {"type": "integer"}},
        },
    },
    "required": ["text"],
}
FILE, OTHER = Tool("write_file", "Write.", SCHEMA), Tool("other-tool", "Other.", SCHEMA)
HARD_TEXT = 'if a < b: </tool_call>\n  print("hi") # it\'s é {x}'
ARGUMENTS = {
    "text": HARD_TEXT, "digits": "007", "count": 3, "ratio": 1.5, "flag": True,
    "deep": {"list": ["x, y", "]"], "n": -2},
}  # fmt: skip
ONE, TWO = [("write_file", ARGUMENTS)], [("write_file", ARGUMENTS), ("other-tool", {"text": "[1, 2]"})]


def message_with(calls: list[tuple[str, Any]], text: str = "", reasoning: str | None = None) -> ChatMessage:
    tool_calls = [
        ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), f"call_{i}0123456789abcdef0123456"[:29])
        for i, (name, arguments) in enumerate(calls)
    ]
    return ChatMessage("assistant", text, tool_calls=tool_calls, reasoning=reasoning)


def written(name: str, message: ChatMessage) -> tuple[str, str]:
    """Return the prompt before what a template writes for a message, and what it writes."""
    template = load_template(name)
    messages = template.style.apply([template_message(ChatMessage("user", "hello")), template_message(message)])
    tools = [FILE.to_dict(), OTHER.to_dict()]
    return rendered_text(template.probe, messages, tools)


def read(name: str, prompt: str, text: str, size: int) -> ChatMessage:
    """Read an output as a local engine does, in pieces of a size."""
    template = load_template(name)
    assert template.call_format is not None
    form = template.reasoning_format
    tail = form.tail_of(prompt) if form else ""

    async def backend() -> AsyncGenerator[Delta, None]:
        reader = ReasoningReader(form, tail, template.call_format.begins) if form else None
        for start in range(0, len(text), size):
            piece = text[start : start + size]
            reasoning, content = reader.feed(piece, final=start + size >= len(text)) if reader else ("", piece)
            yield Delta(content=content or None, reasoning=reasoning or None)
        yield Delta(finish_reason="stop")

    async def work() -> list[Delta]:
        deltas = read_calls(backend(), False, template.call_format, schemas_of((FILE, OTHER)), form, tail)
        return [delta async for delta in deltas]

    return accumulate(asyncio.run(work()))


def calls_of(message: ChatMessage) -> list[tuple[str, Any]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


def test_templates_of_the_package_are_those_of_the_table() -> None:
    assert {file.stem for file in templates_folder().glob("*.jinja")} == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_format_of_template_is_found(name: str) -> None:
    template = load_template(name)
    calls, reasoning = TEMPLATES[name]
    assert template.call_format == (CALL_FORMATS[calls] if calls else None)
    assert template.reasoning_format == (REASONING_FORMATS[reasoning] if reasoning else None)


@pytest.mark.parametrize("name", NATIVE)
def test_call_that_a_template_writes_is_read_back(name: str) -> None:
    prompt, text = written(name, message_with(ONE))
    for size in (len(text), 1, 7):
        message = read(name, prompt, text, size)
        assert calls_of(message) == ONE
        assert message.finish_reason == "tool_calls"
        assert not message.reasoning


@pytest.mark.parametrize("name", NATIVE)
def test_call_that_is_cut_off_is_never_another_call(name: str) -> None:
    call_format, form = load_template(name).call_format, load_template(name).reasoning_format
    assert call_format is not None
    expected = ONE if load_template(name).style.one_call else TWO
    prompt, text = written(name, message_with(expected))

    def read_beginning(end: int) -> tuple[list[tuple[str, Any]], str]:
        cut, outside_calls = text[:end], dict[str, str]()
        if form is not None:
            reader = ReasoningReader(form, form.tail_of(prompt), call_format.begins)
            cut, outside_calls = reader.feed(cut, final=True)[1], form.outside_calls
        calls, outside = read_output(cut, call_format, schemas_of((FILE, OTHER)), outside_calls)
        outside = split_behind_calls(form, outside, bool(calls))[1] if form is not None else outside
        return [(call.name, json.loads(call.arguments)) for call in calls if call.name], outside.strip()

    found, end_of_turn = read_beginning(len(text))
    assert found == expected
    # The beginning of the second call is where formats differ most.
    second = min(len(text), len(written(name, message_with(ONE))[1]) - 20)
    for end in (*range(0, second, 4), *range(second, min(len(text), second + 80)), *range(second, len(text), 4)):
        found, outside = read_beginning(end)
        assert found == expected[: len(found)], text[:end]
        assert not found or end_of_turn.startswith(outside), text[:end]


@pytest.mark.parametrize("name", NATIVE)
def test_calls_text_and_reasoning_that_a_template_writes_are_read_back(name: str) -> None:
    calls = ONE if load_template(name).style.one_call else TWO
    prompt, text = written(name, message_with(calls, "I look.\nNow", "Because <b>."))
    if name in INCOMPLETE_MARKS:
        prompt, text = "", re.sub(r"^(?s:.*)(?=I look)", "", text)
    # Some templates drop the text, or the reasoning, of earlier messages.
    has_text, has_reasoning = "I look." in text, "Because" in text
    for size in (len(text), 1, 7):
        message = read(name, prompt, text, size)
        assert calls_of(message) == calls
        assert ("I look.\nNow" in message.text) == has_text
        assert "Because" not in message.text
        assert (message.reasoning or "").rstrip() == ("Because <b>." if has_reasoning else "")


def test_every_template_that_lists_tools_is_read() -> None:
    for name in TEMPLATES:
        template = load_template(name)
        try:
            lists_tools = "probe_tool" in template.probe([USER], TOOLS, True)
        except Exception:
            lists_tools = False
        assert lists_tools == (name not in WITHOUT_TOOLS) == template.capabilities()["tools"] == (name in NATIVE)


TEMPLATE = (
    "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or () %}CALL{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("call", "is_read"),
    [
        # Marks that no model of the table has
        ("<mycall>{{ c.function | tojson }}</mycall>", True),
        ("[MY_CALL]{{ c.function | tojson }}", True),
        ("{{ c.function.name }} with {{ c.function.arguments }}", False),
        ("<tool_call>{{ c.function.name }}!{{ c.function.arguments | tojson }}</tool_call>", False),
        # A format that is known, but loses an argument
        ('<tool_call>{"name": "{{ c.function.name }}", "arguments": {"x": "{{ c.function.arguments.x }}"}}</tool_call>',
         False),
        ("", False),
    ],
)  # fmt: skip
def test_tools_are_declared_only_if_calls_are_read_back(call: str, is_read: bool) -> None:
    source = TEMPLATE.replace("CALL", call)
    template = ChatTemplate(apply_function(source), source)
    assert template.capabilities()["tools"] == is_read


def test_parser_of_a_library_reads_what_no_format_reads() -> None:
    def parse(text: str, tools: list[dict[str, Any]]) -> Any:
        assert [tool["function"]["name"] for tool in tools] == ["probe_tool", "probe_other"]
        name, _, arguments = text.partition("!")
        return {"name": name, "arguments": json.loads(arguments)}

    source = TEMPLATE.replace("CALL", "<c>{{ c.function.name }}!{{ c.function.arguments | tojson }}</c>")
    library = library_format("<c>", "</c>", parse)
    assert ChatTemplate(apply_function(source), source, library_calls=library).call_format is library
    assert not ChatTemplate(apply_function(source), source).capabilities()["tools"]


def test_reasoning_between_unknown_tags_is_found() -> None:
    source = "{% for m in messages %}[{{ m.role }}]{% if m.thinking %}<mull>{{ m.thinking }}</mull>{% endif %}"
    template = ChatTemplate(apply_function(f"{source}{{{{ m.content }}}}{{% endfor %}}"), source)
    assert template.reasoning_format == ReasoningFormat("<mull>", "</mull>")


def test_counts_of_the_table_are_in_the_docs() -> None:
    listed = len(TEMPLATES) - len(WITHOUT_TOOLS)
    assert listed == len(NATIVE)
    page = " ".join((Path(__file__).parents[2] / "docs/how-to/tools.md").read_text().split())
    assert f"{len(TEMPLATES)} chat templates" in page
    assert f"{listed} of them list tools, and" in page
    assert f"the calls of all {len(NATIVE)}" in page
