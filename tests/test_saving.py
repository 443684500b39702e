"""Models are written to a dict and restored from it, without secrets, and without importing what the dict names."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from modelport import AmazonBedrockServerModel, AzureOpenAIServerModel, InferenceClientModel
from modelport.errors import AuthenticationError, InvalidRequest
from modelport.inputs.output_types import grammar_from
from modelport.layers.redis_limits import RedisLimits
from modelport.layers.retry import RetryPolicy
from modelport.model import Model
from modelport.registry import class_named
from modelport.remote.openai.model import OpenAIServerModel
from modelport.saving import constructor_parameters
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.request import Request

KEY = "sk-this-must-never-be-seen"


class Local(Model):
    """A backend with a setting of its own."""

    declared_capabilities = Capabilities(tools=True, seed=True)

    def __init__(self, model_id: str = "tiny", *, threads: int = 4, client: Any = None, **settings: Any) -> None:
        super().__init__(model_id, **settings)
        self.threads = threads
        self.client = client

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        yield ChatMessageStreamDelta(content="hi", finish_reason="stop")


def save_and_restore(model: Model) -> Model:
    data = json.loads(json.dumps(model.to_dict()))
    twin = type(model).from_dict(data)
    assert type(twin) is type(model)
    assert twin.to_dict() == data
    return twin


# --- settings ---------------------------------------------------------------------------------------------------------


def test_to_dict_leaves_defaults_out() -> None:
    assert Local().to_dict() == {"class": "Local"}
    assert OpenAIServerModel("gpt", api_key=KEY).to_dict() == {
        "class": "OpenAIServerModel", "model_id": "gpt", "api_key": {"env": "OPENAI_API_KEY"},
    }  # fmt: skip


def test_restored_model_has_its_settings() -> None:
    settings: dict[str, Any] = {
        "threads": 2, "temperature": 0.5, "max_new_tokens": 9, "requests_per_minute": 3, "max_concurrency": 2,
        "custom_role_conversions": {"system": "user"}, "flatten_messages_as_text": True, "tool_name_key": "tool",
        "whatever": {"a": [1, None]}, "timeout": 30,
    }  # fmt: skip
    twin = save_and_restore(Local("other", **settings))
    assert isinstance(twin, Local)
    assert (twin.model_id, twin.threads, twin.requests_per_minute) == ("other", 2, 3)
    assert twin.kwargs == {"temperature": 0.5, "max_new_tokens": 9, "whatever": {"a": [1, None]}, "timeout": 30}
    assert twin.generate("?").content == "hi"


@pytest.mark.parametrize("retry", [False, 5, RetryPolicy(attempts=7, base=0.1), RetryPolicy()])
def test_restored_model_has_its_retry_policy(retry: Any) -> None:
    assert RetryPolicy.from_value(save_and_restore(Local(retry=retry)).retry) == RetryPolicy.from_value(retry)


@pytest.mark.parametrize(
    "capabilities",
    [
        {"tools": False},
        {"grammars": {JSONSchema, Regex}, "inputs": {"text", "image"}},
        {"renamed": {"max_tokens": "max_completion_tokens"}, "max_stop_sequences": 4, "extra_parameters": {"mirostat"}},
        Capabilities(),  # They replace the declared capabilities.
        Capabilities(stop=False, grammars=frozenset({JSONSchema})),
    ],
)
def test_restored_model_has_the_callers_capabilities(capabilities: Any) -> None:
    model = Local(capabilities=capabilities)
    assert save_and_restore(model).capabilities == model.capabilities


def test_to_dict_leaves_declared_capabilities_out() -> None:
    assert "capabilities" not in Local().to_dict()


@pytest.mark.parametrize("name", ["grammar", "response_format"])
@pytest.mark.parametrize(
    "output_type",
    [Regex("[ab]{3}"), Choice("yes", "no"), Lark('start: "a"'), JSONSchema({"type": "object"}), JSONSchema({}, "x")],
    ids=repr,
)
def test_restored_model_has_its_output_type(output_type: Any, name: str) -> None:
    twin = save_and_restore(Local(**{name: output_type}))
    assert grammar_from(twin.kwargs[name]) == output_type


@dataclass
class Point:
    """A type that a saved file can't name."""

    x: int


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"client": object()}, "client is of the type object, which can't be stored; give it at run time"),
        ({"whatever": {"a": object()}}, r"whatever\.a is of the type object"),
        ({"retry": RetryPolicy(retryable=lambda error: True)}, r"retry\.retryable is of the type function"),
        ({"grammar": Point}, "grammar is the type Point, which can't be stored; pass grammar= to the calls"),
        ({"response_format": JSONSchema({}, type=Point)}, "response_format is the type Point"),
    ],
)
def test_to_dict_names_the_setting_that_cannot_be_stored(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        Local(**settings).to_dict()


def test_class_outside_the_registry_is_restored_by_itself_alone() -> None:
    data = Local(threads=2).to_dict()
    assert Local.from_dict(data).to_dict() == data
    with pytest.raises(InvalidRequest, match="model class 'Local' is unknown"):
        Model.from_dict(data)


def test_base_class_restores_every_registered_class() -> None:
    model = OpenAIServerModel("gpt", "http://127.0.0.1:1/v1", KEY, temperature=0)
    twin = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        twin = Model.from_dict(model.to_dict())
    assert type(twin) is OpenAIServerModel
    assert (twin.model_id, twin.api_base, twin.kwargs) == ("gpt", "http://127.0.0.1:1/v1", {"temperature": 0})


def test_from_dict_of_another_class_raises() -> None:
    with pytest.raises(InvalidRequest, match="describes a OpenAIServerModel, which is no Local"):
        Local.from_dict(OpenAIServerModel("gpt", api_key=KEY).to_dict())


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess:Popen", "antigravity", "modelport.model:Model", "", "Model", 5]
)
def test_from_dict_imports_nothing_that_the_data_names(name: Any) -> None:
    """The data may come from a file that somebody else wrote."""
    before = set(sys.modules)
    with pytest.raises((InvalidRequest, TypeError)):
        restored = Model.from_dict({"class": name, "model_id": "m"})
        assert type(restored) is Model  # The data named the base class, which can't respond.
        restored.generate("?")
    assert "antigravity" not in sys.modules
    assert not {module for module in set(sys.modules) - before if not module.startswith(("modelport", "importlib"))}


def test_class_named_with_a_class_outside_the_registry_raises() -> None:
    with pytest.raises(InvalidRequest, match="unknown; there are"):
        class_named("Local")


@pytest.mark.parametrize(
    "data",
    [
        {"class": "TransformersModel", "model_id": "m", "trust_remote_code": True},
        {"class": "TransformersModel", "model_id": "m", "model_kwargs": {"trust_remote_code": True}},
        {"class": "TransformersModel", "model_id": "m", "model_kwargs": {"attn_implementation": "evil/kernel"}},
        {"class": "TransformersModel", "model_id": "m", "model_kwargs": {"weights_only": False}},
        {"class": "TransformersModel", "model_id": "m", "custom_generate": "evil/repo"},
        {"class": "MLXModel", "model_id": "m", "model_kwargs": {"tokenizer_config": {"trust_remote_code": True}}},
        {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"worker_cls": "os.system"}},
        {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"worker_extension_cls": "os.system"}},
        {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"logits_processors": ["os:system"]}},
        {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"hf_overrides": "os.system"}},
        {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"distributed_executor_backend": "os.system"}},
        {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"kv_transfer_config": {
            "kv_connector_module_path": "evil"}}},
        {"class": "FallbackModel", "models": [
            {"class": "TransformersModel", "model_id": "m", "trust_remote_code": True}]},
    ],
    ids=str,
)  # fmt: skip
def test_data_that_names_code_is_refused(data: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"names code to run.*trust_remote_code=True"):
        Model.from_dict(data)


#: What a stranger's file may not set -> the path in the error. None of these models may load anything.
HARMFUL: dict[str, dict[str, Any]] = {
    "engine_params.mcp_servers_json": {"class": "LlamaCppModel", "engine_params": {"mcp_servers_json": "{}"}},
    "engine_params.mcp_servers_config": {"class": "LlamaCppModel", "engine_params": {"mcp_servers_config": "f"}},
    "engine_params.api_keys": {"class": "LlamaCppModel", "engine_params": {"api_keys": []}},
    "engine_params.hostnames": {"class": "LlamaCppModel", "engine_params": {"hostnames": ["0.0.0.0"]}},
    "engine_params.port": {"class": "LlamaCppModel", "engine_params": {"port": 8080}},
    "engine_params.server_tools": {"class": "LlamaCppModel", "engine_params": {"server_tools": ["all"]}},
    "engine_params.slot_save_path": {"class": "LlamaCppModel", "engine_params": {"slot_save_path": "/tmp"}},
    "engine_params.model": {"class": "LlamaCppModel", "engine_params": {"model": {"path": "/etc/passwd"}}},
    "engine_params.public_path": {"class": "LlamaCppModel", "engine_params": {"n_ctx": 5, "public_path": "/"}},
    "unknown_setting": {"class": "LlamaCppModel", "unknown_setting": 1},
    "model_kwargs.cache_dir": {"class": "TransformersModel", "model_kwargs": {"cache_dir": "/tmp"}},
    "model_kwargs.quantization_config": {"class": "TransformersModel", "model_kwargs": {"quantization_config": {}}},
    "model_kwargs.gguf_file": {"class": "TransformersModel", "model_kwargs": {"gguf_file": "f"}},
    "load_kwargs.adapter_path": {"class": "MLXModel", "model_id": "m", "load_kwargs": {"adapter_path": "/tmp"}},
    "load_kwargs.tokenizer_config": {"class": "MLXModel", "model_id": "m", "load_kwargs": {"tokenizer_config": {}}},
    "model_kwargs.compilation_config": {"class": "VLLMModel", "model_id": "m", "model_kwargs": {
        "compilation_config": {"inductor_passes": {"x": "os.system"}}}},
    "model_kwargs.load_format": {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"load_format": "pt"}},
    "model_kwargs.download_dir": {"class": "VLLMModel", "model_id": "m", "model_kwargs": {"download_dir": "/"}},
    "model_kwargs.kv_transfer_config": {"class": "VLLMModel", "model_id": "m", "model_kwargs": {
        "kv_transfer_config": {"kv_connector": "x"}}},
    "client_kwargs.http_client": {"class": "OpenAIServerModel", "model_id": "m", "client_kwargs": {"http_client": 1}},
    "client_kwargs.verify": {"class": "AmazonBedrockServerModel", "model_id": "m", "client_kwargs": {"verify": False}},
    "client_kwargs.trust_env": {"class": "InferenceClientModel", "client_kwargs": {"trust_env": True}},
    "ssl_verify": {"class": "LiteLLMModel", "ssl_verify": False},
    "model_list": {"class": "LiteLLMModel", "model_list": [
        {"model_name": "m", "litellm_params": {"model": "x/y", "ssl_verify": False}}]},
    **{price: {"class": "LiteLLMModel", price: 0.5} for price in (
        "input_cost_per_token", "output_cost_per_token", "input_cost_per_second", "output_cost_per_second")},
    "model_list[0].litellm_params.input_cost_per_token": {"class": "LiteLLMRouterModel", "model_id": "m",
        "model_list": [{"model_name": "m", "litellm_params": {"model": "x/y", "input_cost_per_token": 0}}]},
    "vertex_credentials": {"class": "LiteLLMModel", "vertex_credentials": "/etc/passwd"},
    "client_kwargs.debug_level": {"class": "LiteLLMRouterModel", "model_id": "m", "model_list": [], "client_kwargs": {
        "debug_level": "DEBUG"}},
    "model_list[0].litellm_params.ssl_verify": {"class": "LiteLLMRouterModel", "model_id": "m", "model_list": [
        {"model_name": "m", "litellm_params": {"model": "x/y", "ssl_verify": False}}]},
    "model_list[0].litellm_params.model_list": {"class": "LiteLLMRouterModel", "model_id": "m", "model_list": [
        {"model_name": "m", "litellm_params": {"model": "x/y", "model_list": []}}]},
    "model_list[0].model_info": {"class": "LiteLLMRouterModel", "model_id": "m", "model_list": [
        {"model_name": "m", "litellm_params": {"model": "x/y"}, "model_info": {"base_model": "z"}}]},
}  # fmt: skip


@pytest.mark.parametrize("path", HARMFUL)
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in a FallbackModel"])
def test_setting_outside_the_list_of_its_class_is_refused(path: str, nested: bool) -> None:
    data = {"class": "FallbackModel", "models": [HARMFUL[path]]} if nested else HARMFUL[path]
    with pytest.raises(InvalidRequest, match=rf"{re.escape(path)}: this is not among the settings that data may have"):
        Model.from_dict(data)


@pytest.mark.parametrize("path", [path for path in HARMFUL if "." in path])
def test_list_of_pairs_in_the_place_of_a_dict_is_refused(path: str) -> None:
    """`dict()` accepts pairs: `[["trust_remote_code", true]]` ran the code of a repository."""
    data = {name: as_pairs(value) for name, value in HARMFUL[path].items()}
    with pytest.raises(InvalidRequest, match="the data must have a dict here"):
        Model.from_dict(data)


def as_pairs(value: Any) -> Any:
    """Return a value with a list of pairs in the place of each dict."""
    if isinstance(value, Mapping):
        return [[key, as_pairs(item)] for key, item in value.items()]
    return [as_pairs(item) for item in value] if isinstance(value, list) else value


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        Model.from_dict({"class": "OpenAIServerModel", "model_id": "m", "extra_body": value})


@pytest.mark.parametrize("cls", ["LlamaCppModel", "TransformersModel", "MLXModel", "VLLMModel"])
def test_every_engine_lists_what_saved_data_may_set(cls: str) -> None:
    target = class_named(cls)
    assert target.saved_parameters is not None
    passed_whole = {"engine_params", "model_kwargs", "load_kwargs"} & constructor_parameters(target).keys()
    assert target.saved_fields.keys() == passed_whole != set()


def test_to_dict_refuses_what_from_dict_would_refuse() -> None:
    class Engine(Local):
        saved_fields = {"options": frozenset({"n"})}  # noqa: RUF012
        saved_parameters = frozenset({"options"})

    assert Engine(options={"n": 1}).to_dict() == {"class": "Engine", "options": {"n": 1}}
    for settings, path in (({"options": {"run": "x"}}, r"options\.run"), ({"other": 1}, "other")):
        with pytest.raises(
            TypeError, match=rf"{path}: this is not among the settings .* and to_dict\(trust_remote_code=True\)"
        ):
            Engine(**settings).to_dict()
        data = Engine(**settings).to_dict(trust_remote_code=True)
        assert Engine.from_dict(data, trust_remote_code=True).kwargs == settings


def test_code_settings_of_a_class_are_added_to_those_of_its_bases() -> None:
    class WithPlugins(Local):
        code_settings = {"extension": lambda value: "." in str(value)}  # noqa: RUF012

    for data in ({"extension": "os.system"}, {"a": [{"extension": "os.system"}]}, {"scheduler_cls": "os.system"}):
        with pytest.raises(InvalidRequest, match=r"extension|scheduler_cls.*names code to run"):
            WithPlugins.from_dict(data)
    assert WithPlugins.from_dict({"extension": "plain"}).kwargs == {"extension": "plain"}
    assert Local.from_dict({"extension": "os.system"}).kwargs == {"extension": "os.system"}


def test_shared_limits_are_restored_from_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    limits = RedisLimits(Secret(env="REDIS_URL"), on_unavailable="local")
    model = Local(requests_per_minute=5, shared_limits=limits)
    assert isinstance(save_and_restore(model).shared_limits, RedisLimits)


@pytest.mark.parametrize("api_key", [{"envv": "X"}, {}, {"env": 5}, {"env": "X", "value": "y"}], ids=repr)
def test_key_that_names_no_variable_is_refused(api_key: Any) -> None:
    with pytest.raises(InvalidRequest, match="api_key: the data must name an environment variable"):
        Model.from_dict({"class": "OpenAIServerModel", "model_id": "m", "api_key": api_key})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class": "LlamaCppModel", "context_lenght": 2}, "no setting 'context_lenght'; did you mean 'context_length'"),
        ({"class": "LlamaCppModel", "foo": 2}, "foo: this is not among the settings that data may have.*misspelt"),
        ({"class": "OpenAiServerModel"}, "did you mean 'OpenAIServerModel'.*FallbackModel"),
    ],
)
def test_misspelt_name_in_the_data_is_refused_with_a_question(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Model.from_dict(data)


class Trusting(Local):
    """A backend with the setting that permits code to run."""

    def __init__(self, *, trust_remote_code: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.trust_remote_code = trust_remote_code


def test_data_that_names_code_is_accepted_with_trust_remote_code() -> None:
    with pytest.raises(TypeError, match=r"trust_remote_code: .*to_dict\(trust_remote_code=True\)"):
        Trusting(trust_remote_code=True).to_dict()
    data = Trusting(trust_remote_code=True).to_dict(trust_remote_code=True)
    with pytest.raises(InvalidRequest, match=r"^trust_remote_code: the data names code"):
        Trusting.from_dict(data)
    twin = Trusting.from_dict(data, trust_remote_code=True)
    assert isinstance(twin, Trusting)
    assert twin.trust_remote_code
    assert Trusting.from_dict({"trust_remote_code": False}).to_dict() == {"class": "Trusting"}


@pytest.mark.parametrize(
    "data",
    [
        "str", None, [], {5: 1}, {"class": []}, {"class": 5}, {"class": "FallbackModel"},
        {"class": "FallbackModel", "models": 5}, {"class": "OpenAIServerModel", "model_id": "m", "api_key": 5},
        {"class": "OpenAIServerModel", "model_id": "m", "self": 1},
        {"class": "OpenAIServerModel", "model_id": "m", "shared_limits": {"bogus": 5}},
        {"class": "OpenAIServerModel", "model_id": "m", "requests_per_minute": 5, "shared_limits": 5},
        {"class": "OpenAIServerModel", "model_id": "m", "client": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_data_that_describes_no_model_is_refused(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(InvalidRequest):
        Model.from_dict(data)


# --- secrets ----------------------------------------------------------------------------------------------------------


def all_representations(model: Model) -> str:
    """Return everything that a log, a traceback, a file or another process could contain."""
    return "".join(map(str, (repr(model), str(model), repr(vars(model)), model.to_dict(), pickle.dumps(model))))


@pytest.mark.parametrize("key", [KEY, Secret(KEY), Secret(KEY, env="MY_KEY")])
def test_key_is_in_no_representation(key: Any) -> None:
    assert KEY not in all_representations(OpenAIServerModel("gpt", api_key=key))


def test_restored_model_reads_its_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    data = OpenAIServerModel("gpt", api_key=Secret(KEY, env="MY_KEY")).to_dict()
    assert data["api_key"] == {"env": "MY_KEY"}
    monkeypatch.setenv("MY_KEY", "another")
    twin = Model.from_dict(data)
    assert isinstance(twin, OpenAIServerModel)
    assert isinstance(twin.api_key, Secret)
    assert twin.api_key.reveal() == "another"


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": KEY},  # for a class without such a setting
        {"token": KEY},
        {"extra_headers": {"Authorization": f"Bearer {KEY}"}},
        {"extra_headers": {"x-api-key": KEY}},
        {"client_kwargs": {"api_key": KEY}},
        {"extra_body": {"auth": {"password": KEY}}},
        {"extra_body": {"backends": [{"url": "http://a", "api_key": KEY}]}},
    ],
)
def test_to_dict_with_a_secret_in_another_setting_raises(settings: Mapping[str, Any]) -> None:
    with pytest.raises(TypeError, match="is a secret, and can't be stored") as raised:
        Local(**settings).to_dict()
    assert KEY not in str(raised.value)


def test_settings_with_names_similar_to_secrets_are_stored() -> None:
    save_and_restore(Local(max_tokens=5, stop_token_ids=[1], token=None, extra_headers={"X-Trace": "1"}))
    save_and_restore(Local(tool_name_key="n", tool_arguments_key="a", prompt_cache_key="c", keyword="w", monkey="m"))
    save_and_restore(Local(author="a", eos_token="</s>", first_token_timeout=3, extra_body={"tokenizer": "t"}))
    schema = {"type": "object", "properties": {"token": {"type": "string"}}, "required": ["token"]}
    save_and_restore(Local(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}))


def test_secret_is_hidden_and_pickled_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret(KEY, env="MY_KEY")
    assert KEY not in f"{secret} {[secret]}"
    twin = pickle.loads(pickle.dumps(secret))
    assert KEY.encode() not in pickle.dumps(secret)
    assert not twin
    with pytest.raises(AuthenticationError, match="MY_KEY"):
        twin.reveal()
    monkeypatch.setenv("MY_KEY", KEY)
    assert twin
    assert twin.reveal() == KEY


def test_pickled_model_works_in_another_process(tmp_path: Any) -> None:
    model = OpenAIServerModel("gpt", "http://127.0.0.1:1/v1", api_key=KEY, requests_per_minute=5, retry=False)
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(model))
    code = (
        f"import pickle; m = pickle.load(open({str(path)!r}, 'rb')); print(m.model_id, m.requests_per_minute, m.retry)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"OPENAI_API_KEY": "x"},
        timeout=60,
        check=True,
    )
    assert result.stdout.split() == ["gpt", "5", "False"]


def call_without_key(model: Model) -> str:
    """Call a model in a worker; return what it says."""
    os.environ.pop("OPENAI_API_KEY", None)
    try:
        return model("?").text
    except AuthenticationError as error:
        return str(error)


def test_worker_without_the_key_fails_at_the_call_and_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = OpenAIServerModel("gpt", "http://127.0.0.1:1/v1", api_key=KEY, retry=False)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for _ in range(2):
            message = pool.submit(call_without_key, model).result(60)
            assert "restored without its key, which is never saved. Set the environment variable OPENAI" in message


@pytest.mark.parametrize("make", [
    lambda: OpenAIServerModel("gpt", api_key=KEY),
    lambda: AzureOpenAIServerModel("gpt", "https://x.example", api_key=KEY),
    lambda: InferenceClientModel("m", token=KEY, base_url="http://127.0.0.1:1"),
    lambda: AmazonBedrockServerModel("m", region_name="us-east-1", api_key=KEY),
])  # fmt: skip
def test_model_unpickles_without_its_key_and_closes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(make())
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "HF_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    pickle.loads(data).close()


@pytest.mark.parametrize(
    "settings",
    [
        {"default_headers": {"Authorization": "Bearer sk-in-the-open"}},
        {"extra_headers": {"x-api-key": "sk-in-the-open"}},
        {"client_kwargs": {"api_key": "sk-in-the-open"}},
        {"extra_body": {"api_key": "sk-in-the-open"}},
        {"extra_body": {"backends": [{"api_key": "sk-in-the-open"}]}},
        {"default_headers": {"X-Auth-Token": "sk-in-the-open"}},
        {"default_headers": {"Ocp-Apim-Subscription-Key": "sk-in-the-open"}},
        {"default_headers": {"Openai-Api-Key": "sk-in-the-open"}},
        {"default_headers": {"X-Amz-Security-Token": "sk-in-the-open"}},
        {"extra_headers": {"X-Secret-Key": "sk-in-the-open"}},
        {"default_query": {"key": "sk-in-the-open"}},
        {"default_query": {"sig": "sk-in-the-open"}},
        {"extra_body": {"credentials": "sk-in-the-open"}},
        {"extra_body": {"credentials": {"user": "me", "value": ["sk-in-the-open"]}}},
        {"client_kwargs": {"default_headers": {"X-Auth": "sk-in-the-open"}}},
        {"extra_body": {"apiKey": "sk-in-the-open", "accessToken": "x"}},
    ],
    ids=str,
)
def test_key_as_plain_text_is_neither_pickled_nor_stored(settings: dict[str, Any]) -> None:
    model = OpenAIServerModel("gpt-4o", api_key="k", **settings)
    for store in (pickle.dumps, OpenAIServerModel.to_dict):
        with pytest.raises(TypeError, match="is a secret") as caught:
            store(model)
        assert "sk-in-the-open" not in str(caught.value)
