"""LangChain's standard tests (`langchain-tests`) with `ChatModelport`.

All unit tests run. The integration tests run on real weights, but for those in `NOT_ON_WEIGHTS` and in `NOT_RUN`.
"""

from __future__ import annotations

import functools
import importlib
import io
import operator
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from PIL import Image

from modelport import (
    ChatMessageStreamDelta,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    LlamaCppModel,
)
from modelport.integrations.langchain import ChatModelport
from modelport.testing import ScriptedModel
from tests.servers.llamacpp import model_file
from tests.servers.tiny_mmproj import write_tiny_mmproj

pytestmark = [pytest.mark.engine, pytest.mark.server, pytest.mark.xdist_group("langchain")]


#: Parts of names of tests -> settings of the model. The default weights are too small to choose to call a tool, and
#: without a penalty they repeat a sentence until the output is truncated.
SETTINGS: dict[str, dict[str, Any]] = {
    "structured_output": {"repetition_penalty": 1.1, "max_tokens": 60},
    "json_mode": {"repetition_penalty": 1.1, "max_tokens": 60},
    "bind_runnables_as_tools": {"repetition_penalty": 1.1, "max_tokens": 60},
    "agent_loop": {"tool_choice": "required", "max_tokens": 60},
    "tool_c": {"max_tokens": 60},
    "few_shot": {"max_tokens": 60},
}
#: Integration tests that the default weights can't pass -> why. They run on a scripted model.
NOT_ON_WEIGHTS = {
    "test_unicode_tool_call_integration": "the model copies the Chinese or the Japanese name, but not both",
    "test_pdf_inputs": "llama.cpp takes no documents",
    "test_audio_inputs": "the tests have no audio projector",
    "test_pdf_tool_message": "llama.cpp takes no documents",
}
#: Integration tests that do not run -> why.
NOT_RUN = {
    **dict.fromkeys(
        (f"test_{name}_with_model_override" for name in ("invoke", "ainvoke", "stream", "astream")),
        "a call can't change the model",
    ),
    "test_stream_time": "replays recorded HTTP requests, for the time of a client",
}


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "tan").save(data, "PNG")
    return data.getvalue()


#: The model of the integration tests, which are methods of a class that LangChain wrote, and can't get it as a fixture.
MODELS: list[LlamaCppModel] = []


@pytest.fixture(scope="module", autouse=True)
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    mmproj = write_tiny_mmproj(tmp_path_factory.mktemp("langchain") / "mmproj.gguf")
    with LlamaCppModel(model_file(), context_length=2048, parallel=2, threads=1, mmproj=mmproj) as model:
        MODELS.append(model)
        yield


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatModelport]:
        return ChatModelport

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "openai/gpt-4o"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"OPENAI_API_KEY": "from the environment"}, self.chat_model_params, {"model_name": "gpt-4o"}

    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "test")

    @pytest.fixture
    def snapshot(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
        """What `dumpd` must return. The test loads it with the classes that LangChain knows, and this one."""
        load = importlib.import_module("langchain_core.load.load")
        name = ("modelport", "integrations", "langchain", "ChatModelport")
        all_names = load._get_default_allowed_class_paths("all") | {name}
        monkeypatch.setitem(load._default_class_paths_cache, "all", all_names)
        settings = {"retry": 3, "temperature": 0, "max_tokens": 100, "timeout": 60, "stop": []}
        model = {"class": "OpenAIServerModel", "model_id": "gpt-4o", "api_key": {"env": "OPENAI_API_KEY"}, **settings}
        saved = {"lc": 1, "type": "constructor", "id": [*name], "name": name[-1], "kwargs": {"model": model}}
        return lambda name: saved

    @pytest.fixture
    def benchmark(self) -> Callable[[Callable[[], None]], None]:
        """Run the function once, instead of the plugin that measures its time."""
        return lambda function: function()


class TestIntegration(ChatModelIntegrationTests):
    """The tests on the default local model, with a tiny random projector for images."""

    supports_json_mode = True
    supports_image_inputs = True
    supports_anthropic_inputs = True
    supports_image_tool_message = True
    supported_usage_metadata_details: ClassVar[Any] = {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    @property
    def chat_model_class(self) -> type[ChatModelport]:
        return ChatModelport

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODELS[-1], "temperature": 0, "max_tokens": 8}

    @pytest.fixture
    def model(self, request: pytest.FixtureRequest) -> ChatModelport:
        if why := (NOT_ON_WEIGHTS | NOT_RUN).get(request.node.originalname):
            pytest.skip(why)
        settings = next((some for part, some in SETTINGS.items() if part in request.node.name), {})
        return ChatModelport(**{**self.chat_model_params, **getattr(request, "param", {}), **settings})

    @pytest.fixture
    def benchmark(self) -> None:
        """Of the one test that replays recorded HTTP requests. It skips itself, because this model sends none."""

    vcr = benchmark

    @pytest.fixture(autouse=True)
    def image_of_the_test(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The tests fetch their image from the network."""
        monkeypatch.setattr(httpx, "get", lambda url, **_: SimpleNamespace(content=png()))

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatModelport(**self.chat_model_params)
        message = model.invoke("Hello, how are you?")
        assert message.usage_metadata["input_token_details"]["cache_read"] > 0
        return functools.reduce(operator.add, model.stream("Hello, how are you?")) if stream else message


class ScriptedSuite(TestIntegration):
    """The tests of what the weights lack. No class of tests: pytest collects only names that begin with `Test`."""

    supports_pdf_inputs = True
    supports_audio_inputs = True
    supports_pdf_tool_message = True


#: The responses of the scripted model. A test of tools needs calls.
SCRIPTS: dict[str, list[Any]] = {
    "test_unicode_tool_call_integration": [
        [ChatMessageStreamDelta(tool_calls=[ChatMessageToolCallStreamDelta(0, "1", "function", function)])]
        for name in ("你好啊集团", "こんにちは株式会社")
        for function in [
            ChatMessageToolCallFunction({"customer_name": name, "description": "a company"}, "unicode_customer")
        ]
    ]
}


@pytest.mark.parametrize("name", NOT_ON_WEIGHTS)
def test_standard_test_passes_on_scripted_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx, "get", lambda url, **_: SimpleNamespace(content=png()))
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "modelport")
    model = ScriptedModel(*SCRIPTS.get(name, ["Hello"]), repeat=True)
    getattr(ScriptedSuite(), name)(ChatModelport(model=model))
    assert model.requests


def test_every_integration_test_runs_or_has_a_reason() -> None:
    names = {name for name in dir(ChatModelIntegrationTests) if name.startswith("test_")}
    assert names >= NOT_ON_WEIGHTS.keys() | NOT_RUN.keys()
    assert len(names - NOT_ON_WEIGHTS.keys() - NOT_RUN.keys()) >= 33
