"""What a service requires or refuses in the messages of earlier turns, as its refusals say.

A conversation may have begun on another service, so its messages may lack what this one requires, or have what it
refuses. `HistoryRules` records what is known, and `apply` changes the body of a request accordingly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelport.types.messages import ChatMessage
from modelport.types.warnings import CallWarning

#: Gemini accepts this text instead of a signature for a call that another model made.
#: See https://ai.google.dev/gemini-api/docs/thought-signatures#faqs
NO_SIGNATURE = "skip_thought_signature_validator"
#: Sent instead of a reasoning text that another model did not give. DeepSeek refuses an empty text after some turns.
#: See https://github.com/SillyTavern/SillyTavern/pull/5545
NO_REASONING = " "

#: A pattern of an error text -> the field that the service requires.
REQUIRED = (
    # https://github.com/earendil-works/pi/issues/3636
    (r"reasoning_content\W.{0,60}must be passed back", "reasoning_content"),
    # https://github.com/abhigyanpatwari/GitNexus/issues/43
    (r"missing\W+reasoning_content", "reasoning_content"),
    # https://github.com/continuedev/continue/issues/11711
    (r"reasoning_content\W+is missing", "reasoning_content"),
    # https://github.com/0xsline/OpenChatCut/issues/6
    (r"missing a\W+thought_signature", "thought_signature"),
    # https://docs.litellm.ai/docs/reasoning_content and https://github.com/BerriAI/litellm/issues/14194
    (r"expected\W+thinking\W+or\W+redacted_thinking\W+but found", "thinking_blocks"),
)
#: A pattern of an error text that refuses a field. `{name}` is the field's name.
REFUSED = (
    # https://github.com/janhq/jan/issues/8136 and https://github.com/Kilo-Org/kilocode/issues/10375
    r"property\W+(?:[\w.]+\.)?{name}\W+is unsupported",
    r"(?:unknown|unsupported|unrecognized|unexpected) (?:\w+ )?(?:parameter|argument|field|property|key)"
    r"(?: supplied)?\W+"
    r"(?:[\w.\[\]]+\.)?{name}",
    r"\W{name}\W.{0,40}(?:was unexpected|not permitted|not supported|unsupported|not allowed|forbidden)",
    r"(?:not permitted|not supported|not allowed|extra_forbidden).{0,80}\W{name}\b",
)
#: Only so many characters of an error text are searched.
_MAX_TEXT = 2000
_FIELDS_OF_MESSAGES = (
    "reasoning_content", "reasoning_details", "thinking_blocks", "extra_content", "provider_specific_fields",
)  # fmt: skip
_FIELDS_OF_CALLS = ("extra_content", "provider_specific_fields")
_PARAMETERS_OF_REASONING = ("reasoning_effort", "thinking", "reasoning_budget")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """What is known about the messages that a service accepts.

    Args:
        required: The fields without which the service refuses an assistant message: `reasoning_content`,
            `thought_signature` or `thinking_blocks`.
        refused: The fields with which it refuses a message.
    """

    required: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def after(self, text: str, body: Mapping[str, Any]) -> HistoryRules:
        """Return the rules after a refusal; if it says nothing new, these rules themselves.

        Args:
            text: The text of the service's error.
            body: The body that the service refused.
        """
        text = text[:_MAX_TEXT]
        for pattern, name in REQUIRED:
            if re.search(pattern, text, re.IGNORECASE):
                if name in self.required:
                    return self
                return replace(self, required=self.required | {name}, refused=self.refused - {name})
        for name in sorted(_fields_in(body) - self.refused):
            if any(re.search(pattern.replace("{name}", name), text, re.IGNORECASE) for pattern in REFUSED):
                return replace(self, refused=self.refused | {name}, required=self.required - {name})
        return self

    def apply(
        self, body: Mapping[str, Any], messages: Sequence[ChatMessage]
    ) -> tuple[Mapping[str, Any], list[CallWarning]]:
        """Return a body whose messages the service accepts, and a warning for each change.

        Args:
            body: The body. Its messages belong to this request alone, and are changed in place.
            messages: The messages of the request, from which those of the body were made.
        """
        warnings: list[CallWarning] = []
        if not (self.required or self.refused):
            return body, warnings
        body = dict(body)
        for name in sorted(self.refused & _fields_in(body)):
            _remove(body["messages"], name)
            warnings.append(_warning("left_out", f"{name} of earlier messages was left out: the service refuses it."))
        if "reasoning_content" in self.required and _fill_reasoning(body["messages"], messages):
            text = "Messages of another model were sent with a blank reasoning_content, which the service requires."
            warnings.append(_warning("substituted", text))
        if "thought_signature" in self.required and _fill_signatures(body["messages"]):
            text = (
                "Tool calls of another model were sent with a placeholder for the signature that the service requires."
            )
            warnings.append(_warning("substituted", text))
        if "thinking_blocks" in self.required and _leave_out_reasoning(body):
            text = (
                "The model does not reason in this call, because the earlier tool calls of this turn have no reasoning."
            )
            warnings.append(_warning("changed", text))
        return body, warnings


def initial_rules(service: str | None, model_id: str | None) -> HistoryRules:
    """Return the rules that are known before the first refusal."""
    name = (model_id or "").rsplit("/", 1)[-1].lower()
    # Gemini 3 and later refuse a tool call of the current turn without a signature.
    needs_signature = service == "gemini" and re.match(r"gemini-(?:[3-9]|\d\d)", name)
    return HistoryRules(required=frozenset({"thought_signature"})) if needs_signature else HistoryRules()


def _warning(kind: Any, text: str) -> CallWarning:
    return CallWarning(kind, "provider_data", text)


def _fields_in(body: Mapping[str, Any]) -> set[str]:
    """Return the names of the fields with provider data that the messages of a body have."""
    fields: set[str] = set()
    for message in body.get("messages") or ():
        fields.update(name for name in _FIELDS_OF_MESSAGES if name in message)
        for call in message.get("tool_calls") or ():
            fields.update(name for name in _FIELDS_OF_CALLS if name in call)
    return fields


def _remove(messages: list[Message], name: str) -> None:
    for message in messages:
        message.pop(name, None)
        for call in message.get("tool_calls") or ():
            call.pop(name, None)


def _fill_reasoning(messages: list[Message], originals: Sequence[ChatMessage]) -> bool:
    """Add the reasoning to the messages that lack it. Return whether any message has no reasoning that is known."""
    assistants = [message for message in messages if message["role"] == "assistant"]
    reasoning = [original.reasoning for original in originals if original.role == "assistant"]
    if len(reasoning) != len(assistants):  # The caller replaced the messages of the body.
        reasoning = [None] * len(assistants)
    has_blank = False
    for message, text in zip(assistants, reasoning, strict=True):
        if "reasoning_content" not in message:
            message["reasoning_content"] = text or NO_REASONING
            has_blank = has_blank or not text
    return has_blank


def _fill_signatures(messages: list[Message]) -> bool:
    """Add a placeholder to the first call of each message whose calls have no signature."""
    lacking = [m for m in messages if m.get("tool_calls") and "extra_content" not in m["tool_calls"][0]]
    for message in lacking:
        message["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": NO_SIGNATURE}}
    return bool(lacking)


def _leave_out_reasoning(body: dict[str, Any]) -> bool:
    """Switch reasoning off if a tool call after the last user message has no thinking blocks.

    Then the other messages may not have thinking blocks either.
    """
    messages = body["messages"]
    last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    if not any(m.get("tool_calls") and not m.get("thinking_blocks") for m in messages[last_user + 1 :]):
        return False
    for name in _PARAMETERS_OF_REASONING:
        body.pop(name, None)
    _remove(messages, "thinking_blocks")
    return True
