"""What `LiteLLMModel` promises beside the contract: its import, its keys, what it knows of models, agents."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import smolagents

from modelport import JSONSchema, LiteLLMModel, LiteLLMRouterModel, Model, OpenAIServerModel, load_model
from modelport.errors import (
    AuthenticationError,
    ContextWindowExceeded,
    InvalidRequest,
    MissingDependency,
    ServerError,
    UnsupportedFeature,
)
from modelport.remote.litellm.model import DEFAULT_MODEL
from modelport.remote.litellm.package import known_capabilities, litellm_package
from modelport.secrets import Secret
from tests.servers.aimock import aimock
from tests.servers.faults import OK, Call, Fault, FaultServer, Recorded, Reply
from tests.servers.llamacpp import LlamaServer, llama_server
from tests.servers.llmock import Fault as ChaosFault
from tests.servers.llmock import llmock

KEY = "sk-of-litellm-0123456789"
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


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    running.settle()
    return running


@pytest.fixture(scope="module")
def real() -> Iterator[LlamaServer]:
    with llama_server(api_key=KEY) as server:
        yield server


def model_on(server: FaultServer, model_id: str = "openai/m", **settings: Any) -> LiteLLMModel:
    return LiteLLMModel(model_id, server.base_url, KEY, **settings)


def python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


# --- the package ------------------------------------------------------------------------------------------------------


def test_litellm_is_imported_on_first_use_and_not_before() -> None:
    code = """
import sys
import modelport
from modelport import LiteLLMModel, LiteLLMRouterModel
model = LiteLLMModel("openai/m", "http://127.0.0.1:1/v1", "sk-0123456789")
LiteLLMRouterModel("g", [{"model_name": "g", "litellm_params": {"model": "openai/m"}}])
print("litellm" in sys.modules)
model.capabilities
print("litellm" in sys.modules)
"""
    assert python(code).stdout.split() == ["False", "True"]


def test_nothing_is_fetched_printed_or_left_open(server: FaultServer) -> None:
    """Whole and streamed, on several loops, with an error, left early; a connection to anything else fails."""
    code = f"""
import asyncio, socket
connect = socket.socket.connect
def only_here(self, address):
    assert address[0] == "127.0.0.1" and address[1] == {server.port}, f"it connects to {{address}}"
    return connect(self, address)
socket.socket.connect = only_here
resolve = socket.getaddrinfo
def no_names(host, *rest, **more):
    assert host == "127.0.0.1", f"it looks up {{host}}"
    return resolve(host, *rest, **more)
socket.getaddrinfo = no_names
import modelport

def use(model):
    model.generate("hi")
    list(model.generate_stream("hi"))
    stream = model.generate_stream("hi")
    next(stream)
    stream.close()
    async def streamed(leave):
        async for delta in model.agenerate_stream("hi"):
            if leave:
                break
    for _ in range(3):
        asyncio.run(model.agenerate("hi"))
        asyncio.run(streamed(False))
        asyncio.run(streamed(True))
        model.generate("hi")
    try:
        model.generate("hi", extra_headers={{"X-Refuse": "1"}})
    except modelport.NotFoundError:
        pass

parameters = {{"model": "openai/m", "api_base": {server.base_url!r}, "api_key": {KEY!r}}}
use(modelport.LiteLLMModel("openai/m", {server.base_url!r}, {KEY!r}))
use(modelport.LiteLLMModel("hosted_vllm/m", {server.base_url!r}, {KEY!r}))
use(modelport.LiteLLMRouterModel("g", [{{"model_name": "g", "litellm_params": parameters}}]))
print("done")
"""
    server.script(then=lambda request: Fault.status(404) if "x-refuse" in request.headers else OK)
    done = python(code, "-W", "error::ResourceWarning")
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert len(server.requests) == 3 * 16


def test_a_missing_package_is_named_when_the_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.remote.http.transport.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'modelport\[litellm\]'"):
        LiteLLMModel("openai/m")


def test_its_callbacks_are_called(server: FaultServer) -> None:
    """What users of LiteLLM register with it (costs, traces) works on."""
    litellm = litellm_package()
    told: list[str] = []

    async def note(kwargs: Any, response: Any, begin: Any, end: Any) -> None:
        told.append(kwargs["model"])

    litellm.success_callback.append(note)
    try:

        async def ask() -> None:
            model = model_on(server, "openai/called")
            await model.agenerate("hi")
            async for _ in model.agenerate_stream("hi"):
                pass
            await asyncio.sleep(0.2)

        asyncio.run(ask())
    finally:
        litellm.logging_callback_manager.remove_callback_from_list_by_object(
            litellm._async_success_callback, note, require_self=False
        )
    assert told.count("called") == 2


# --- what it sends ----------------------------------------------------------------------------------------------------


def test_keywords_pass_through_and_calls_go_before_the_constructor(server: FaultServer) -> None:
    model = model_on(server, temperature=0.2, max_tokens=10, logit_bias={"5": 1}, extra_body={"own": 1})
    model.generate("hi", temperature=0.7, top_k=3, stop_sequences=["x"], extra_headers={"X-Own": "2"})
    (request,) = server.requests
    sent = request.json
    assert sent["messages"] == [{"role": "user", "content": "hi"}]
    assert {k: sent[k] for k in ("model", "temperature", "max_tokens", "logit_bias", "own", "top_k", "stop")} == {
        "model": "m", "temperature": 0.7, "max_tokens": 10, "logit_bias": {"5": 1}, "own": 1, "top_k": 3, "stop": ["x"],
    }  # fmt: skip
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-own"] == "2"


@pytest.mark.parametrize("name", ["num_retries", "max_retries"])
def test_its_retries_become_ours(server: FaultServer, name: str) -> None:
    server.script(then=Fault.status(500))
    with pytest.raises(ServerError):
        model_on(server, **{name: 1}).generate("hi")
    assert len(server.requests) == 2
    with pytest.raises(UnsupportedFeature, match=name):
        model_on(server).generate("hi", **{name: 1})
    assert len(server.requests) == 2


def test_texts_are_flattened_for_those_who_take_no_parts() -> None:
    names = ("groq", "ollama_chat", "cerebras", "openai")
    flattened = {name: LiteLLMModel(f"{name}/x").flatten_messages_as_text for name in names}
    assert flattened == {"groq": True, "ollama_chat": True, "cerebras": True, "openai": False}
    assert not LiteLLMModel("groq/x", flatten_messages_as_text=False).flatten_messages_as_text


def test_the_default_model() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LiteLLMModel().model_id == DEFAULT_MODEL == "anthropic/claude-3-5-sonnet-20240620"


def test_llmock_waits_as_long_as_it_says() -> None:
    with llmock() as server:
        server.inject(ChaosFault.rate_limit(0.3), ChaosFault.fail(503, retry_after=0.1))
        model = LiteLLMModel("openai/m", server.base_url, KEY)
        assert model("ping").text
        first, second, third = server.requests()
        assert second.started_at - first.ended_at >= 0.3 and third.started_at - second.ended_at >= 0.1


# --- what it knows ----------------------------------------------------------------------------------------------------


def test_capabilities_come_from_its_tables() -> None:
    known = LiteLLMModel("gpt-4o").capabilities
    assert known.tools and JSONSchema in known.grammars and known.logprobs and known.seed
    assert known.inputs == {"text", "image", "file"} and not known.reasoning
    claude = LiteLLMModel("anthropic/claude-sonnet-4-5").capabilities
    assert claude.tools and claude.reasoning and not claude.seed and not claude.logprobs
    assert {"presence_penalty", "frequency_penalty"} <= claude.refused
    ollama = LiteLLMModel("ollama/x").capabilities
    assert not ollama.tools and ollama.seed
    assert not LiteLLMModel("xai/grok-4").capabilities.stop
    assert LiteLLMModel("o3").capabilities.renamed == {"max_tokens": "max_completion_tokens"}
    own = LiteLLMModel("hosted_vllm/mine", "http://127.0.0.1:1/v1", capabilities={"inputs": ["text"]}).capabilities
    assert own.tools and own.inputs == {"text"}


def test_what_the_tables_refuse_is_refused_before_anything_is_sent(server: FaultServer) -> None:
    for model_id, options in (("anthropic/claude-sonnet-4-5", {"seed": 7}), ("mistral/x", {"presence_penalty": 1})):
        with pytest.raises(UnsupportedFeature, match=next(iter(options))):
            model_on(server, model_id).generate("hi", **options)
    assert not server.requests


def test_what_only_litellm_refuses_is_refused_the_same(server: FaultServer) -> None:
    with pytest.raises(UnsupportedFeature, match="logit_bias"):
        model_on(server, "mistral/x").generate("hi", logit_bias={"5": 1})
    with pytest.raises(UnsupportedFeature, match="user"):  # which LiteLLM would drop
        model_on(server).generate("hi", user="u-1")
    assert not server.requests


def test_no_server_is_asked_for_capabilities(server: FaultServer) -> None:
    """LiteLLM's own functions would ask an Ollama server."""
    url = server.url
    known_capabilities(LiteLLMModel.declared_capabilities, "ollama_chat/x", None, url)
    assert not server.requests


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", ["nonsense", "nosuchprovider/x"])
def test_an_unknown_provider_is_named(model_id: str) -> None:
    with pytest.raises(InvalidRequest, match=f"model_id='{model_id}'.*provider/model"):
        LiteLLMModel(model_id).generate("hi")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"api_base": "localhost:8000"}, "api_base='localhost:8000'"),
        ({"temperature": "hot"}, "temperature='hot'"),
    ],
)
def test_a_mistake_in_the_settings_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        LiteLLMModel("openai/m", **settings)


@pytest.mark.parametrize(
    ("model_id", "variable"), [("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY"), ("openai/m", "OPENAI_API_KEY")]
)
def test_no_credentials(server: FaultServer, model_id: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    for streamed in (False, True):
        model = LiteLLMModel(model_id, server.base_url)
        with pytest.raises(AuthenticationError, match=variable):
            list(model.generate_stream("hi")) if streamed else model.generate("hi")
    restored = LiteLLMModel(model_id, server.base_url, Secret(env=variable))
    with pytest.raises(AuthenticationError, match=variable):
        restored.generate("hi")
    assert not server.requests


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_seen_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    model = LiteLLMModel("groq/x", "http://127.0.0.1:1/v1", KEY)
    data = json.loads(json.dumps(model.to_dict()))
    assert data == {
        "class": "LiteLLMModel", "model_id": "groq/x", "api_base": "http://127.0.0.1:1/v1",
        "api_key": {"env": "MY_VARIABLE"}, "flatten_messages_as_text": True,
    }  # fmt: skip
    for shown in (repr(model), repr(vars(model)), repr(pickle.dumps(model)), repr(data)):
        assert KEY not in shown
    twins = (Model.from_dict(data), pickle.loads(pickle.dumps(model)))
    assert all(twin.api_key.reveal() == KEY and twin.to_dict() == data for twin in twins)
    monkeypatch.delenv("MY_VARIABLE")
    assert LiteLLMModel("groq/x", api_key=KEY).to_dict()["api_key"] == {"env": "GROQ_API_KEY"}
    with pytest.raises(AuthenticationError, match="MY_VARIABLE"):
        Model.from_dict(data).generate("hi")


def test_registry_and_command_line_know_both() -> None:
    assert isinstance(load_model("litellm/openai/org/m", api_key=KEY), LiteLLMModel)
    rows = [{"model_name": "g", "litellm_params": {"model": "openai/m"}}]
    assert isinstance(load_model("litellm-router/g", model_list=rows), LiteLLMRouterModel)
    told = subprocess.run(
        [sys.executable, "-m", "modelport.cli", "models", "--json"], capture_output=True, text=True, check=True
    )
    installed = {row["name"]: row["installed"] for row in json.loads(told.stdout)}
    assert installed["litellm"] and installed["litellm-router"]


# --- real weights, agents, the reference page -------------------------------------------------------------------------


def test_this_environment_has_the_openai_package_that_litellm_forces(real: LlamaServer) -> None:
    """And `modelport[openai]` works on it."""
    assert importlib.metadata.version("openai").startswith("2.")
    with OpenAIServerModel("m", real.base_url, KEY, client_kwargs={"timeout": 60}) as model:
        assert model("What is the capital of France? Answer in one sentence.", temperature=0).text.startswith("The cap")


@pytest.mark.parametrize("model_id", ["openai/smollm2", "hosted_vllm/smollm2"])
def test_real_weights(real: LlamaServer, model_id: str) -> None:
    with LiteLLMModel(model_id, real.base_url, KEY) as model:
        message = model("What is the capital of France? Answer in one sentence.", temperature=0)
        assert message.content == "The capital of France is Paris."
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        formed = model("A number, as JSON.", grammar=schema, temperature=0, max_tokens=60)
        assert isinstance(formed.parsed["n"], int) and formed.enforcement == "enforced"
        with pytest.raises(ContextWindowExceeded):
            model("word " * 6000, max_tokens=4)


@smolagents.tool
def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


def two_steps(request: Recorded) -> Fault:
    """What the server answers: a call of the tool first, then of `final_answer` with the result."""
    if "sunny in Rome" in str(request.json):
        return Fault.tools(Call("final_answer", '{"answer": "It is sunny."}'))
    return Fault.tools(Call("get_weather", '{"city": "Rome"}'))


def routed(server: FaultServer) -> Model:
    parameters = {"model": "openai/gpt-4o", "api_base": server.base_url, "api_key": KEY}
    return LiteLLMRouterModel("group", [{"model_name": "group", "litellm_params": parameters}])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("make", [lambda s: model_on(s, "openai/gpt-4o"), routed], ids=["litellm", "router"])
def test_a_tool_calling_agent_takes_its_two_steps(server: FaultServer, make: Any, streamed: bool) -> None:
    server.script(then=two_steps)
    with make(server) as model:
        agent = smolagents.ToolCallingAgent(
            tools=[get_weather], model=model, max_steps=4, stream_outputs=streamed, verbosity_level=0
        )
        assert agent.run("What is the weather in Rome?") == "It is sunny."
        assert KEY not in str(agent.to_dict()["model"])
    assert [request.json["tool_choice"] for request in server.requests] == ["required"] * 2
    assert all(request.json["stop"] == ["Observation:", "Calling tools:"] for request in server.requests)


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "snippet.py").write_text(code)
    return subprocess.run(
        [sys.executable, "snippet.py"], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_reference_pages_snippet(tmp_path: Path) -> None:
    """As it stands: on a server that speaks Anthropic's API."""
    fixtures = tmp_path / "anthropic.json"
    answer = {"match": {"userMessage": "Hello, how are you?"}, "response": {"content": "Fine, thank you."}}
    fixtures.write_text(json.dumps({"fixtures": [answer]}))
    with aimock(fixtures, api_key=KEY) as server:
        done = run(SNIPPET, tmp_path, ANTHROPIC_API_KEY=KEY, ANTHROPIC_API_BASE=server.url)
        assert (done.stdout, done.stderr) == ("Fine, thank you.\n", "")
        (sent,) = server.requests()
    assert sent["path"] == "/v1/messages"
    assert (sent["body"]["temperature"], sent["body"]["max_tokens"]) == (0.2, 10)


def test_the_reference_pages_snippet_of_the_router(server: FaultServer, tmp_path: Path) -> None:
    """As it stands. Groq's answers name a service tier, without which LiteLLM can't read them."""
    body = json.loads(Reply("Fine, thank you.").body("llama-3.3-70b")) | {"service_tier": "on_demand"}
    server.script(then=Fault(content=json.dumps(body).encode()))
    keys = {"GROQ_API_KEY": f"{KEY}-groq", "CEREBRAS_API_KEY": f"{KEY}-cerebras"}
    urls = {"GROQ_API_BASE": server.base_url, "CEREBRAS_API_BASE": server.base_url}
    done = run(ROUTER_SNIPPET, tmp_path, **keys, **urls)
    assert (done.stdout, done.stderr) == ("Fine, thank you.\n", "")
    (request,) = server.requests
    assert request.headers["authorization"].removeprefix("Bearer ") in keys.values()
    assert request.json["model"] == "llama-3.3-70b"
