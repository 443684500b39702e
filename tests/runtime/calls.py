"""What the tests of calls share: prompts, and checks that nothing of a call is left."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from modelport import LlamaCppModel, Model
from modelport.runtime import portal
from tests.servers.faults import Reply
from tests.servers.llamacpp import LlamaServer

#: The response of the scripted HTTP server.
RESPONSE = Reply().text
QUESTION = "What is the capital of France? Answer in one sentence."
#: Options of a call that keeps an engine busy for longer than any test waits.
LONG: dict[str, Any] = {"max_tokens": 3000, "ignore_eos": True, "temperature": 0}
#: The seconds within which an engine must have stopped, or a process ended, on a busy machine. A call that is not
#: stopped takes much longer.
SOON = 4.0


def assert_free(model: Model, llama: LlamaServer) -> None:
    """Check that the engine has stopped, and that no thread and no task of the call is left."""
    if isinstance(model, LlamaCppModel):
        start = time.monotonic()
        assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).text
        assert time.monotonic() - start < SOON
    else:
        llama.wait_until_idle(SOON)
        assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).text
    wait_until(lambda: not any(map(works_for_a_call, threading.enumerate())))
    wait_until(lambda: not asyncio.all_tasks(portal._loop_thread().loop))


def works_for_a_call(thread: threading.Thread) -> bool:
    """Whether a thread of modelport works for a call.

    Threads that wait for work may have served any test before, and each thread of an MLX engine lives as long as that.
    """
    return thread.name.startswith("modelport-") and not thread.name.endswith(("-idle", "-mlx"))


def wait_until(condition: Any, timeout: float = SOON) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, (threading.enumerate(), asyncio.all_tasks(portal._loop_thread().loop))
        time.sleep(0.01)


def text_of(stream: Any) -> str:
    """Return the text of a stream."""
    return "".join(delta.content or "" for delta in stream)
