"""The body of a request: each option and each format of a message is in the field that OpenAI's API defines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from modelport import Choice, InvalidRequest, Lark, Model, OpenAIServerModel, Regex, UnsupportedFeature
from modelport.testing.checks.images import solid_png
from modelport.types.usage import token_count_from
from tests.servers.faults import Call, Fault, FaultServer


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def body_of(
    server: FaultServer, messages: Any = "Hello", /, model: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Return the body of the one request that a call sends."""
    server.clear()
    server.script(then=options.pop("response", Fault.ok("fine")))
    settings = {"model_id": "gpt-4o", "api_base": server.base_url, "api_key": "k", **(model or {})}
    with OpenAIServerModel(**settings) as remote_model:
        remote_model.generate(messages, **options)
    (request,) = server.requests
    return request.json


JSON_OBJECT = {"type": "json_object"}
PLAIN = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_new_tokens": 5}, {"max_tokens": 5}),
        ({"top_p": 0.5, "seed": 3}, {"top_p": 0.5, "seed": 3}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop_sequences": list("abcdef")}, {"stop": list("abcd")}),
        ({"user": "me", "logit_bias": {"1": 2}}, {"user": "me", "logit_bias": {"1": 2}}),
        ({"extra_body": {"top_k": 3, "model": "other"}}, {"top_k": 3, "model": "other"}),
        ({"reasoning_effort": "none"}, {}),  # This model does not reason anyway.
        (
            {"response_format": JSON_OBJECT, "response": Fault.ok("{}")},
            # OpenAI rejects this response format unless a message mentions JSON.
            {
                "messages": [*PLAIN["messages"], {"role": "user", "content": "Answer with a JSON object."}],
                "response_format": JSON_OBJECT,
            },
        ),
    ],
    ids=str,
)  # fmt: skip
def test_option_is_sent_in_its_field(server: FaultServer, options: dict[str, Any], fields: dict[str, Any]) -> None:
    assert body_of(server, **options) == {**PLAIN, **fields}


def test_profile_removes_stop_and_renames_max_tokens(server: FaultServer) -> None:
    body = body_of(server, model={"model_id": "gpt-5-mini"}, stop_sequences=["x"], max_tokens=9)
    assert body == {**PLAIN, "model": "gpt-5-mini", "max_completion_tokens": 9}


@pytest.mark.parametrize(
    ("name", "stop", "limit"),
    [
        ("o3", False, "max_completion_tokens"),
        ("openai/o4-mini-2025-04-16", False, "max_completion_tokens"),
        ("o3-mini", True, "max_completion_tokens"),
        ("gpt-5.2-2026-01-01", False, "max_completion_tokens"),
        ("grok-4-fast", False, "max_tokens"),
        ("gpt-4o", True, "max_tokens"),
        ("gpt-oss-20b", True, "max_tokens"),
        ("yolo3-chat", True, "max_tokens"),
    ],
)
def test_profile_of_model_name_is_applied(name: str, stop: bool, limit: str) -> None:
    capabilities = OpenAIServerModel(name, api_key="k").capabilities
    assert (capabilities.stop, capabilities.renamed.get("max_tokens", "max_tokens")) == (stop, limit)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://api.z.ai/api/paas/v4", 1),
        ("https://open.bigmodel.cn/api/paas/v4", 1),
        ("https://api.groq.com/openai/v1", 4),
        ("http://localhost/v1", 4),
    ],
)
def test_number_of_stop_sequences_depends_on_service(address: str, expected: int) -> None:
    """modelport applies further stop sequences itself. See https://docs.z.ai/api-reference/llm/chat-completion."""
    assert OpenAIServerModel("glm-4.7", address, "k").capabilities.max_stop_sequences == expected


def test_capabilities_of_caller_override_profile() -> None:
    assert OpenAIServerModel("o3", api_key="k", capabilities={"stop": True}).capabilities.stop


def test_every_format_of_messages_is_sent_in_openai_format(server: FaultServer) -> None:
    image = solid_png((1, 2, 3), 2)
    by_url = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}
    body = body_of(
        server,
        [
            {"role": "developer", "content": "Be terse."},
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image", "image": image}]},
            {"role": "user", "content": [by_url]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "tool-call", "content": [{"type": "text", "text": "Calling"}]},
            {"role": "tool-response", "content": [{"type": "text", "text": "Observation"}]},
        ],
    )["messages"]  # fmt: skip
    assert body[0] == {"role": "system", "content": "Be terse."}
    assert body[1]["content"][0] == {"type": "text", "text": "Look:"}
    assert body[1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert body[2]["content"] == [by_url]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert body[3] == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert body[4] == {"role": "tool", "content": "2", "tool_call_id": "c1"}
    assert body[5:] == [{"role": "assistant", "content": "Calling"}, {"role": "user", "content": "Observation"}]


def test_role_conversions_and_flattening_change_messages(server: FaultServer) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    settings = {"custom_role_conversions": {"system": "user"}, "flatten_messages_as_text": True}
    body = body_of(server, [{"role": "system", "content": parts}], model=settings)
    assert body["messages"] == [{"role": "user", "content": "a\nb"}]


@pytest.mark.parametrize(
    ("dialect", "grammar", "output", "fields"),
    [
        ("vllm", Regex("a+"), "aa", {"structured_outputs": {"regex": "a+"}}),
        ("vllm", Choice("x", "y"), "x", {"structured_outputs": {"choice": ["x", "y"]}}),
        ("vllm", Lark('start: "a"'), "a", {"structured_outputs": {"grammar": 'start: "a"'}}),
        ("llama.cpp", Regex("a/"), "a/", {"grammar": "%llguidance {}\nstart: /a\\//"}),
        ("llama.cpp", Choice("x"), "x", {"grammar": '%llguidance {}\nstart: OPTION\nOPTION: "x"'}),
    ],
    ids=str,
)
def test_grammar_is_sent_in_dialect_of_server(
    server: FaultServer, dialect: str, grammar: Any, output: str, fields: dict[str, Any]
) -> None:
    body = body_of(server, model={"dialect": dialect}, grammar=grammar, response=Fault.ok(output))
    assert {name: body[name] for name in fields} == fields


def test_schema_is_rewritten_and_strict_for_service_with_subset(server: FaultServer) -> None:
    closed = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    nullable = {**closed, "properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
    for schema, rewritten in ((closed, closed), ({**closed, "required": []}, nullable)):
        body = body_of(server, grammar=schema, response=Fault.ok('{"a": 1}'))
        assert body["response_format"]["json_schema"] == {"name": "answer", "schema": rewritten, "strict": True}
    open_schema = {**closed, "required": []}
    body = body_of(server, grammar=open_schema, response=Fault.ok('{"a": 1}'), model={"dialect": "vllm"})
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": open_schema, "strict": False}


def test_schema_becomes_forced_tool_for_model_without_schemas(server: FaultServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    response = Fault.tools(Call("answer", '{"a": 1}'))
    body = body_of(server, grammar=schema, response=response, model={"model_id": "gpt-4-turbo"})
    assert body["tools"][0]["function"]["parameters"] == schema
    assert body["tool_choice"] == {"type": "function", "function": {"name": "answer"}}
    assert "response_format" not in body


def test_stream_requests_usage(server: FaultServer) -> None:
    server.clear()
    with OpenAIServerModel("gpt-4o", api_base=server.base_url, api_key="k") as model:
        list(model.generate_stream("Hello"))
    assert server.requests[-1].json == {**PLAIN, "stream": True, "stream_options": {"include_usage": True}}


def test_unsupported_request_is_refused_before_sending(server: FaultServer) -> None:
    server.clear()
    model: Model = OpenAIServerModel("gpt-4o", api_base=server.base_url, api_key="k")
    with pytest.raises(UnsupportedFeature):
        model("Hello", grammar=Lark('start: "a"'))
    with pytest.raises(InvalidRequest, match="n=2"):
        model("Hello", n=2)  # type: ignore[call-overload]
    assert not server.requests


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model_id": ""}, "model_id"),
        ({"dialect": "sglang"}, "llama.cpp"),
        ({"api_base": "localhost:8000"}, "api_base='localhost:8000'"),
        ({"client_kwargs": {"timeout": 1}, "client": Exception("a client")}, "client and client_kwargs"),
        ({"temperature": -1}, "temperature=-1"),
        ({"capabilities": {"tool": True}}, "'tool'"),
        ({"requests_per_minute": 0}, "requests_per_minute=0"),
        ({"retry": 0}, "retry=0"),
    ],
    ids=str,
)
def test_wrong_setting_is_named_by_constructor(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named.replace("(", r"\(")):
        OpenAIServerModel(**{"model_id": "gpt-4o", "api_key": "k", **settings}).capabilities  # noqa: B018


@pytest.mark.parametrize(("value", "count"), [(3, 3), (3.0, 3), (1e20, None), (10**30, None), (-1, None), ("3", None)])
def test_impossible_token_count_is_unknown(value: Any, count: int | None) -> None:
    """Counts enter sums and rate limits. A count of 1e20 tokens would make a limit wait for ever."""
    assert token_count_from(value) == count
