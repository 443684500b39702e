"""`LiteLLMModel` and its Router on real weights, in agents, and in the snippets of the reference page."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import smolagents

from modelport import LiteLLMModel, LiteLLMRouterModel, Model, OpenAIServerModel
from modelport.errors import ContextWindowExceeded
from tests.remote.litellm.helpers import KEY, model_on
from tests.servers.aimock import aimock
from tests.servers.faults import Call, Fault, FaultServer, Recorded, Reply
from tests.servers.llamacpp import LlamaServer, llama_server

QUESTION = "What is the capital of France? Answer in one sentence."
SNIPPET = """
from modelport import LiteLLMModel

messages = [
  {"role": "user", "content": [{"type": "text", "text": "Hello, how are you?"}]}
]

model = LiteLLMModel(model_id="anthropic/claude-3-5-sonnet-latest", temperature=0.2, max_tokens=10, requests_per_minute=60)
print(model(messages))
"""  # noqa: E501
ROUTER_SNIPPET = """
import os
from modelport import LiteLLMRouterModel

messages = [
  {"role": "user", "content": [{"type": "text", "text": "Hello, how are you?"}]}
]

model = LiteLLMRouterModel(
    model_id="llama-3.3-70b",
    model_list=[
        {
            "model_name": "llama-3.3-70b",
            "litellm_params": {"model": "groq/llama-3.3-70b", "api_key": os.getenv("GROQ_API_KEY")},
        },
        {
            "model_name": "llama-3.3-70b",
            "litellm_params": {"model": "cerebras/llama-3.3-70b", "api_key": os.getenv("CEREBRAS_API_KEY")},
        },
    ],
    client_kwargs={
        "routing_strategy": "simple-shuffle",
    },
)
print(model(messages))
"""


# --- real weights -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaServer]:
    with llama_server(api_key=KEY) as server:
        yield server


def router_on(base_url: str, model_id: str, **settings: Any) -> LiteLLMRouterModel:
    parameters = {"model": model_id, "api_base": base_url, "api_key": KEY}
    return LiteLLMRouterModel("group", [{"model_name": "group", "litellm_params": parameters}], **settings)


def test_openai_backend_works_with_the_openai_version_that_litellm_requires(llama: LlamaServer) -> None:
    assert importlib.metadata.version("openai").startswith("2.")
    with OpenAIServerModel("m", llama.base_url, KEY, client_kwargs={"timeout": 60}) as model:
        assert model(QUESTION, temperature=0).text.startswith("The cap")


@pytest.mark.parametrize("model_id", ["openai/smollm2", "hosted_vllm/smollm2"])
def test_real_weights_answer_and_follow_a_schema(llama: LlamaServer, model_id: str) -> None:
    with LiteLLMModel(model_id, llama.base_url, KEY) as model:
        message = model(QUESTION, temperature=0)
        assert message.content == "The capital of France is Paris."
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        structured = model("A number, as JSON.", grammar=schema, temperature=0, max_tokens=60)
        assert isinstance(structured.parsed["n"], int) and structured.enforcement == (
            "validated" if model_id.startswith("openai/") else "enforced"
        )
        with pytest.raises(ContextWindowExceeded):
            model("word " * 6000, max_tokens=4)


@pytest.mark.parametrize("through_router", [False, True], ids=["litellm", "router"])
def test_closed_stream_frees_the_server(llama: LlamaServer, through_router: bool) -> None:
    model = router_on(llama.base_url, "openai/m") if through_router else LiteLLMModel("openai/m", llama.base_url, KEY)
    with model, model.generate_stream("Tell me a long story about a fox.", max_tokens=400) as stream:
        next(stream), next(stream)
        assert llama.busy_slots() == 1
        stream.close()
        llama.wait_until_idle()


# --- agents -----------------------------------------------------------------------------------------------------------


@smolagents.tool
def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


def two_steps(request: Recorded) -> Fault:
    """The server's response: a call of the tool first, then of `final_answer` with the result."""
    if "sunny in Rome" in str(request.json):
        return Fault.tools(Call("final_answer", '{"answer": "It is sunny."}'))
    return Fault.tools(Call("get_weather", '{"city": "Rome"}'))


@pytest.mark.parametrize("streamed", [False, True], ids=["non-streaming", "streaming"])
@pytest.mark.parametrize("through_router", [False, True], ids=["litellm", "router"])
def test_tool_calling_agent_calls_the_tool_and_gives_the_final_answer(
    server: FaultServer, through_router: bool, streamed: bool
) -> None:
    server.script(then=two_steps)
    model: Model = router_on(server.base_url, "openai/gpt-4o") if through_router else model_on(server, "openai/gpt-4o")
    with model:
        agent = smolagents.ToolCallingAgent(
            tools=[get_weather], model=model, max_steps=4, stream_outputs=streamed, verbosity_level=0
        )
        assert agent.run("What is the weather in Rome?") == "It is sunny."
        assert KEY not in str(agent.to_dict()["model"])
    assert [request.json["tool_choice"] for request in server.requests] == ["required"] * 2
    assert all(request.json["stop"] == ["Observation:", "Calling tools:"] for request in server.requests)


# --- the reference page -----------------------------------------------------------------------------------------------


def run_snippet(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "snippet.py").write_text(code)
    return subprocess.run(
        [sys.executable, "snippet.py"], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_litellm_snippet_of_the_reference_page_runs_unchanged(tmp_path: Path) -> None:
    """The server speaks Anthropic's API."""
    fixtures = tmp_path / "anthropic.json"
    response = {"match": {"userMessage": "Hello, how are you?"}, "response": {"content": "Fine, thank you."}}
    fixtures.write_text(json.dumps({"fixtures": [response]}))
    with aimock(fixtures, api_key=KEY) as server:
        done = run_snippet(SNIPPET, tmp_path, ANTHROPIC_API_KEY=KEY, ANTHROPIC_API_BASE=server.url)
        assert (done.stdout, done.stderr) == ("Fine, thank you.\n", "")
        (sent,) = server.requests()
    assert sent["path"] == "/v1/messages"
    assert (sent["body"]["temperature"], sent["body"]["max_tokens"]) == (0.2, 10)


def test_router_snippet_of_the_reference_page_runs_unchanged(server: FaultServer, tmp_path: Path) -> None:
    """Groq's responses name a service tier, without which LiteLLM can't read them."""
    body = json.loads(Reply("Fine, thank you.").body("llama-3.3-70b")) | {"service_tier": "on_demand"}
    server.script(then=Fault(content=json.dumps(body).encode()))
    keys = {"GROQ_API_KEY": f"{KEY}-groq", "CEREBRAS_API_KEY": f"{KEY}-cerebras"}
    urls = {"GROQ_API_BASE": server.base_url, "CEREBRAS_API_BASE": server.base_url}
    done = run_snippet(ROUTER_SNIPPET, tmp_path, **keys, **urls)
    assert (done.stdout, done.stderr) == ("Fine, thank you.\n", "")
    (request,) = server.requests
    assert request.headers["authorization"].removeprefix("Bearer ") in keys.values()
    assert request.json["model"] == "llama-3.3-70b"
