"""`LiteLLMModel` beyond the conformance checks: its import, what it sends, capabilities, wrong input and keys."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import warnings
from typing import Any

import pytest

from modelport import JSONSchema, LiteLLMModel, LiteLLMRouterModel, Model, load_model
from modelport.errors import (
    AuthenticationError,
    InvalidRequest,
    MissingDependency,
    ServerError,
    UnsupportedFeature,
)
from modelport.remote.litellm.capabilities import known_capabilities
from modelport.remote.litellm.model import DEFAULT_MODEL
from modelport.secrets import Secret
from tests.remote.litellm.helpers import KEY, RecordingCallback, model_on, success_callback
from tests.servers.faults import OK, Fault, FaultServer
from tests.servers.llmock import Fault as ChaosFault
from tests.servers.llmock import llmock


def run_python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


# --- the package ------------------------------------------------------------------------------------------------------


def test_litellm_is_imported_when_capabilities_are_first_read() -> None:
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
    assert run_python(code).stdout.split() == ["False", "True"]


def test_calls_connect_only_to_the_server_and_print_nothing(server: FaultServer) -> None:
    """The calls are streamed or not, on several loops, with an error or cancelled. Other connections raise an error."""
    code = f"""
import asyncio, socket
connect = socket.socket.connect
def connect_to_server_only(self, address):
    assert address[0] == "127.0.0.1" and address[1] == {server.port}, f"it connects to {{address}}"
    return connect(self, address)
socket.socket.connect = connect_to_server_only
resolve = socket.getaddrinfo
def resolve_local_only(host, *rest, **more):
    assert host == "127.0.0.1", f"it looks up {{host}}"
    return resolve(host, *rest, **more)
socket.getaddrinfo = resolve_local_only
import modelport

def use(model):
    model.generate("hi")
    list(model.generate_stream("hi"))
    stream = model.generate_stream("hi")
    next(stream)
    stream.close()
    async def streamed(break_off):
        async for delta in model.agenerate_stream("hi"):
            if break_off:
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
    done = run_python(code, "-W", "error::ResourceWarning")
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert len(server.requests) == 3 * 16


def test_missing_litellm_raises_missing_dependency_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.remote.http.packages.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'modelport\[litellm\]'"):
        LiteLLMModel("openai/m")


def test_callbacks_registered_with_litellm_are_called(server: FaultServer) -> None:
    """Users register callbacks with LiteLLM for costs and traces."""

    async def call_twice() -> None:
        model = model_on(server, "openai/called")
        await model.agenerate("hi")
        async for _ in model.agenerate_stream("hi"):
            pass
        async with asyncio.timeout(10):
            while callback.models.count("called") < 2:  # noqa: ASYNC110  # LiteLLM starts them in a thread.
                await asyncio.sleep(0.01)

    callback = RecordingCallback()
    with success_callback(callback):
        asyncio.run(call_twice())
    assert callback.models.count("called") == 2


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_parameters_are_passed_through_and_call_takes_precedence_over_constructor(server: FaultServer) -> None:
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
def test_litellms_retry_settings_become_the_models_retry(server: FaultServer, name: str) -> None:
    settings: dict[str, Any] = {name: 1}
    server.script(then=Fault.status(500))
    with pytest.raises(ServerError):
        model_on(server, **settings).generate("hi")
    assert len(server.requests) == 2
    with pytest.raises(UnsupportedFeature, match=name):
        model_on(server).generate("hi", **settings)
    assert len(server.requests) == 2


def test_messages_are_flattened_for_providers_without_content_parts() -> None:
    names = ("groq", "ollama_chat", "cerebras", "openai")
    flattened = {name: LiteLLMModel(f"{name}/x").flatten_messages_as_text for name in names}
    assert flattened == {"groq": True, "ollama_chat": True, "cerebras": True, "openai": False}
    assert not LiteLLMModel("groq/x", flatten_messages_as_text=False).flatten_messages_as_text


def test_model_without_id_uses_the_default_model_and_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LiteLLMModel().model_id == DEFAULT_MODEL == "anthropic/claude-3-5-sonnet-20240620"


def test_retry_waits_as_long_as_retry_after_says() -> None:
    with llmock() as server:
        server.inject(ChaosFault.rate_limit(0.3), ChaosFault.fail(503, retry_after=0.1))
        model = LiteLLMModel("openai/m", server.base_url, KEY)
        assert model("ping").text
        first, second, third = server.requests()
        assert second.started_at - first.ended_at >= 0.3 and third.started_at - second.ended_at >= 0.1


# --- capabilities -----------------------------------------------------------------------------------------------------


def test_capabilities_come_from_litellms_tables() -> None:
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


def test_parameter_unsupported_by_the_tables_raises_unsupported_feature_before_sending(server: FaultServer) -> None:
    for model_id, options in (("anthropic/claude-sonnet-4-5", {"seed": 7}), ("mistral/x", {"presence_penalty": 1})):
        with pytest.raises(UnsupportedFeature, match=next(iter(options))):
            model_on(server, model_id).generate("hi", **options)  # type: ignore[call-overload]
    assert not server.requests


def test_parameter_refused_by_litellm_raises_unsupported_feature(server: FaultServer) -> None:
    with pytest.raises(UnsupportedFeature, match="logit_bias"):
        model_on(server, "mistral/x").generate("hi", logit_bias={"5": 1})
    with pytest.raises(UnsupportedFeature, match="user"):  # LiteLLM would drop it.
        model_on(server).generate("hi", user="u-1")
    assert not server.requests


def test_looking_up_capabilities_sends_no_request(server: FaultServer) -> None:
    """LiteLLM's own functions would send a request to an Ollama server."""
    known_capabilities(LiteLLMModel.declared_capabilities, "ollama_chat/x", None, server.url)
    assert not server.requests


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", ["nonsense", "nosuchprovider/x"])
def test_unknown_provider_raises_invalid_request(model_id: str) -> None:
    with pytest.raises(InvalidRequest, match=f"model_id='{model_id}'.*provider/model"):
        LiteLLMModel(model_id).generate("hi")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"api_base": "localhost:8000"}, "api_base='localhost:8000'"),
        ({"temperature": "hot"}, "temperature='hot'"),
    ],
)
def test_wrong_setting_raises_invalid_request_that_names_it(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        LiteLLMModel("openai/m", **settings)


@pytest.mark.parametrize(
    ("model_id", "variable"), [("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY"), ("openai/m", "OPENAI_API_KEY")]
)
def test_missing_key_raises_authentication_error_that_names_the_variable(
    server: FaultServer, model_id: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_key_is_shown_in_no_representation_and_restored_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    model = LiteLLMModel("groq/x", "http://127.0.0.1:1/v1", KEY)
    data = json.loads(json.dumps(model.to_dict()))
    assert data == {
        "class": "LiteLLMModel", "model_id": "groq/x", "api_base": "http://127.0.0.1:1/v1",
        "api_key": {"env": "MY_VARIABLE"}, "flatten_messages_as_text": True,
    }  # fmt: skip
    for text in (repr(model), repr(vars(model)), repr(pickle.dumps(model)), repr(data)):
        assert KEY not in text
    restored_models: list[Any] = [Model.from_dict(data), pickle.loads(pickle.dumps(model))]
    for restored in restored_models:
        assert restored.api_key.reveal() == KEY and restored.to_dict() == data
    monkeypatch.delenv("MY_VARIABLE")
    assert LiteLLMModel("groq/x", api_key=KEY).to_dict()["api_key"] == {"env": "GROQ_API_KEY"}
    with pytest.raises(AuthenticationError, match="MY_VARIABLE"):
        Model.from_dict(data).generate("hi")


def test_registry_and_command_line_have_litellm_and_router() -> None:
    assert isinstance(load_model("litellm/openai/org/m", api_key=KEY), LiteLLMModel)
    deployments = [{"model_name": "g", "litellm_params": {"model": "openai/m"}}]
    assert isinstance(load_model("litellm-router/g", model_list=deployments), LiteLLMRouterModel)
    output = subprocess.run(
        [sys.executable, "-m", "modelport.cli", "models", "--json"], capture_output=True, text=True, check=True
    )
    installed = {row["name"]: row["installed"] for row in json.loads(output.stdout)}
    assert installed["litellm"] and installed["litellm-router"]
