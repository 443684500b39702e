"""`AmazonBedrockServerModel`: credentials, region, clients, reasoning that is sent back, caching, saving."""

from __future__ import annotations

import asyncio
import json
import pickle
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from modelport import (
    AmazonBedrockModel,
    AmazonBedrockServerModel,
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidToolCall,
    Model,
    Secret,
    UnsupportedFeature,
    load_model,
)
from modelport.remote.bedrock.client import max_attempts_of
from modelport.testing.checks.images import solid_png
from tests.protocols.converse.examples import (
    CLAUDE,
    NOVA,
    WEATHER_TOOL,
    call_message,
    result_message,
    text_part,
    user_message,
)
from tests.remote.http.relay import Relay, certificate  # noqa: F401  # `certificate` is a fixture
from tests.servers.bedrock import BedrockServer, Converse, ConverseFault
from tests.servers.faults import Call

pytestmark = pytest.mark.server

API_KEY, ACCESS_KEY, SECRET_KEY = "bedrock-api-key-0123456789", "AKIAIOSFODNN7EXAMPLE", "secret-access-key-0123456789"
KEYS = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
EAST: dict[str, Any] = {"region_name": "us-east-1"}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the machine's own credentials, profiles and region."""
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE",
        "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture(scope="module")
def shared_server() -> Iterator[BedrockServer]:
    with BedrockServer(api_key=API_KEY, access_key=ACCESS_KEY) as server:
        yield server


@pytest.fixture
def server(shared_server: BedrockServer) -> BedrockServer:
    shared_server.settle()
    return shared_server


def model_for(server: BedrockServer, model_id: str = CLAUDE, **settings: Any) -> AmazonBedrockServerModel:
    return AmazonBedrockServerModel(model_id, **{"api_base": server.url, "api_key": API_KEY, **EAST, **settings})


# --- credentials and region -------------------------------------------------------------------------------------------


def test_missing_credentials_raise_authentication_error_at_construction() -> None:
    with pytest.raises(AuthenticationError, match=r"AWS_BEARER_TOKEN_BEDROCK.*AWS_ACCESS_KEY_ID.*profile_name"):
        AmazonBedrockServerModel(CLAUDE, **EAST)


def test_missing_region_raises_invalid_request_at_construction() -> None:
    with pytest.raises(InvalidRequest, match=r"No AWS region was given. Pass region_name=.*AWS_REGION"):
        AmazonBedrockServerModel(CLAUDE, api_key=API_KEY)


@pytest.mark.parametrize(
    ("region", "text"),
    [("us-est-1", "did you mean .*'us-east-1'"), ("mars-north-1", "no such AWS region"), ("us east", "us east")],
)
def test_unknown_region_raises_invalid_request_unless_api_base_is_passed(region: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        AmazonBedrockServerModel(CLAUDE, api_key=API_KEY, region_name=region)
    if " " not in region:
        AmazonBedrockServerModel(CLAUDE, api_key=API_KEY, region_name=region, api_base="https://bedrock.example.com")


@pytest.mark.parametrize("model_id", [None, "", "amazon nova", 3])
def test_invalid_model_id_raises_invalid_request_at_construction(model_id: Any) -> None:
    with pytest.raises(InvalidRequest, match="name the model, as AmazonBedrockServerModel"):
        AmazonBedrockServerModel(model_id, api_key=API_KEY, **EAST)


def test_credentials_and_region_are_read_from_the_environment(
    server: BedrockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    AmazonBedrockServerModel(CLAUDE, api_base=server.url).generate("hi")
    assert "/eu-west-1/bedrock/aws4_request" in server.requests[-1].headers["authorization"]
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    AmazonBedrockServerModel(CLAUDE, api_base=server.url).generate("hi")
    assert "/eu-west-3/" in server.requests[-1].headers["authorization"]
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", API_KEY)
    AmazonBedrockServerModel(CLAUDE, api_base=server.url).generate("hi")
    assert server.requests[-1].headers["authorization"] == f"Bearer {API_KEY}"


def test_endpoint_is_read_from_the_environment(server: BedrockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", server.url)
    assert AmazonBedrockServerModel(CLAUDE, api_key=API_KEY, **EAST).generate("hi").text


def test_profile_gives_credentials_and_region_or_is_refused(server: BedrockServer, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile work]\nregion = ap-south-1\n")
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    AmazonBedrockServerModel(CLAUDE, profile_name="work", api_base=server.url).generate("hi")
    assert f"{ACCESS_KEY}/" in server.requests[-1].headers["authorization"]
    assert "/ap-south-1/" in server.requests[-1].headers["authorization"]
    with pytest.raises(InvalidRequest, match="play"):
        AmazonBedrockServerModel(CLAUDE, profile_name="play", api_base=server.url)


def test_keys_in_client_kwargs_are_used_or_refused(server: BedrockServer) -> None:
    model = AmazonBedrockServerModel(CLAUDE, None, {**KEYS, **EAST, "endpoint_url": server.url})
    assert model.generate("hi").text
    assert ACCESS_KEY in server.requests[-1].headers["authorization"]
    with pytest.raises(AuthenticationError):
        AmazonBedrockServerModel(CLAUDE, client_kwargs={"aws_access_key_id": "AKIA", **EAST})
    with pytest.raises(InvalidRequest, match=r"client_kwargs: boto3 rejects them.*colour"):
        AmazonBedrockServerModel(CLAUDE, api_key=API_KEY, client_kwargs={"colour": "red"}, **EAST)


def test_wrong_key_raises_error_without_the_key_after_one_request(server: BedrockServer) -> None:
    for streamed in (False, True):
        model = model_for(server, api_key="a-wrong-key-0123456789")
        with pytest.raises(AuthenticationError) as raised:
            list(model.generate_stream("hi")) if streamed else model.generate("hi")
        assert "a-wrong-key" not in str(raised.value)
    assert len(server.requests) == 2


# --- clients ----------------------------------------------------------------------------------------------------------


def callers_client(server: BedrockServer, **config: Any) -> Any:
    session = boto3.Session(**KEYS, **EAST)
    return session.client("bedrock-runtime", endpoint_url=server.url, config=Config(**config))


def test_callers_client_is_used_unchanged_and_stays_open(server: BedrockServer) -> None:
    client = callers_client(server, user_agent_extra="mine/1.0", retries={"total_max_attempts": 1})
    with AmazonBedrockServerModel(CLAUDE, client) as model:
        assert model.generate("hi").text == Converse().text
        assert "".join(delta.content or "" for delta in model.generate_stream("hi")) == Converse().text
    assert all("mine/1.0" in request.headers["user-agent"] for request in server.requests)
    assert client.converse(modelId=CLAUDE, messages=[{"role": "user", "content": [{"text": "still open"}]}])
    with pytest.raises(TypeError, match="client"):
        pickle.dumps(model)


def test_only_one_of_client_and_model_retries(server: BedrockServer) -> None:
    """If the caller's client retries, the model does not. A client that modelport makes never retries."""
    server.script(then=ConverseFault.status(500))
    client = callers_client(server, retries={"total_max_attempts": 2, "mode": "standard"})
    for model, expected in (
        (AmazonBedrockServerModel(CLAUDE, client), 2),
        (model_for(server, retry=1), 1),
        (model_for(server, client_kwargs={"config": Config(retries={"max_attempts": 1})}), 2),
        (model_for(server, client_kwargs={"config": Config(retries={"total_max_attempts": 1})}), 1),
    ):
        before = len(server.requests)
        with pytest.raises(Exception, match="scripted"):
            model.generate("hi")
        assert len(server.requests) - before == expected
    assert max_attempts_of(callers_client(server)) == 5  # boto3's default


def test_closed_stream_of_callers_client_closes_the_connection(server: BedrockServer) -> None:
    client = callers_client(server, retries={"total_max_attempts": 1})
    model = AmazonBedrockServerModel(CLAUDE, client)
    for fault in (ConverseFault.ok("word " * 400).replace(pace_s=0.02), ConverseFault.cut("stall", stall_s=9.0)):
        server.script([fault])
        with model.generate_stream("hi") as stream:
            next(stream)
        server.wait_for(lambda: server.requests[-1].client_left, 2.0)
    assert model.generate("hi").text


def test_interrupted_call_under_tls_closes_the_connection(server: BedrockServer, certificate: Path) -> None:  # noqa: F811
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.parent.parent / "server.key")
    with Relay(server.port, context) as relay:
        model = model_for(server, api_base=relay.url, client_kwargs={"verify": str(certificate)})
        assert model.generate("hi").text
        server.script(then=ConverseFault.cut("stall", stall_s=9.0))
        with model.generate_stream("hi") as stream:
            next(stream)
        with pytest.raises(DeadlineExceeded):
            model.generate("hi", timeout=0.2)
        server.wait_for(lambda: all(request.client_left for request in server.requests[1:]), 2.0)
        with pytest.raises(ConnectionFailed, match="certificate") as raised:
            model_for(server, api_base=relay.url).generate("hi")
        assert not raised.value.retryable
        model.close()
    assert len(server.requests) == 3


def test_client_of_another_kind_or_with_further_settings_is_refused() -> None:
    for client in (object(), boto3.Session(**KEYS, **EAST).client("bedrock")):
        with pytest.raises(InvalidRequest, match=r"boto3.client\('bedrock-runtime'\)"):
            AmazonBedrockServerModel(CLAUDE, client)
    with pytest.raises(InvalidRequest, match="client and region_name: give one"):
        AmazonBedrockServerModel(CLAUDE, boto3.Session(**KEYS, **EAST).client("bedrock-runtime"), **EAST)


def test_async_calls_run_at_once_and_do_not_block_the_loop(server: BedrockServer) -> None:
    server.script(then=ConverseFault.slow(0.3))
    model, opened_before = model_for(server), server.connections_opened

    async def call_eight_times() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(model.agenerate("hi") for _ in range(8)))
        ticking.cancel()
        return ticks

    assert asyncio.run(call_eight_times()) >= 10
    # Calls that ran one after another would have used one connection again.
    assert server.connections_opened - opened_before == 8
    model.close()


# --- responses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_is_received_and_sent_back_unchanged(server: BedrockServer, streamed: bool) -> None:
    """The server refuses reasoning whose text or signature has changed."""
    server.script([ConverseFault.ok("42", reasoning="Six sevens: é世界.", redacted="hidden")])
    model = model_for(server)
    if streamed:
        with model.generate_stream("?") as stream:
            assert [delta.reasoning for delta in stream if delta.reasoning] == ["Six seve", "ns: é世界."]
        response = stream.message
    else:
        response = model.generate("?")
    assert (response.content, response.reasoning) == ("42", "Six sevens: é世界.")
    for earlier in (response, response.to_dict(), json.loads(response.model_dump_json())):
        assert model.generate([user_message(text_part("?")), earlier, user_message(text_part("sure?"))]).text
        kinds = [next(iter(block)) for block in server.accepted[-1]["messages"][1]["content"]]
        assert kinds == ["reasoningContent", "reasoningContent", "text"]
    changed = response.to_dict()
    changed["provider_data"]["items"][1]["reasoningText"]["text"] = "Seven sixes."
    with pytest.raises(InvalidRequest, match="Invalid signature"):
        model.generate([user_message(text_part("?")), changed, user_message(text_part("sure?"))])


def test_turn_with_reasoning_and_calls_is_sent_back(server: BedrockServer) -> None:
    server.script([ConverseFault.ok("I look.", calls=(Call(),), reasoning="I need the weather.")])
    model = model_for(server)
    response = model.generate("?", tools=[WEATHER_TOOL])
    assert response.tool_calls and response.finish_reason == "tool_calls"
    history = [user_message(text_part("?")), response, result_message(response.tool_calls[0].id)]
    assert model.generate(history, tools=[WEATHER_TOOL]).text
    kinds = [next(iter(block)) for block in server.accepted[-1]["messages"][1]["content"]]
    assert kinds == ["reasoningContent", "text", "toolUse"]


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_call_that_was_not_allowed_raises_invalid_tool_call(server: BedrockServer, streamed: bool) -> None:
    server.script(then=ConverseFault.ok("", calls=(Call(),)))
    model, history = model_for(server), [user_message(text_part("?")), call_message("a"), result_message("a")]
    with pytest.raises(InvalidToolCall, match="although no tool call was allowed"):
        list(model.generate_stream(history)) if streamed else model.generate(history)


def test_usage_counts_cached_tokens(server: BedrockServer) -> None:
    usage = {
        "inputTokens": 3, "outputTokens": 5, "totalTokens": 1015, "cacheReadInputTokens": 1000,
        "cacheWriteInputTokens": 7,
    }  # fmt: skip
    server.script(then=ConverseFault.ok(usage=usage))
    model = model_for(server, cache_points=["messages"])
    for message in (model.generate("hi"), streamed_message(model)):
        assert message.token_usage is not None
        assert (message.token_usage.input_tokens, message.token_usage.cached_input_tokens) == (1010, 1000)
        assert message.token_usage.total_tokens == 1015
    assert server.accepted[-1]["messages"][0]["content"][-1] == {"cachePoint": {"type": "default"}}


def streamed_message(model: Model) -> Any:
    with model.generate_stream("hi") as stream:
        list(stream)
    return stream.message


def test_image_is_sent_as_bytes(server: BedrockServer) -> None:
    picture_bytes = solid_png((1, 2, 3))
    model_for(server).generate([user_message(text_part("look"), {"type": "image", "image": picture_bytes})])
    assert server.accepted[-1]["messages"][0]["content"][1]["image"]["source"]["bytes"] == picture_bytes


def test_unknown_field_is_refused_before_sending(server: BedrockServer) -> None:
    with pytest.raises(UnsupportedFeature, match="'colour' is not a parameter of this backend"):
        model_for(server).generate("hi", colour="red")  # type: ignore[call-overload]
    assert not server.requests


def test_settings_of_model_apply(server: BedrockServer) -> None:
    model = model_for(server, custom_role_conversions={"system": "user"}, temperature=0.2, requests_per_minute=6000)
    model.generate([{"role": "system", "content": "s"}, user_message(text_part("a"))], max_tokens=3)
    assert "system" not in server.accepted[-1]
    assert server.accepted[-1]["inferenceConfig"] == {"temperature": pytest.approx(0.2), "maxTokens": 3}


def test_stop_sequences_and_tools_to_call_from_are_sent(server: BedrockServer) -> None:
    model_for(server, NOVA).generate("hi", stop_sequences=["Observation:"], tools_to_call_from=[WEATHER_TOOL])
    assert server.accepted[-1]["toolConfig"]["toolChoice"] == {"any": {}}
    assert server.accepted[-1]["inferenceConfig"]["stopSequences"] == ["Observation:"]


# --- saving and names -------------------------------------------------------------------------------------------------


def test_saved_model_has_no_secrets_and_works_after_loading(
    server: BedrockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kwargs = {**KEYS, "aws_session_token": "session-token-0123456789"}
    signed = AmazonBedrockServerModel(CLAUDE, None, kwargs, api_base=server.url, temperature=0.5, **EAST)
    keyed = model_for(server, cache_points=["system"])
    for model in (signed, keyed):
        texts = [repr(model), repr(vars(model)), json.dumps(model.to_dict()), repr(pickle.dumps(model))]
        for secret in (API_KEY, SECRET_KEY, "session-token-0123456789"):
            assert not any(secret in text for text in texts)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token-0123456789")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", API_KEY)
    for model in (signed, keyed):
        for restored in (Model.from_dict(model.to_dict()), pickle.loads(pickle.dumps(model))):
            assert isinstance(restored, AmazonBedrockServerModel)
            assert restored.to_dict() == model.to_dict()
            assert restored.generate("hi").text
    assert signed.to_dict()["client_kwargs"]["aws_secret_access_key"] == {"env": "AWS_SECRET_ACCESS_KEY"}


def test_secret_of_another_variable_is_used(server: BedrockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", API_KEY)
    assert model_for(server, api_key=Secret(env="TEAM_KEY")).generate("hi").text


def test_names_of_the_registry_load_the_class(server: BedrockServer) -> None:
    assert AmazonBedrockModel is AmazonBedrockServerModel
    model = load_model(f"bedrock/{NOVA}", api_key=API_KEY, **EAST)
    assert type(model) is AmazonBedrockServerModel and model.model_id == NOVA
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    profile = load_model(f"bedrock/{arn}", api_key=API_KEY, api_base=server.url, **EAST)
    assert profile.model_id == arn and profile.capabilities == model_for(server).capabilities
    assert profile.generate("hi").text
