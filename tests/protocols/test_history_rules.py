"""What the refusals of services say about the messages of earlier turns."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from modelport.protocols.chat_completions.history_rules import NO_REASONING, HistoryRules, initial_rules
from modelport.types.messages import ChatMessage

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BODY: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "extra_content": {"x": 1}}],
         "reasoning_content": "r", "reasoning_details": [], "thinking_blocks": [{"type": "thinking"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ],
    "reasoning_effort": "low",
}  # fmt: skip
MESSAGES = [ChatMessage("user", "?"), ChatMessage("assistant"), ChatMessage("assistant"), ChatMessage("tool", "1")]

#: The error text of a service, and the field that it requires (`+`) or refuses (`-`); empty if it says neither.
#: The reports stand beside the patterns in `history_rules`.
TEXTS = [
    ("The `reasoning_content` in the thinking mode must be passed back to the API.", "+reasoning_content"),
    ("The reasoning_content in the thinking mode must be passed back to the API.", "+reasoning_content"),
    ("Missing `reasoning_content` field in the assistant message at message index 2.", "+reasoning_content"),
    ("thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
     "+reasoning_content"),
    ("Function call is missing a thought_signature in functionCall parts.", "+thought_signature"),
    ("Unable to submit request because function call `f` in the 2. content block is missing a `thought_signature`.",
     "+thought_signature"),
    ("messages.1.content.0: Expected `thinking` or `redacted_thinking`, but found `tool_use`.", "+thinking_blocks"),
    ("the following must be satisfied[('messages.1' : property 'reasoning_content' is unsupported)]",
     "-reasoning_content"),
    ("property 'messages.2.assistant.reasoning_content' is unsupported", "-reasoning_content"),
    ("Unknown parameter: 'messages[1].tool_calls[0].extra_content'.", "-extra_content"),
    ("Unrecognized request argument supplied: reasoning_details", "-reasoning_details"),
    ("Additional properties are not allowed ('thinking_blocks' was unexpected)", "-thinking_blocks"),
    ("Extra inputs are not permitted, field: 'messages[1].reasoning_content', value: 'r'", "-reasoning_content"),
    ("[{'type': 'extra_forbidden', 'loc': ['body', 'messages', 1, 'assistant', 'reasoning_details']}]",
     "-reasoning_details"),
    ("reasoning_content is too long", ""),
    ("property 'stop' is unsupported", ""),
    ("Invalid `signature` in `thinking` block", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_after_refusal_says_what_is_required_or_refused(text: str, expected: str) -> None:
    rules = HistoryRules().after(text, BODY)
    observed = [f"+{name}" for name in rules.required] + [f"-{name}" for name in rules.refused]
    assert observed == ([expected] if expected else [])
    assert rules.after(text, BODY) == rules


def test_after_refusal_of_a_field_that_was_not_sent_changes_nothing() -> None:
    body = {"messages": [{"role": "user", "content": "?"}]}
    assert HistoryRules().after("property 'reasoning_content' is unsupported", body) == HistoryRules()


def test_refused_fields_are_removed_from_messages_and_calls() -> None:
    rules = HistoryRules(refused=frozenset({"extra_content", "reasoning_content"}))
    body, warnings = rules.apply(copy.deepcopy(BODY), MESSAGES)
    assert "reasoning_content" not in body["messages"][1]
    assert body["messages"][1]["tool_calls"] == [CALL]
    assert [warning.type for warning in warnings] == ["left_out", "left_out"]


def test_missing_reasoning_is_the_known_text_or_blank() -> None:
    rules = HistoryRules(required=frozenset({"reasoning_content"}))
    known = [*MESSAGES[:2], ChatMessage("assistant", reasoning="known"), MESSAGES[3]]
    for messages, expected, count in ((known, "known", 0), (MESSAGES, NO_REASONING, 1)):
        body, warnings = rules.apply(copy.deepcopy(BODY), messages)
        assert [m.get("reasoning_content") for m in body["messages"]] == [None, "r", expected, None]
        assert len(warnings) == count


def test_missing_signature_is_a_placeholder_on_the_first_call() -> None:
    body, warnings = HistoryRules(required=frozenset({"thought_signature"})).apply(copy.deepcopy(BODY), MESSAGES)
    signatures = [m["tool_calls"][0]["extra_content"] for m in body["messages"] if "tool_calls" in m]
    assert signatures == [{"x": 1}, {"google": {"thought_signature": "skip_thought_signature_validator"}}]
    assert [warning.type for warning in warnings] == ["substituted"]


def test_reasoning_is_off_while_a_call_of_the_turn_has_no_thinking_blocks() -> None:
    rules = HistoryRules(required=frozenset({"thinking_blocks"}))
    body, warnings = rules.apply(copy.deepcopy(BODY), MESSAGES)
    assert "reasoning_effort" not in body and "thinking_blocks" not in body["messages"][1]
    assert [warning.type for warning in warnings] == ["changed"]
    next_turn = {**copy.deepcopy(BODY), "messages": [*BODY["messages"], {"role": "user", "content": "?"}]}
    body, warnings = rules.apply(next_turn, [*MESSAGES, ChatMessage("user", "?")])
    assert (body, warnings) == (next_turn, [])


def test_rules_without_content_return_the_body_itself() -> None:
    body, warnings = HistoryRules().apply(BODY, MESSAGES)
    assert body is BODY and warnings == []


@pytest.mark.parametrize(
    ("service", "model_id", "required"),
    [
        ("gemini", "gemini-3-pro-preview", {"thought_signature"}), ("gemini", "gemini-4-flash", {"thought_signature"}),
        ("gemini", "gemini-2.5-flash", set()), ("openrouter", "google/gemini-3-pro", set()), ("openai", None, set()),
    ],
)  # fmt: skip
def test_rules_before_the_first_refusal(service: str, model_id: str | None, required: set[str]) -> None:
    assert initial_rules(service, model_id) == HistoryRules(required=frozenset(required))
