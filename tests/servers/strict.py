"""Services that refuse a conversation unless they get back what they returned, unchanged.

Each service answers a first and a second request with tool calls, and then with text. It answers 400, in its own
words, if an earlier message of its own has changed, if a message of another service lacks what it requires, or if a
message has a field that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .faults import Fault, Recorded

JSON = dict[str, Any]
_KNOWN = {"role", "content", "tool_calls", "tool_call_id", "name"}
FINAL_TEXT = "It is sunny."


@dataclass(frozen=True)
class Turn:
    """One response: the fields of its message and of its calls, and the deltas in which a stream sends the fields."""

    fields: JSON
    deltas: tuple[JSON, ...]
    of_first_call: JSON = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Service:
    """How a service returns provider data, and what it requires.

    Args:
        turns: The first and the second response, which call tools, and the last one.
        missing: The error for an own message that has changed, or for one of another model that lacks a field.
        accepts_foreign: Whether a message of another model is accepted in a body.
    """

    turns: tuple[Turn, Turn, Turn]
    missing: str
    accepts_foreign: Callable[[JSON, JSON], bool] = lambda message, body: True

    def known_fields(self) -> set[str]:
        return _KNOWN.union(*(turn.fields for turn in self.turns))


class StrictService:
    """Answers the requests of one conversation after another; use it as the script of a `FaultServer`."""

    def __init__(self, name: str) -> None:
        self.name, self.service = name, SERVICES[name]
        self.refusals: list[str] = []

    def __call__(self, request: Recorded) -> Fault:
        messages = request.json["messages"]
        if problem := self._problem(messages, request.json):
            self.refusals.append(problem)
            return Fault.status(400, message=problem)
        last_user = max(i for i, message in enumerate(messages) if message["role"] == "user")
        step = sum(message["role"] == "assistant" for message in messages[last_user + 1 :])
        return Answer(turn=self.service.turns[step], prefix=f"{self.name}{step}")

    def _problem(self, messages: list[JSON], body: JSON) -> str | None:
        for message in messages:
            if unknown := sorted(set(message) - self.service.known_fields()):
                return f"'messages.1' : property '{unknown[0]}' is unsupported"
            if message["role"] != "assistant":
                continue
            calls = message.get("tool_calls") or []
            if calls and calls[0]["id"].startswith(self.name):
                if not self._is_unchanged(message, self.service.turns[int(calls[0]["id"][len(self.name)])], body):
                    return self.service.missing
            elif not (self.service.accepts_foreign(message, body) if calls else self._is_own_text(message)):
                return self.service.missing
        return None

    def _is_unchanged(self, message: JSON, turn: Turn, body: JSON) -> bool:
        first, *others = message["tool_calls"]
        if not self.service.accepts_foreign({**message, "role": "own"}, body):
            return False
        if self.name == "proxy" and "reasoning_effort" not in body:
            return "thinking_blocks" not in message
        fields = {name: message.get(name) for name in turn.fields}
        extra = {name: first[name] for name in first if name not in ("id", "type", "function")}
        others_are_plain = all(set(call) == {"id", "type", "function"} for call in others)
        return fields == turn.fields and extra == turn.of_first_call and others_are_plain

    def _is_own_text(self, message: JSON) -> bool:
        fields = {name: message.get(name) for name in self.service.turns[2].fields}
        return fields == self.service.turns[2].fields


@dataclass(frozen=True)
class Answer(Fault):
    """A correct response of a service."""

    turn: Turn = Turn({}, ())
    prefix: str = ""

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        calls = [] if self.turn.text else [self._call(0, **self.turn.of_first_call), self._call(1)]
        reason = "stop" if self.turn.text else "tool_calls"
        if not request.stream:
            message = {"role": "assistant", "content": self.turn.text or None, **self.turn.fields}
            message |= {"tool_calls": calls} if calls else {}
            return False, [
                json.dumps({"model": "m", "choices": [{"message": message, "finish_reason": reason}]}).encode()
            ]
        events = [_event(delta) for delta in self.turn.deltas]
        if self.turn.text and not any(delta.get("content") for delta in self.turn.deltas):
            events.append(_event({"content": self.turn.text}))
        events += [_event({"tool_calls": [{"index": i, **call}]}) for i, call in enumerate(calls)]
        return True, [*events, _event({}, reason), b"data: [DONE]\n\n"]

    def _call(self, number: int, **fields: Any) -> JSON:
        function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
        return {"id": f"{self.prefix}{'ab'[number]}", "type": "function", "function": function, **fields}


def _event(delta: JSON, finish_reason: str | None = None) -> bytes:
    chunk = {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


# --- the services -----------------------------------------------------------------------------------------------------


def _gemini() -> Service:
    """See https://ai.google.dev/gemini-api/docs/thought-signatures: of parallel calls, only the first has one."""

    def signature(value: str) -> JSON:
        return {"extra_content": {"google": {"thought_signature": value}}}

    def has_signature(message: JSON, body: JSON) -> bool:
        return "extra_content" in message["tool_calls"][0]

    return Service(
        (
            Turn({}, (), signature("sig-1")), Turn({}, (), signature("sig-2")),
            Turn(signature("sig-3"), ({"content": FINAL_TEXT}, {"content": "", **signature("sig-3")}), text=FINAL_TEXT),
        ),
        "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
        "correctly, and missing thought_signature may lead to degraded model performance.",
        has_signature,
    )  # fmt: skip


def _openrouter() -> Service:
    """See https://openrouter.ai/docs/guides/best-practices/reasoning-tokens#preserving-reasoning."""

    def turn(text: str, answer: str = "") -> Turn:
        common = {"format": "anthropic-claude-v1", "index": 0}
        whole = {"type": "reasoning.text", "text": text, **common, "signature": f"sig of {text}"}
        hidden = {"type": "reasoning.encrypted", "data": "gAAAB", "id": "rs_1", **common, "index": 1}
        deltas: list[JSON] = [
            {"reasoning": part, "reasoning_details": [{"type": "reasoning.text", "text": part, **common}]}
            for part in (text[:3], text[3:])
        ]
        deltas.append({"reasoning_details": [{"type": "reasoning.text", "signature": f"sig of {text}", **common}]})
        deltas.append({"reasoning_details": [hidden]})
        return Turn({"reasoning_details": [whole, hidden]}, tuple(deltas), text=answer)

    return Service(
        (turn("Look first."), turn("And again."), turn("Now I know.", FINAL_TEXT)),
        "Invalid signature in thinking block",
    )


def _deepseek() -> Service:
    """See https://api-docs.deepseek.com/guides/thinking_mode#tool-calls. The second reasoning is empty."""

    def turn(*parts: str, answer: str = "") -> Turn:
        deltas = tuple({"role": "assistant", "content": None, "reasoning_content": part} for part in parts)
        return Turn({"reasoning_content": "".join(parts)}, deltas, text=answer)

    return Service(
        (turn("I need ", "the weather."), turn(""), turn("Done.", answer=FINAL_TEXT)),
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
        lambda message, body: message["role"] == "own" or bool(message.get("reasoning_content")),
    )


def _proxy() -> Service:
    """A LiteLLM proxy in front of Claude. See https://docs.litellm.ai/docs/reasoning_content."""

    def turn(text: str, answer: str = "") -> Turn:
        block = {"type": "thinking", "thinking": text, "signature": f"sig of {text}"}
        hidden = {"type": "redacted_thinking", "data": "EmwKAhgB"}
        deltas: list[JSON] = [
            {"thinking_blocks": [{"type": "thinking", "thinking": part, "signature": None}], "reasoning_content": part}
            for part in (text[:3], text[3:])
        ]
        deltas.append({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": f"sig of {text}"}]})
        deltas.append({"thinking_blocks": [hidden]})
        return Turn({"thinking_blocks": [block, hidden], "reasoning_content": text}, tuple(deltas), text=answer)

    def begins_with_thinking(message: JSON, body: JSON) -> bool:
        return ("thinking_blocks" in message) == ("reasoning_effort" in body)

    return Service(
        (turn("Look first."), turn("And again."), turn("Now I know.", FINAL_TEXT)),
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When `thinking` "
        "is enabled, a final `assistant` message must start with a thinking block",
        begins_with_thinking,
    )


def _mistral() -> Service:
    """See https://docs.mistral.ai/capabilities/reasoning: the reasoning is a part of the content."""

    def turn(text: str, answer: str = "") -> Turn:
        def part(piece: str) -> JSON:
            return {"type": "thinking", "thinking": [{"type": "text", "text": piece}]}

        ending = [{"type": "text", "text": answer}] if answer else []
        deltas: list[JSON] = [{"content": [part(piece)]} for piece in (text[:3], text[3:])]
        deltas += [{"content": answer}] if answer else []  # The text is streamed as a string.
        return Turn({"content": [part(text), *ending]}, tuple(deltas), text=answer)

    return Service(
        (turn("Look first."), turn("And again."), turn("Now I know.", FINAL_TEXT)),
        "Assistant message lost its thinking",
    )


def _databricks() -> Service:
    """See https://docs.databricks.com/aws/en/machine-learning/model-serving/query-reason-models."""

    def turn(text: str, answer: str = "") -> Turn:
        def part(piece: str, **more: Any) -> JSON:
            return {"type": "reasoning", "summary": [{"type": "summary_text", "text": piece, **more}]}

        ending = [{"type": "text", "text": answer}] if answer else []
        pieces = (part(text[:3]), part(text[3:]), part("", signature=f"sig of {text}"))
        deltas = [*({"content": [piece]} for piece in pieces), *({"content": [piece]} for piece in ending)]
        return Turn({"content": [part(text, signature=f"sig of {text}"), *ending]}, tuple(deltas), text=answer)

    return Service(
        (turn("Look first."), turn("And again."), turn("Now I know.", FINAL_TEXT)),
        "Assistant message lost its reasoning",
    )


SERVICES: Mapping[str, Service] = {
    "gemini": _gemini(), "openrouter": _openrouter(), "deepseek": _deepseek(), "proxy": _proxy(),
    "mistral": _mistral(), "databricks": _databricks(),
}  # fmt: skip
#: The reasoning of the first response of each service; `None` if it returns none.
REASONING = {
    "gemini": None, "openrouter": "Look first.", "deepseek": "I need the weather.", "proxy": "Look first.",
    "mistral": "Look first.", "databricks": "Look first.",
}  # fmt: skip
