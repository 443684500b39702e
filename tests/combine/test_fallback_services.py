"""`FallbackModel` on a scripted HTTP server and on a local engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from modelport import ChatMessage, FallbackModel, LlamaCppModel, Model, OpenAIServerModel, RetryPolicy, accumulate
from tests.servers.faults import Fault, FaultServer
from tests.servers.llamacpp import model_file

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def local_model() -> Iterator[Model]:
    with LlamaCppModel(model_file(), context_length=8192, threads=1, temperature=0) as model:
        yield model


QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.mark.engine
def test_failing_service_falls_back_to_a_local_model(local_model: Model, call: Callable[..., ChatMessage]) -> None:
    with FaultServer() as server:
        server.script(then=Fault.status(503))
        service = OpenAIServerModel("gpt", api_base=server.base_url, api_key="k", retry=RetryPolicy(3, base=0.01))
        model = FallbackModel([service, local_model], cooldown=0)
        message = call(model, max_tokens=8)
        assert len(server.requests) == 3
        server.script(then=Fault.ok("From the service."))
        assert call(model).content == "From the service."
    assert message.content and message.model_id == local_model.model_id
    assert message.token_usage is not None and message.token_usage.output_tokens
    assert message.attempts[0].error is not None and message.attempts[0].error.startswith("ServerError")


@pytest.mark.engine
def test_reset_stream_is_restarted_on_a_local_model(local_model: Model) -> None:
    with FaultServer() as server:
        server.script(then=Fault.cut("reset"))
        service = OpenAIServerModel("gpt", api_base=server.base_url, api_key="k")
        model = FallbackModel([service, local_model], on_interrupted="restart")
        deltas = [*model.generate_stream(QUESTION, max_tokens=20)]
        assert len(server.requests) == 1
    interrupted = [delta.content for delta in deltas[: [delta.restart for delta in deltas].index(True)]]
    assert "".join(text or "" for text in interrupted) == "The capital of F"
    assert accumulate(deltas).content == "The capital of France is Paris."


def test_hedge_leaves_no_open_connection(call: Callable[..., ChatMessage]) -> None:
    with FaultServer() as slow, FaultServer() as quick:
        slow.script(then=Fault.slow(9.0))
        services = [
            OpenAIServerModel(name, api_base=server.base_url, api_key="k")
            for name, server in (("slow", slow), ("quick", quick))
        ]
        with FallbackModel(services, hedge=0.2) as model:
            start = time.monotonic()
            assert call(model).model_id == "quick"
            assert time.monotonic() - start < 5
            slow.wait_for(lambda: slow.open_connections == 0)
            assert (len(slow.requests), len(quick.requests)) == (1, 1)
