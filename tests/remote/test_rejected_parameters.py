"""Services that reject a parameter: the model updates its profile, and the call runs again without the parameter."""

from __future__ import annotations

import asyncio
import json
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from modelport import ChatMessage
from modelport.errors import InvalidRequest, RateLimited, StreamInterrupted, UnsupportedFeature
from tests.remote.chat_backends import model_for
from tests.remote.chat_backends import module_server as module_server
from tests.remote.chat_backends import server as server
from tests.remote.chat_backends import transport as transport
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import ask
from tests.remote.outcomes import ANSWER
from tests.servers.faults import OK, Call, Fault, FaultServer

pytestmark = pytest.mark.server


@dataclass(frozen=True)
class Rejects:
    """A server that rejects bodies with one field, by its own error text."""

    field: str
    message: str
    code: str | None = None
    param: str | None = None
    status: int = 400
    body: bytes | None = None

    def __call__(self, request: Any) -> Fault:
        if self.field not in request.json:
            return OK
        return Fault.status(self.status, message=self.message, code=self.code, param=self.param, body=self.body)


EXTRA_FORBIDDEN = {
    "type": "extra_forbidden",
    "loc": ["body", "stream_options"],
    "msg": "Extra inputs are not permitted",
}


STREAM_OPTIONS = [
    Rejects("stream_options", "Unrecognized request argument supplied: stream_options"),
    Rejects("stream_options", "Unknown parameter: 'stream_options'.", "unknown_parameter", "stream_options"),
    Rejects("stream_options", "property 'stream_options' is unsupported"),
    Rejects("stream_options", "Extra inputs are not permitted, field: 'stream_options', value: {}"),
    Rejects("stream_options", "", status=422, body=json.dumps({"detail": [EXTRA_FORBIDDEN]}).encode()),
    Rejects(
        "stream_options",
        "",
        status=422,
        body=json.dumps({"object": "error", "message": {"detail": [EXTRA_FORBIDDEN]}, "param": None}).encode(),
    ),
]


@pytest.mark.parametrize(
    "rejects", STREAM_OPTIONS, ids=["openai", "openai, new", "groq", "fireworks", "pydantic", "mistral"]
)
def test_rejected_stream_options_are_left_out(server: FaultServer, transport: str, rejects: Rejects) -> None:
    """The model sends one further request, warns, and leaves the field out for its lifetime."""
    server.script(then=rejects)
    model = model_for(server, transport)
    with pytest.warns(UserWarning, match="stream_options"):
        message = ask(model, "sync streamed")
    assert (message.content, message.token_usage) == (ANSWER, None)
    assert ["stream_options" in request.json for request in server.requests] == [True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(model, "async streamed").content == ANSWER
    assert len(server.requests) == 3


@pytest.mark.parametrize("location", [{"a": {}}, {}, "body", 3, None, []])
def test_rejection_without_location_names_no_parameter(server: FaultServer, location: Any) -> None:
    problem = json.dumps({"detail": [EXTRA_FORBIDDEN | {"loc": location}]}).encode()
    server.script(then=Fault.status(422, body=problem))
    with pytest.raises(InvalidRequest) as caught:
        ask(model_for(server, "openai"), "sync")
    assert caught.value.parameter is None


STOP = [
    Rejects("stop", "Unsupported parameter: 'stop' is not supported with this model.", "unsupported_parameter", "stop"),
    Rejects("stop", "Argument not supported on this model: stop"),
    Rejects("stop", "Model grok-4 does not support parameter stop."),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rejects", STOP, ids=["openai", "xai, old", "xai"])
def test_rejected_stop_is_done_by_modelport(server: FaultServer, rejects: Rejects, way: str) -> None:
    """modelport ends the output itself. The caller sees no difference except in the usage."""
    server.script(then=rejects)
    model = model_for(server)
    with pytest.warns(UserWarning, match="stop"):
        message = ask(model, way, stop_sequences=[" France"])
    assert (message.content, message.finish_reason) == ("The capital of", "stop")
    assert message.stop_sequence == " France"
    assert ["stop" in request.json for request in server.requests] == [True, False]
    assert not model.capabilities.stop
    assert ask(model, way, stop_sequences=[" is"]).content == "The capital of France"
    assert len(server.requests) == 3


@pytest.mark.parametrize("way", WAYS)
def test_rejected_max_tokens_becomes_max_completion_tokens(server: FaultServer, transport: str, way: str) -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    server.script(then=Rejects("max_tokens", text, "unsupported_parameter", "max_tokens"))
    model = model_for(server, transport)
    with pytest.warns(UserWarning, match="max_tokens"):
        ask(model, way, max_tokens=7)
    ask(model, way, max_tokens=9)
    first, second, third = (request.json for request in server.requests)
    assert first["max_tokens"] == 7
    assert (second["max_completion_tokens"], "max_tokens" in second) == (7, False)
    assert (third["max_completion_tokens"], "max_tokens" in third) == (9, False)


@pytest.mark.parametrize("way", WAYS)
def test_rejected_temperature_is_left_out_with_warning(server: FaultServer, way: str) -> None:
    text = "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is supported."
    server.script(then=Rejects("temperature", text, "unsupported_value", "temperature"))
    model = model_for(server)
    with pytest.warns(UserWarning, match="temperature"):
        message = ask(model, way, temperature=0.2)
    assert any(warning.feature == "temperature" for warning in message.warnings)
    assert ["temperature" in request.json for request in server.requests] == [True, False]


RESPONSE_FORMATS = [
    Rejects("response_format", "This response_format type is unavailable now", "invalid_request_error"),
    Rejects("response_format", "This model does not support response format `json_schema`.", None, "response_format"),
    Rejects(
        "response_format",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        None,
        "response_format",
    ),
]


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rejects", RESPONSE_FORMATS, ids=["deepseek", "groq", "openai"])
def test_rejected_response_format_becomes_forced_tool(
    server: FaultServer, transport: str, rejects: Rejects, way: str
) -> None:
    """The output then comes through a forced tool call, and the message says so."""

    def respond(request: Any) -> Fault:
        if "tools" not in request.json:
            return rejects(request)
        name = request.json["tool_choice"]["function"]["name"]
        return Fault.tools(Call(name, '{"name": "Ann"}'))

    server.script(then=respond)
    model = model_for(server, transport)
    with pytest.warns(UserWarning, match="response_format"):
        message = ask(model, way, grammar=PERSON)
    assert (message.parsed, message.enforcement) == ({"name": "Ann"}, "forced_tool")
    assert ["response_format" in request.json for request in server.requests] == [True, False]
    assert ask(model, way, grammar=PERSON).parsed == {"name": "Ann"}
    assert len(server.requests) == 3
    with pytest.raises(UnsupportedFeature, match="strict=True"):
        ask(model, way, grammar=PERSON, strict=True)
    assert len(server.requests) == 3


def test_rejected_schema_does_not_change_profile(server: FaultServer) -> None:
    text = "Invalid schema for response_format 'answer': 'name' is not supported."
    server.script(then=Fault.status(400, message=text, param="response_format"))
    with pytest.raises(InvalidRequest, match="Invalid schema"):
        model_for(server).generate("hello", grammar=PERSON)
    assert len(server.requests) == 1


def test_rejection_of_value_does_not_change_profile(server: FaultServer) -> None:
    """A wrong value is an error of the caller, so the parameter is not left out."""
    text = "max_tokens is too large: 99999. This model supports at most 4096 completion tokens."
    server.script(then=Fault.status(400, message=text, param="max_tokens", code="invalid_value"))
    model = model_for(server)
    with pytest.raises(InvalidRequest, match="too large"):
        model.generate("hello", max_tokens=99999)
    server.script(then=Fault.status(400, message="'messages[0].content' is not supported", param="messages"))
    with pytest.raises(InvalidRequest):
        model.generate("hello", temperature=0.1)
    assert len(server.requests) == 2


def test_one_call_observes_several_rejections(server: FaultServer) -> None:
    """A reasoning model rejects its parameters one by one. One call observes them all."""

    def reject(request: Any) -> Fault:
        for name in ("max_tokens", "stop", "temperature"):
            if name in request.json:
                text = f"Unsupported parameter: '{name}' is not supported with this model."
                return Fault.status(400, message=text, code="unsupported_parameter", param=name)
        return OK

    server.script(then=reject)
    with pytest.warns(UserWarning):
        message = model_for(server).generate("hello", max_tokens=5, stop_sequences=["zzz"], temperature=0)
    assert message.content == ANSWER
    assert len(server.requests) == 4


def test_rejection_helps_all_calls_at_the_same_time(server: FaultServer) -> None:
    """Calls that were sent before the first rejection succeed as well."""
    server.script(then=lambda request: STOP[0](request).replace(delay_s=0.05))
    model = model_for(server)

    async def many() -> Sequence[ChatMessage]:
        return await asyncio.gather(*(model.agenerate("hello", stop_sequences=[" is"]) for _ in range(8)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert {message.content for message in asyncio.run(many())} == {"The capital of France"}


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_request_after_rejection_counts_for_rate_limit(server: FaultServer, transport: str, way: str) -> None:
    """The limit allows for one request in this minute."""
    server.script(then=STOP[0])
    with pytest.warns(UserWarning, match="stop"), pytest.raises(RateLimited, match="requests_per_minute=1: "):
        ask(model_for(server, transport, requests_per_minute=1, retry=False, timeout=1), way, stop_sequences=[" is"])
    assert len(server.requests) == 1


def test_rejection_in_mid_stream_is_not_retried(server: FaultServer, transport: str) -> None:
    """A part of the response has reached the caller."""
    server.script([Fault.error_frame(message=STOP[0].message, code=400)])
    with pytest.raises(StreamInterrupted) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ask(model_for(server, transport), "sync streamed", stop_sequences=[" is"])
    assert isinstance(caught.value.__cause__, InvalidRequest)
    assert len(server.requests) == 1


INSIDE = EXTRA_FORBIDDEN | {"loc": ["body", "stream_options", "include_usage"]}
VLLM_TEXT = "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted'}]"


@pytest.mark.parametrize(
    "rejects",
    [
        Rejects("stream_options", "", status=422, body=json.dumps({"detail": [INSIDE]}).encode()),
        Rejects("stream_options", VLLM_TEXT),
        Rejects("stream_options", "Additional properties are not allowed ('stream_options' was unexpected)"),
    ],
    ids=["mistral", "vllm", "json schema"],
)
def test_stream_options_rejected_in_other_wordings_are_left_out(server: FaultServer, rejects: Rejects) -> None:
    server.script(then=rejects)
    model = model_for(server)
    with pytest.warns(UserWarning, match="stream_options"):
        assert ask(model, "sync streamed").content == ANSWER
    assert ask(model, "async streamed").content == ANSWER
    assert ["stream_options" in request.json for request in server.requests] == [True, False, False]


BOTH = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."


@pytest.mark.parametrize("way", WAYS)
def test_parameters_rejected_together_are_sent_one_by_one(server: FaultServer, way: str) -> None:
    """Only the combination is remembered: each of the two is sent in requests without the other."""

    def reject(request: Any) -> Fault:
        return Fault.status(400, message=BOTH) if {"temperature", "top_p"} <= request.json.keys() else OK

    server.script(then=reject)
    model = model_for(server)
    with pytest.warns(UserWarning, match="do not send it together"):
        message = ask(model, way, temperature=0.2, top_p=0.9)
    assert [(warning.feature, warning.text) for warning in message.warnings or ()] == [
        ("top_p", "top_p was left out, because m does not accept it together with temperature.")
    ]
    assert not ask(model, way, top_p=0.9).warnings
    assert not ask(model, way, temperature=0.2).warnings
    ask(model, way, temperature=0.2, top_p=0.9)
    sent = [sorted({"temperature", "top_p"} & request.json.keys()) for request in server.requests]
    assert sent == [["temperature", "top_p"], ["temperature"], ["top_p"], ["temperature"], ["temperature"]]


def test_rejected_max_completion_tokens_becomes_max_tokens(server: FaultServer, transport: str) -> None:
    text = "Unknown parameter: 'max_completion_tokens'."
    server.script(then=Rejects("max_completion_tokens", text, param="max_completion_tokens"))
    model = model_for(server, transport, capabilities={"renamed": {"max_tokens": "max_completion_tokens"}})
    with pytest.warns(UserWarning, match="later requests send it as 'max_tokens'"):
        assert not ask(model, "sync", max_tokens=7).warnings
    ask(model, "async streamed", max_tokens=9)
    assert [request.json.get("max_tokens") for request in server.requests] == [None, 7, 9]


def test_output_limit_rejected_under_both_names_is_left_out(server: FaultServer) -> None:
    def reject(request: Any) -> Fault:
        for name in ("max_tokens", "max_completion_tokens"):
            if name in request.json:
                return Fault.status(400, message=f"Unsupported parameter: '{name}'")
        return OK

    server.script(then=reject)
    for capabilities in ({}, {"renamed": {"max_tokens": "max_completion_tokens"}}):
        model = model_for(server, capabilities=capabilities)
        with pytest.warns(UserWarning):
            message = ask(model, "sync", max_tokens=7)
        assert [warning.feature for warning in message.warnings or ()] == ["max_tokens"]
    assert len(server.requests) == 7


def test_pickled_model_remembers_what_was_rejected(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")  # A pickled model has no key.
    server.script(then=STOP[0])
    model = model_for(server)
    with pytest.warns(UserWarning, match="stop"):
        ask(model, "sync", stop_sequences=[" France"])
    twin = pickle.loads(pickle.dumps(model))
    assert not twin.capabilities.stop
    assert ask(twin, "sync", stop_sequences=[" France"]).content == "The capital of"
    assert len(server.requests) == 3
