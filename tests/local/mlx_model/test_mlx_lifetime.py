"""The end of an `MLXModel`: closing, deletion, interpreter exit, and memory that is exhausted."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.local.mlx_model.tiny import BYTES_PER_TOKEN, STORY, active_memory, run_python
from tests.servers.smollm2 import smollm2_folder

from modelport import MLXModel, ModelError, ServerError, StreamInterrupted

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("mlx")]


def test_close_frees_memory_and_ends_running_requests() -> None:
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


def test_deleted_model_frees_memory() -> None:
    before = active_memory()
    model = MLXModel(smollm2_folder(), context_length=512)
    model("Hello", max_tokens=2)
    assert active_memory() > before + 500e6
    del model
    gc.collect()
    end = time.monotonic() + 30
    while active_memory() > before + 20e6 and time.monotonic() < end:
        time.sleep(0.02)
    assert active_memory() < before + 20e6


def test_threads_of_closed_models_are_reused(tiny_folder: Path) -> None:
    MLXModel(tiny_folder, context_length=64).close()
    before = threading.active_count()
    for _ in range(2):
        MLXModel(tiny_folder, context_length=64).close()
    assert threading.active_count() <= before


EXIT_DURING_REQUEST = """
import atexit, sys, threading, time
begin = []
# The handler that is registered first runs last.
atexit.register(lambda: print(time.process_time() - begin[0]))
from modelport import MLXModel
model = MLXModel(sys.argv[1], context_length=512)
def read():
    for _ in model.generate_stream("Tell a long story.", max_tokens=400): pass
threading.Thread(target=read, daemon=True).start()
stream = model.generate_stream("Tell a long story.", max_tokens=400)
next(stream), next(stream)
begin.append(time.process_time())
"""


def test_interpreter_exit_during_request_is_quick_and_silent() -> None:
    """Two outputs of 400 tokens would take ten seconds of processor time and more."""
    done = run_python(EXIT_DURING_REQUEST, str(smollm2_folder()))
    assert done.returncode == 0 and done.stderr == ""
    assert float(done.stdout) < 4.0


@pytest.fixture
def limit_memory() -> Iterator[Callable[[int], None]]:
    """A function that sets how many more bytes MLX may use."""
    import mlx.core as mx

    before = mx.get_memory_limit()
    yield lambda more: mx.set_memory_limit(active_memory() + more)
    mx.set_memory_limit(before)


def test_out_of_memory_raises_and_model_still_works(tiny_folder: Path, limit_memory: Callable[[int], None]) -> None:
    with MLXModel(tiny_folder, context_length=2048, retry=False, temperature=0) as model:
        model(STORY, max_tokens=2)
        limit_memory(600 * BYTES_PER_TOKEN)
        with pytest.raises(ServerError, match=r"memory.*prefix_cache_bytes"):
            model("word " * 1500, max_tokens=2)
        assert model("Hello", max_tokens=2).text

        async def run_two() -> None:
            """The row that was added last ends when the memory is exhausted."""
            options: dict[str, Any] = {"logit_bias": {2: -100}, "max_tokens": 2000}
            async with model.agenerate_stream("Tell a story.", **options) as older:
                await anext(older)
                with pytest.raises(ModelError, match="memory"):
                    await model.agenerate("Tell a story to its end.", **options)
                for _ in range(5):
                    assert await anext(older)

        asyncio.run(run_two())
        assert model("Hello", max_tokens=2).text
