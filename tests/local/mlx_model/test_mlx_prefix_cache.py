"""The prefix cache of `MLXModel`: what is computed again, and how much memory it uses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.local.mlx_model.tiny import (
    BYTES_PER_TOKEN,
    HYBRID,
    SLIDING_WINDOW,
    STORY,
    FailingProcessor,
    cached_and_new,
    row_counter,
    user,
    wait_until_idle,
    write_tiny_model,
)

from modelport import MLXModel, ModelError

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("mlx")]


def test_next_turn_computes_only_new_tokens(fresh_model: MLXModel) -> None:
    messages: list[Any] = [user(STORY + "What did it do?")]
    assert cached_and_new(fresh_model, messages)[0] == 0
    for _ in range(3):
        message = fresh_model(messages, max_tokens=8)
        messages += [message, user("And then?")]
        hit, new = cached_and_new(fresh_model, messages)
        assert new < 30, f"{new} tokens were computed, {hit} were not"


def test_same_prompt_again_computes_one_token(fresh_model: MLXModel) -> None:
    cached_and_new(fresh_model, STORY)
    assert cached_and_new(fresh_model, STORY)[1] == 1


def test_shared_system_prompt_and_branches_are_computed_once(fresh_model: MLXModel) -> None:
    system = {"role": "system", "content": STORY}
    length = fresh_model._engine().tokenizer.apply_chat_template([system], return_dict=False)
    cached_and_new(fresh_model, [system, user("Who drank?")])
    hit, _ = cached_and_new(fresh_model, [system, user("Where is the water?")])
    assert hit >= len(length)
    turns = [system, user("Who drank?"), {"role": "assistant", "content": "It was the fox, of course."}]
    branch, _ = cached_and_new(fresh_model, [*turns, user("Was it thirsty?")])
    other, new = cached_and_new(fresh_model, [*turns, user("Did it swim?")])
    assert other > branch > hit and new < 20


def test_output_ended_early_is_cached(fresh_model: MLXModel) -> None:
    question = user(STORY + "Tell the story on.")
    text = fresh_model([question], max_tokens=12).text
    fresh_model("Something else, so that this is not the last.", max_tokens=2)
    stop = text[len(text) // 2 :][:3]
    message = fresh_model([question], stop_sequences=[stop], max_tokens=12)
    assert message.finish_reason == "stop" and message.text == text[: text.index(stop)]
    assert cached_and_new(fresh_model, [question, message, user("Go on.")])[1] < 30
    with fresh_model.generate_stream("Begin with: " + STORY, max_tokens=60) as stream:
        next(stream), next(stream)
    wait_until_idle(fresh_model)
    assert cached_and_new(fresh_model, "Begin with: " + STORY)[1] == 1


def test_prefix_cache_disabled_stores_nothing(uncached_model: MLXModel) -> None:
    assert cached_and_new(uncached_model, STORY)[0] == cached_and_new(uncached_model, STORY)[0] == 0
    assert uncached_model._engine().batch.prefixes.nbytes == 0


def test_prefix_cache_changes_no_output(fresh_model: MLXModel, uncached_model: MLXModel) -> None:
    messages: list[Any] = [user(STORY + "What did it do?")]
    options: dict[str, Any] = {"max_tokens": 10, "logprobs": True, "top_logprobs": 2}
    for question in ("Why?", "Where?", "And then?"):
        cached, uncached = fresh_model(messages, **options), uncached_model(messages, **options)
        assert cached.content == uncached.content
        assert cached.logprobs and uncached.logprobs
        for a, b in zip(cached.logprobs, uncached.logprobs, strict=True):
            assert a["logprob"] == pytest.approx(b["logprob"], abs=1e-3)
        messages += [uncached, user(question)]
    assert cached_and_new(fresh_model, messages)[0] > 100


def test_cached_prefix_contains_exactly_computed_tokens(fresh_model: MLXModel) -> None:
    """After outputs that ended, were ended by a stop sequence, were cancelled in the prompt, and failed."""
    fresh_model(STORY, max_tokens=5)
    fresh_model("Count: one, two", stop_sequences=["three"], max_tokens=20)

    async def cancel() -> None:
        task = asyncio.create_task(fresh_model.agenerate("word " * 1200, max_tokens=5))
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(cancel())
    with pytest.raises(ModelError, match="not today"):
        fresh_model("Hello", max_tokens=9, logits_processors=[FailingProcessor(3)])
    wait_until_idle(fresh_model)
    entries = fresh_model._engine().batch.prefixes.entries
    assert len(entries) >= 3
    for entry in entries:
        assert {layer.offset for layer in entry.cache} == {len(entry.tokens)}
        assert entry.nbytes == len(entry.tokens) * BYTES_PER_TOKEN


def test_memory_of_cache_and_running_rows_stays_within_limit(tiny_folder: Path) -> None:
    limit = 1200 * BYTES_PER_TOKEN
    with MLXModel(tiny_folder, context_length=1024, prefix_cache_bytes=limit, temperature=0) as model:
        batch = model._engine().batch
        sizes: list[tuple[int, int]] = []

        def record_sizes(tokens: Any, logits: Any) -> Any:  # The engine's thread calls this function.
            sizes.append((batch.prefixes.nbytes, batch.generator_bytes))
            return logits

        for n in range(9):
            model(f"{n} {STORY}", max_tokens=4, logits_processors=[record_sizes])  # Each prompt has about 140 tokens.
            wait_until_idle(model)
            assert batch.prefixes.nbytes <= limit
        assert max(cached + running for cached, running in sizes) <= limit
        assert 3 <= len(batch.prefixes.entries) < 9
        assert cached_and_new(model, f"8 {STORY}")[1] == 1 and cached_and_new(model, f"0 {STORY}")[0] < 40
        wait_until_idle(model)
        before = batch.prefixes.nbytes
        sizes.clear()
        # While an output grows, by 256 tokens at a time, entries of the prefix cache are evicted.
        model("word " * 700, max_tokens=200, logits_processors=[record_sizes], logit_bias={2: -100})
        assert max(cached + running for cached, running in sizes[1:]) <= limit
        assert min(cached for cached, _ in sizes) < before
        wait_until_idle(model)
        assert 0 < batch.prefixes.nbytes <= limit


def test_prompt_waits_until_memory_is_free(tiny_folder: Path) -> None:
    with MLXModel(tiny_folder, context_length=1024, prefix_cache_bytes=1200 * BYTES_PER_TOKEN, temperature=0) as model:
        counts, count_rows = row_counter(model)

        async def run_both() -> None:
            calls = (
                model.agenerate(f"{n} " + "word " * 700, max_tokens=6, logits_processors=[count_rows]) for n in range(2)
            )
            await asyncio.gather(*calls)

        asyncio.run(run_both())
        assert max(counts) == 1


@pytest.mark.parametrize("config", [SLIDING_WINDOW, HYBRID], ids=["sliding window", "hybrid"])
def test_cache_that_cannot_be_truncated_is_reused_as_whole(config: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", config)
    options: dict[str, Any] = {"max_tokens": 6, "logprobs": True}
    system = {"role": "system", "content": STORY}
    first, second, third = ([system, user(question)] for question in ("Who drank?", "Where is it?", "When was that?"))
    with MLXModel(folder) as model, MLXModel(folder, prefix_cache_bytes=0) as uncached_model:
        shared = len(model._engine().tokenizer.apply_chat_template([system], return_dict=False))
        hits = []
        message = model(first, **options)
        longer = [*first, {"role": "assistant", "content": message.text}, user("And then?")]
        for messages in (first, second, third, longer):
            a, b = model(messages, **options), uncached_model(messages, **options)
            assert a.content == b.content and a.logprobs and b.logprobs and a.token_usage
            assert [e["logprob"] for e in a.logprobs] == pytest.approx([e["logprob"] for e in b.logprobs], abs=1e-4)
            hits.append((a.token_usage.cached_input_tokens or 0, a.token_usage.input_tokens or 0))
        assert hits[0][0] == hits[0][1] - 1  # The whole prompt, unchanged.
        assert hits[1][0] == 0  # The entry can't be truncated. The shared part is stored for the next prompt.
        assert hits[2][0] >= shared
        assert hits[3][0] >= hits[0][0]
