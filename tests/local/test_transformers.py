"""`TransformersModel` on real weights: the prefix cache, concurrency, parameters, and failures."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.loop_hold import large_schema, longest_hold
from tests.servers.llamacpp import model_file
from tests.servers.smollm2 import as_hub_cache, smollm2_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from modelport import (
    ConnectionFailed,
    ContextWindowExceeded,
    InvalidOutput,
    InvalidRequest,
    MissingDependency,
    ModelError,
    NotFoundError,
    RateLimited,
    Regex,
    ServerError,
    TransformersModel,
    UnsupportedFeature,
)
from modelport.local.transformers.engine import PREFILL_TOKENS_SHARED
from modelport.local.transformers.sampling import Sampler

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("transformers"), pytest.mark.timeout(300)]
QUESTION = "What is the capital of France? Answer in one sentence."
SYSTEM = {"role": "system", "content": "You are a careful assistant who answers in short sentences. " * 6}
CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Seoul"]


@pytest.fixture(scope="module")
def model() -> Iterator[TransformersModel]:
    with TransformersModel(smollm2_folder(), context_length=2048, temperature=0, retry=False) as model:
        yield model


@pytest.fixture
def fresh(model: TransformersModel) -> TransformersModel:
    """The model with an empty prefix cache. A call that has ended is removed from the batch, and then stored, later."""
    engine, end = model._engine(), time.monotonic() + 20
    while engine.busy and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    engine.prefixes.clear()
    return model


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def test_large_schema_does_not_hold_the_event_loop(model: TransformersModel) -> None:
    """Its grammar is compiled in a thread."""
    result, held = await longest_hold(model.agenerate("Hello", grammar=large_schema("b"), max_tokens=1))
    assert isinstance(result, InvalidOutput), result  # It is truncated.
    assert held < 0.1


# --- the prefix cache -------------------------------------------------------------------------------------------------


def test_next_turn_computes_only_new_tokens(fresh: TransformersModel) -> None:
    messages: list[Any] = [SYSTEM, user(QUESTION)]
    first = fresh(messages, max_tokens=20)
    assert first.token_usage.cached_input_tokens == 0
    messages += [first, user("And of Italy?")]
    second = fresh(messages, max_tokens=20)
    known = first.token_usage.input_tokens + first.token_usage.output_tokens
    assert second.token_usage.cached_input_tokens >= known - 2


def test_branch_copies_shared_prefix(fresh: TransformersModel) -> None:
    fresh([SYSTEM, user("Name a river.")], max_tokens=4)
    other = fresh([SYSTEM, user("Count to three.")], max_tokens=4)
    again = fresh([SYSTEM, user("Name a river.")], max_tokens=4)
    shared = len(fresh._engine().tokenizer(SYSTEM["content"]).input_ids)
    assert other.token_usage.cached_input_tokens >= shared
    # The branch got a copy of the shared part, so the first entry is still complete.
    assert again.token_usage.cached_input_tokens == again.token_usage.input_tokens - 1


@pytest.mark.parametrize("parameter", [{"top_k": 200}, {"top_p": 0.99}, {"min_p": 0.001}, {"typical_p": 0.99}], ids=str)
def test_sampling_parameter_without_a_temperature_requests_sampling(parameter: dict[str, Any]) -> None:
    """Otherwise it would be ignored without a word: the model's own settings choose the most probable token."""
    sampler = Sampler(parameter, {}, 5, [0], "cpu")
    assert sampler._do_sample and not sampler.takes_most_probable
    assert not Sampler({**parameter, "temperature": 0}, {}, 5, [0], "cpu")._do_sample


def test_prefix_cache_changes_no_output(model: TransformersModel) -> None:
    loaded = model._engine()._loaded
    with TransformersModel(
        model=loaded.model, tokenizer=loaded.tokenizer, prefix_cache_bytes=0, temperature=0, context_length=2048
    ) as uncached:
        messages: list[Any] = [SYSTEM]
        for text in (QUESTION, "And of Italy?", "Which is larger?"):
            messages.append(user(text))
            a, b = (m(messages, max_tokens=16, logprobs=True) for m in (model, uncached))
            assert a.content == b.content
            assert b.token_usage.cached_input_tokens == 0
            for x, y in zip(a.logprobs or [], b.logprobs or [], strict=True):
                assert x["logprob"] == pytest.approx(y["logprob"], abs=1e-3)
            messages.append(a)


def test_memory_of_cache_and_running_rows_stays_within_limit(model: TransformersModel) -> None:
    loaded = model._engine()._loaded
    per_token = 30 * 2 * 3 * 64 * 4  # layers, keys and values, heads, dimension, bytes
    limit = 700 * per_token
    with TransformersModel(
        model=loaded.model, tokenizer=loaded.tokenizer, prefix_cache_bytes=limit, temperature=0, context_length=2048
    ) as bounded:
        engine = bounded._engine()
        sizes: list[int] = []
        compute = engine.forward.run

        def record_size(chunks: Any) -> Any:
            sizes.append(engine.prefixes.nbytes + sum(row.cache.nbytes for row in engine._rows))
            return compute(chunks)

        engine.forward.run = record_size  # type: ignore[method-assign]
        for city in CITIES:
            bounded([user(f"Tell me about {city}. " * 20)], max_tokens=4)
        assert max(sizes) <= limit
        assert 0 < engine.prefixes.nbytes <= limit
        # The least recently used entry was evicted first: the last prompt is still cached, the first is not.
        assert bounded([user(f"Tell me about {CITIES[-1]}. " * 20)], max_tokens=2).token_usage.cached_input_tokens > 100
        assert bounded([user(f"Tell me about {CITIES[0]}. " * 20)], max_tokens=2).token_usage.cached_input_tokens < 60


def test_cached_prefix_contains_exactly_computed_tokens(fresh: TransformersModel) -> None:
    """After a complete output, and after a stream that was closed early."""
    fresh(QUESTION, max_tokens=8)
    with fresh.generate_stream("Tell a story.", max_tokens=200) as stream:
        next(stream)
    wait_until_idle(fresh)
    for entry in fresh._engine().prefixes.entries:
        assert len(entry.fingerprints) == entry.cache.length


# --- concurrency ------------------------------------------------------------------------------------------------------


def test_eight_concurrent_calls_give_same_outputs_as_serial(fresh: TransformersModel) -> None:
    ask = lambda city: fresh([user(f"In which country is {city}?")], max_tokens=12).content  # noqa: E731
    serial = [ask(city) for city in CITIES]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, CITIES)) == serial

    async def gathered() -> list[Any]:
        calls = (fresh.agenerate([user(f"In which country is {city}?")], max_tokens=12) for city in CITIES)
        return [message.content for message in await asyncio.gather(*calls)]

    assert asyncio.run(gathered()) == serial


def test_four_concurrent_streams_give_same_outputs_as_serial(fresh: TransformersModel) -> None:
    def stream(city: str) -> str:
        deltas = fresh.generate_stream([user(f"Write two sentences about {city}.")], max_tokens=12)
        return "".join(delta.content or "" for delta in deltas)

    serial = [stream(city) for city in CITIES[:4]]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(stream, CITIES[:4])) == serial


def test_rows_of_one_batch_have_own_settings(fresh: TransformersModel) -> None:
    """Sampling with a seed, a grammar, a stop sequence and a length, all in one batch."""
    calls: list[dict[str, Any]] = [
        {"temperature": 1.0, "seed": 7, "max_tokens": 12},
        {"grammar": Regex("[0-9]{4}"), "max_tokens": 12},
        {"stop_sequences": ["Paris"], "max_tokens": 12},
        {"max_tokens": 3},
    ]
    alone = [fresh(QUESTION, **call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda call: fresh(QUESTION, **call), calls))
    assert [m.content for m in together] == [m.content for m in alone]
    assert [m.finish_reason for m in together[1:]] == ["stop", "stop", "length"]


def test_failing_row_does_not_affect_others(fresh: TransformersModel) -> None:
    def broken(ids: Any, scores: Any) -> Any:
        raise ZeroDivisionError("no such thing")

    with ThreadPoolExecutor(2) as pool:
        good: Any = pool.submit(fresh, QUESTION, max_tokens=12)
        bad: Any = pool.submit(fresh, QUESTION, max_tokens=12, logits_processor=[broken])
        assert "Paris" in good.result().content
        with pytest.raises(ServerError, match="ZeroDivisionError: no such thing"):
            bad.result()
    assert "Paris" in fresh(QUESTION, max_tokens=12).content


async def deltas_of(model: TransformersModel, stops: list[str] | None = None, **options: Any) -> list[Any]:
    stream = options.pop("stream")
    request = model._prepare("Count to twenty.", stops, options, stream=stream)
    return [d async for d in model.deltas(request.replace(capabilities=model.capabilities))]


async def test_deltas_of_non_streaming_call_contain_four_tokens_each(fresh: TransformersModel) -> None:
    streamed = await deltas_of(fresh, stream=True, max_tokens=10, ignore_eos=True)
    joined = await deltas_of(fresh, stream=False, max_tokens=10, ignore_eos=True, logprobs=True)
    assert (len(streamed), len(joined)) == (10, 3)
    assert "".join(d.content or "" for d in joined) == "".join(d.content or "" for d in streamed)
    assert [len(d.logprobs) for d in joined] == [4, 4, 2]
    assert joined[-1].token_usage.output_tokens == 10
    assert joined[-1].finish_reason == "length"
    # A stop sequence, and a time limit between tokens, need to see each token.
    for watched in ({"stops": ["\n"]}, {"idle_timeout": 60}):
        assert len(await deltas_of(fresh, stream=False, max_tokens=6, ignore_eos=True, **watched)) == 6


async def test_failure_delivers_pending_tokens_as_partial(fresh: TransformersModel) -> None:
    def fail_at_sixth_token(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        start.append(ids.shape[1])
        if ids.shape[1] - start[0] >= 5:
            raise RuntimeError("broken")
        return scores

    start: list[int] = []
    five = await fresh.agenerate("Count to twenty.", max_tokens=5, ignore_eos=True)
    with pytest.raises(ModelError) as caught:
        await fresh.agenerate("Count to twenty.", max_tokens=10, logits_processor=[fail_at_sixth_token])
    assert caught.value.partial is not None
    assert caught.value.partial.text == five.text


def test_long_prompt_does_not_delay_other_rows(fresh: TransformersModel) -> None:
    """While the prompt is computed in chunks, another row gets a token with each chunk."""
    received: list[str] = []
    has_started, is_done = threading.Event(), threading.Event()

    def generate() -> None:
        with fresh.generate_stream("Tell a story.", max_tokens=500, ignore_eos=True) as stream:
            for delta in stream:
                received.append(delta.content or "")
                has_started.set()
                if is_done.is_set():
                    break

    thread = threading.Thread(target=generate)
    thread.start()
    has_started.wait(30)
    before = len(received)
    fresh([user("word " * 900)], max_tokens=1)
    meanwhile = len(received) - before
    is_done.set()
    thread.join()
    assert meanwhile >= 900 // PREFILL_TOKENS_SHARED


def test_closed_stream_leaves_the_batch(fresh: TransformersModel) -> None:
    with fresh.generate_stream("Tell a story.", max_tokens=2000) as stream:
        next(stream)
        assert fresh._engine().busy == 1
    wait_until_idle(fresh)


def test_request_beyond_queue_is_refused(model: TransformersModel) -> None:
    loaded = model._engine()._loaded
    with TransformersModel(
        model=loaded.model, tokenizer=loaded.tokenizer, parallel=1, queue=1, temperature=0, retry=False
    ) as small:
        streams = [small.generate_stream("Tell a story.", max_tokens=400) for _ in range(2)]
        next(streams[0])
        threading.Thread(target=lambda: next(streams[1], None), daemon=True).start()
        for _ in range(200):
            if small._engine().busy == 2:
                break
            threading.Event().wait(0.05)
        with pytest.raises(RateLimited, match="raise `queue`"):
            small(QUESTION)
        streams[1].close()  # A request whose caller has left waits no longer, although the first one still runs.
        wait_until_idle(small, busy=1)
        streams[0].close()


def wait_until_idle(model: TransformersModel, busy: int = 0) -> None:
    for _ in range(200):
        if model._engine().busy == busy:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the engine is still busy")


# --- generation parameters --------------------------------------------------------------------------------------------


def test_output_equals_that_of_the_library(model: TransformersModel) -> None:
    """Each setting changes the output of its prompt."""
    plain = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    outputs = set()
    for prompt, settings in (
        ("Write a short poem about the sea.", {}),
        ("Write a short poem about the sea.", {"repetition_penalty": 1.3}),
        ("Write a short poem about the sea.", {"no_repeat_ngram_size": 2}),
        (QUESTION, {}),
        (QUESTION, {"min_new_tokens": 12}),
    ):
        inputs = tokenizer.apply_chat_template(
            [user(prompt)], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = plain.generate(
            **inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.eos_token_id, **settings
        )[0, inputs["input_ids"].shape[1] :]
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        assert model(prompt, max_tokens=24, **settings).content == expected, settings
        outputs.add(expected)
    assert len(outputs) == 5


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"num_beams": 4}, InvalidRequest),
        ({"penalty_alpha": 0.6}, UnsupportedFeature),
        ({"assistant_model": "m"}, UnsupportedFeature),
        ({"bad_words_ids": "no"}, InvalidRequest),
        ({"logit_bias": [1]}, InvalidRequest),
    ],
    ids=["num_beams", "penalty_alpha", "assistant_model", "bad_words_ids", "logit_bias"],
)
def test_unsupported_parameter_raises_and_names_it(
    model: TransformersModel, setting: dict[str, Any], error: type[ModelError]
) -> None:
    with pytest.raises(error, match=next(iter(setting)) if error is UnsupportedFeature else "."):
        model(QUESTION, **setting)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_load_wrong_model_raises_matching_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionFailed, match=r"no-such-owner/no-such-model.*HF_HUB_OFFLINE"):
        TransformersModel("no-such-owner/no-such-model")
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        TransformersModel(tmp_path)
    (tmp_path / "config.json").write_text((smollm2_folder() / "config.json").read_text())
    with pytest.raises(NotFoundError, match="could not be loaded"):
        TransformersModel(tmp_path)
    with pytest.raises(NotFoundError, match=r"nowhere\.gguf"):
        TransformersModel("nowhere.gguf")
    with pytest.raises(InvalidRequest, match="parallel=0"):
        TransformersModel("m", parallel=0)


def test_gguf_file_answers_correctly() -> None:
    with TransformersModel(str(model_file()), temperature=0) as gguf:
        assert gguf(QUESTION).content == "The capital of France is Paris."
        assert gguf.packed


def test_load_folder_without_tokenizer_or_template_raises(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(smollm2_folder() / name)
    with pytest.raises(InvalidRequest, match=r"tokenizer\.json"):
        TransformersModel(tmp_path)
    (tmp_path / "tokenizer.json").symlink_to(smollm2_folder() / "tokenizer.json")
    with pytest.raises(InvalidRequest, match="chat_template="):
        TransformersModel(tmp_path)


def test_device_map_without_accelerate_raises_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingDependency, match=r"modelport\[transformers\]"):
        TransformersModel(smollm2_folder(), device_map="cpu")


def test_prompt_longer_than_context_raises_with_both_lengths(model: TransformersModel) -> None:
    with pytest.raises(ContextWindowExceeded, match=r"has \d{4} tokens.*holds 2048"):
        model("word " * 3000)
    assert "Paris" in model(QUESTION, max_tokens=12).content


def test_out_of_memory_raises_and_model_still_works(fresh: TransformersModel) -> None:
    forward = fresh._engine().forward
    compute = forward.run

    def fail(chunks: Any) -> Any:
        raise MemoryError("no room")

    forward.run = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(ServerError, match="out of memory"):
            fresh(QUESTION)
    finally:
        forward.run = compute  # type: ignore[method-assign]
    assert "Paris" in fresh(QUESTION, max_tokens=12).content


def test_closed_model_raises(model: TransformersModel) -> None:
    loaded = model._engine()._loaded
    other = TransformersModel(model=loaded.model, tokenizer=loaded.tokenizer)
    stream = other.generate_stream("Tell a story.", max_tokens=500)
    next(stream)
    other.close()
    with pytest.raises(ModelError, match="closed"):
        list(stream)
    with pytest.raises(ModelError, match="closed"):
        other(QUESTION)


# --- models that compute in turns -------------------------------------------------------------------------------------


def test_serial_model_gives_same_outputs_as_packed(model: TransformersModel) -> None:
    with TransformersModel(
        smollm2_folder(), model_kwargs={"attn_implementation": "sdpa"}, temperature=0, context_length=2048
    ) as serial:
        assert model.packed and not serial.packed
        ask = lambda city: serial([user(f"In which country is {city}?")], max_tokens=8)  # noqa: E731
        with ThreadPoolExecutor(4) as pool:
            outputs = [message.content for message in pool.map(ask, CITIES[:4])]
        assert outputs == [model([user(f"In which country is {c}?")], max_tokens=8).content for c in CITIES[:4]]
        again = serial([user("In which country is Rome?"), user("And Oslo?")], max_tokens=4)
        assert again.token_usage.cached_input_tokens > 0


def test_packed_sliding_window_gives_same_output_as_the_library() -> None:
    """The window of this tiny model with random weights is shorter than its prompt."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=8, max_window_layers=0,
    )  # fmt: skip
    check_same_output_as_library(Qwen2ForCausalLM(config).eval())


def test_packed_shared_key_heads_give_same_output_as_the_library() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1,
    )  # fmt: skip
    check_same_output_as_library(LlamaForCausalLM(config).eval())


def check_same_output_as_library(plain: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    messages = [user(" ".join(CITIES * 4))]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = plain.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0)
    expected = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).rstrip("�")
    with TransformersModel(model=plain, tokenizer=tokenizer, temperature=0) as ours:
        assert ours.packed
        assert ours(messages, max_tokens=12, ignore_eos=True).content == expected


# --- reference page ---------------------------------------------------------------------------------------------------


def test_reference_page_snippet_runs(tmp_path: Path) -> None:
    snippet = """
from modelport import TransformersModel

model = TransformersModel(model_id="HuggingFaceTB/SmolLM-135M-Instruct")

print(model([{"role": "user", "content": [{"type": "text", "text": "Ok!"}]}], stop_sequences=["great"]))
"""
    cache = as_hub_cache(tmp_path, "HuggingFaceTB/SmolLM-135M-Instruct")
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", snippet], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "great" not in done.stdout
