"""No key shows through LiteLLM, whatever fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from modelport.errors import ModelError
from tests.remote.matrix_runner import KEY, ask, model_for
from tests.remote.secret_leaks import leaks, text_of_failed_call
from tests.servers.faults import Fault, FaultServer, sse

ECHO = f"Incorrect API key provided: {KEY}. You sent 'Bearer {KEY}'."
LEAKS = leaks(ECHO)
LEAKS["no JSON"] = lambda f: f(content=ECHO.encode(), replaced_events={3: sse(ECHO)})
LEAKS["an error in a 200"] = lambda f: f.error_frame(message=f"Incorrect API key: {KEY}.")


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        for column in ("litellm", "litellm-router", "litellm-http"):
            ask(model_for(server, column), "async streamed")
        yield server


CELLS = [
    (column, name, way)
    for column in ("litellm", "litellm-router", "litellm-http")
    for name in LEAKS
    for way in ("sync", "streamed", "async")
    if (column, name, way) != ("litellm-http", "no JSON", "streamed")  # which it passes over
]


@pytest.mark.parametrize(("column", "name", "way"), CELLS)
def test_no_failure_shows_the_key(
    running: FaultServer, column: str, name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    running.clear()
    running.script(then=LEAKS[name](Fault))
    caplog.set_level(logging.DEBUG)
    with model_for(running, column, retry=False, first_token_timeout=1.0) as model:
        with pytest.raises(ModelError) as caught:
            if way == "sync":
                model.generate("hello")
            elif way == "async":
                asyncio.run(model.agenerate("hello"))
            else:
                list(model.generate_stream("hello"))
        assert KEY not in text_of_failed_call(caught.value, model, caplog.records, __file__)
