"""The conformance checks on models whose backend supports neither tools nor output types.

modelport then describes both in the prompt. Whether the model follows the prompt says nothing about the backend.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from modelport import (
    Capabilities,
    ChatMessage,
    ChatMessageStreamDelta,
    InvalidRequest,
    JSONSchema,
    MalformedResponse,
    Model,
    Request,
    ServerError,
)
from modelport.testing import CHECKS, Outcome, ScriptedModel, Subject, run_check
from modelport.types.messages import ChatMessageToolCall, ChatMessageToolCallFunction

CHECK = {check.name: check for check in CHECKS}
#: The checks in which a model must call a tool.
CALLS = ("tools: required", "tools: named", "parallel tool calls", "tool results", "streamed tool calls")
TOOLS = ("tools: auto", "tools: none", *CALLS, "structured output with tools")
STRUCTURED_OUTPUT = ("JSON schema", "typed output", "truncated structured output", "partial objects", "regex", "choice")
PROSE = "It is sunny in Paris, as it often is in June."


class WithoutTools(ScriptedModel):
    """Declares neither tools nor output types."""

    declared_capabilities = Capabilities()


class WithSchemas(ScriptedModel):
    """Declares JSON schemas, but no tools. So the layers let it enforce the JSON of a required call."""

    declared_capabilities = Capabilities(grammars=frozenset({JSONSchema}))


def outcome_of(check: str, make: Callable[[], Model], **subject: Any) -> Outcome:
    model = make()
    return run_check(Subject(make=lambda: model, **subject), CHECK[check])


def follow_prompt(request: Request) -> str:
    """Respond as a model that follows the tools in its prompt."""
    prompt = request.messages[0].text
    if "You can call these tools" not in prompt:
        return PROSE
    call = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
    if "JSON list of calls" in prompt:
        return f"[{call}, {call}]"
    return call if "nothing else" in prompt else f"<tool_call>{call}</tool_call>"


@pytest.mark.parametrize("check", TOOLS)
def test_tool_check_on_model_that_ignores_prompted_tools_is_not_checked(check: str) -> None:
    outcome = outcome_of(check, lambda: WithoutTools(PROSE, repeat=True))
    if check == "tools: none":
        assert outcome.status == "passed"
        return
    assert outcome.status == "not checked", outcome
    expected = (
        "nothing enforces the output here" if check == "structured output with tools" else "did not follow the tools"
    )
    assert expected in outcome.detail


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "get_weather", "arguments": {"town": "Paris"}}',
        '{"name": "rain", "arguments": {}}',
        '{"name": "get_weather", "argum',
        "",
        MalformedResponse("There is no text in the response."),
    ],
    ids=["wrong arguments", "unknown tool", "broken JSON", "empty", "unreadable"],
)
@pytest.mark.parametrize("check", CALLS)
def test_tool_check_on_invalid_prompted_call_is_not_checked(check: str, answer: Any) -> None:
    def respond(request: Request) -> Any:
        return answer if "You can call these tools" in request.messages[0].text else PROSE

    outcome = outcome_of(check, lambda: WithoutTools(respond, repeat=True))
    assert (outcome.status, "did not follow the tools in the prompt" in outcome.detail) == ("not checked", True)


@pytest.mark.parametrize("check", TOOLS)
def test_tool_check_on_model_that_follows_prompted_tools_passes(check: str) -> None:
    outcome = outcome_of(check, lambda: WithoutTools(follow_prompt, repeat=True))
    assert outcome.status == "passed", outcome


@pytest.mark.parametrize("check", CALLS)
def test_tool_check_on_model_that_declares_tools_and_makes_no_call_fails(check: str) -> None:
    outcome = outcome_of(check, lambda: ScriptedModel(PROSE, repeat=True))
    assert outcome.status == "failed"


@pytest.mark.parametrize("check", CALLS)
def test_tool_check_on_backend_that_does_not_enforce_the_declared_schema_fails(check: str) -> None:
    outcome = outcome_of(check, lambda: WithSchemas(PROSE, repeat=True))
    assert outcome.status == "failed"


def test_tool_check_on_enforced_call_that_was_truncated_is_not_checked() -> None:
    truncated = [ChatMessageStreamDelta(content='{"name": "get_weather", "arg', finish_reason="length")]
    outcome = outcome_of("tools: required", lambda: WithSchemas(truncated, repeat=True))
    assert outcome.status == "not checked"


@pytest.mark.parametrize("check", STRUCTURED_OUTPUT)
def test_structured_output_check_without_enforcement_is_not_checked(check: str) -> None:
    outcome = outcome_of(check, lambda: WithoutTools(PROSE, repeat=True))
    assert outcome.status == "not checked", outcome


def test_structured_output_check_on_later_mismatch_without_enforcement_is_not_checked() -> None:
    """The third request of the check uses `response_format`."""
    person = json.dumps({"name": "Ann", "age": 3})
    outcome = outcome_of("JSON schema", lambda: WithoutTools(person, person, PROSE, PROSE, PROSE))
    assert outcome.status == "not checked", outcome


class WithoutWarnings(WithoutTools):
    """Loses the warnings of its messages."""

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        message = super().generate(messages, stop_sequences, **options)
        message.warnings = []
        return message


class AcceptsWrongCalls(WithoutTools):
    """Returns a call of a tool that does not exist."""

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        call = ChatMessageToolCall(ChatMessageToolCallFunction({}, "rain"), "call_1")
        return ChatMessage("assistant", None, [call], finish_reason="tool_calls", warnings=["in the prompt"])  # type: ignore[list-item]


def refuse_results(request: Request) -> Any:
    """Respond as a service that does not accept the text of a tool's result."""
    if any("<tool_response>" in message.text for message in request.messages):
        return InvalidRequest("There is a tag in a message.")
    return PROSE


@pytest.mark.parametrize(
    ("check", "make"),
    [
        ("tools: required", lambda: WithoutWarnings(follow_prompt, repeat=True)),
        ("tools: auto", lambda: WithoutWarnings(PROSE, repeat=True)),
        ("tools: required", AcceptsWrongCalls),
        ("tools: none", AcceptsWrongCalls),
        ("tools: required", lambda: WithoutTools(ServerError("It broke."), repeat=True, retry=False)),
        ("tool results", lambda: WithoutTools(refuse_results, repeat=True)),
        ("streamed tool calls", lambda: WithoutTools(follow_prompt, PROSE)),
    ],
    ids=["warning", "warning of auto", "wrong call", "call despite none", "other error", "results", "stream"],
)
def test_tool_check_with_prompted_tools_fails_where_modelport_breaks_a_promise(
    check: str, make: Callable[[], Model]
) -> None:
    outcome = outcome_of(check, make)
    assert outcome.status == "failed", outcome


class OwnGenerate(Model):
    """Implements only `generate`, which synchronous calls use without the layers."""

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        return ChatMessage("assistant", PROSE, finish_reason="stop")


@pytest.mark.parametrize("check", ["tools: auto", "tools: none", *CALLS])
def test_tool_check_on_model_with_own_generate_does_not_fail(check: str) -> None:
    expected = "passed" if check == "tools: none" else "not checked"
    assert outcome_of(check, OwnGenerate).status == expected
