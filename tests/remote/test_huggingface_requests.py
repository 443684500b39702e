"""Hugging Face: structured output in the format of each server and provider, errors, wrong settings, and saving."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from modelport import Choice, InferenceClientModel, JSONSchema, Lark, Model, Regex
from modelport.errors import (
    ContextWindowExceeded,
    InvalidRequest,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    UnsupportedFeature,
)
from tests.remote.huggingface_router import ANSWER, TOKEN, texts_of
from tests.remote.huggingface_router import fault_server as fault_server
from tests.remote.huggingface_router import module_router as module_router
from tests.remote.huggingface_router import router as router
from tests.remote.huggingface_router import server as server
from tests.remote.huggingface_router import token_file as token_file
from tests.servers.faults import Fault, FaultServer
from tests.servers.front import Front

SCHEMA = {
    "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False,
}  # fmt: skip
PERSON = '{"name": "Ann"}'


# --- structured output-------------------------------------------------------------------------------------------------

OPENAI_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}


@pytest.mark.parametrize(
    ("dialect", "grammar", "fields"),
    [
        (None, JSONSchema(SCHEMA, name="person"), {"response_format": OPENAI_FORMAT}),
        ("vllm", JSONSchema(SCHEMA, name="person"), {"response_format": OPENAI_FORMAT}),
        ("vllm", Regex("a+"), {"structured_outputs": {"regex": "a+"}}),
        ("tgi", JSONSchema(SCHEMA), {"response_format": {"type": "json", "value": SCHEMA}}),
        ("tgi", Regex(r"\d+"), {"response_format": {"type": "regex", "value": "[0-9]+"}}),
        ("tgi", Choice("a.b", "c"), {"response_format": {"type": "regex", "value": r"a\.b|c"}}),
        ("llama.cpp", Lark('start: "a"'), {"grammar": '%llguidance {}\nstart: "a"'}),
    ],
)
def test_output_type_is_sent_in_dialect_of_server(
    server: FaultServer, dialect: str | None, grammar: Any, fields: dict[str, Any]
) -> None:
    texts = {JSONSchema: PERSON, Regex: "aaa" if dialect == "vllm" else "123", Choice: "c", Lark: "a"}
    server.script(then=Fault.ok(texts[type(grammar)]))
    with InferenceClientModel("m", base_url=server.url, dialect=dialect) as model:
        model.generate("hello", grammar=grammar)
    (request,) = server.requests
    other_fields = {"model", "messages", "stream", "stream_options"}
    assert {name: value for name, value in request.json.items() if name not in other_fields} == fields


@pytest.mark.parametrize(
    ("provider", "response_format"),
    [
        ("novita", OPENAI_FORMAT),
        ("together", {"type": "json_schema", "schema": SCHEMA}),
        ("cohere", {"type": "json_object", "schema": SCHEMA}),
    ],
)
def test_schema_is_sent_in_format_of_provider(
    router: Front, fault_server: FaultServer, provider: str, response_format: dict[str, Any]
) -> None:
    fault_server.script(then=Fault.ok(PERSON))
    with InferenceClientModel("a/b", provider, TOKEN) as model:
        assert model.generate("hello", grammar=JSONSchema(SCHEMA, name="person")).parsed == {"name": "Ann"}
    assert router.requests[-1].json["response_format"] == response_format


def test_unsupported_output_type_is_refused(server: FaultServer) -> None:
    with pytest.raises(UnsupportedFeature):
        InferenceClientModel("m", base_url=server.url, dialect="tgi").generate("hello", grammar=Lark('start: "a"'))
    assert server.requests == []


# --- errors of services ---------------------------------------------------------------------------------------------

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
def test_error_of_service_is_classified(
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
    ("settings", "message"),
    [
        ({"token": TOKEN, "api_key": TOKEN}, "token and api_key"),
        ({"base_url": "localhost:8080"}, "base_url='localhost:8080'"),
        ({"base_url": "http://"}, "base_url='http://'"),
        ({"base_url": "http://[::x"}, "base_url="),
        ({"model_id": "http://127.0.0.1:port"}, "model_id="),
        ({"base_url": "http://x", "model_id": "http://y"}, "both URLs"),
        ({"base_url": "http://x", "provider": "novita"}, "provider='novita' and a URL exclude each other"),
        ({"model_id": "http://x", "provider": "auto"}, "provider='auto' and a URL exclude each other"),
        ({"provider": "nonesuch"}, "nonesuch"),
        ({"provider": "wavespeed"}, "wavespeed"),
        ({"dialect": "tgi"}, "dialect='tgi' is for a server at a URL"),
        (
            {"dialect": "ollama", "base_url": "http://x"},
            "dialect='ollama' is unknown; known dialects are llama.cpp, openai, tgi, vllm",
        ),
        ({"client_kwargs": {"frobnicate": 1}}, "frobnicate"),
        ({"client_kwargs": {"token": TOKEN}}, "token is a setting of its own"),
    ],
)
def test_wrong_setting_is_named_by_constructor(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        InferenceClientModel(**settings)
    assert TOKEN not in str(caught.value)


def test_token_that_no_header_can_hold_is_refused_and_not_shown(server: FaultServer) -> None:
    for token in ("hf_mit_ümlaut_0123456789", "hf_0123456789\nX-Injected: 1"):
        with pytest.raises(InvalidRequest, match=r"header|ASCII characters") as caught:
            InferenceClientModel("m", base_url=server.url, token=token).generate("hello")
        assert token not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("name", ["token", "api_key"])
def test_saved_model_holds_no_token_and_finds_token_again(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings: dict[str, Any] = {
        "base_url": server.url,
        "dialect": "vllm",
        "temperature": 0,
        "requests_per_minute": 600,
        name: TOKEN,
    }
    model = InferenceClientModel("m", **settings)
    data, pickled = model.to_dict(), pickle.dumps(model)
    for text in (repr(data), repr(pickled), repr(model), repr(vars(model)), repr(vars(model._transport))):
        assert TOKEN not in text
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for restored in (Model.from_dict(json.loads(json.dumps(data))), pickle.loads(pickled)):
        assert type(restored) is InferenceClientModel and restored.to_dict() == data
        assert texts_of(restored) == [ANSWER, ANSWER]
        assert server.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_key_in_header_can_not_be_saved() -> None:
    model = InferenceClientModel("a/b", client_kwargs={"headers": {"Authorization": f"Bearer {TOKEN}"}})
    for store in (model.to_dict, lambda: pickle.dumps(model)):
        with pytest.raises(TypeError, match="Authorization is a secret"):
            store()
