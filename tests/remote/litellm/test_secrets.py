"""No error, log or representation of a model on LiteLLM shows a key, whatever fails."""

from __future__ import annotations

import asyncio
import logging

import pytest

from modelport.errors import ModelError
from tests.remote.litellm.helpers import BACKENDS
from tests.remote.matrix_runner import KEY, model_for
from tests.remote.secret_leaks import leaks, text_of_failed_call
from tests.servers.faults import Fault, FaultServer, sse

ECHO = f"Incorrect API key provided: {KEY}. You sent 'Bearer {KEY}'."
LEAKS = leaks(ECHO)
LEAKS["no JSON"] = lambda f: f(content=ECHO.encode(), replaced_events={3: sse(ECHO)})
LEAKS["an error in a 200"] = lambda f: f.error_frame(message=f"Incorrect API key: {KEY}.")


CASES = [
    (backend, name, way)
    for backend in BACKENDS
    for name in LEAKS
    for way in ("sync", "streamed", "async")
    # LiteLLM's own HTTP client ignores an event that is not JSON, so this call does not fail.
    if (backend, name, way) != ("litellm-http", "no JSON", "streamed")
]


@pytest.mark.parametrize(("backend", "name", "way"), CASES)
def test_failed_call_shows_no_key(
    shared_server: FaultServer, backend: str, name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    shared_server.clear()
    shared_server.script(then=LEAKS[name](Fault))
    caplog.set_level(logging.DEBUG)
    with model_for(shared_server, backend, retry=False, first_token_timeout=1.0) as model:
        with pytest.raises(ModelError) as raised:
            if way == "sync":
                model.generate("hello")
            elif way == "async":
                asyncio.run(model.agenerate("hello"))
            else:
                list(model.generate_stream("hello"))
        assert KEY not in text_of_failed_call(raised.value, model, caplog.records, __file__)
