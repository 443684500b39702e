"""No key of Bedrock's shows, whatever fails; what a model is saved as restores a working one, and imports nothing."""

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
from tests.remote.matrix import ANSWER, COLUMNS
from tests.remote.matrix_runner import CLAUDE, KEY, MODELS, model_for, server_for
from tests.remote.secret_leaks import everything, leaks
from tests.servers.bedrock import BedrockServer, ConverseFault

SECRET_KEY, SESSION, ACCESS = "wJalrXUtnFEMI/K7MDENG/test-secret", "session-token-0123456789", "AKIATESTTESTTEST"
LIMITS: dict[str, Any] = {"retry": False, "timeout": 20, "first_token_timeout": 0.6, "region_name": "us-east-1"}
LEAKS = leaks(f"You sent {KEY}, signed by {SECRET_KEY} with {SESSION}.")
LEAKS["an exception"] = lambda f: f.exception("validationException", f"You sent {KEY} with {SESSION} and {SECRET_KEY}.")


def _by_access_key(url: str) -> AmazonBedrockServerModel:
    keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET_KEY, "aws_session_token": SESSION}
    return AmazonBedrockServerModel(CLAUDE, None, keys, api_base=url, **LIMITS)


KEYED: dict[str, Callable[[str], AmazonBedrockServerModel]] = {
    "api key": lambda url: AmazonBedrockServerModel(CLAUDE, api_base=url, api_key=KEY, **LIMITS),
    "access key": _by_access_key,
}


@pytest.fixture(scope="module")
def running() -> Iterator[BedrockServer]:
    with BedrockServer(api_key=KEY, access_key=ACCESS) as server:
        with KEYED["api key"](server.url) as model:
            model.generate("hello", first_token_timeout=20)
        yield server


@pytest.mark.parametrize("way", ["sync", "streamed", "async"])
@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("keyed", KEYED)
def test_no_failure_shows_a_key(
    running: BedrockServer, keyed: str, name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "an exception" and way != "streamed":
        running.script(then=ConverseFault.status(403, message=f"{KEY} {SESSION} {SECRET_KEY}"))
    else:
        running.script(then=LEAKS[name](ConverseFault))
    caplog.set_level(logging.DEBUG)
    with KEYED[keyed](running.url) as model, pytest.raises(ModelError) as caught:
        if way == "sync":
            model.generate("hello")
        elif way == "async":
            asyncio.run(model.agenerate("hello"))
        else:
            list(model.generate_stream("hello"))
    assert any(record.name == "botocore.endpoint" for record in caplog.records)  # which writes the headers
    text = everything(caught.value, model, caplog.records, __file__)
    secrets = (KEY,) if keyed == "api key" else (SECRET_KEY, SESSION)
    for secret in secrets:
        assert secret not in text


@pytest.mark.parametrize("column", [name for name, what in COLUMNS.items() if not what.litellm])
def test_what_is_saved_holds_no_key_and_restores_a_working_model(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY", "huggingface": "HF_TOKEN",
                 "bedrock": "AWS_BEARER_TOKEN_BEDROCK"}  # fmt: skip
    assert set(MODELS) >= set(variables)
    with server_for(column) as server, model_for(server, column, retry=False) as model:
        stored, pickled = json.dumps(model.to_dict()), pickle.dumps(model)
        assert KEY not in stored and KEY.encode() not in pickled
        variable = variables[column.partition("-")[0]]
        assert json.loads(stored)["token" if column == "huggingface" else "api_key"] == {"env": variable}
        monkeypatch.setenv(variable, KEY)
        for twin in (Model.from_dict(json.loads(stored)), pickle.loads(pickled)):
            with twin:
                assert twin.generate("hello").content == ANSWER


@pytest.mark.parametrize("name", ["os", "antigravity.Model", "tests.remote.evil:Model", "builtins.eval", "../evil", ""])
def test_a_file_imports_nothing_that_it_names(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(InvalidRequest):
        Model.from_dict({"class": name, "model_id": "m"})
    assert not {module for module in set(sys.modules) - before if not module.startswith("modelport")}
