"""Marks that are special tokens, on `TransformersModel`: reasoning, calls, and required or typed output behind them.

The model is tiny and random. A logits processor writes the beginning of its output; the grammar does the rest.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.local.chat_templates import load_template, template_source
from tests.servers.smollm2 import smollm2_folder

from modelport import Choice, TransformersModel

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("transformers"), pytest.mark.timeout(300)]

#: Template -> its reasoning, and two calls (or one, where it has one per message).
OUTPUTS = {
    "openai-gpt-oss-120b": (
        "<|channel|>analysis<|message|>Let me think.<|end|>",
        "<|start|>assistant<|channel|>commentary to=functions.go <|constrain|>json<|message|>"
        '{"to": "north"}<|call|>',
    ),
    "mistralai-Ministral-3-14B-Reasoning-2512": (
        "[THINK]Let me think.[/THINK]",
        '[TOOL_CALLS]go[ARGS]{"to": "north"}[TOOL_CALLS]go[ARGS]{"to": "south"}',
    ),
    "google-gemma-4-31B-it": (
        "<|channel>thought\nLet me think.<channel|>",
        '<|tool_call>call:go{to:<|"|>north<|"|>}<tool_call|><|tool_call>call:go{to:<|"|>south<|"|>}<tool_call|>',
    ),
    "Kimi-K2-Thinking": (
        "<think>Let me think.</think>",
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.go:0<|tool_call_argument_begin|>{"to": "north"}'
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
}  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "go",
        "description": "Go.",
        "parameters": {
            "type": "object",
            "properties": {"to": {"enum": ["north", "south"], "description": "Where to.", "type": "string"}},
            "required": ["to"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    marks = set()
    for name in OUTPUTS:
        template = load_template(name)
        assert template.reasoning_format is not None and template.call_format is not None
        text = f"{template.reasoning_format.marks} {template.call_format.marks}"
        marks |= set(re.findall(r'<\|[a-z_]+\|?>|<[a-z_]+\|>|<\|"\|>|\[/?[A-Z_]+\]|</?think>', text))
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(marks)})
    return tokenizer


@pytest.fixture(scope="module")
def tiny(tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8192}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, **small, **heads)).eval()


@pytest.fixture(scope="module", params=OUTPUTS)
def model(request: pytest.FixtureRequest, tiny: Any, tokenizer: Any) -> Iterator[TransformersModel]:
    with TransformersModel(
        request.param,
        model=tiny,
        tokenizer=copy.deepcopy(tokenizer),
        chat_template=template_source(request.param),
        apply_chat_template_kwargs={"enable_thinking": True},
        temperature=0,
        retry=False,
        max_tokens=200,
    ) as model:
        yield model


class Writes:
    """A logits processor that makes the model write a text at the beginning of its output."""

    def __init__(self, tokenizer: Any, text: str, ends: bool = False) -> None:
        self._tokens = tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] * ends
        self._start: int | None = None

    def __call__(self, ids: Any, scores: Any) -> Any:
        self._start = ids.shape[1] if self._start is None else self._start
        if (written := ids.shape[1] - self._start) < len(self._tokens):
            scores[:, [token for token in range(scores.shape[1]) if token != self._tokens[written]]] = float("-inf")
        return scores


def generate(model: TransformersModel, text: str, streamed: bool, ends: bool = False, **options: Any) -> Any:
    options["logits_processor"] = [Writes(model._engine().tokenizer, text, ends)]
    if not streamed:
        return model.generate("Where to?", **options)
    with model.generate_stream("Where to?", **options) as stream:
        list(stream)
    return stream.message


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_and_reasoning_between_special_tokens_are_read(model: TransformersModel, streamed: bool) -> None:
    reasoning, calls = OUTPUTS[model.model_id or ""]
    message = generate(model, reasoning + calls, streamed, ends=True, tools=[TOOL])
    expected = [{"to": "north"}, {"to": "south"}][: 1 + ("south" in calls)]
    assert [call.function.arguments for call in message.tool_calls] == expected
    assert (message.reasoning, message.text) == ("Let me think.", "")
    assert 3 <= message.token_usage.reasoning_tokens < message.token_usage.output_tokens


def test_required_call_comes_behind_reasoning(model: TransformersModel) -> None:
    reasoning, _ = OUTPUTS[model.model_id or ""]
    message = generate(model, reasoning, streamed=False, tools=[TOOL], tool_choice="required")
    assert [call.function.name for call in message.tool_calls] == ["go"]
    assert (message.reasoning, message.text) == ("Let me think.", "")


@pytest.mark.parametrize("reasons", [False, True])
def test_typed_output_comes_with_and_without_reasoning(model: TransformersModel, reasons: bool) -> None:
    reasoning, _ = OUTPUTS[model.model_id or ""]
    form = load_template(model.model_id or "").reasoning_format
    assert form is not None
    written = reasoning if reasons else form.before_content + "r"
    message = generate(model, written, streamed=False, grammar=Choice(["red", "rainy"]))
    assert message.text in ("red", "rainy") and message.enforcement == "enforced"
    assert message.reasoning == ("Let me think." if reasons else None)
