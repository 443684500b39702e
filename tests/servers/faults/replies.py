"""What the model of the fault server says, as the body of a response or as the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_CREATED = 1_700_000_000
_ID = "chatcmpl-fault"


@dataclass(frozen=True)
class Call:
    """A tool call of a reply. `arguments` is the text on the wire, which need not be JSON."""

    name: str = "get_weather"
    arguments: str = '{"city": "Paris", "unit": "celsius"}'
    id: str = "call_1"


@dataclass(frozen=True)
class Reply:
    """What the model says, and the dialect in which its server says it."""

    text: str = "The capital of France is Paris."
    calls: Sequence[Call] = ()
    reasoning: str = ""
    finish_reason: str | None = "auto"
    """None: it is not sent. "auto": it is `tool_calls` or `stop`."""
    prompt_tokens: int = 12
    completion_tokens: int = 8
    usage: Literal["asked", "chunk", "last", "cumulative", "none"] = "asked"
    """Where a stream reports usage. "asked": in a chunk with empty choices, if `stream_options` ask for it. "chunk": in
    such a chunk, always. "last": in the chunk with the finish reason. "cumulative": in every chunk, growing. "none":
    nowhere. A reply that is not streamed reports usage unless this is "none"."""
    tool_index: Literal["count", "zero", "null", "absent"] = "count"
    """The `index` of a tool call in a delta: its number, always 0, null, or no such field."""
    whole_calls: bool = False
    """Whether each tool call comes in one delta instead of fragments."""
    done: bool = True
    """Whether a stream ends with [DONE]."""
    piece: int = 8
    """The number of characters of text or of arguments in a delta."""
    null_choice_first: bool = False
    """Whether a chunk with empty choices comes first, as from Azure's content filter."""

    message_fields: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the message; in a stream, they come in a delta of their own."""
    choice_fields: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the choice; in a stream, of its last chunk."""

    def body(self, model: str) -> bytes:
        """Return the body of a response that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [self._call(call, call.arguments, None) for call in self.calls]
        message |= self.message_fields
        choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, **self.choice_fields}
        if self.finish_reason is not None:
            choice["finish_reason"] = self._finish()
        body = {"id": _ID, "object": "chat.completion", "created": _CREATED, "model": model, "choices": [choice]}
        if self.usage != "none":
            body["usage"] = self._usage(self.completion_tokens)
        return json.dumps(body).encode()

    def events(self, model: str, *, include_usage: bool) -> list[bytes]:
        """Return the server-sent events: role, reasoning, text, calls, finish_reason, usage, [DONE]."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None if self.calls and not self.text else ""}]
        deltas += [{"reasoning_content": piece} for piece in split_text(self.reasoning, self.piece)]
        deltas += [{"content": piece} for piece in split_text(self.text, self.piece)]
        for position, call in enumerate(self.calls):
            if self.whole_calls:
                deltas.append({"tool_calls": [self._call(call, call.arguments, position)]})
                continue
            deltas.append({"tool_calls": [self._call(call, "", position)]})
            for piece in split_text(call.arguments, self.piece):
                deltas.append({"tool_calls": [self._index(position) | {"function": {"arguments": piece}}]})
        if self.message_fields:
            deltas.append(dict(self.message_fields))
        chunks = [self._chunk(model, [self._choice(delta, None)]) for delta in deltas]
        if self.finish_reason is not None:
            chunks.append(self._chunk(model, [self._choice({}, self._finish()) | dict(self.choice_fields)]))
        if self.null_choice_first:
            chunks.insert(0, self._chunk("", []) | {"prompt_filter_results": []})
        if self.usage == "cumulative":
            for number, chunk in enumerate(chunks, 1):
                chunk["usage"] = self._usage(self.completion_tokens * number // len(chunks))
        elif self.usage == "last":
            chunks[-1]["usage"] = self._usage(self.completion_tokens)
        elif self.usage == "chunk" or (self.usage == "asked" and include_usage):
            chunks.append(self._chunk(model, []) | {"usage": self._usage(self.completion_tokens)})
        return [sse(chunk) for chunk in chunks] + ([sse("[DONE]")] if self.done else [])

    def _finish(self) -> str | None:
        return ("tool_calls" if self.calls else "stop") if self.finish_reason == "auto" else self.finish_reason

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        total = self.prompt_tokens + completion_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}

    def _call(self, call: Call, arguments: str, position: int | None) -> dict[str, Any]:
        index = {} if position is None else self._index(position)
        return index | {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}

    def _index(self, position: int) -> dict[str, Any]:
        if self.tool_index == "absent":
            return {}
        return {"index": {"count": position, "zero": 0, "null": None}[self.tool_index]}

    def _chunk(self, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": _ID,
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": model,
            "choices": choices,
        }

    def _choice(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


TWO_CALLS = (Call(), Call(arguments='{"city": "Oslo", "unit": "celsius"}', id="call_2"))


def sse(data: object) -> bytes:
    """Return a server-sent event; data that is not text is written as JSON."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()


def split_text(text: str, size: int) -> list[str]:
    """Split a text into pieces of `size` characters."""
    return [text[start : start + size] for start in range(0, len(text), size)]
