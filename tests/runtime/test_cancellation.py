"""Cancelled calls: the engine stops, and nothing of the call is left."""

from __future__ import annotations

import asyncio
import time

import pytest

from modelport import LlamaCppModel, Model, OpenAIServerModel
from tests.runtime.calls import LONG, QUESTION, RESPONSE, SOON, assert_free
from tests.servers.faults import OK, FaultServer
from tests.servers.llamacpp import LlamaServer

pytestmark = pytest.mark.timeout(120)


@pytest.mark.engine
def test_cancelled_call_stops_the_engine(model: Model, llama: LlamaServer) -> None:
    async def cancel() -> None:
        for _ in range(3):
            task = asyncio.create_task(model.agenerate(QUESTION, **LONG))
            await asyncio.sleep(0.3)
            start = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert time.monotonic() - start < SOON
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await model.agenerate(QUESTION, **LONG)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        # The connections and the slots can be used again.
        responses = await asyncio.gather(*(model.agenerate(QUESTION, max_tokens=12, temperature=0) for _ in range(3)))
        assert {"Paris" in response.text for response in responses} == {True}

    asyncio.run(cancel())
    assert_free(model, llama)


@pytest.mark.engine
def test_call_that_is_cancelled_before_its_first_token_stops_the_engine(
    engine: LlamaCppModel, llama: LlamaServer
) -> None:
    """The engine stops within a batch of a prompt that takes seconds to read."""
    prompt = "word " * 3000

    async def cancel() -> None:
        task = asyncio.create_task(engine.agenerate(prompt, max_tokens=5))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert_free(engine, llama)


def test_cancelled_call_does_not_affect_other_calls(server: FaultServer) -> None:
    server.script(then=OK.replace(delay_s=0.1))
    with OpenAIServerModel("m", server.base_url, "k", retry=False) as model:

        async def go() -> None:
            for round in range(5):
                tasks = [asyncio.create_task(model.agenerate("hello")) for _ in range(10)]
                await asyncio.sleep(0.01 * round)
                for task in tasks[::2]:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(error, asyncio.CancelledError) for error in done[::2])
                assert [message.content for message in done[1::2]] == [RESPONSE] * 5  # type: ignore[union-attr]

        asyncio.run(go())
