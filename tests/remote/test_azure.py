"""Azure OpenAI: addresses, credentials and Azure's error texts, on a server that checks requests as Azure does."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from modelport import AzureOpenAIServerModel, Model, load_model
from modelport.errors import AuthenticationError, ContentFiltered, InvalidRequest, ModelError, NotFoundError
from tests.servers.faults import Fault, FaultServer, Reply, sse
from tests.servers.front import Front, azure
from tests.servers.responses import ResponsesFault

KEY, TOKEN = "az-key-0123456789", "entra-token-0123456789"
ANSWER = Reply().text
DATED = "2024-10-21"
TRANSPORTS: dict[str, dict[str, Any]] = {"http": {}, "sdk": {"client_kwargs": {"timeout": 30}}}
VARIABLES = ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_VERSION")


@pytest.fixture(scope="module")
def fault_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def module_resource(fault_server: FaultServer) -> Iterator[Front]:
    with azure(fault_server.url, "upstream-key", deployment="my gpt", api_key=KEY, token=TOKEN) as resource:
        yield resource


@pytest.fixture
def resource(module_resource: Front, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Front:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    module_resource.requests.clear()
    fault_server.clear()
    return module_resource


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TRANSPORTS[str(request.param)]


async def return_later(value: str) -> str:
    await asyncio.sleep(0)
    return value


CREDENTIALS: dict[str, tuple[dict[str, Any], bool]] = {
    "a key": ({"api_key": KEY}, False),
    "a function for the key": ({"api_key": lambda: return_later(KEY)}, False),
    "a token": ({"azure_ad_token": TOKEN}, True),
    "a function for the token": ({"azure_ad_token_provider": lambda: TOKEN}, True),
    "an async function for the token": ({"azure_ad_token_provider": lambda: return_later(TOKEN)}, True),
}


def texts_of(model: Model) -> list[str | None]:
    """Return the text of a non-streaming and of a streamed response, and close the model."""
    with model:
        text = model.generate("hello").content
        return [text, "".join(delta.content or "" for delta in model.generate_stream("hello"))]  # type: ignore[list-item]


@pytest.mark.parametrize("version", [DATED, None, "preview"])
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_credential_is_sent_to_each_address(
    resource: Front, transport: dict[str, Any], credential: str, version: str | None
) -> None:
    settings, by_token = CREDENTIALS[credential]
    model = AzureOpenAIServerModel("my gpt", resource.url + "/", api_version=version, **settings, **transport)
    assert texts_of(model) == [ANSWER, ANSWER]
    for request in resource.requests:
        deployments = "/openai/deployments/my gpt/chat/completions"
        assert request.path == (deployments if version == DATED else "/openai/v1/chat/completions")
        assert request.query.get("api-version") == version
        if by_token:
            assert request.headers["authorization"] == f"Bearer {TOKEN}" and "api-key" not in request.headers
        elif version == DATED:
            assert request.headers["api-key"] == KEY and "authorization" not in request.headers
        else:  # The v1 API is made for OpenAI's own client, which sends a key as a bearer token.
            assert request.headers["authorization"] == f"Bearer {KEY}" and "api-key" not in request.headers


def test_settings_of_environment_are_used(
    resource: Front, transport: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", resource.url)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_VERSION", DATED)
    model = load_model("azure/my gpt", **transport)
    assert isinstance(model, AzureOpenAIServerModel)
    assert texts_of(model) == [ANSWER, ANSWER]
    assert "api-key" in resource.requests[0].headers
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", TOKEN)
    assert texts_of(AzureOpenAIServerModel("my gpt", **transport)) == [ANSWER, ANSWER]
    assert "api-key" not in resource.requests[-1].headers
    assert texts_of(AzureOpenAIServerModel("my gpt", api_key=KEY, **transport)) == [ANSWER, ANSWER]
    assert "authorization" not in resource.requests[-1].headers


@pytest.mark.parametrize("version", [DATED, None])
def test_deployment_may_have_another_name_than_model(
    resource: Front, transport: dict[str, Any], version: str | None
) -> None:
    """Capabilities that are known for models by name are looked up by the model's name."""
    model = AzureOpenAIServerModel(
        "gpt-5", resource.url, KEY, version, azure_deployment="my gpt", max_tokens=9, **transport
    )
    assert texts_of(model) == [ANSWER, ANSWER]
    assert model.model_id == "gpt-5" and not model.capabilities.stop
    assert [request.json["model"] for request in resource.requests] == ["my gpt", "my gpt"]
    assert resource.requests[0].json["max_completion_tokens"] == 9
    assert AzureOpenAIServerModel(None, resource.url, KEY, azure_deployment="my gpt").model_id == "my gpt"


@pytest.mark.parametrize("tail", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])
def test_endpoint_may_end_in_any_path_that_the_portal_shows(resource: Front, tail: str) -> None:
    assert texts_of(AzureOpenAIServerModel("my gpt", resource.url + tail, KEY)) == [ANSWER, ANSWER]


def test_token_provider_in_client_kwargs_is_used(resource: Front) -> None:
    """Users of the smolagents package pass Entra's token provider there."""
    model = AzureOpenAIServerModel(
        "my gpt", resource.url, api_version=DATED, client_kwargs={"azure_ad_token_provider": lambda: TOKEN}
    )
    assert texts_of(model) == [ANSWER, ANSWER]


@pytest.mark.parametrize(
    "make",
    [
        lambda url: openai.AzureOpenAI(azure_endpoint=url, api_key=KEY, api_version=DATED),
        lambda url: openai.AsyncAzureOpenAI(azure_endpoint=url, api_key=KEY, api_version=DATED),
        lambda url: openai.OpenAI(base_url=f"{url}/openai/v1/", api_key=KEY),
    ],
    ids=["sync", "async", "v1"],
)
def test_client_of_caller_is_used(resource: Front, make: Callable[[str], Any]) -> None:
    assert texts_of(AzureOpenAIServerModel("my gpt", client=make(resource.url))) == [ANSWER, ANSWER]
    with pytest.raises(NotFoundError, match=r"deployment 'other'"):
        AzureOpenAIServerModel("other", client=make(resource.url)).generate("hello")


def test_token_of_callers_client_is_not_shown(resource: Front, fault_server: FaultServer) -> None:
    fault_server.script(then=Fault.status(403, message=f"'Bearer {TOKEN}' may not."))
    client = openai.AzureOpenAI(azure_endpoint=resource.url, azure_ad_token_provider=lambda: TOKEN, api_version=DATED)
    with pytest.raises(AuthenticationError, match="may not") as caught:
        AzureOpenAIServerModel("my gpt", client=client).generate("hello")
    assert TOKEN not in str(caught.value)


# --- bad input --------------------------------------------------------------------------------------------------------

URL = "https://resource.example"


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"model_id": None}, InvalidRequest, "model_id is missing"),
        ({"azure_endpoint": None}, InvalidRequest, "AZURE_OPENAI_ENDPOINT"),
        ({"azure_endpoint": "resource.example"}, InvalidRequest, r"azure_endpoint='resource\.example'.*https://"),
        (
            {"azure_endpoint": f"{URL}/openai/deployments/m/chat/completions?api-version=1"}, InvalidRequest,
            "must be only the address of the resource",
        ),
        ({"azure_endpoint": f"{URL}/openai/v1", "api_version": DATED}, InvalidRequest, f"api_version='{DATED}'"),
        ({"api_base": URL}, InvalidRequest, "azure_endpoint"),
        ({"api_key": None}, AuthenticationError, "AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN"),
        ({"azure_ad_token": TOKEN}, InvalidRequest, "api_key and azure_ad_token: pass one"),
        ({"azure_ad_token_provider": lambda: TOKEN}, InvalidRequest, "api_key and azure_ad_token_provider"),
        ({"client_kwargs": {"api_key": KEY}}, InvalidRequest, "api_key is given twice"),
        ({"client_kwargs": {"timeout": 1}, "api_key": None}, AuthenticationError, "No credentials"),
        ({"client_kwargs": {"timeout": 1}, "azure_endpoint": None}, InvalidRequest, "AZURE_OPENAI_ENDPOINT"),
    ],
)  # fmt: skip
def test_wrong_setting_is_named_by_constructor(
    resource: Front, settings: dict[str, Any], kind: type[ModelError], message: str
) -> None:
    arguments = {"model_id": "m", "azure_endpoint": URL, "api_key": KEY, **settings}
    with pytest.raises(kind, match=message) as caught:
        AzureOpenAIServerModel(**arguments)
    assert KEY not in str(caught.value) and TOKEN not in str(caught.value)


@pytest.mark.parametrize("version", [DATED, None])
def test_unknown_deployment_is_named_in_error(resource: Front, transport: dict[str, Any], version: str | None) -> None:
    model = AzureOpenAIServerModel("nonesuch", resource.url, KEY, version, **transport)
    for ask in (lambda: model.generate("hello"), lambda: list(model.generate_stream("hello"))):
        with pytest.raises(NotFoundError, match="deployment 'nonesuch' at http") as caught:
            ask()
        assert caught.value.status == 404 and "azure_deployment" in str(caught.value) and KEY not in str(caught.value)


def test_wrong_key_raises_and_is_not_shown(resource: Front, transport: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationError) as caught:
        AzureOpenAIServerModel("my gpt", resource.url, "another-key-999", DATED, **transport).generate("hello")
    assert caught.value.status == 401 and "another-key" not in str(caught.value)


@pytest.mark.parametrize("result", [None, "", 7, RuntimeError("no browser")], ids=repr)
def test_token_provider_without_token_raises(resource: Front, transport: dict[str, Any], result: Any) -> None:
    def provider() -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    model = AzureOpenAIServerModel(
        "my gpt", resource.url, api_version=DATED, azure_ad_token_provider=provider, **transport
    )
    with pytest.raises(AuthenticationError, match="azure_ad_token_provider") as caught:
        model.generate("hello")
    assert caught.value.__cause__ is (result if isinstance(result, Exception) else None)
    assert resource.requests == []


def test_blocking_token_provider_does_not_block_event_loop(resource: Front, transport: dict[str, Any]) -> None:
    def provider() -> str:
        time.sleep(0.3)
        return TOKEN

    model = AzureOpenAIServerModel(
        "my gpt", resource.url, api_version=DATED, azure_ad_token_provider=provider, **transport
    )

    async def main() -> int:
        await model.agenerate("hello")  # The imports of the first call take time too.
        call = asyncio.create_task(model.agenerate("hello"))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert (await call).content == ANSWER
        return ticks

    assert asyncio.run(main()) > 10


# --- Azure's errors ---------------------------------------------------------------------------------------------------

FILTERED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None, "param": "prompt", "code": "content_filter", "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
        },
    }
}  # fmt: skip


def test_prompt_refused_by_policy_raises_content_filtered(
    resource: Front, fault_server: FaultServer, transport: dict[str, Any]
) -> None:
    fault_server.script(then=Fault.status(400, body=json.dumps(FILTERED).encode()))
    model = AzureOpenAIServerModel("my gpt", resource.url, KEY, DATED, **transport)
    for ask in (lambda: model.generate("hello"), lambda: list(model.generate_stream("hello"))):
        with pytest.raises(ContentFiltered, match="content management policy") as caught:
            ask()
        assert caught.value.status == 400
    assert len(resource.requests) == 2


def test_response_truncated_by_policy_has_finish_reason(
    resource: Front, fault_server: FaultServer, transport: dict[str, Any]
) -> None:
    fault_server.script(then=Fault.ok("I would", finish_reason="content_filter"))
    with AzureOpenAIServerModel("my gpt", resource.url, KEY, DATED, **transport) as model:
        message = model.generate("hello")
        with model.generate_stream("hello") as stream:
            for _ in stream:
                pass
    for response in (message, stream.message):
        assert (response.content, response.finish_reason) == ("I would", "content_filter")


def test_response_without_content_has_finish_reason(
    resource: Front, fault_server: FaultServer, transport: dict[str, Any]
) -> None:
    """If the policy removes the whole output, Azure's message has no field for content."""
    choice = {"index": 0, "finish_reason": "content_filter", "content_filter_results": {"hate": {"filtered": True}}}
    completion = json.dumps({"model": "gpt-4o", "choices": [{**choice, "message": {"role": "assistant"}}]}).encode()
    chunk = sse({"model": "gpt-4o", "choices": [{**choice, "delta": {}}]})
    fault = Fault(replaced_events={0: chunk, 1: sse("[DONE]")}, last_event=1)
    fault_server.script([Fault(content=completion), fault])
    with AzureOpenAIServerModel("my gpt", resource.url, KEY, DATED, **transport) as model:
        message = model.generate("hello")
        with model.generate_stream("hello") as stream:
            for _ in stream:
                pass
    for response in (message, stream.message):
        assert (response.content or "", response.finish_reason) == ("", "content_filter")


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credential", ["api_key", "azure_ad_token"])
def test_saved_model_holds_no_key_and_finds_key_again(
    resource: Front, monkeypatch: pytest.MonkeyPatch, transport: dict[str, Any], credential: str
) -> None:
    secret = {"api_key": KEY, "azure_ad_token": TOKEN}[credential]
    settings: dict[str, Any] = {credential: secret, **transport}
    variable = {"api_key": "AZURE_OPENAI_API_KEY", "azure_ad_token": "AZURE_OPENAI_AD_TOKEN"}[credential]
    model = AzureOpenAIServerModel("my gpt", resource.url, api_version=DATED, temperature=0, **settings)
    data, pickled = model.to_dict(), pickle.dumps(model)
    assert {name for name in ("api_key", "azure_ad_token") if name in data} == {credential}
    for text in (repr(data), repr(pickled), repr(model), repr(vars(model)), repr(vars(model._transport))):
        assert secret not in text
    with pytest.raises(AuthenticationError, match=variable):
        Model.from_dict(data)
    monkeypatch.setenv(variable, secret)
    for restored in (Model.from_dict(json.loads(json.dumps(data))), pickle.loads(pickled)):
        assert type(restored) is AzureOpenAIServerModel and restored.to_dict() == data
        assert texts_of(restored) == [ANSWER, ANSWER]


def test_token_function_can_not_be_saved(resource: Front) -> None:
    model = AzureOpenAIServerModel("my gpt", resource.url, azure_ad_token_provider=lambda: TOKEN)
    with pytest.raises(TypeError, match=r"azure_ad_token_provider .* give it at run time"):
        model.to_dict()


RESPONSES = "2025-04-01-preview"


@pytest.mark.parametrize(
    ("version", "path"),
    [(None, "/openai/v1/responses"), ("preview", "/openai/v1/responses"), (RESPONSES, "/openai/responses")],
)
@pytest.mark.parametrize("credential", ["a key", "a token"])
def test_responses_api_is_beside_the_deployments(
    resource: Front, fault_server: FaultServer, transport: dict[str, Any], credential: str, version: Any, path: str
) -> None:
    fault_server.script(then=ResponsesFault())
    settings, _ = CREDENTIALS[credential]
    model = AzureOpenAIServerModel(
        "gpt-5.6", resource.url, api_version=version, azure_deployment="my gpt", api="responses", **settings,
        **transport,
    )  # fmt: skip
    assert texts_of(model) == [ANSWER, ANSWER]
    assert {request.path for request in resource.requests} == {path}
    assert {request.json["model"] for request in fault_server.requests} == {"my gpt"}


@pytest.mark.parametrize("has_deployment", [True, False])
def test_client_of_caller_finds_the_responses_api(
    resource: Front, fault_server: FaultServer, has_deployment: bool
) -> None:
    fault_server.script(then=ResponsesFault())
    deployment = "my gpt" if has_deployment else None
    client = openai.AzureOpenAI(
        azure_endpoint=resource.url, api_key=KEY, api_version=RESPONSES, azure_deployment=deployment
    )
    model = AzureOpenAIServerModel("my gpt", client=client, api="responses")
    assert texts_of(model) == [ANSWER, ANSWER]
    assert {request.path for request in resource.requests} == {"/openai/responses"}


def test_older_version_goes_back_to_chat_completions(resource: Front, fault_server: FaultServer) -> None:
    """The resource names the Responses API only for newer versions; the model of this name needs it for tools."""
    fault_server.script(then=Fault())
    model = AzureOpenAIServerModel("gpt-5.6", resource.url, KEY, DATED, azure_deployment="my gpt")
    with pytest.warns(UserWarning, match="has no Responses API"):
        assert model.generate("hello", truncation="auto").content == ANSWER
    assert [request.path.rpartition("/")[2] for request in resource.requests] == ["responses", "completions"]
