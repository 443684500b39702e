"""`modelport models BACKEND`: which list is requested, how it is printed, and who can't list models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from modelport import AzureOpenAIServerModel, InferenceClientModel, MalformedResponse, OpenAIServerModel
from modelport.cli.commands import cli
from modelport.protocols.chat_completions.models_list import listed_models_from
from modelport.types.listed_models import ListedModel
from tests.cli.running import RUNNER
from tests.servers.front import Front, ReceivedRequest, Respond, front

#: Lists as services return them -> their models. The sources are in `models_list`.
LISTS: list[tuple[Any, list[ListedModel]]] = [
    ({"object": "list", "data": [{"id": "gpt-4o", "object": "model", "created": 1, "owned_by": "system"}]},
     [ListedModel("gpt-4o", "system")]),
    ({"data": [{"id": "a/b", "name": "B", "context_length": 262144}]}, [ListedModel("a/b", None, 262144)]),
    ([{"id": "a/b", "organization": "Meta", "context_length": 131072}], [ListedModel("a/b", "Meta", 131072)]),
    ([{"id": "openai/gpt-4.1", "publisher": "OpenAI", "limits": {}}], [ListedModel("openai/gpt-4.1", "OpenAI")]),
    ({"data": [{"id": "q", "owned_by": "Groq", "context_window": 8192}]}, [ListedModel("q", "Groq", 8192)]),
    ({"data": [{"id": "m", "max_context_length": 32768}]}, [ListedModel("m", None, 32768)]),
    ({"data": [{"id": "v", "owned_by": "vllm", "max_model_len": 2048}]}, [ListedModel("v", "vllm", 2048)]),
    ({"data": [{"id": "l", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8192}}]},
     [ListedModel("l", "llamacpp", 8192)]),
    ({"object": "list", "data": None}, []),
    ({"data": [{"id": 3}, {"id": "x", "owned_by": 7, "context_length": "many"}, "y"]}, [ListedModel("x")]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), LISTS)
def test_lists_of_services_are_read(body: Any, expected: list[ListedModel]) -> None:
    assert listed_models_from(body) == expected


@pytest.mark.parametrize("body", ["x", 3, None, {}, {"data": "x"}, {"data": {"id": "x"}}, {"error": "no"}])
def test_body_that_is_no_list_is_malformed(body: Any) -> None:
    with pytest.raises(MalformedResponse, match="list of models"):
        listed_models_from(body)


@pytest.fixture(scope="module")
def running_service() -> Iterator[Front]:
    """A service with two models, one of whose names contains a control character."""

    def decide(request: ReceivedRequest) -> Respond:
        if request.headers.get("authorization") != "Bearer sk-0123456789":
            return Respond(401, {"error": {"message": "wrong key"}})
        if request.method != "GET" or request.path not in ("/v1/models", "/catalog/models"):
            return Respond(404, {"error": {"message": "no such path"}})
        models = [{"id": "small\x1b[31m", "owned_by": "me"}, {"id": "a/big", "context_length": 131072}]
        return Respond(200, {"object": "list", "data": models})

    with front("http://127.0.0.1:9", decide) as server:
        yield server


@pytest.fixture
def service(running_service: Front, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The service without requests so far, and its key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    running_service.requests.clear()
    return running_service


def test_models_of_a_service_are_printed_sorted(service: Front) -> None:
    result = RUNNER.invoke(cli, ["models", "openai", "--api-base", f"{service.url}/v1"])
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines() if "openai/" in line]
    assert [[cell for cell in row if cell not in "│|┃"] for row in rows] == [
        ["openai/a/big", "131,072"],
        ["openai/small[31m", "me"],
    ]
    assert "\x1b" not in result.stdout
    result = RUNNER.invoke(cli, ["models", "openai/ignored", "--api-base", f"{service.url}/v1", "--json"])
    assert json.loads(result.stdout)[0] == {"id": "a/big", "owner": None, "context_length": 131072}
    assert [(request.method, request.path, request.body) for request in service.requests] == [
        ("GET", "/v1/models", b"")
    ] * 2


def test_names_are_never_broken_in_a_narrow_terminal(service: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    result = RUNNER.invoke(cli, ["models", "openai", "--api-base", f"{service.url}/v1"])
    assert result.stdout == "openai/a/big\nopenai/small[31m\n"


def test_name_of_a_provider_lists_its_models(service: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "sk-0123456789")
    result = RUNNER.invoke(cli, ["models", "groq", "--api-base", f"{service.url}/v1"])
    assert "groq/a/big" in result.stdout


@pytest.mark.parametrize(
    ("args", "variables", "expected"),
    [
        (["openai", "--api-base", "URL/other"], {}, "The service has no list of models at models (HTTP 404)"),
        (["openai", "--api-base", "URL/v1"], {"OPENAI_API_KEY": "sk-wrong-0123"}, "wrong key"),
        (["groq"], {"GROQ_API_KEY": ""}, "environment variable GROQ_API_KEY"),
        (["llamacpp"], {}, "llamacpp can't list its models: LlamaCppModel asks no service"),
        (["litellm"], {}, "litellm can't list its models"),
        (["nosuch"], {}, "backend 'nosuch' is unknown"),
        (["llamacpp", "--api-base", "URL"], {}, "llamacpp can't list its models"),
        (["azure", "--set", "azure_endpoint=https://r.openai.azure.com"], {"AZURE_OPENAI_API_KEY": "k"},
         "and not your deployments"),
    ],
)  # fmt: skip
def test_failure_is_one_line(
    service: Front, args: list[str], variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    args = [arg.replace("URL", service.url) for arg in args]
    result = RUNNER.invoke(cli, ["models", *args], prog_name="modelport")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert expected in result.stderr and "sk-" not in result.stderr


async def test_github_has_another_path(monkeypatch: pytest.MonkeyPatch, service: Front) -> None:
    """The list is beside the API, at /catalog/models: https://docs.github.com/en/rest/models/catalog."""
    monkeypatch.setattr(OpenAIServerModel, "_service", "github")
    model = OpenAIServerModel("m", f"{service.url}/inference")
    assert [one.id for one in await model.list_models()][1] == "a/big"
    assert service.requests[-1].path == "/catalog/models"


async def test_hugging_face_lists_models_of_the_router_or_of_a_server(service: Front) -> None:
    model = InferenceClientModel("m", base_url=service.url, token="sk-0123456789")
    assert len(await model.list_models()) == 2
    assert service.requests[-1].path == "/v1/models"


async def test_client_of_the_openai_package_lists_models(service: Front) -> None:
    pytest.importorskip("openai")
    model = OpenAIServerModel("m", f"{service.url}/v1", client_kwargs={"timeout": 20})
    assert len(await model.list_models()) == 2


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("llamacpp", "LlamaCppModel has no such setting; it calls no service at an address"),
        ("transformers/a/b", "TransformersModel has no such setting"),
        ("huggingface/a/b", "InferenceClientModel has no such setting; pass --set base_url=URL"),
        ("azure/x", "AzureOpenAIServerModel has no such setting; pass --set azure_endpoint=URL"),
    ],
)
@pytest.mark.parametrize("command", [["Hi"], ["ask", "Hi"], ["chat"], ["check"]], ids=lambda c: c[0])
def test_api_base_for_a_class_without_it_is_refused(spec: str, advice: str, command: list[str]) -> None:
    args = ["check", spec] if command == ["check"] else [*command, "-m", spec]
    result = RUNNER.invoke(cli, [*args, "--api-base", "http://x/v1"], input="", prog_name="modelport")
    assert result.exit_code == 1 and result.stderr.startswith(f"modelport: --api-base: {advice}")


def test_bedrock_lists_foundation_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of the response: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_ListFoundationModels.html."""
    pytest.importorskip("boto3")
    summaries = [
        {"modelId": "amazon.nova-pro-v1:0", "modelArn": "arn:aws:bedrock:::x", "providerName": "Amazon"},
        {"modelId": "meta.llama3-8b", "modelArn": "arn:aws:bedrock:::y"},
    ]
    for name, value in (("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    with front("http://127.0.0.1:9", lambda request: Respond(200, {"modelSummaries": summaries})) as server:
        result = RUNNER.invoke(cli, ["models", "bedrock", "--api-base", server.url, "--json"])
        (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/foundation-models")
    assert json.loads(result.stdout) == [
        {"id": "amazon.nova-pro-v1:0", "owner": "Amazon", "context_length": None},
        {"id": "meta.llama3-8b", "owner": None, "context_length": None},
    ]


@pytest.mark.parametrize("body", [{}, {"modelSummaries": None}, {"modelSummaries": [{"modelArn": "arn:aws:x"}]}])
def test_bedrock_response_without_models_is_an_error(body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    for name, value in (("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    with front("http://127.0.0.1:9", lambda request: Respond(200, body)) as server:
        result = RUNNER.invoke(cli, ["models", "bedrock", "--api-base", server.url])
    assert result.exit_code == 1 and "The response is no list of models." in result.stderr


def test_azure_is_not_asked_for_models_that_it_could_deploy() -> None:
    assert AzureOpenAIServerModel.list_models is not OpenAIServerModel.list_models
