"""Servers that accept an output schema or a tool choice, and ignore it."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import AzureOpenAIServerModel, InferenceClientModel, OpenAIServerModel
from modelport.errors import InvalidOutput, UnsupportedFeature
from modelport.remote.schema_enforcement import ENFORCING
from modelport.types.output_types import JSONSchema
from tests.remote.chat_backends import *  # noqa: F403
from tests.remote.chat_backends import model_for
from tests.remote.matrix_runner import ask
from tests.servers.faults import Call, Fault, FaultServer

WAYS = ("sync", "async streamed")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
GOOD, BAD = Fault.ok('{"a": 1}'), Fault.ok("The answer is 1.")
BY_TOOL = Fault.tools(Call("answer", '{"a": 2}'))
pytestmark = pytest.mark.filterwarnings("ignore:.*ignored it:UserWarning")


def kinds(server: FaultServer) -> list[str]:
    """Return how each request asked for the output type."""
    result = []
    for request in server.requests:
        body = request.json
        forced = body.get("tool_choice", "auto") not in ("auto", "none")
        result.append("schema" if "response_format" in body else "tool" if forced else "prompt")
    return result


@pytest.mark.parametrize("way", WAYS)
def test_lucky_answer_of_unknown_server_is_not_called_enforced(server: FaultServer, transport: str, way: str) -> None:
    server.script([GOOD])
    message: Any = ask(model_for(server, transport), way, response_format=SCHEMA)
    is_known = transport.startswith("azure")
    assert (message.parsed, message.enforcement) == ({"a": 1}, "enforced" if is_known else "validated")
    features = [w.feature for w in message.warnings if w.type == "not_enforced"]
    assert features == ([] if is_known else ["grammar"])


def test_invalid_answer_leads_to_forced_tool_and_is_remembered(server: FaultServer, transport: str) -> None:
    name = JSONSchema(SCHEMA).name
    by_tool = Fault.tools(Call(name, '{"a": 2}'))
    server.script([BAD, by_tool, by_tool])
    model = model_for(server, transport)
    for _ in range(2):
        message: Any = ask(model, "sync", response_format=SCHEMA)
        assert (message.parsed, message.enforcement) == ({"a": 2}, "forced_tool")
    assert kinds(server) == ["schema", "tool", "tool"]


def test_server_that_ignores_tools_too_is_asked_with_feedback(server: FaultServer) -> None:
    server.script([BAD, BAD, BAD, GOOD, GOOD])
    model = model_for(server)
    for _ in range(2):
        message: Any = ask(model, "async", response_format=SCHEMA)
        assert (message.parsed, message.enforcement) == ({"a": 1}, "validated")
    assert kinds(server) == ["schema", "tool", "prompt", "prompt", "prompt"]


def test_streamed_invalid_answer_is_an_error_once(server: FaultServer) -> None:
    name = JSONSchema(SCHEMA).name
    server.script([BAD, Fault.tools(Call(name, '{"a": 2}'))])
    model = model_for(server)
    with pytest.raises(InvalidOutput):
        ask(model, "async streamed", response_format=SCHEMA)
    message: Any = ask(model, "async streamed", response_format=SCHEMA)
    assert (message.parsed, message.enforcement) == ({"a": 2}, "forced_tool")


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ok('{"a": ', finish_reason="length"),
        Fault.ok("", message_fields={"refusal": "I can't."}),
        Fault.ok("I can't.", finish_reason="content_filter"),
    ],
    ids=["truncated", "refusal", "filtered"],
)
def test_other_invalid_answers_disprove_nothing(server: FaultServer, fault: Fault) -> None:
    server.script([fault])
    model = model_for(server)
    with pytest.raises(InvalidOutput):
        ask(model, "sync", response_format=SCHEMA)
    assert JSONSchema in model.capabilities.grammars and len(server.requests) == 1


def test_constraint_that_was_not_sent_disproves_nothing(server: FaultServer) -> None:
    schema = {**SCHEMA, "properties": {"a": {"type": "integer", "not": {"const": 1}}}}
    server.script([GOOD])
    model = model_for(server)
    with pytest.raises(InvalidOutput):  # The service's subset has no `not`, so it is sent in a description only.
        ask(model, "sync", response_format=schema)
    assert JSONSchema in model.capabilities.grammars


def test_strict_request_to_unknown_server_is_refused(server: FaultServer) -> None:
    with pytest.raises(UnsupportedFeature, match="enforces_grammars"):
        ask(model_for(server), "sync", response_format=SCHEMA, strict=True)
    server.script([GOOD])
    model = model_for(server, capabilities={"enforces_grammars": True})
    assert ask(model, "sync", response_format=SCHEMA, strict=True).enforcement == "enforced"


def test_known_services_claim_to_enforce_and_others_do_not() -> None:
    assert all(url.startswith("https://") for url in ENFORCING.values())
    for address, claims, schemas in (
        ("https://api.openai.com/v1", True, True),
        ("https://api.groq.com/openai/v1", True, True),
        ("https://api.anthropic.com/v1", True, False),
        ("http://localhost:8080/v1", False, True),
    ):
        capabilities = OpenAIServerModel("m", address, "k").capabilities
        assert capabilities.enforces_grammars is claims, address
        assert (JSONSchema in capabilities.grammars) is schemas, address
    assert OpenAIServerModel("m", "http://localhost/v1", "k", dialect="vllm").capabilities.enforces_grammars
    assert AzureOpenAIServerModel("m", "https://x.openai.azure.com", "k").capabilities.enforces_grammars
    assert not InferenceClientModel("m", token="hf_x").capabilities.enforces_grammars


@pytest.mark.parametrize(
    "options",
    [
        {"logprobs": True}, {"seed": 1}, {"presence_penalty": 0.5}, {"frequency_penalty": 0.5},
        {"reasoning_effort": "high"}, {"reasoning_budget": 2000},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_option_that_anthropics_endpoint_ignores_is_refused(options: dict[str, Any]) -> None:
    """The request is never sent. See https://platform.claude.com/docs/en/api/openai-sdk."""
    model = OpenAIServerModel("claude-sonnet-4-5", "https://api.anthropic.com/v1", "k")
    with pytest.raises(UnsupportedFeature, match=next(iter(options))):
        model("Hi", **options)


@pytest.mark.parametrize("kind", ["audio", "file"])
def test_input_that_anthropics_endpoint_ignores_is_refused(kind: str) -> None:
    part = {
        "audio": {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
        "file": {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
    }[kind]
    model = OpenAIServerModel("claude-sonnet-4-5", "https://api.anthropic.com/v1", "k")
    with pytest.raises(UnsupportedFeature, match=kind):
        model([{"role": "user", "content": [part]}])
