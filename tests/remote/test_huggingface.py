"""Hugging Face: the addresses of servers, tokens, providers, and lookups on the Hub."""

from __future__ import annotations

import asyncio
import pickle
import socket
import time
import traceback
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.inference._providers import _common

from modelport import InferenceClientModel, load_model
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequest,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from modelport.layers.retry import RetryPolicy
from modelport.remote.huggingface.model import DEFAULT_MODEL
from tests.remote.huggingface_router import ANSWER, PATHS, TOKEN, texts_of
from tests.remote.huggingface_router import fault_server as fault_server
from tests.remote.huggingface_router import module_router as module_router
from tests.remote.huggingface_router import router as router
from tests.remote.huggingface_router import server as server
from tests.remote.huggingface_router import token_file as token_file
from tests.servers.faults import Fault, FaultServer
from tests.servers.front import Forward, Front, ReceivedRequest, Respond, front

PROVIDER_KEY = "the-providers-own-key"

# --- servers by their address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_server_address_may_have_any_path(server: FaultServer, tail: str) -> None:
    assert texts_of(InferenceClientModel("m", base_url=server.url + tail, token=TOKEN)) == [ANSWER, ANSWER]
    assert texts_of(InferenceClientModel(server.url + tail, token=TOKEN)) == [ANSWER, ANSWER]
    assert [request.target for request in server.requests] == ["/v1/chat/completions"] * 4
    assert [request.json["model"] for request in server.requests[:2]] == ["m", "m"]
    assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_server_needs_no_token(server: FaultServer) -> None:
    assert texts_of(InferenceClientModel("m", base_url=server.url)) == [ANSWER, ANSWER]
    assert "authorization" not in server.requests[0].headers


def test_all_settings_and_options_are_sent(server: FaultServer) -> None:
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


def test_calls_share_one_connection(server: FaultServer) -> None:
    model = InferenceClientModel("m", base_url=server.url)
    before = server.connections_opened  # A connection of the last test may still be open.
    for _ in range(3):
        model.generate("hello")
        assert list(model.generate_stream("hello"))
    assert (server.connections_opened - before, len(server.requests)) == (1, 6)
    model.close()


def test_redirect_is_refused(server: FaultServer) -> None:
    server.script(then=Fault.status(307, headers={"Location": "http://elsewhere.example/"}))
    with pytest.raises(InvalidRequest, match=r"elsewhere\.example"):
        InferenceClientModel("m", base_url=server.url, token=TOKEN).generate("hello")


def test_timeout_of_client_kwargs_ends_call(server: FaultServer) -> None:
    server.script(then=Fault.silence(9.0))
    model = InferenceClientModel("m", base_url=server.url, client_kwargs={"timeout": 0.2}, retry=False)
    with pytest.raises(ConnectionFailed, match="timeout"):
        model.generate("hello")
    server.wait_for(lambda: server.requests[0].client_left)  # The server is silent for nine seconds.


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_token_precedence_is_argument_environment_login(
    server: FaultServer, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent_authorization(**settings: Any) -> str | None:
        server.clear()
        with InferenceClientModel("m", base_url=server.url, **settings) as model:
            model.generate("hello")
        return server.requests[0].headers.get("authorization")

    assert sent_authorization() is None
    token_file.write_text("hf_of_the_login")
    assert sent_authorization() == "Bearer hf_of_the_login"
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    assert sent_authorization() == "Bearer hf_of_the_environment"
    assert sent_authorization(token=TOKEN) == sent_authorization(api_key=TOKEN) == f"Bearer {TOKEN}"


def test_renewed_token_is_found(server: FaultServer, token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is looked up again after the service refused it, and when it is older than its lifetime."""
    token_file.write_text("hf_old")
    model = InferenceClientModel("m", base_url=server.url)
    model.generate("hello")
    token_file.write_text("hf_new")
    model.generate("hello")
    server.script([Fault.status(401)])
    with pytest.raises(AuthenticationError):
        model.generate("hello")
    model.generate("hello")
    monkeypatch.setattr("modelport.remote.huggingface.transport.TOKEN_LIFETIME", 0.0)
    other = InferenceClientModel("m", base_url=server.url)
    for name in ("newer", "newest"):
        token_file.write_text(f"hf_{name}")
        other.generate("hello")
    sent = [request.headers["authorization"].removeprefix("Bearer hf_") for request in server.requests]
    assert sent == ["old", "old", "old", "new", "newer", "newest"]
    model.close()
    other.close()


def test_missing_token_raises(router: Front) -> None:
    for provider in (None, "auto", "novita"):
        with pytest.raises(AuthenticationError, match=r"token=….*HF_TOKEN.*hf auth login"):
            InferenceClientModel("a/b", provider).generate("hello")
    assert router.requests == []


def test_key_of_provider_is_refused_for_router(router: Front) -> None:
    with pytest.raises(AuthenticationError, match="'hf_'") as caught:
        InferenceClientModel("a/b", token=PROVIDER_KEY).generate("hello")
    with_locals = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert PROVIDER_KEY not in "".join(with_locals.format()) and router.requests == []


def test_bill_to_is_sent_with_token_of_hugging_face_only(router: Front) -> None:
    InferenceClientModel("a/b", "novita", TOKEN, bill_to="my-org").generate("hello")
    assert router.requests[-1].headers["x-hf-bill-to"] == "my-org"
    with pytest.raises(InvalidRequest, match="bill_to"):
        InferenceClientModel("a/b", "novita", PROVIDER_KEY, bill_to="my-org").generate("hello")


def test_wrong_token_raises_and_is_not_shown(router: Front) -> None:
    with pytest.raises(AuthenticationError) as caught:
        InferenceClientModel("a/b", token="hf_wrong_0123456789").generate("hello")
    assert caught.value.status == 401 and "hf_wrong" not in str(caught.value)


# --- providers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PATHS)
def test_provider_is_called_at_its_path(router: Front, provider: str) -> None:
    model = load_model("huggingface/org/name", provider=provider, token=TOKEN)
    assert isinstance(model, InferenceClientModel)
    assert texts_of(model) == [ANSWER, ANSWER]
    calls = [request for request in router.requests if request.method == "POST"]
    assert [call.path for call in calls] == [PATHS[provider]] * 2
    assert [call.json["model"] for call in calls] == [f"{provider}/the-model"] * 2
    assert sum(request.path == "/api/models/org/name" for request in router.requests) == 1


@pytest.mark.parametrize("provider", [None, "auto"])
def test_router_chooses_without_provider(router: Front, provider: str | None) -> None:
    assert texts_of(InferenceClientModel(provider=provider, token=TOKEN)) == [ANSWER, ANSWER]
    call = router.requests[-1]
    assert (call.path, call.json["model"]) == ("/v1/chat/completions", DEFAULT_MODEL)


def test_unknown_model_raises_not_found(router: Front) -> None:
    with pytest.raises(NotFoundError, match="org/nonesuch"):
        InferenceClientModel("org/nonesuch", "novita", TOKEN).generate("hello")
    with pytest.raises(NotFoundError, match="not supported by provider cerebras"):
        InferenceClientModel("org/name", "cerebras", TOKEN).generate("hello")
    assert not any(request.method == "POST" for request in router.requests)


def hub_with_first_response(response: Respond, delay: float = 0.0) -> Any:
    """Return a Hub whose first lookup gets this response, late. Later lookups get the mapping of the model."""
    mapping = {"novita": {"providerId": "n", "status": "live", "task": "conversational"}}
    lookups: list[ReceivedRequest] = []

    def decide(seen: ReceivedRequest) -> Forward | Respond:
        if not seen.path.startswith("/api/models/"):
            return Respond(404, {})
        lookups.append(seen)
        time.sleep(delay)
        return response if len(lookups) == 1 else Respond(200, {"id": "a/b", "inferenceProviderMapping": mapping})

    return front("http://127.0.0.1:9", decide)


@pytest.mark.parametrize(("status", "kind"), [(500, ServerError), (429, RateLimited), (403, AuthenticationError)])
def test_failing_hub_raises_and_is_retried(
    router: Front, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[ModelError]
) -> None:
    with hub_with_first_response(Respond(status, {"error": "not now"})) as failing:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", failing.url)
        with pytest.raises(kind) as caught:
            InferenceClientModel("a/b", "novita", TOKEN, retry=False).generate("hello")
        assert caught.value.status == status
        if caught.value.retryable:
            _common._fetch_inference_provider_mapping.cache_clear()
    with hub_with_first_response(Respond(status, {"error": "not now"})) as failing:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", failing.url)
        model = InferenceClientModel("a/b", "novita", TOKEN, retry=RetryPolicy(attempts=2, base=0.01))
        if kind is AuthenticationError:
            with pytest.raises(kind):
                model.generate("hello")
        else:
            assert model.generate("hello").content == ANSWER


def test_lookup_on_hub_does_not_block_event_loop(router: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients of huggingface_hub look models up synchronously, also the asynchronous one."""
    mapping = {"novita": {"providerId": "n", "status": "live", "task": "conversational"}}
    with hub_with_first_response(Respond(200, {"id": "a/b", "inferenceProviderMapping": mapping}), delay=0.4) as slow:
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


def test_constructor_opens_no_connection(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    choices: list[dict[str, Any]] = [{}, {"provider": "novita"}, {"provider": "hf-inference"}]
    for settings in (*choices, {"base_url": "http://127.0.0.1:9"}):
        model = InferenceClientModel("a/b", token=TOKEN, **settings)
        pickle.dumps(model), model.to_dict()


def test_offline_mode_sends_nothing(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionFailed, match="HF_HUB_OFFLINE"):
        InferenceClientModel("m", base_url=server.url).generate("hello")
    assert server.requests == []
