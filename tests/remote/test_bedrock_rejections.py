"""Models on Bedrock that reject a parameter: the model updates its profile, and the call runs again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.auth import BearerAuth
from botocore.exceptions import InvalidEndpointConfigurationError

from modelport import AmazonBedrockServerModel
from modelport.errors import InvalidRequest
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import ask
from tests.servers.bedrock import RESPONSE_TEXT, BedrockServer, ConverseFault

pytestmark = pytest.mark.server

KEY = "bedrock-key-0123456789"


@pytest.fixture(scope="module")
def shared_server() -> Iterator[BedrockServer]:
    with BedrockServer(api_key=KEY) as server:
        yield server


@pytest.fixture
def server(shared_server: BedrockServer) -> BedrockServer:
    shared_server.settle()
    return shared_server


def model_for(server: BedrockServer, model_id: str, **settings: Any) -> AmazonBedrockServerModel:
    return AmazonBedrockServerModel(model_id, api_base=server.url, api_key=KEY, region_name="us-east-1", **settings)


def rejecting(is_wrong: Callable[[Any], bool], text: str) -> Any:
    def respond(request: Any) -> ConverseFault:
        return ConverseFault.status(400, message=text) if is_wrong(request.json) else ConverseFault.ok()

    return respond


STOP = "This model doesn't support the stopSequences field. Remove stopSequences and try again."
TEMPERATURE = "The model returned the following errors: `temperature` is deprecated for this model."
BOTH = "The model returned the following errors: `temperature` and `top_p` cannot both be specified for this model."


def config(body: Any) -> Any:
    return body.get("inferenceConfig", {})


@pytest.mark.parametrize("way", WAYS)
def test_rejected_stop_sequences_are_done_by_modelport(server: BedrockServer, way: str) -> None:
    server.script(then=rejecting(lambda body: "stopSequences" in config(body), STOP))
    model = model_for(server, "openai.gpt-oss-20b-1:0")
    with pytest.warns(UserWarning, match="stop"):
        message = ask(model, way, stop_sequences=[" France"])
    assert (message.content, message.stop_sequence) == ("The capital of", " France")
    ask(model, way, stop_sequences=[" France"])
    assert ["stopSequences" in config(request.json) for request in server.requests] == [True, False, False]


@pytest.mark.parametrize("way", WAYS)
def test_deprecated_temperature_is_left_out_with_warning(server: BedrockServer, way: str) -> None:
    server.script(then=rejecting(lambda body: "temperature" in config(body), TEMPERATURE))
    model = model_for(server, "us.anthropic.claude-opus-4-7")
    with pytest.warns(UserWarning, match="temperature"):
        message = ask(model, way, temperature=0.2)
    assert message.content == RESPONSE_TEXT
    assert [warning.feature for warning in message.warnings or ()] == ["temperature"]
    ask(model, way, temperature=0.2)
    assert ["temperature" in config(request.json) for request in server.requests] == [True, False, False]


def test_parameters_rejected_together_are_sent_one_by_one(server: BedrockServer) -> None:
    server.script(then=rejecting(lambda body: {"temperature", "topP"} <= config(body).keys(), BOTH))
    model = model_for(server, "us.anthropic.claude-sonnet-4-5-20250929-v1:0")
    with pytest.warns(UserWarning, match="together"):
        message = ask(model, "sync", temperature=0.2, top_p=0.9)
    assert [warning.feature for warning in message.warnings or ()] == ["top_p"]
    assert not ask(model, "sync", top_p=0.9).warnings
    sent = [sorted(config(request.json).keys()) for request in server.requests]
    assert sent == [["temperature", "topP"], ["temperature"], ["topP"]]


def test_rejected_max_tokens_gets_no_other_name(server: BedrockServer) -> None:
    """The Converse API has no other name for it."""
    text = "This model doesn't support the maxTokens field. Remove maxTokens and try again."
    server.script(then=rejecting(lambda body: "maxTokens" in config(body), text))
    with pytest.warns(UserWarning, match="max_tokens"):
        message = ask(model_for(server, "us.amazon.nova-pro-v1:0"), "sync", max_tokens=9)
    assert [warning.feature for warning in message.warnings or ()] == ["max_tokens"]
    assert len(server.requests) == 2


def test_rejection_of_a_value_changes_nothing(server: BedrockServer) -> None:
    server.script(then=ConverseFault.status(400, message="Invalid value for maxTokens: 10 is above the limit."))
    with pytest.raises(InvalidRequest):
        ask(model_for(server, "us.amazon.nova-pro-v1:0"), "sync", max_tokens=10)
    assert len(server.requests) == 1


NO_TOOLS = "This model doesn't support tool use in streaming mode."
NO_STREAM = "The model is unsupported for streaming."


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return city


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
@pytest.mark.parametrize("text", [NO_TOOLS, NO_STREAM])
def test_model_that_does_not_stream_with_tools_answers_in_one_piece(server: BedrockServer, text: str, way: str) -> None:
    def respond(request: Any) -> ConverseFault:
        refuses = request.stream and ("toolConfig" in request.json or text == NO_STREAM)
        return ConverseFault.status(400, message=text) if refuses else ConverseFault.ok()

    server.script(then=respond)
    model = model_for(server, "us.meta.llama4-scout-17b-instruct-v1:0")
    for _ in range(2):
        message = ask(model, way, tools=[get_weather])
        assert message.content == RESPONSE_TEXT
        assert [warning.feature for warning in message.warnings or ()] == ["stream"]
    assert [request.stream for request in server.requests] == [True, False, False]
    assert bool(ask(model, way).warnings) == (text == NO_STREAM)


ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"


def test_base_model_gives_an_application_inference_profile_its_capabilities(
    server: BedrockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not model_for(server, ARN).capabilities.reasoning_budget
    model = model_for(server, ARN, base_model="anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert model.capabilities.reasoning_budget
    message = ask(model, "sync", reasoning_budget=1024, max_tokens=2000, temperature=0.2)
    assert [warning.feature for warning in message.warnings or ()] == ["temperature"]
    assert "abc123" in server.requests[0].target
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    assert AmazonBedrockServerModel.from_dict(model.to_dict()).capabilities == model.capabilities


def test_boto3_that_refuses_keys_over_http_is_reported_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, request: Any) -> None:
        raise InvalidEndpointConfigurationError(msg="Bearer authorization requires an HTTPS endpoint.")

    monkeypatch.setattr(BearerAuth, "add_auth", refuse)
    with pytest.raises(InvalidRequest, match=r"api_base='http://h'.*HTTPS only; pass an address with https://"):
        AmazonBedrockServerModel("m", api_base="http://h", api_key=KEY, region_name="us-east-1")
    AmazonBedrockServerModel("m", api_base="https://h", api_key=KEY, region_name="us-east-1")
