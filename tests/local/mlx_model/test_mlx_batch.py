"""The batch of `MLXModel`: concurrent requests, failures, the queue, and cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.local.mlx_model.tiny import CAPITAL, STORY, FailingProcessor, row_counter, wait_until_idle

from modelport import MLXModel, ModelError, RateLimited, Regex, ServerError

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("mlx")]


def test_eight_different_requests_in_one_batch_give_same_outputs_as_alone(fresh_model: MLXModel) -> None:
    counts, count_rows = row_counter(fresh_model)
    calls: list[dict[str, Any]] = [
        {"messages": CAPITAL, "max_tokens": 200},
        {"messages": "Name a colour.", "grammar": Regex("(red|blue|green)[.]")},
        {"messages": "Tell me a story.", "temperature": 1.3, "seed": 11, "max_tokens": 14},
        {"messages": "Tell me a story.", "temperature": 1.3, "seed": 12, "top_k": 40, "max_tokens": 9},
        {"messages": STORY + "Who is it about?", "max_tokens": 7},
        {"messages": CAPITAL, "stop_sequences": ["France"], "max_tokens": 200},
        {"messages": "Say the word yes.", "repetition_penalty": 1.3, "logprobs": True, "max_tokens": 8},
        {"messages": "Count from one to ten.", "max_tokens": 25, "logits_processors": [count_rows]},
    ]
    alone = [fresh_model(**call) for call in calls]

    async def together() -> list[Any]:
        async def late(n: int) -> Any:
            await asyncio.sleep(0.02 * n)  # Each request joins while others are in progress.
            return await fresh_model.agenerate(**calls[n])

        return list(await asyncio.gather(*(late(n) for n in range(len(calls)))))

    counts.clear()
    for a, b in zip(alone, asyncio.run(together()), strict=True):
        assert (a.content, a.finish_reason, a.stop_sequence) == (b.content, b.finish_reason, b.stop_sequence)
    assert max(counts) >= 4, counts
    wait_until_idle(fresh_model)


@pytest.mark.parametrize("fault", ["raises", "wrong shape"])
def test_failing_request_does_not_affect_others(fresh_model: MLXModel, fault: str) -> None:
    broken = FailingProcessor(4) if fault == "raises" else lambda tokens, logits: logits[:, :5]
    text = "ZeroDivisionError: not today" if fault == "raises" else "logits_processors"
    alone = [fresh_model(f"Tell me about {n}.", max_tokens=20).content for n in range(3)]

    async def together() -> list[Any]:
        good = [fresh_model.agenerate(f"Tell me about {n}.", max_tokens=20) for n in range(3)]
        bad = fresh_model.agenerate("Tell me about 4.", max_tokens=20, logits_processors=[broken])
        return list(await asyncio.gather(*good, bad, return_exceptions=True))

    *good, bad = asyncio.run(together())
    assert [message.content for message in good] == alone
    assert isinstance(bad, ModelError) and text in str(bad)
    wait_until_idle(fresh_model)


def test_grammar_without_allowed_token_raises_and_model_still_works(
    fresh_model: MLXModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelport.local.grammar_matching import GrammarMatcher

    bitmask = GrammarMatcher._bitmask
    monkeypatch.setattr(GrammarMatcher, "_bitmask", lambda self: bitmask(self) & 0)
    with pytest.raises(ServerError, match="allows none of the tokenizer's tokens"):
        fresh_model("Hello", grammar=Regex("a+"), max_tokens=5)
    assert fresh_model("Hello", max_tokens=2).text


def test_requests_wait_and_beyond_queue_are_refused(tiny_folder: Path) -> None:
    with MLXModel(tiny_folder, context_length=512, parallel=2, queue=2, retry=False, temperature=0) as model:
        counts, count_rows = row_counter(model)

        async def run_six() -> list[Any]:
            calls = (model.agenerate(f"Say {n}.", max_tokens=12, logits_processors=[count_rows]) for n in range(6))
            return list(await asyncio.gather(*calls, return_exceptions=True))

        results = asyncio.run(run_six())
        refused = [r for r in results if isinstance(r, RateLimited)]
        assert len(refused) == 2 and "queue" in str(refused[0]) and refused[0].retryable
        assert all(r.text for r in results if r not in refused)
        assert max(counts) == 2
        # If modelport may retry, it waits until the queue has a free slot.
        retrying_model = MLXModel.from_dict({**model.to_dict(), "retry": True})
        with retrying_model:

            async def run_all_six() -> list[Any]:
                return list(
                    await asyncio.gather(*(retrying_model.agenerate(f"Say {n}.", max_tokens=4) for n in range(6)))
                )

            assert len(asyncio.run(run_all_six())) == 6


def test_long_prompt_does_not_delay_other_rows(tiny_folder: Path) -> None:
    with MLXModel(tiny_folder, context_length=2048, prefill_step_size=64, prefix_cache_bytes=0, temperature=0) as model:

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


@pytest.mark.parametrize("phase", ["prompt", "output"])
def test_cancelled_call_leaves_batch_within_a_step(tiny_folder: Path, phase: str) -> None:
    model = MLXModel(tiny_folder, prefill_step_size=1, temperature=0)  # The prompt takes long in steps of one token.
    calls = 0

    def count(tokens: Any, logits: Any) -> Any:
        nonlocal calls
        calls += 1
        return logits

    async def cancel() -> None:
        prompt = "word " * (1800 if phase == "prompt" else 5)
        async with model.agenerate_stream(prompt, max_tokens=200, logits_processors=[count]) as stream:
            if phase == "prompt":
                reading = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0.3)
                assert model._engine().busy == 1
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            else:
                await anext(stream)

    asyncio.run(cancel())
    before = calls
    wait_until_idle(model)
    assert calls <= before + 2 if phase == "output" else calls == 0
    model.close()
