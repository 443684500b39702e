"""The requests that reach a service, compared with those of the openai package, and values that can't be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openai
import pytest

from modelport import OpenAIServerModel
from modelport.errors import AuthenticationError, InvalidRequest, ModelError
from tests.remote.http.models import MESSAGES, TRANSPORTS, model_for
from tests.remote.http.relay import Relay
from tests.remote.secret_leaks import text_of_error
from tests.servers.faults import Fault, FaultServer

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True)
class Case:
    """Settings for modelport and for the SDK, whose requests must be equal."""

    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "key from the environment": Case(),
    "key": Case(settings={"api_key": "sk-argument-0123456789"}),
    "organization and project": Case({"OPENAI_ORG_ID": "org-env", "OPENAI_PROJECT_ID": "proj-env"}),
    "organization and project as arguments": Case(
        {"OPENAI_ORG_ID": "org-env", "OPENAI_PROJECT_ID": "proj-env"}, {"organization": "org-a", "project": "proj-a"}
    ),
    "custom headers": Case(
        {"OPENAI_CUSTOM_HEADERS": "X-A: 1\nX-B:  two words \nno colon\nX-C: a:b\nauthorization: Bearer custom"}
    ),
    "precedence": Case(
        {"OPENAI_CUSTOM_HEADERS": "X-One: env\nX-Two: env\nX-Three: env", "OPENAI_ORG_ID": "org-env"},
        {"default_headers": {"x-two": "settings", "X-THREE": "settings", "OpenAI-Organization": "org-settings"}},
        {"extra_headers": {"x-three": "call"}},
    ),
    "authorization in default_headers": Case(settings={"default_headers": {"authorization": "Bearer mine"}}),
    "authorization in extra_headers": Case(call={"extra_headers": {"AUTHORIZATION": "Bearer mine"}}),
    "content type": Case(settings={"default_headers": {"content-type": "application/json; charset=utf-8"}}),
    "user agent": Case(settings={"default_headers": {"user-agent": "mine"}}),
    "a removed header": Case(
        settings={"default_headers": {"X-A": "1", "X-B": "2"}}, call={"extra_headers": {"x-a": openai.Omit()}}
    ),
    "query": Case(
        settings={"default_query": {"a": "1", "b": True, "c": [1, 2], "d": {"e": "f"}, "n": None, "v": "x y/ü&"}},
        call={"extra_query": {"a": "2", "g": 1.5}},
    ),
    "body": Case(call={"extra_body": {"temperature": 0.25, "nested": {"list": [1, None, "ü"]}}}),
    "base URL from the environment": Case({"OPENAI_BASE_URL": "{}/elsewhere"}),
    "base URL with a slash": Case(settings={"base_url": "{}/v1/"}),
}


#: Headers in which HTTP libraries differ.
_LIBRARY_HEADERS = ("user-agent", "connection", "accept-encoding", "host")


def comparable(relay: Relay, body: Any) -> dict[str, Any]:
    """Return the parts of a request that must be equal for all clients."""
    headers = {name: v for name, v in relay.headers().items() if not name.startswith("x-stainless-")}
    if headers["user-agent"] != ["mine"]:
        headers.pop("user-agent")
    target = urlsplit(relay.heads[0].split()[1])
    compared = {n: value for n, value in headers.items() if n not in _LIBRARY_HEADERS or n == "user-agent"}
    compared.pop("content-length")  # The JSON texts have their fields in different orders.
    return {"path": target.path, "query": sorted(parse_qsl(target.query)), "headers": compared, "body": body}


@pytest.mark.parametrize("streamed", [False, True], ids=["non-streaming", "streamed"])
@pytest.mark.parametrize("name", CASES)
def test_request_equals_request_of_sdk(
    server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch, name: str, streamed: bool
) -> None:
    case = CASES[name]
    requests = []
    for uses_modelport in (False, True):
        with Relay(server.port) as relay:
            for variable, value in case.environment.items():
                monkeypatch.setenv(variable, value.format(relay.url))
            settings = dict(case.settings)
            given = settings.pop("base_url", None if "OPENAI_BASE_URL" in case.environment else "{}/v1")
            url = given and given.format(relay.url)
            server.clear()
            if uses_modelport:
                with model_for(url, transport, **settings) as model:
                    if streamed:
                        list(model.generate_stream("hello", **case.call))
                    else:
                        model.generate("hello", **case.call)
            else:
                call: dict[str, Any] = {"model": "m", "messages": MESSAGES, **case.call}
                with openai.OpenAI(base_url=url, max_retries=0, **settings) as client:
                    if streamed:
                        call |= {"stream": True, "stream_options": {"include_usage": True}}
                        list(client.chat.completions.create(**call))
                    else:
                        client.chat.completions.create(**call)
            requests.append(comparable(relay, server.requests[0].json))
    assert requests[1] == requests[0]
    assert all(len(values) == 1 for values in requests[1]["headers"].values())


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_key_function_is_called_for_each_call(server: FaultServer, is_async: bool) -> None:
    keys = iter(["first", "second", "third"])

    async def async_key() -> str:
        await asyncio.sleep(0)
        return next(keys)

    with model_for(server.base_url, api_key=async_key if is_async else lambda: next(keys)) as model:
        model.generate("hello")
        list(model.generate_stream("hello"))
        asyncio.run(model.agenerate("hello"))
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer first", "Bearer second", "Bearer third"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_key_function_works_through_sdk(server: FaultServer, is_async: bool) -> None:
    async def async_key() -> str:
        return "from a function"

    with model_for(server.base_url, "sdk", api_key=async_key if is_async else lambda: "from a function") as model:
        model.generate("hello")
    assert server.requests[0].headers["authorization"] == "Bearer from a function"


def test_missing_key_raises_in_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        OpenAIServerModel("m")


def test_missing_key_through_sdk_sends_nothing(monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelError, match="api_key"), model_for(server.base_url, "sdk") as model:
        model.generate("hello")
    assert server.requests == []


@pytest.mark.parametrize("value", ["sk-with-a-line-break\n", "a\r\nX-Injected: 1", "nul\0"])
def test_key_with_line_break_is_refused_and_not_shown(server: FaultServer, transport: str, value: str) -> None:
    """A key that was read from a file often ends in a line break."""
    with (
        pytest.raises(InvalidRequest, match="one line") as caught,
        model_for(server.base_url, transport, api_key=value, retry=True) as model,
    ):
        model.generate("hello")
    assert value.strip() not in text_of_error(caught.value, __file__)
    assert server.requests == []


def test_header_without_value_is_refused(server: FaultServer) -> None:
    with model_for(server.base_url) as model, pytest.raises(InvalidRequest, match="X-A"):
        model.generate("hello", extra_headers={"X-A": None})
    assert server.requests == []


def test_body_that_json_cannot_hold_is_refused(server: FaultServer) -> None:
    with model_for(server.base_url) as model, pytest.raises(InvalidRequest, match="JSON"):
        model.generate("hello", extra_body={"what": object()})
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    ["api.openai.com/v1", "ftp://host/v1", "http://", "https:///v1", "http://a..b/v1", f"http://{'a' * 70}.com/v1",
     "http://[::1/v1", "http://host:99999/v1", "http://ex ample/v1", 5],
)  # fmt: skip
def test_api_base_that_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="api_base"):
        OpenAIServerModel("m", url)


def test_api_base_with_query_is_refused_and_not_shown(transport: str) -> None:
    with pytest.raises(InvalidRequest, match=r"api_base.*default_query") as caught:
        OpenAIServerModel("m", "http://host/v1?key=hush-hush", **TRANSPORTS[transport])
    assert "hush" not in str(caught.value)


def test_api_base_with_password_is_refused_and_not_shown(transport: str) -> None:
    with pytest.raises(InvalidRequest, match="api_base: a user or a password") as caught:
        OpenAIServerModel("m", "http://user:hush-hush@host/v1", **TRANSPORTS[transport])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [{"X\n": "a"}, {"X Y": "a"}, {5: "a"}, {"": "a"}, {"X": "\ud800"}, {"X": None}, {"X": b"a"}, {"X": "a\n"},
     {"Content-Length": "3"}, {"transfer-encoding": "chunked"}, {"Expect": "100-continue"}],
    ids=ascii,
)  # fmt: skip
def test_invalid_header_is_refused(server: FaultServer, transport: str, headers: Any) -> None:
    for settings in ({"default_headers": headers}, {"extra_headers": headers}):
        with pytest.raises(InvalidRequest, match="header"), model_for(server.base_url, transport, **settings) as model:
            model.generate("hello")
    assert server.requests == []


@pytest.mark.parametrize("given", [None, 5, "", RuntimeError("no")], ids=str)
@pytest.mark.parametrize("is_async", [False, True])
def test_key_function_without_key_raises_authentication_error(
    server: FaultServer, transport: str, given: Any, is_async: bool
) -> None:
    def key() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    async def async_key() -> Any:
        return key()

    with (
        model_for(server.base_url, transport, api_key=async_key if is_async else key) as model,
        pytest.raises(AuthenticationError, match=r"api_key: the function (returned|failed)") as caught,
    ):
        model.generate("hello")
    assert caught.value.__cause__ is (given if isinstance(given, Exception) else None)
    assert server.requests == []


@pytest.mark.parametrize("settings", [{"client": 5}, {"organization": 5}], ids=str)
def test_setting_of_wrong_type_is_named(server: FaultServer, settings: Any) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(settings))):
        OpenAIServerModel("m", server.base_url, **settings).generate("hello")


def test_value_that_cannot_be_sent_raises_invalid_request(server: FaultServer, transport: str) -> None:
    for value in ({"extra_body": {"a": object()}}, {"extra_body": {"a": "\ud800"}}, {"extra_query": {"a": "\ud800"}}):
        with pytest.raises(InvalidRequest), model_for(server.base_url, transport, **value) as model:
            model.generate("hello")
    assert server.requests == []


@pytest.mark.parametrize("name", ["default_headers", "default_query"])
def test_headers_or_query_that_is_not_a_dict_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} must be a dict.* not list"):
        OpenAIServerModel("m", **{name: ["a"]})  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["²", "9" * 5000, "٤٠٠"])
def test_error_event_with_any_code_raises_model_error(server: FaultServer, transport: str, code: str) -> None:
    server.script(then=Fault.error_frame(after_events=0, code=code))
    with model_for(server.base_url, transport) as model:
        for ask in (model.generate, lambda text: list(model.generate_stream(text))):
            with pytest.raises(ModelError):
                ask("hello")
