"""Outputs of `MLXModel`: text, log probabilities, parameters and tool calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.local.mlx_model.tiny import CAPITAL, WritingProcessor, user
from tests.servers.smollm2 import smollm2_folder

from modelport import (
    Choice,
    ContextWindowExceeded,
    InvalidRequest,
    Lark,
    MLXModel,
    ModelError,
    Regex,
    UnsupportedFeature,
)

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("mlx")]


def test_output_of_real_weights_is_correct(smollm2: MLXModel) -> None:
    message = smollm2(CAPITAL)
    assert message.content == "The capital of France is Paris."
    assert message.finish_reason == "stop"


def test_logprobs_equal_those_of_transformers(smollm2: MLXModel) -> None:
    """mlx-lm ignores `rope_parameters`, in which transformers 5 writes the settings of position embeddings."""
    import torch
    from transformers import AutoModelForCausalLM

    message = smollm2(CAPITAL, logprobs=True, top_logprobs=3)
    engine = smollm2._engine()
    tokenizer = engine.tokenizer
    prompt = tokenizer.apply_chat_template([user(CAPITAL)], add_generation_prompt=True, return_dict=False)
    output = tokenizer.encode(message.content, add_special_tokens=False)
    reference = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32)
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 :]
    expected = torch.log_softmax(logits, -1)
    # The last entry is that of the token that ends the output.
    assert message.logprobs is not None and len(message.logprobs) == len(output) + 1
    for entry, token, row in zip(message.logprobs, [*output, *engine.eos], expected, strict=True):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
        best = [e["logprob"] for e in entry["top_logprobs"]]
        assert best == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert entry["top_logprobs"][0]["token"] == tokenizer.decode([int(row.argmax())])


def test_logprobs_with_penalty_and_grammar_are_of_unchanged_logits(smollm2: MLXModel) -> None:
    plain = smollm2(CAPITAL, logprobs=True, max_tokens=1).logprobs
    constrained = smollm2(CAPITAL, logprobs=True, repetition_penalty=1.5, grammar=Choice(["The", "Paris", "It"]))
    assert plain and constrained.logprobs and plain[0]["token"] == "The"
    assert constrained.logprobs[0]["logprob"] <= plain[0]["logprob"] + 1e-4


def test_sampling_parameters_change_output(tiny_model: MLXModel) -> None:
    def generate(**options: Any) -> str:
        return tiny_model("Tell me a story.", max_tokens=12, **options).text

    greedy = generate()
    assert generate(temperature=5.0, top_k=1, seed=1) == generate(temperature=5.0, top_p=1e-6, seed=2) == greedy
    assert generate(temperature=5.0, min_p=1.0, seed=3) == greedy
    assert generate(temperature=1.5, seed=4) == generate(temperature=1.5, seed=4)
    assert len({generate(temperature=1.5, seed=seed) for seed in range(4)}) > 1
    assert len({generate(temperature=1.5) for _ in range(3)}) > 1  # Without a seed, outputs differ.


def test_penalties_and_logit_bias_change_output(smollm2: MLXModel) -> None:
    tokenizer = smollm2._engine().tokenizer
    (the,) = tokenizer.encode("The", add_special_tokens=False)
    assert smollm2(CAPITAL, max_tokens=1).text.startswith("The")
    assert not smollm2(CAPITAL, logit_bias={the: -100}, max_tokens=1).text.startswith("The")
    assert smollm2(CAPITAL, logit_bias={str(the): 100}, max_tokens=3).text == "TheTheThe"
    # These two penalties apply to the output alone, so the first token stays the same.
    options = {"logit_bias": {the: 100}, "max_tokens": 4}
    assert smollm2(CAPITAL, **options, frequency_penalty=2.0, presence_penalty=2.0).text.startswith("The")  # type: ignore[call-overload]
    # The repetition penalty applies to the prompt too.
    assert smollm2("a b a b", max_tokens=8).text != smollm2("a b a b", max_tokens=8, repetition_penalty=2.0).text


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"logit_bias": [1]}, InvalidRequest, "logit_bias"),
        ({"logit_bias": {10**7: 1}}, InvalidRequest, "no token 10000000"),
        ({"kv_bits": 4}, UnsupportedFeature, "kv_bits"),
        ({"grammar": Lark('start: "a" | nonesuch')}, InvalidRequest, "nonesuch"),
        ({"grammar": Regex("(?=a)b")}, UnsupportedFeature, "look-around"),
    ],
    ids=["bias no dict", "bias unknown token", "unknown parameter", "grammar wrong", "regex unsupported"],
)
def test_wrong_parameter_raises_and_names_it(
    tiny_model: MLXModel, options: dict[str, Any], kind: type[ModelError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        tiny_model("Hello", max_tokens=4, **options)
    assert tiny_model._engine().busy == 0
    assert tiny_model("Hello", max_tokens=2).text


def test_prompt_longer_than_context_raises_before_computation(tiny_model: MLXModel) -> None:
    with pytest.raises(ContextWindowExceeded, match=r"2048") as raised:
        tiny_model("word " * 3000)
    assert "30" in str(raised.value) and tiny_model._engine().busy == 0
    # An output may use the rest of the context.
    message = tiny_model("word " * 1980, max_tokens=500)
    assert message.token_usage and message.token_usage.input_tokens
    assert message.token_usage.input_tokens + (message.token_usage.output_tokens or 0) <= 2048


CODER_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t.function | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}"
    "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tool_calls_in_own_format_are_parsed_by_mlx_lm(tiny_folder: Path) -> None:
    def get_weather(city: str, days: int) -> str:
        """Tells the weather."""
        return f"{city} {days}"

    with MLXModel(tiny_folder, context_length=1024, chat_template=CODER_TEMPLATE) as model:
        assert model.capabilities.tools
        text = (
            "I look.<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
            "</parameter>\n</function>\n</tool_call>"
        )
        tokens = model._engine().tokenizer.encode(text, add_special_tokens=False)
        processors = [WritingProcessor(tokens)]
        message = model("The weather?", tools=[get_weather], max_tokens=120, logits_processors=processors)
        assert message.tool_calls and message.finish_reason == "tool_calls" and message.content == "I look."
        function = message.tool_calls[0].function
        assert (function.name, function.arguments) == ("get_weather", {"city": "Paris", "days": 3})
        forced = model("The weather?", tools=[get_weather], tool_choice="get_weather", max_tokens=120, temperature=0)
        assert forced.tool_calls and forced.tool_calls[0].function.name == "get_weather"
