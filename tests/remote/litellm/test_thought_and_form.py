"""The same through LiteLLM, which has no way to ask llama.cpp's server how it renders a prompt."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import pytest

from modelport import LiteLLMModel, LiteLLMRouterModel, Model
from tests.conformance.subjects import THINKING_TEMPLATE
from tests.remote.test_reasoning_and_output_type import QUESTION, SENTENCE, SHORT, check_reasoning_and_output
from tests.servers.faults import Fault, FaultServer
from tests.servers.llamacpp import LlamaServer, llama_server

pytestmark = pytest.mark.timeout(180)
KEY = "sk-thought-0123456789abcdef"


@pytest.fixture(scope="module")
def thinks() -> Iterator[LlamaServer]:
    with llama_server(chat_template=THINKING_TEMPLATE, api_key=KEY) as server:
        yield server


def alone(provider: str) -> Callable[[LlamaServer], Model]:
    return lambda server: LiteLLMModel(f"{provider}/m", server.base_url, KEY, dialect="llama.cpp")


def by_the_environment(server: LlamaServer) -> Model:
    return LiteLLMModel("openai/m", dialect="llama.cpp")


def of_the_router(server: LlamaServer) -> Model:
    """One of its deployments is down."""
    up = {"model": "openai/m", "api_base": server.base_url, "api_key": KEY}
    down = {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1", "api_key": KEY, "order": 2}
    served = [{"model_name": "g", "litellm_params": parameters} for parameters in (down, {**up, "order": 1})]
    return LiteLLMRouterModel("g", served, dialect="llama.cpp")


MAKERS = [alone("openai"), alone("hosted_vllm"), by_the_environment, of_the_router]


@pytest.mark.parametrize("make", MAKERS, ids=["openai", "hosted_vllm", "environment", "router"])
def test_the_thought_is_free_and_the_answer_has_its_form(
    make: Callable[[LlamaServer], Model], thinks: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", thinks.base_url)
    with make(thinks) as model:
        check_reasoning_and_output(model)
        again = pickle.loads(pickle.dumps(model))
    with again:
        assert again.generate(QUESTION, grammar=SENTENCE, **SHORT).reasoning


def test_a_server_without_the_path_is_asked_as_before() -> None:
    with FaultServer() as server:
        server.script(then=Fault.ok("Paris is large."))
        with LiteLLMModel("openai/m", server.base_url, KEY, dialect="llama.cpp", retry=False) as model:
            assert model.generate(QUESTION, grammar=SENTENCE).text == "Paris is large."
            assert "thought_" not in server.requests[-1].json["grammar"]
        server.wait_for(lambda: server.open_connections == 0)
