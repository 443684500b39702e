"""What is MLX's own: its batch, the prefix cache, loading. The rest is the contract's."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.smollm2 import as_hub_cache, smollm2_folder

from modelport import (
    Choice,
    ContextWindowExceeded,
    InvalidRequest,
    Lark,
    MLXModel,
    ModelError,
    NotFoundError,
    RateLimited,
    Regex,
    ServerError,
    StreamInterrupted,
    UnsupportedFeature,
)  # fmt: skip

CAPITAL = "What is the capital of France? Answer in one sentence."
STORY = "The fox went to the river and drank. " * 12


def tiny(folder: Path, config: dict[str, Any]) -> Path:
    """A model of random weights with SmolLM2's tokenizer."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    config = {"vocab_size": 49152, "eos_token_id": 2, "max_position_embeddings": 2048, **config}
    model_class, arguments = _get_classes(config)
    mx.random.seed(7)
    weights = dict(tree_flatten(model_class(arguments.from_dict(config)).parameters()))
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2_folder() / name, folder)
    return folder


#: Bytes of keys and values that `DENSE` keeps of a token: two layers, one head of 32, twice, in f32.
PER_TOKEN = 2 * 1 * 32 * 2 * 4
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
DENSE = {
    "model_type": "llama", "num_hidden_layers": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, **SMALL
}  # fmt: skip
SLIDING = {**DENSE, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
HYBRID = {
    "model_type": "lfm2", "num_hidden_layers": 2, "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3,
    "block_dim": 64, "block_ff_dim": 64, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False, "full_attn_idxs": [1], "rope_theta": 1e6, **SMALL,
}  # fmt: skip


@pytest.fixture(scope="module")
def smollm2() -> Iterator[MLXModel]:
    """On real weights, of which MLX computes ten tokens a second on a CPU: the contract has more on them."""
    with MLXModel(smollm2_folder(), context_length=2048, retry=False, temperature=0) as model:
        yield model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of no sense, and fast."""
    return tiny(tmp_path_factory.mktemp("tiny") / "dense", DENSE)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[MLXModel]:
    with MLXModel(folder, context_length=2048, retry=False, temperature=0) as model:
        yield model


@pytest.fixture(scope="module")
def forgetful(folder: Path) -> Iterator[MLXModel]:
    """Keeps nothing of what it computes."""
    with MLXModel(folder, context_length=2048, prefix_cache_bytes=0, temperature=0) as model:
        yield model


@pytest.fixture
def fresh(model: MLXModel) -> MLXModel:
    """The model, with nothing kept yet."""
    model._engine().batch.prefixes.clear()
    return model


def engine(model: MLXModel) -> Any:
    return model._engine()


def idle(model: MLXModel, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while engine(model).busy and time.monotonic() < end:
        time.sleep(0.005)
    assert engine(model).busy == 0


def cached(model: MLXModel, messages: Any, **options: Any) -> tuple[int, int]:
    """Tokens of the prompt that were cached, and those that were not."""
    usage = model(messages, max_tokens=4, **options).token_usage
    assert usage is not None and usage.input_tokens is not None and usage.cached_input_tokens is not None
    return usage.cached_input_tokens, usage.input_tokens - usage.cached_input_tokens


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_capital_of_france(smollm2: MLXModel) -> None:
    message = smollm2(CAPITAL)
    assert message.content == "The capital of France is Paris."
    assert message.finish_reason == "stop"


def test_log_probabilities_are_those_of_transformers(smollm2: MLXModel) -> None:
    """mlx-lm passes over `rope_parameters`, in which transformers 5 writes the base of the positions."""
    import torch
    from transformers import AutoModelForCausalLM

    message = smollm2(CAPITAL, logprobs=True, top_logprobs=3)
    tokenizer = engine(smollm2).tokenizer
    prompt = tokenizer.apply_chat_template([user(CAPITAL)], add_generation_prompt=True, return_dict=False)
    answer = tokenizer.encode(message.content, add_special_tokens=False)
    reference = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32)
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 :]
    expected = torch.log_softmax(logits, -1)
    assert message.logprobs is not None and len(message.logprobs) == len(answer) + 1  # with the token that ends it
    for entry, token, row in zip(message.logprobs, [*answer, *engine(smollm2).eos], expected, strict=True):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
        best = [e["logprob"] for e in entry["top_logprobs"]]
        assert best == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert entry["top_logprobs"][0]["token"] == tokenizer.decode([int(row.argmax())])


def test_log_probabilities_are_the_models_own_whatever_shapes_the_answer(smollm2: MLXModel) -> None:
    plain = smollm2(CAPITAL, logprobs=True, max_tokens=1).logprobs
    shaped = smollm2(CAPITAL, logprobs=True, repetition_penalty=1.5, grammar=Choice(["The", "Paris", "It"]))
    assert plain and shaped.logprobs and plain[0]["token"] == "The"
    assert shaped.logprobs[0]["logprob"] <= plain[0]["logprob"] + 1e-4


def test_sampling_parameters_do_what_they_say(model: MLXModel) -> None:
    def told(**options: Any) -> str:
        return model("Tell me a story.", max_tokens=12, **options).text

    greedy = told()
    assert told(temperature=5.0, top_k=1, seed=1) == told(temperature=5.0, top_p=1e-6, seed=2) == greedy
    assert told(temperature=5.0, min_p=1.0, seed=3) == greedy
    assert told(temperature=1.5, seed=4) == told(temperature=1.5, seed=4)
    assert len({told(temperature=1.5, seed=seed) for seed in range(4)}) > 1
    assert len({told(temperature=1.5) for _ in range(3)}) > 1  # without a seed no two are alike


def test_penalties_and_bias(smollm2: MLXModel) -> None:
    tokenizer = engine(smollm2).tokenizer
    (the,) = tokenizer.encode("The", add_special_tokens=False)
    assert smollm2(CAPITAL).text.startswith("The")
    assert not smollm2(CAPITAL, logit_bias={the: -100}).text.startswith("The")
    assert smollm2(CAPITAL, logit_bias={str(the): 100}, max_tokens=3).text == "TheTheThe"
    # Over the answer, not the prompt: the first token stays; over both: it changes, where the prompt holds it.
    held = {"logit_bias": {the: 100}, "max_tokens": 4}
    assert smollm2(CAPITAL, **held, frequency_penalty=2.0, presence_penalty=2.0).text.startswith("The")
    assert smollm2("a b a b", max_tokens=8).text != smollm2("a b a b", max_tokens=8, repetition_penalty=2.0).text


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"logit_bias": [1]}, InvalidRequest, "logit_bias"),
        ({"logit_bias": {10**7: 1}}, InvalidRequest, "no token 10000000"),
        ({"kv_bits": 4}, UnsupportedFeature, "kv_bits"),
        ({"grammar": Lark('start: "a" | nonesuch')}, InvalidRequest, "nonesuch"),
        ({"grammar": Regex("(?=a)b")}, UnsupportedFeature, "look-around"),
    ],
)
def test_bad_input_is_named(model: MLXModel, options: dict[str, Any], kind: type[ModelError], told: str) -> None:
    with pytest.raises(kind, match=told):
        model("Hello", max_tokens=4, **options)
    assert engine(model).busy == 0
    assert model("Hello", max_tokens=2).text


def test_too_long_a_prompt_is_refused_before_it_is_computed(model: MLXModel) -> None:
    with pytest.raises(ContextWindowExceeded, match=r"2048") as raised:
        model("word " * 3000)
    assert "30" in str(raised.value) and engine(model).busy == 0
    message = model("word " * 1980, max_tokens=500)  # what is left of the context is what the answer may have
    assert message.token_usage and message.token_usage.input_tokens
    assert message.token_usage.input_tokens + (message.token_usage.output_tokens or 0) <= 2048


# --- the prefix cache -------------------------------------------------------------------------------------------------


def test_a_turn_pays_for_its_new_tokens(fresh: MLXModel) -> None:
    messages: list[Any] = [user(STORY + "What did it do?")]
    assert cached(fresh, messages)[0] == 0
    for _ in range(3):
        answer = fresh(messages, max_tokens=8)
        messages += [answer, user("And then?")]
        hit, new = cached(fresh, messages)
        assert new < 30, f"{new} tokens were computed, {hit} were not"


def test_the_same_prompt_again_costs_one_token(fresh: MLXModel) -> None:
    cached(fresh, STORY)
    assert cached(fresh, STORY)[1] == 1


def test_a_shared_system_prompt_and_branches_are_computed_once(fresh: MLXModel) -> None:
    system = {"role": "system", "content": STORY}
    length = engine(fresh).tokenizer.apply_chat_template([system], return_dict=False)
    cached(fresh, [system, user("Who drank?")])
    hit, _ = cached(fresh, [system, user("Where is the water?")])
    assert hit >= len(length)
    turns = [system, user("Who drank?"), {"role": "assistant", "content": "It was the fox, of course."}]
    branch, _ = cached(fresh, [*turns, user("Was it thirsty?")])
    other, new = cached(fresh, [*turns, user("Did it swim?")])
    assert other > branch > hit and new < 20


def test_what_a_stop_sequence_or_a_caller_cut_off_is_kept_too(fresh: MLXModel) -> None:
    question = user(STORY + "Tell the story on.")
    text = fresh([question], max_tokens=12).text
    fresh("Something else, so that this is not the last.", max_tokens=2)
    stop = text[len(text) // 2 :][:3]
    message = fresh([question], stop_sequences=[stop], max_tokens=12)
    assert message.finish_reason == "stop" and message.text == text[: text.index(stop)]
    assert cached(fresh, [question, message, user("Go on.")])[1] < 30
    with fresh.generate_stream("Begin with: " + STORY, max_tokens=60) as stream:
        next(stream), next(stream)
    idle(fresh)
    assert cached(fresh, "Begin with: " + STORY)[1] == 1


def test_the_switch_is_off(forgetful: MLXModel) -> None:
    assert cached(forgetful, STORY)[0] == cached(forgetful, STORY)[0] == 0
    assert engine(forgetful).batch.prefixes.nbytes == 0


def test_the_cache_changes_no_result(fresh: MLXModel, forgetful: MLXModel) -> None:
    messages: list[Any] = [user(STORY + "What did it do?")]
    options: dict[str, Any] = {"max_tokens": 10, "logprobs": True, "top_logprobs": 2}
    for question in ("Why?", "Where?", "And then?"):
        with_it, without = fresh(messages, **options), forgetful(messages, **options)
        assert with_it.content == without.content
        assert with_it.logprobs and without.logprobs
        for a, b in zip(with_it.logprobs, without.logprobs, strict=True):
            assert a["logprob"] == pytest.approx(b["logprob"], abs=1e-3)
        messages += [without, user(question)]
    assert cached(fresh, messages)[0] > 100


def test_a_kept_prefix_holds_what_was_computed_and_no_more(fresh: MLXModel) -> None:
    """After answers that ended, were cut, were cancelled in the prompt, and failed."""
    fresh(STORY, max_tokens=5)
    fresh("Count: one, two", stop_sequences=["three"], max_tokens=20)

    async def cancel() -> None:
        task = asyncio.create_task(fresh.agenerate("word " * 1200, max_tokens=5))
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(cancel())
    with pytest.raises(ModelError, match="not today"):
        fresh("Hello", max_tokens=9, logits_processors=[Failing(3)])
    idle(fresh)
    entries = engine(fresh).batch.prefixes.entries
    assert len(entries) >= 3
    for entry in entries:
        assert {layer.offset for layer in entry.cache} == {len(entry.tokens)}
        assert entry.nbytes == len(entry.tokens) * PER_TOKEN


def test_the_memory_bound_holds_with_the_rows_under_way(folder: Path) -> None:
    limit = 1200 * PER_TOKEN
    with MLXModel(folder, context_length=1024, prefix_cache_bytes=limit, temperature=0) as model:
        batch = engine(model).batch
        seen: list[tuple[int, int]] = []

        def watch(tokens: Any, logits: Any) -> Any:  # is called by the engine's thread
            seen.append((batch.prefixes.nbytes, batch.running_bytes))
            return logits

        for n in range(9):
            model(f"{n} {STORY}", max_tokens=4, logits_processors=[watch])  # about 140 tokens each
            idle(model)
            assert batch.prefixes.nbytes <= limit
        assert max(kept + running for kept, running in seen) <= limit
        assert 3 <= len(batch.prefixes.entries) < 9
        assert cached(model, f"8 {STORY}")[1] == 1 and cached(model, f"0 {STORY}")[0] < 40
        idle(model)
        before = batch.prefixes.nbytes
        seen.clear()
        # An answer grows, by 256 tokens at a time, and what is kept gives way.
        model("word " * 700, max_tokens=200, logits_processors=[watch], logit_bias={2: -100})
        assert max(kept + running for kept, running in seen[1:]) <= limit
        assert min(kept for kept, _ in seen) < before
        idle(model)
        assert 0 < batch.prefixes.nbytes <= limit


def test_a_prompt_waits_until_the_memory_holds_it(folder: Path) -> None:
    with MLXModel(folder, context_length=1024, prefix_cache_bytes=1200 * PER_TOKEN, temperature=0) as model:
        counts, watch = watched(model)

        async def both() -> None:
            calls = (
                model.agenerate(f"{n} " + "word " * 700, max_tokens=6, logits_processors=[watch]) for n in range(2)
            )
            await asyncio.gather(*calls)

        asyncio.run(both())
        assert max(counts) == 1


@pytest.mark.parametrize("config", [SLIDING, HYBRID], ids=["sliding window", "hybrid"])
def test_caches_that_can_not_be_cut(config: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny(tmp_path / "uncuttable", config)
    options: dict[str, Any] = {"max_tokens": 6, "logprobs": True}
    system = {"role": "system", "content": STORY}
    first, second, third = ([system, user(question)] for question in ("Who drank?", "Where is it?", "When was that?"))
    with MLXModel(folder) as model, MLXModel(folder, prefix_cache_bytes=0) as forgetful:
        shared = len(engine(model).tokenizer.apply_chat_template([system], return_dict=False))
        hits = []
        answer = model(first, **options)
        longer = [*first, {"role": "assistant", "content": answer.text}, user("And then?")]
        for messages in (first, second, third, longer):
            a, b = model(messages, **options), forgetful(messages, **options)
            assert a.content == b.content and a.logprobs and b.logprobs and a.token_usage
            assert [e["logprob"] for e in a.logprobs] == pytest.approx([e["logprob"] for e in b.logprobs], abs=1e-4)
            hits.append((a.token_usage.cached_input_tokens or 0, a.token_usage.input_tokens or 0))
        assert hits[0][0] == hits[0][1] - 1  # the whole prompt, as it was
        assert hits[1][0] == 0  # could not be cut: but now it is known where they depart
        assert hits[2][0] >= shared
        assert hits[3][0] >= hits[0][0]


# --- the batch --------------------------------------------------------------------------------------------------------


class Failing:
    """A logits processor that raises at its nth call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, tokens: Any, logits: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise ZeroDivisionError("not today")
        return logits


def watched(model: MLXModel) -> tuple[list[int], Callable[[Any, Any], Any]]:
    """How many rows the batch has at each call of a processor."""
    counts: list[int] = []

    def watch(tokens: Any, logits: Any) -> Any:
        counts.append(len(engine(model).batch._rows))
        return logits

    return counts, watch


def test_eight_of_all_kinds_in_one_batch_are_what_they_are_alone(fresh: MLXModel) -> None:
    counts, watch = watched(fresh)
    calls: list[dict[str, Any]] = [
        {"messages": CAPITAL},
        {"messages": "Name a colour.", "grammar": Regex("(red|blue|green)[.]")},
        {"messages": "Tell me a story.", "temperature": 1.3, "seed": 11, "max_tokens": 14},
        {"messages": "Tell me a story.", "temperature": 1.3, "seed": 12, "top_k": 40, "max_tokens": 9},
        {"messages": STORY + "Who is it about?", "max_tokens": 7},
        {"messages": CAPITAL, "stop_sequences": ["France"]},
        {"messages": "Say the word yes.", "repetition_penalty": 1.3, "logprobs": True, "max_tokens": 8},
        {"messages": "Count from one to ten.", "max_tokens": 25, "logits_processors": [watch]},
    ]
    alone = [fresh(**call) for call in calls]

    async def together() -> list[Any]:
        async def late(n: int) -> Any:
            await asyncio.sleep(0.05 * n)  # so that each joins while others are at it
            return await fresh.agenerate(**calls[n])

        return list(await asyncio.gather(*(late(n) for n in range(len(calls)))))

    counts.clear()
    for a, b in zip(alone, asyncio.run(together()), strict=True):
        assert (a.content, a.finish_reason, a.stop_sequence) == (b.content, b.finish_reason, b.stop_sequence)
    assert max(counts) >= 4, counts
    idle(fresh)


@pytest.mark.parametrize("fault", ["raises", "wrong shape"])
def test_a_failing_request_fails_alone(fresh: MLXModel, fault: str) -> None:
    broken = Failing(4) if fault == "raises" else lambda tokens, logits: logits[:, :5]
    told = "ZeroDivisionError: not today" if fault == "raises" else "logits_processors"
    alone = [fresh(f"Tell me about {n}.", max_tokens=20).content for n in range(3)]

    async def together() -> list[Any]:
        good = [fresh.agenerate(f"Tell me about {n}.", max_tokens=20) for n in range(3)]
        bad = fresh.agenerate("Tell me about 4.", max_tokens=20, logits_processors=[broken])
        return list(await asyncio.gather(*good, bad, return_exceptions=True))

    *good, bad = asyncio.run(together())
    assert [message.content for message in good] == alone
    assert isinstance(bad, ModelError) and told in str(bad)
    idle(fresh)


def test_a_grammar_that_comes_to_a_dead_end_fails_alone(fresh: MLXModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelport.local.grammar_matching import GrammarMatcher

    bits = GrammarMatcher._bitmask
    monkeypatch.setattr(GrammarMatcher, "_bitmask", lambda self: bits(self) & 0)
    with pytest.raises(ServerError, match="allows no token"):
        fresh("Hello", grammar=Regex("a+"), max_tokens=5)
    assert fresh("Hello", max_tokens=2).text


def test_more_requests_wait_and_too_many_are_refused(folder: Path) -> None:
    with MLXModel(folder, context_length=512, parallel=2, queue=2, retry=False, temperature=0) as model:
        counts, watch = watched(model)

        async def six() -> list[Any]:
            calls = (model.agenerate(f"Say {n}.", max_tokens=12, logits_processors=[watch]) for n in range(6))
            return list(await asyncio.gather(*calls, return_exceptions=True))

        results = asyncio.run(six())
        refused = [r for r in results if isinstance(r, RateLimited)]
        assert len(refused) == 2 and "queue" in str(refused[0]) and refused[0].retryable
        assert all(r.text for r in results if r not in refused)
        assert max(counts) == 2
        # The port waits for its turn with them, where it may retry.
        patient = MLXModel.from_dict({**model.to_dict(), "retry": True})
        with patient:

            async def all_six() -> list[Any]:
                return list(await asyncio.gather(*(patient.agenerate(f"Say {n}.", max_tokens=4) for n in range(6))))

            assert len(asyncio.run(all_six())) == 6


def test_a_long_prompt_does_not_hold_the_others_up(folder: Path) -> None:
    with MLXModel(folder, context_length=2048, prefill_step_size=64, prefix_cache_bytes=0, temperature=0) as model:

        async def run() -> int:
            during = 0
            async with model.agenerate_stream("Tell a long story.", max_tokens=300) as stream:
                await anext(stream)
                long = asyncio.create_task(model.agenerate("word " * 900, max_tokens=1))
                async for _ in stream:
                    if long.done():
                        break
                    during += 1
                await long
            return during

        assert asyncio.run(run()) >= 900 // 64 - 3


@pytest.mark.parametrize("phase", ["prompt", "answer"])
def test_a_cancelled_call_leaves_within_a_step(folder: Path, phase: str) -> None:
    fresh = MLXModel(folder, prefill_step_size=1, temperature=0)  # so that the prompt takes a while
    calls = 0

    def count(tokens: Any, logits: Any) -> Any:
        nonlocal calls
        calls += 1
        return logits

    async def cancel() -> None:
        prompt = "word " * (1800 if phase == "prompt" else 5)
        async with fresh.agenerate_stream(prompt, max_tokens=200, logits_processors=[count]) as stream:
            if phase == "prompt":
                reading = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0.3)
                assert engine(fresh).busy == 1
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            else:
                await anext(stream)

    asyncio.run(cancel())
    before = calls
    idle(fresh)
    assert calls <= before + 2 if phase == "answer" else calls == 0
    fresh.close()


# --- tools ------------------------------------------------------------------------------------------------------------

CODER_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t.function | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}"
    "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Writes:
    """A logits processor that has the model write a text."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = iter(tokens)

    def __call__(self, tokens: Any, logits: Any) -> Any:
        import mlx.core as mx

        token = next(self._tokens, 2)  # then it ends
        return mx.where(mx.arange(logits.shape[1]) == token, mx.zeros_like(logits), -mx.inf)


def test_calls_in_a_format_of_their_own_are_read_by_mlx_lms_parser(folder: Path) -> None:
    def get_weather(city: str, days: int) -> str:
        """Tells the weather."""
        return f"{city} {days}"

    with MLXModel(folder, context_length=1024, chat_template=CODER_TEMPLATE) as model:
        assert model.capabilities.tools
        calls = (
            "I look.<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
            "</parameter>\n</function>\n</tool_call>"
        )
        written = engine(model).tokenizer.encode(calls, add_special_tokens=False)
        message = model("The weather?", tools=[get_weather], max_tokens=120, logits_processors=[Writes(written)])
        assert message.tool_calls and message.finish_reason == "tool_calls" and message.content == "I look."
        function = message.tool_calls[0].function
        assert (function.name, function.arguments) == ("get_weather", {"city": "Paris", "days": 3})
        forced = model("The weather?", tools=[get_weather], tool_choice="get_weather", max_tokens=120, temperature=0)
        assert forced.tool_calls and forced.tool_calls[0].function.name == "get_weather"


# --- loading ----------------------------------------------------------------------------------------------------------


def broken(source: Path, folder: Path, what: str) -> Path:
    """A copy of the model's folder with a fault."""
    copy = folder / what.replace(" ", "-")
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).symlink_to(file)
    remove = {"no weights": "model.safetensors", "no config": "config.json", "no tokenizer": "tokenizer.json"}
    if what in remove:
        (copy / remove[what]).unlink()
    if what == "no tokenizer":
        (copy / "tokenizer_config.json").unlink()
    if what == "no template":
        (copy / "chat_template.jinja").unlink()
    if what in ("unknown kind", "own code"):
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").unlink()
        change = {"model_type": "nonesuch"} if what == "unknown kind" else {"model_file": "own.py"}
        (copy / "config.json").write_text(json.dumps(config | change))
        (copy / "own.py").write_text(f"open({str(folder / 'it-ran')!r}, 'w')\nfrom mlx_lm.models.llama import *\n")
    if what == "cut weights":
        (copy / "model.safetensors").unlink()
        (copy / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:100_000])
    if what == "gguf":
        for file in copy.iterdir():
            file.unlink()
        (copy / "model.gguf").write_bytes(b"GGUF")
    return copy


@pytest.mark.parametrize(
    ("what", "kind", "told"),
    [
        ("no weights", NotFoundError, "safetensors"),
        ("no config", NotFoundError, "config.json"),
        ("gguf", NotFoundError, "LlamaCppModel"),
        ("no tokenizer", ModelError, "can't load"),
        ("no template", InvalidRequest, "chat_template="),
        ("unknown kind", InvalidRequest, "nonesuch"),
        ("cut weights", ServerError, "can't load"),
    ],
)
def test_a_folder_that_can_not_be_loaded(
    what: str, kind: type[ModelError], told: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=told):
        MLXModel(broken(folder, tmp_path, what))


def test_code_of_the_repository_runs_only_if_trusted(folder: Path, tmp_path: Path) -> None:
    folder = broken(folder, tmp_path, "own code")
    with pytest.raises(InvalidRequest, match="trust_remote_code=True"):
        MLXModel(folder)
    assert not (tmp_path / "it-ran").exists()
    MLXModel(folder, trust_remote_code=True).close()
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        ({"model_id": "/no/such/folder"}, NotFoundError, "/no/such/folder"),
        ({"model_id": "no-such-name"}, NotFoundError, "owner/repo"),
        ({"parallel": 0}, InvalidRequest, "parallel=0"),
        ({"prefix_cache_bytes": -1}, InvalidRequest, "prefix_cache_bytes=-1"),
        ({"context_length": "many"}, InvalidRequest, "context_length='many'"),
        ({"load_kwargs": {"nonesuch": 1}}, InvalidRequest, "nonesuch"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, Any], kind: type[ModelError], told: str, folder: Path) -> None:
    with pytest.raises(kind, match=told):
        MLXModel(**{"model_id": folder, **arguments})


def python(code: str, *, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=timeout
    )


REFERENCE = """
from modelport import MLXModel

model = MLXModel(model_id="HuggingFaceTB/SmolLM-135M-Instruct")

print(model([{"role": "user", "content": "Ok!"}], stop_sequences=["great"]))
"""


def test_the_snippet_of_the_reference(tmp_path: Path) -> None:
    """SmolLM2's weights stand in for SmolLM's, in a cache of the Hub."""
    hub = as_hub_cache(tmp_path, "HuggingFaceTB/SmolLM-135M-Instruct")
    done = python(REFERENCE, HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "great" not in done.stdout


def test_a_model_that_the_hub_does_not_give(tmp_path: Path) -> None:
    code = (
        "import modelport\ntry: modelport.MLXModel('nobody/nothing')\n"
        "except modelport.ModelError as e: print(type(e).__name__, e)"
    )
    told = python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1", HF_TOKEN="hf_secret").stdout
    assert told.startswith("ConnectionFailed") and "nobody/nothing" in told and "hf_secret" not in told


def test_loading_shows_progress(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    MLXModel(folder, context_length=64, progress=True).close()
    assert "Loading" in capfd.readouterr().err
    MLXModel(folder, context_length=64, progress=False).close()
    assert capfd.readouterr().err == ""


def test_settings_of_the_template_and_of_the_models_authors(folder: Path, tmp_path: Path) -> None:
    folder = broken(folder, tmp_path, "whole")
    recommended = {"do_sample": True, "temperature": 0.7, "top_k": 1, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    template = "{% for m in messages %}{{ greeting }} {{ m.content }}{% endfor %}"
    kwargs = {"greeting": "Ahoy", "add_generation_prompt": True}  # smolagents passes the second
    with MLXModel(folder, apply_chat_template_kwargs=kwargs, chat_template=template) as model:
        assert engine(model)._defaults == {"temperature": 0.7, "top_k": 1}
        usage = model("sailor", max_tokens=1).token_usage
        assert usage and usage.input_tokens == model.count_tokens("Ahoy sailor")
        usage = model("sailor", max_tokens=1, apply_chat_template_kwargs={"greeting": "Oh oh oh"}).token_usage
        assert usage and usage.input_tokens == model.count_tokens("Oh oh oh sailor")


def test_settings_are_saved(model: MLXModel, folder: Path) -> None:
    data = model.to_dict()
    assert data == {
        "class": "MLXModel", "model_id": str(folder), "context_length": 2048, "retry": False, "temperature": 0
    }  # fmt: skip
    with pickle.loads(pickle.dumps(model)) as twin:
        assert twin.to_dict() == data and twin("Hi", max_tokens=2).text


# --- the end ----------------------------------------------------------------------------------------------------------


def active_memory() -> int:
    import mlx.core as mx

    return int(mx.get_active_memory())


def test_closing_frees_the_memory_and_ends_what_runs() -> None:
    before = active_memory()
    model = MLXModel(smollm2_folder(), context_length=512)
    stream = model.generate_stream("Tell a long story.", max_tokens=400)
    next(stream)
    assert active_memory() > before + 500e6
    model.close()
    model.close()
    assert active_memory() < before + 20e6
    with pytest.raises(StreamInterrupted, match="closed"):
        list(stream)
    with pytest.raises(ModelError, match="closed"):
        model("Hello")


def test_a_forgotten_model_frees_its_memory() -> None:
    before = active_memory()
    model = MLXModel(smollm2_folder(), context_length=512)
    model("Hello", max_tokens=2)
    assert active_memory() > before + 500e6
    del model
    gc.collect()
    end = time.monotonic() + 10
    while active_memory() > before + 20e6 and time.monotonic() < end:
        time.sleep(0.02)
    assert active_memory() < before + 20e6


def test_threads_are_used_again(folder: Path) -> None:
    MLXModel(folder, context_length=64).close()
    before = threading.active_count()
    for _ in range(2):
        MLXModel(folder, context_length=64).close()
    assert threading.active_count() <= before


EXIT = """
import atexit, os, sys, threading, time
begin = []
atexit.register(lambda: print(time.monotonic() - begin[0]))  # the first to be registered is the last to run
from modelport import MLXModel
model = MLXModel(sys.argv[1] if len(sys.argv) > 1 else os.environ["FOLDER"], context_length=512)
def read():
    for _ in model.generate_stream("Tell a long story.", max_tokens=400): pass
threading.Thread(target=read, daemon=True).start()
stream = model.generate_stream("Tell a long story.", max_tokens=400)
next(stream), next(stream)
begin.append(time.monotonic())
"""


def test_the_interpreter_ends_in_silence_while_an_answer_is_under_way() -> None:
    done = python(EXIT, FOLDER=str(smollm2_folder()))
    assert done.returncode == 0 and done.stderr == ""
    assert float(done.stdout) < 2.0


@pytest.fixture
def memory() -> Iterator[Callable[[int], None]]:
    """Sets how many bytes more MLX may take."""
    import mlx.core as mx

    before = mx.get_memory_limit()
    yield lambda more: mx.set_memory_limit(active_memory() + more)
    mx.set_memory_limit(before)


def test_out_of_memory_is_an_error_and_the_model_answers_afterwards(
    folder: Path, memory: Callable[[int], None]
) -> None:
    with MLXModel(folder, context_length=2048, retry=False, temperature=0) as model:
        model(STORY, max_tokens=2)
        memory(600 * PER_TOKEN)
        with pytest.raises(ServerError, match=r"memory.*prefix_cache_bytes"):
            model("word " * 1500, max_tokens=2)
        assert model("Hello", max_tokens=2).text

        async def two() -> None:
            """Of which the younger grows into the limit."""
            options: dict[str, Any] = {"logit_bias": {2: -100}, "max_tokens": 2000}
            async with model.agenerate_stream("Tell a story.", **options) as older:
                await anext(older)
                with pytest.raises(ModelError, match="memory"):
                    await model.agenerate("Tell a story to its end.", **options)
                for _ in range(5):
                    assert await anext(older)

        asyncio.run(two())
        assert model("Hello", max_tokens=2).text
