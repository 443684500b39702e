"""The texts of errors: each says what happened, where, and what the caller can do about it.

Every class of error is raised through the public API.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelport import (
    AzureOpenAIServerModel,
    Image,
    LlamaCppModel,
    Model,
    OpenAIServerModel,
    RetryPolicy,
    errors,
    load_model,
)
from modelport.testing import ScriptedModel
from tests.servers.faults import Call, Fault, FaultServer
from tests.servers.llamacpp import model_file

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


def remote_model(server: FaultServer, **settings: Any) -> Model:
    """Return a model on the fault server that does not retry."""
    return OpenAIServerModel("gpt-4o", api_base=server.base_url, api_key="sk-0123456789", retry=False, **settings)


def read_stream(model: Model) -> list[Any]:
    """Return the deltas of a stream."""
    with model.generate_stream("hello") as stream:
        return [*stream]


#: The class of the error, what the service does, the call that meets it, and a pattern of the text.
SERVICE: list[tuple[type[errors.ModelError], Fault, Callable[[Model], Any], str]] = [
    (
        errors.AuthenticationError,
        Fault.status(401, message="Wrong key."),
        lambda m: m("x"),
        r"^The service refused the key: Wrong key \(HTTP 401\)\. The key was passed to the constructor\. \(model",
    ),
    (
        errors.AuthenticationError,
        Fault.status(403, message="No access."),
        lambda m: m("x"),
        r"^The service does not allow this request with this key: No access \(HTTP 403\)\.",
    ),
    (
        errors.NotFoundError,
        Fault.status(404, message="Nothing here."),
        lambda m: m("x"),
        r"does not know this model or path: Nothing here \(HTTP 404\)\. Check the model's name and .*"
        r"If the server has only the Responses API, pass api='responses'\.",
    ),
    (
        errors.NotFoundError,
        Fault.status(404, message="The model `gpt-4o` does not exist."),
        lambda m: m("x"),
        r"which often ends in /v1\. \(model: gpt-4o\)$",
    ),
    (
        errors.ContextWindowExceeded,
        Fault.status(400, message="Too long.", code="context_length_exceeded"),
        lambda m: m("x"),
        r"does not fit the model's context: .*Shorten the messages, or lower max_tokens",
    ),
    (
        errors.ContentFiltered,
        Fault.status(400, message="Bad words.", code="content_filter"),
        lambda m: m("x"),
        r"^The service's content policy refused the prompt or the response: Bad words",
    ),
    (
        errors.InvalidRequest,
        Fault.status(422, message="top_p is odd."),
        lambda m: m("x"),
        r"^The service refused the request: top_p is odd \(HTTP 422\)",
    ),
    (
        errors.RateLimited,
        Fault.rate_limit(3600),
        lambda m: m("x"),
        r"^Too many requests: .* The service asks to wait 3600 s\.",
    ),
    (
        errors.ServerError,
        Fault.status(503, message="Overloaded."),
        lambda m: m("x"),
        r"^The service failed: Overloaded \(HTTP 503\)",
    ),
    (
        errors.ServerError,
        Fault.status(502, body=b"<html><head><title>502 Bad\nGateway</title></head>a lot</html>"),
        lambda m: m("x"),
        r"^The service failed: the response is a web page, '502 Bad Gateway' \(HTTP 502\)\.",
    ),
    (errors.ConnectionFailed, Fault.reset(), lambda m: m("x"), r"^The connection to the service broke"),
    (errors.DeadlineExceeded, Fault.silence(), lambda m: m("x", timeout=0.2), r"timeout=0\.2 s ran out"),
    (errors.MalformedResponse, Fault.truncated_json(), lambda m: m("x"), r"^The service sent broken JSON .*chatcmpl"),
    (
        errors.MalformedResponse,
        Fault(content=b"<html>Sign in</html>"),
        lambda m: m("x"),
        r"sent a web page instead of JSON; is this the address of its API\? '<html>Sign in",
    ),
    (
        errors.StreamInterrupted,
        Fault.cut("reset"),
        read_stream,
        r"^The response was interrupted: .*The error's `partial` holds what had arrived",
    ),
    (
        errors.InvalidToolCall,
        Fault.tools(Call("get_wether", '{"city": "Rome"}')),
        lambda m: m("x", tools=[get_weather]),
        r"'get_wether'\) can't be used: there is no such tool; there are 'get_weather'",
    ),
    (
        errors.InvalidToolCall,
        Fault.tools(Call("get_weather", '{"city": 3}')),
        lambda m: m("x", tools=[get_weather]),
        r"don't fit the tool's schema at \$\.city: 3 is not of type 'string'",
    ),
    (
        errors.InvalidOutput,
        Fault.ok('{"nam": "Ann"}'),
        lambda m: m("x", grammar=SCHEMA),
        r"does not match the output type: at \$: 'name' is a required property",
    ),
]


@pytest.mark.parametrize(
    ("kind", "fault", "call", "pattern"), SERVICE, ids=[f"{kind.__name__} {n}" for n, (kind, *_) in enumerate(SERVICE)]
)
def test_fault_of_service_raises_error_with_clear_text(
    kind: type[errors.ModelError], fault: Fault, call: Callable[[Model], Any], pattern: str
) -> None:
    with FaultServer() as server:
        server.script(then=fault)
        with remote_model(server) as model, pytest.raises(kind, match=pattern) as raised:
            call(model)
    assert "(model: gpt-4o)" in str(raised.value) and "sk-0123456789" not in str(raised.value)


def scripted() -> ScriptedModel:
    """Return a model that responds to one call."""
    return ScriptedModel("x")


def closed_model() -> Model:
    with ScriptedModel("x") as model:
        return model


#: The class of the error, a mistake in a call or a constructor, and a pattern of the text.
MISTAKES: list[tuple[type[Exception], Callable[[], Any], str]] = [
    (
        errors.InvalidRequest,
        lambda: load_model("opnai/gpt-4o"),
        r"'opnai' is unknown; did you mean 'openai'\? For a model of LiteLLM",
    ),
    (
        errors.InvalidRequest,
        lambda: load_model("gpt-4o"),
        r"'gpt-4o' is unknown; did you mean 'openai/gpt-4o'\? Write backend/model id, with a backend",
    ),
    (errors.ModelClosed, lambda: closed_model().generate("?"), r"^this model has been closed; make a new one"),
    (
        errors.InvalidRequest,
        lambda: load_model("nope"),
        r"'nope' is unknown; there are anthropic, azure, .*write 'litellm/nope'",
    ),
    (errors.InvalidRequest, lambda: load_model("a/b.gguf"), r"'a' is unknown; did you mean 'llamacpp/a/b.gguf'\?"),
    (errors.InvalidRequest, lambda: ScriptedModel("x", retry=0), r"retry=0: must be .* write retry=False"),
    (
        errors.AuthenticationError,
        lambda: OpenAIServerModel("m", api_base="http://x.example/v1"),
        r"variable OPENAI_API_KEY\. If your server needs no key, pass any text, such as 'none'",
    ),
    (
        errors.UnsupportedFeature,
        lambda: LlamaCppModel("/no/such.gguf", frob=3),
        r"^LlamaCppModel\(frob=…\): 'frob' is neither a setting of LlamaCppModel nor a parameter of its engine$",
    ),
    (
        errors.InvalidRequest,
        lambda: LlamaCppModel("/no/such.gguf", contextlength=3),
        r"^LlamaCppModel\(contextlength=…\): did you mean 'context_length'\?$",
    ),
    (
        errors.ContextWindowExceeded,
        lambda: embedded()("word " * 3000),
        r"^The prompt does not fit the model's context: [^H]*Shorten the messages, or make .*larger context_length=…\.",
    ),
    (
        errors.ConnectionFailed,
        lambda: OpenAIServerModel("m", api_base="http://127.0.0.1:9/v1", api_key="k", retry=False)("x"),
        r"^No connection to 127.0.0.1:9: .*\. Check the address \(api_base\), the proxy, and that the server runs\.",
    ),
    (errors.InvalidRequest, lambda: scripted()([{"content": "x"}]), r"messages\[0\]: has no 'role'; it must be one of"),
    (
        errors.InvalidRequest,
        lambda: scripted()("x", grammar={"type": "objct"}),
        r"at \$\.type: 'objct' is not one of 'array'",
    ),
    (errors.InvalidRequest, lambda: scripted()("x", grammar=object()), r"pass a JSON schema, a pydantic model.*\)$"),  # type: ignore[call-overload]
    (errors.InvalidRequest, lambda: ScriptedModel("x", retry="twice"), r"retry='twice': must be True, False, a number"),
    (errors.InvalidRequest, lambda: RetryPolicy(attempts=0), r"attempts=0: must be an integer of at least 1"),
    (errors.InvalidRequest, lambda: Model.from_dict({}), r"has no 'class', the name of a model class"),
    (
        errors.InvalidRequest,
        lambda: OpenAIServerModel("m", api_base="localhost:80", api_key="k"),
        r"must be a URL such as",
    ),
    (
        errors.AuthenticationError,
        lambda: AzureOpenAIServerModel("m", "https://x.example")("x"),
        r"Pass api_key=.*AZURE_OPENAI_API_KEY",
    ),
    (errors.NotFoundError, lambda: LlamaCppModel("/no/such.gguf"), r"There is no file or folder /no/such\.gguf"),
    (
        errors.UnsupportedFeature,
        lambda: embedded()([{"role": "user", "content": [Image(PNG, "image/png")]}]),
        r"messages\[0\]\['content'\]\[0\]: this model accepts text, not image",
    ),
    (
        errors.InvalidRequest,
        lambda: embedded()("x", temprature=0),  # type: ignore[call-overload]
        r"^'temprature' is no option: did you mean 'temperature'\?",
    ),
    (errors.ModelError, lambda: ScriptedModel()("x"), r"script of this model has no answer left for call 1"),
]


def embedded() -> Model:
    """Return a local model with a small context."""
    return LlamaCppModel(model_file(), context_length=512, threads=1)


@pytest.mark.parametrize(
    ("kind", "call", "pattern"),
    [
        pytest.param(
            kind, call, pattern, id=f"{kind.__name__} {n}",
            marks=[pytest.mark.engine] if "embedded" in call.__code__.co_names else [],
        )
        for n, (kind, call, pattern) in enumerate(MISTAKES)
    ],
)  # fmt: skip
def test_mistake_of_caller_raises_error_with_clear_text(
    kind: type[Exception], call: Callable[[], Any], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(kind, match=pattern):
        call()


def test_every_class_of_error_is_covered() -> None:
    """MissingDependency is covered by the tests of the bare install (tests/bare)."""
    covered = {kind for kind, *_ in [*SERVICE, *MISTAKES]} | {errors.MissingDependency}
    public = {
        kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ModelError) and not name.startswith("_")
    }
    assert public <= covered


@pytest.mark.server
@pytest.mark.parametrize("offline", ["1", "0"], ids=["offline", "no server"])
def test_unreachable_hub_raises_connection_error_instead_of_missing_model(tmp_path: Path, offline: str) -> None:
    pytest.importorskip("torch", reason="installed by the session tests")
    code = "from modelport import TransformersModel; TransformersModel('owner/model')"
    script = f"import time; time.sleep = lambda seconds: None\n{code}"  # The Hub's client retries for a minute.
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"ConnectionFailed: 'owner/model' .*can't be reached.*HF_HUB_OFFLINE, or pass a folder", last), (
        last
    )


@pytest.mark.server
def test_missing_folder_raises_not_found_error() -> None:
    pytest.importorskip("torch", reason="installed by the session tests")
    from modelport import TransformersModel

    with pytest.raises(errors.NotFoundError, match=r"^there is no folder '/no/such/folder'$"):
        TransformersModel("/no/such/folder")


def _environment() -> dict[str, str]:
    """Return the environment without the settings of the Hub's client."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
