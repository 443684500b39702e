"""Hugging Face: addresses, tokens, providers and their forms, behind a server with the Hub's and the router's paths."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.inference._providers import CONVERSATIONAL_AUTO_ROUTER, _common

from modelport import Choice, InferenceClientModel, JSONSchema, Lark, Model, Regex, load_model
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContextWindowExceeded,
    InvalidRequest,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    UnsupportedFeature,
)
from modelport.layers.retry import RetryPolicy
from modelport.remote.huggingface.model import DEFAULT_MODEL
from tests.servers.faults import Fault, FaultServer, Reply
from tests.servers.front import Forward, Front, ReceivedRequest, Respond, front, hub

TOKEN = "hf_0123456789"
OWN_KEY = "the-providers-own-key"
ANSWER = Reply().text
PATHS = {
    "novita": "/novita/v3/openai/chat/completions",
    "together": "/together/v1/chat/completions",
    "cohere": "/cohere/compatibility/v1/chat/completions",
    "groq": "/groq/openai/v1/chat/completions",
}
SCHEMA = {
    "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False,
}  # fmt: skip
PERSON = '{"name": "Ann"}'


@pytest.fixture(scope="module")
def behind() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(behind: FaultServer) -> Iterator[Front]:
    with hub(behind.url, "behind-key", token=TOKEN, providers=PATHS) as router:
        yield router


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nobody has logged in; where the token would be."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
    return tmp_path / "token"


@pytest.fixture
def router(running: Front, behind: FaultServer, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The Hub and the router, whose addresses are constants of huggingface_hub."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
    monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_PROXY_TEMPLATE", f"{running.url}/{{provider}}")
    monkeypatch.setattr(CONVERSATIONAL_AUTO_ROUTER, "base_url", running.url)
    _common._fetch_inference_provider_mapping.cache_clear()
    running.requests.clear()
    behind.clear()
    return running


@pytest.fixture
def server(behind: FaultServer, nobody: Path) -> FaultServer:
    behind.clear()
    return behind


def both(model: Model, **options: Any) -> list[str]:
    """What it answers, whole and streamed."""
    with model:
        whole = model.generate("hello", **options).text
        return [whole, "".join(delta.content or "" for delta in model.generate_stream("hello", **options))]


# --- servers by their address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_addresses_of_servers(server: FaultServer, tail: str) -> None:
    assert both(InferenceClientModel("m", base_url=server.url + tail, token=TOKEN)) == [ANSWER, ANSWER]
    assert both(InferenceClientModel(server.url + tail, token=TOKEN)) == [ANSWER, ANSWER]
    assert [request.target for request in server.requests] == ["/v1/chat/completions"] * 4
    assert [request.json["model"] for request in server.requests[:2]] == ["m", "m"]
    assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_server_needs_no_token(server: FaultServer) -> None:
    assert both(InferenceClientModel("m", base_url=server.url)) == [ANSWER, ANSWER]
    assert "authorization" not in server.requests[0].headers


def test_everything_reaches_the_wire(server: FaultServer) -> None:
    model = InferenceClientModel(
        "m", token=TOKEN, base_url=f"{server.url}/v1?zone=a", bill_to="my-org", temperature=0.5, frobnicate=3,
        client_kwargs={"headers": {"X-Mine": "yes"}, "cookies": {"lane": "fast"}},
        custom_role_conversions={"system": "user"},
    )  # fmt: skip
    with model:
        model.generate(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], stop_sequences=["x"],
            max_tokens=7, top_k=4, extra_headers={"X-Call": "1"}, extra_query={"q": "a b"}, extra_body={"b": [1]},
        )  # fmt: skip
    (request,) = server.requests
    assert request.target == "/v1/chat/completions?zone=a&q=a+b"
    sent = request.headers
    assert (sent["x-mine"], sent["x-call"], sent["x-hf-bill-to"], sent["cookie"]) == ("yes", "1", "my-org", "lane=fast")
    assert {message["role"] for message in request.json["messages"]} == {"user"}
    assert {name: value for name, value in request.json.items() if name != "messages"} == {
        "model": "m", "temperature": 0.5, "frobnicate": 3, "stop": ["x"], "max_tokens": 7, "top_k": 4, "b": [1],
    }  # fmt: skip


def test_calls_share_a_connection(server: FaultServer) -> None:
    model = InferenceClientModel("m", base_url=server.url)
    before = server.connections_opened  # one of the test before may still be open
    for _ in range(3):
        model.generate("hello")
        assert list(model.generate_stream("hello"))
    assert (server.connections_opened - before, len(server.requests)) == (1, 6)
    model.close()


def test_a_redirect_is_not_followed_with_the_token(server: FaultServer) -> None:
    server.script(then=Fault.status(307, headers={"Location": "http://elsewhere.example/"}))
    with pytest.raises(InvalidRequest, match=r"elsewhere\.example"):
        InferenceClientModel("m", base_url=server.url, token=TOKEN).generate("hello")


def test_a_timeout_of_the_clients_own(server: FaultServer) -> None:
    server.script(then=Fault.silence(9.0))
    model = InferenceClientModel("m", base_url=server.url, client_kwargs={"timeout": 0.2}, retry=False)
    begun = time.monotonic()
    with pytest.raises(ConnectionFailed, match="time-out"):
        model.generate("hello")
    assert time.monotonic() - begun < 5


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_where_the_token_comes_from(server: FaultServer, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(**settings: Any) -> str | None:
        server.clear()
        with InferenceClientModel("m", base_url=server.url, **settings) as model:
            model.generate("hello")
        return server.requests[0].headers.get("authorization")

    assert sent() is None
    nobody.write_text("hf_of_the_login")
    assert sent() == "Bearer hf_of_the_login"
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    assert sent() == "Bearer hf_of_the_environment"
    assert sent(token=TOKEN) == sent(api_key=TOKEN) == f"Bearer {TOKEN}"


def test_a_token_that_is_renewed(server: FaultServer, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for again when the service refuses it, and from time to time."""
    nobody.write_text("hf_old")
    model = InferenceClientModel("m", base_url=server.url)
    model.generate("hello")
    nobody.write_text("hf_new")
    model.generate("hello")
    server.script([Fault.status(401)])
    with pytest.raises(AuthenticationError):
        model.generate("hello")
    model.generate("hello")
    monkeypatch.setattr("modelport.remote.huggingface.transport.FRESH", 0.0)
    other = InferenceClientModel("m", base_url=server.url)
    for name in ("newer", "newest"):
        nobody.write_text(f"hf_{name}")
        other.generate("hello")
    sent = [request.headers["authorization"].removeprefix("Bearer hf_") for request in server.requests]
    assert sent == ["old", "old", "old", "new", "newer", "newest"]
    model.close(), other.close()


def test_no_token(router: Front) -> None:
    for provider in (None, "auto", "novita"):
        with pytest.raises(AuthenticationError, match=r"token=….*HF_TOKEN.*hf auth login"):
            InferenceClientModel("a/b", provider).generate("hello")
    assert router.requests == []


def test_a_key_that_is_not_hugging_faces(router: Front) -> None:
    with pytest.raises(AuthenticationError, match="'hf_'") as caught:
        InferenceClientModel("a/b", token=OWN_KEY).generate("hello")
    with_locals = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert OWN_KEY not in "".join(with_locals.format()) and router.requests == []


def test_who_pays(router: Front) -> None:
    InferenceClientModel("a/b", "novita", TOKEN, bill_to="my-org").generate("hello")
    assert router.requests[-1].headers["x-hf-bill-to"] == "my-org"
    with pytest.raises(InvalidRequest, match="bill_to"):
        InferenceClientModel("a/b", "novita", OWN_KEY, bill_to="my-org").generate("hello")


def test_a_wrong_token(router: Front) -> None:
    with pytest.raises(AuthenticationError) as caught:
        InferenceClientModel("a/b", token="hf_wrong_0123456789").generate("hello")
    assert caught.value.status == 401 and "hf_wrong" not in str(caught.value)


# --- providers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PATHS)
def test_a_provider(router: Front, provider: str) -> None:
    model = load_model("huggingface/org/name", provider=provider, token=TOKEN)
    assert isinstance(model, InferenceClientModel)
    assert both(model) == [ANSWER, ANSWER]
    asked = [seen for seen in router.requests if seen.method == "POST"]
    assert [seen.path for seen in asked] == [PATHS[provider]] * 2
    assert [seen.json["model"] for seen in asked] == [f"{provider}/the-model"] * 2
    assert sum(seen.path == "/api/models/org/name" for seen in router.requests) == 1  # it is asked once


@pytest.mark.parametrize("provider", [None, "auto"])
def test_the_router_chooses(router: Front, provider: str | None) -> None:
    assert both(InferenceClientModel(provider=provider, token=TOKEN)) == [ANSWER, ANSWER]
    asked = router.requests[-1]
    assert (asked.path, asked.json["model"]) == ("/v1/chat/completions", DEFAULT_MODEL)


def test_what_the_hub_does_not_know(router: Front) -> None:
    with pytest.raises(NotFoundError, match="org/nonesuch"):
        InferenceClientModel("org/nonesuch", "novita", TOKEN).generate("hello")
    with pytest.raises(NotFoundError, match="not supported by provider cerebras"):
        InferenceClientModel("org/name", "cerebras", TOKEN).generate("hello")
    assert not any(seen.method == "POST" for seen in router.requests)


def hub_that(answer: Respond, begin: float = 0.0) -> Any:
    """A Hub that gives one answer once, late; then the model's place."""
    mapping = {"novita": {"providerId": "n", "status": "live", "task": "conversational"}}
    lookups: list[ReceivedRequest] = []

    def decide(seen: ReceivedRequest) -> Forward | Respond:
        if not seen.path.startswith("/api/models/"):
            return Respond(404, {})
        lookups.append(seen)
        time.sleep(begin)
        return answer if len(lookups) == 1 else Respond(200, {"id": "a/b", "inferenceProviderMapping": mapping})

    return front("http://127.0.0.1:9", decide)


@pytest.mark.parametrize(("status", "kind"), [(500, ServerError), (429, RateLimited), (403, AuthenticationError)])
def test_a_hub_that_fails(router: Front, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[ModelError]) -> None:
    with hub_that(Respond(status, {"error": "not now"})) as failing:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", failing.url)
        with pytest.raises(kind) as caught:
            InferenceClientModel("a/b", "novita", TOKEN, retry=False).generate("hello")
        assert caught.value.status == status
        if caught.value.retryable:
            _common._fetch_inference_provider_mapping.cache_clear()
    with hub_that(Respond(status, {"error": "not now"})) as failing:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", failing.url)
        model = InferenceClientModel("a/b", "novita", TOKEN, retry=RetryPolicy(attempts=2, base=0.01))
        if kind is AuthenticationError:
            with pytest.raises(kind):
                model.generate("hello")
        else:
            assert model.generate("hello").content == ANSWER


def test_asking_the_hub_holds_nobody_up(router: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client asks synchronously, even the asynchronous one."""
    place = {"novita": {"providerId": "n", "status": "live", "task": "conversational"}}
    with hub_that(Respond(200, {"id": "a/b", "inferenceProviderMapping": place}), begin=0.4) as slow:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", slow.url)

        async def main() -> int:
            call = asyncio.create_task(InferenceClientModel("a/b", "novita", TOKEN).agenerate("hello"))
            ticks = 0
            while not call.done():
                await asyncio.sleep(0.01)
                ticks += 1
            assert (await call).content == ANSWER
            return ticks

        assert asyncio.run(main()) > 15


def test_nothing_is_asked_when_a_model_is_made(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for settings in ({}, {"provider": "novita"}, {"provider": "hf-inference"}, {"base_url": "http://127.0.0.1:9"}):
        model = InferenceClientModel("a/b", token=TOKEN, **settings)
        pickle.dumps(model), model.to_dict()


def test_offline(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionFailed, match="HF_HUB_OFFLINE"):
        InferenceClientModel("m", base_url=server.url).generate("hello")
    assert server.requests == []


# --- forms ------------------------------------------------------------------------------------------------------------

OPENAIS = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}


@pytest.mark.parametrize(
    ("dialect", "grammar", "fields"),
    [
        (None, JSONSchema(SCHEMA, name="person"), {"response_format": OPENAIS}),
        ("vllm", JSONSchema(SCHEMA, name="person"), {"response_format": OPENAIS}),
        ("vllm", Regex("a+"), {"structured_outputs": {"regex": "a+"}}),
        ("tgi", JSONSchema(SCHEMA), {"response_format": {"type": "json", "value": SCHEMA}}),
        ("tgi", Regex(r"\d+"), {"response_format": {"type": "regex", "value": "[0-9]+"}}),
        ("tgi", Choice("a.b", "c"), {"response_format": {"type": "regex", "value": r"a\.b|c"}}),
        ("llama.cpp", Lark('start: "a"'), {"grammar": '%llguidance {}\nstart: "a"'}),
    ],
)
def test_forms_at_an_address(server: FaultServer, dialect: str | None, grammar: Any, fields: dict[str, Any]) -> None:
    texts = {JSONSchema: PERSON, Regex: "aaa" if dialect == "vllm" else "123", Choice: "c", Lark: "a"}
    server.script(then=Fault.ok(texts[type(grammar)]))
    with InferenceClientModel("m", base_url=server.url, dialect=dialect) as model:
        model.generate("hello", grammar=grammar)
    (request,) = server.requests
    ours = {"model", "messages", "stream", "stream_options"}
    assert {name: value for name, value in request.json.items() if name not in ours} == fields


@pytest.mark.parametrize(
    ("provider", "form"),
    [
        ("novita", OPENAIS),
        ("together", {"type": "json_schema", "schema": SCHEMA}),
        ("cohere", {"type": "json_object", "schema": SCHEMA}),
    ],
)
def test_each_providers_form_of_a_schema(
    router: Front, behind: FaultServer, provider: str, form: dict[str, Any]
) -> None:
    behind.script(then=Fault.ok(PERSON))
    with InferenceClientModel("a/b", provider, TOKEN) as model:
        assert model.generate("hello", grammar=JSONSchema(SCHEMA, name="person")).parsed == {"name": "Ann"}
    assert router.requests[-1].json["response_format"] == form


def test_a_form_that_is_not_taken_is_refused(server: FaultServer) -> None:
    with pytest.raises(UnsupportedFeature):
        InferenceClientModel("m", base_url=server.url, dialect="tgi").generate("hello", grammar=Lark('start: "a"'))
    assert server.requests == []


# --- the services' own words ------------------------------------------------------------------------------------------

TOO_LONG = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens"


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "attributes"),
    [
        (422, {"error": TOO_LONG, "error_type": "validation"}, {}, ContextWindowExceeded, {}),
        (424, {"error": "Request failed during generation", "error_type": "generation"}, {}, ServerError, {}),
        (402, {"error": "You have exceeded your monthly included credits."}, {}, RateLimited, {"retryable": False}),
        (429, {"error": "Too many"}, {"RateLimit": '"api";r=0;t=55'}, RateLimited, {"retry_after": 55.0}),
        (429, {"error": "Model is overloaded"}, {"RateLimit": '"api";r=7;t=55'}, RateLimited, {"retry_after": None}),
        (429, {"error": "Too many"}, {"Retry-After": "2"}, RateLimited, {"retry_after": 2.0}),
        (
            400, {"error": {"message": "No provider has 'a/b'.", "code": "model_not_supported"}}, {}, NotFoundError, {},
        ),
        (503, {"error": "The model is loading", "estimated_time": 20}, {}, ServerError, {}),
    ],
)  # fmt: skip
def test_errors_of_services(
    server: FaultServer, status: int, body: Any, headers: dict[str, str], kind: type[ModelError],
    attributes: dict[str, Any],
) -> None:  # fmt: skip
    server.script(then=Fault.status(status, body=json.dumps(body).encode(), headers=headers))
    model = InferenceClientModel("m", base_url=server.url, token=TOKEN, retry=False)
    for ask in (lambda: model.generate("hello"), lambda: list(model.generate_stream("hello"))):
        with pytest.raises(kind) as caught:
            ask()
        assert type(caught.value) is kind and caught.value.status == status
        assert {name: getattr(caught.value, name) for name in attributes} == attributes


# --- bad input and saving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"token": TOKEN, "api_key": TOKEN}, "token and api_key"),
        ({"base_url": "localhost:8080"}, "base_url='localhost:8080'"),
        ({"base_url": "http://"}, "base_url='http://'"),
        ({"base_url": "http://[::x"}, "base_url="),
        ({"model_id": "http://127.0.0.1:port"}, "model_id="),
        ({"base_url": "http://x", "model_id": "http://y"}, "both URLs"),
        ({"base_url": "http://x", "provider": "novita"}, "provider='novita' does not go with a URL"),
        ({"model_id": "http://x", "provider": "auto"}, "provider='auto' does not go with a URL"),
        ({"provider": "nonesuch"}, "nonesuch"),
        ({"provider": "wavespeed"}, "wavespeed"),
        ({"dialect": "tgi"}, "dialect='tgi' is for a server at a URL"),
        ({"dialect": "ollama", "base_url": "http://x"}, "dialect='ollama' is unknown; there are llama.cpp, tgi, vllm"),
        ({"client_kwargs": {"frobnicate": 1}}, "frobnicate"),
        ({"client_kwargs": {"token": TOKEN}}, "token is a setting of its own"),
    ],
)
def test_wrong_settings_are_named_when_the_model_is_made(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        InferenceClientModel(**settings)
    assert TOKEN not in str(caught.value)


def test_a_token_that_no_header_can_hold(server: FaultServer) -> None:
    for token in ("hf_mit_ümlaut_0123456789", "hf_0123456789\nX-Injected: 1"):
        with pytest.raises(InvalidRequest, match="header") as caught:
            InferenceClientModel("m", base_url=server.url, token=token).generate("hello")
        assert token not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("name", ["token", "api_key"])
def test_a_saved_model_holds_no_token_and_finds_it_again(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = {"base_url": server.url, "dialect": "vllm", "temperature": 0, "requests_per_minute": 600, name: TOKEN}
    model = InferenceClientModel("m", **settings)
    data, pickled = model.to_dict(), pickle.dumps(model)
    for shown in (repr(data), repr(pickled), repr(model), repr(vars(model)), repr(vars(model._transport))):
        assert TOKEN not in shown
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for twin in (Model.from_dict(json.loads(json.dumps(data))), pickle.loads(pickled)):
        assert type(twin) is InferenceClientModel and twin.to_dict() == data
        assert both(twin) == [ANSWER, ANSWER]
        assert server.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_key_in_a_header_is_not_stored() -> None:
    model = InferenceClientModel("a/b", client_kwargs={"headers": {"Authorization": f"Bearer {TOKEN}"}})
    for store in (model.to_dict, lambda: pickle.dumps(model)):
        with pytest.raises(TypeError, match="Authorization is a secret"):
            store()
