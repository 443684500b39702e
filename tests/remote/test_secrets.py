"""No error shows a key of Bedrock. A saved model holds no key, is restored as a working model, and imports nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelport import AmazonBedrockServerModel, Model
from modelport.errors import InvalidRequest, ModelError
from tests.remote.matrix import ANSWER, BACKENDS
from tests.remote.matrix_runner import CLAUDE, KEY, MODELS, model_for, server_for
from tests.remote.secret_leaks import leaks, text_of_failed_call
from tests.servers.bedrock import BedrockServer, ConverseFault

pytestmark = pytest.mark.server

SECRET_KEY, SESSION, ACCESS = "wJalrXUtnFEMI/K7MDENG/test-secret", "session-token-0123456789", "AKIATESTTESTTEST"
LIMITS: dict[str, Any] = {"retry": False, "timeout": 20, "first_token_timeout": 0.6, "region_name": "us-east-1"}
LEAKS = leaks(f"You sent {KEY}, signed by {SECRET_KEY} with {SESSION}.")
LEAKS["an exception"] = lambda f: f.exception("validationException", f"You sent {KEY} with {SESSION} and {SECRET_KEY}.")


def _by_access_key(url: str) -> AmazonBedrockServerModel:
    keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET_KEY, "aws_session_token": SESSION}
    return AmazonBedrockServerModel(CLAUDE, None, keys, api_base=url, **LIMITS)


MODELS_BY_CREDENTIAL: dict[str, Callable[[str], AmazonBedrockServerModel]] = {
    "api key": lambda url: AmazonBedrockServerModel(CLAUDE, api_base=url, api_key=KEY, **LIMITS),
    "access key": _by_access_key,
}


@pytest.fixture(scope="module")
def running() -> Iterator[BedrockServer]:
    with BedrockServer(api_key=KEY, access_key=ACCESS) as server:
        with MODELS_BY_CREDENTIAL["api key"](server.url) as model:
            model.generate("hello", first_token_timeout=20)
        yield server


@pytest.mark.parametrize("way", ["sync", "streamed", "async"])
@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("credential", MODELS_BY_CREDENTIAL)
def test_failure_does_not_show_key(
    running: BedrockServer, credential: str, name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "an exception" and way != "streamed":
        running.script(then=ConverseFault.status(403, message=f"{KEY} {SESSION} {SECRET_KEY}"))
    else:
        running.script(then=LEAKS[name](ConverseFault))
    caplog.set_level(logging.DEBUG)
    with MODELS_BY_CREDENTIAL[credential](running.url) as model, pytest.raises(ModelError) as caught:
        if way == "sync":
            model.generate("hello")
        elif way == "async":
            asyncio.run(model.agenerate("hello"))
        else:
            list(model.generate_stream("hello"))
    assert any(record.name == "botocore.endpoint" for record in caplog.records)  # This logger writes the headers.
    text = text_of_failed_call(caught.value, model, caplog.records, __file__)
    secrets = (KEY,) if credential == "api key" else (SECRET_KEY, SESSION)
    for secret in secrets:
        assert secret not in text


@pytest.mark.parametrize("backend", [name for name, backend in BACKENDS.items() if not backend.litellm])
def test_saved_model_holds_no_key_and_restores_working_model(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY", "huggingface": "HF_TOKEN",
                 "bedrock": "AWS_BEARER_TOKEN_BEDROCK"}  # fmt: skip
    assert set(MODELS) >= set(variables)
    with server_for(backend) as server, model_for(server, backend, retry=False) as model:
        stored, pickled = json.dumps(model.to_dict()), pickle.dumps(model)
        assert KEY not in stored and KEY.encode() not in pickled
        variable = variables[backend.partition("-")[0]]
        assert json.loads(stored)["token" if backend == "huggingface" else "api_key"] == {"env": variable}
        monkeypatch.setenv(variable, KEY)
        for twin in (Model.from_dict(json.loads(stored)), pickle.loads(pickled)):
            with twin:
                assert twin.generate("hello").content == ANSWER


@pytest.mark.parametrize("name", ["os", "antigravity.Model", "tests.remote.evil:Model", "builtins.eval", "../evil", ""])
def test_unknown_class_in_saved_model_imports_nothing(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(InvalidRequest):
        Model.from_dict({"class": name, "model_id": "m"})
    assert not {module for module in set(sys.modules) - before if not module.startswith("modelport")}
