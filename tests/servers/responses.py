"""The fault server in the wire format of the Responses API. Its events have the fields of the openai package's types.

with ResponsesServer() as server:
    server.script([ResponsesFault.reset(), ResponsesFault.tools()])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from .faults import TWO_CALLS, Call, Fault, FaultServer, Recorded, Reply, split_text, sse

#: Everything in the encrypted reasoning, so that a test can check that it came back.
ENCRYPTED = "gAAAAABencrypted"


@dataclass(frozen=True)
class Response:
    """What the model says."""

    text: str = Reply().text
    calls: Sequence[Call] = ()
    reasoning: str | None = None
    """The summary of the reasoning; "" for reasoning without a summary."""
    status: str = "completed"
    incomplete_reason: str | None = None
    piece: int = 8
    """The number of characters of text or of arguments in an event."""

    def items(self) -> list[dict[str, Any]]:
        """Return the output items."""
        items: list[dict[str, Any]] = []
        if self.reasoning is not None:
            summary = [{"type": "summary_text", "text": self.reasoning}] if self.reasoning else []
            item = {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": ENCRYPTED}
            items.append(item)
        if self.text:
            part = {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}
            items.append({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                          "content": [part]})  # fmt: skip
        items += [
            {"type": "function_call", "id": f"fc_{call.id}", "call_id": call.id, "name": call.name,
             "arguments": call.arguments, "status": "completed"}
            for call in self.calls
        ]  # fmt: skip
        return items

    def response(self, model: str, **changes: Any) -> dict[str, Any]:
        """Return the complete response."""
        usage = {
            "input_tokens": 12, "output_tokens": 8, "total_tokens": 20,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        details = {"reason": self.incomplete_reason} if self.incomplete_reason else None
        return {
            "id": "resp_fault", "object": "response", "created_at": 1_700_000_000, "model": model, "error": None,
            "status": self.status, "incomplete_details": details, "output": self.items(), "usage": usage,
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], **changes,
        }  # fmt: skip

    def body(self, model: str) -> bytes:
        """Return the body of a response that is not streamed."""
        return json.dumps(self.response(model)).encode()

    def events(self, model: str) -> list[bytes]:
        """Return the events. The first piece holds the beginning of the response and of its first item."""
        begun = self.response(model, status="in_progress", output=[])
        events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
        starts = 0
        for index, item in enumerate(self.items()):
            at = {"output_index": index, "item_id": item["id"]}
            events.append({"type": "response.output_item.added", "output_index": index, "item": _beginning(item)})
            starts = len(events) if not index else starts
            for kind, field, text in _texts(item):
                pieces = split_text(text, self.piece)
                events += [{"type": f"response.{kind}.delta", **at, **field, "delta": piece} for piece in pieces]
            events.append({"type": "response.output_item.done", "output_index": index, "item": item})
        events.append({"type": f"response.{self.status}", "response": self.response(model)})
        encoded = [named_event({**event, "sequence_number": number}) for number, event in enumerate(events)]
        return [b"".join(encoded[:starts]), *encoded[starts:]] if starts else encoded


def _beginning(item: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, dict[str, Any]] = {
        "message": {"content": []},
        "reasoning": {"summary": []},
        "function_call": {"arguments": ""},
    }
    return item | empty[item["type"]]


def _texts(item: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return the texts of an item that are sent in pieces: the event, its further fields, and the text."""
    if item["type"] == "function_call":
        return [("function_call_arguments", {}, item["arguments"])]
    if item["type"] == "message":
        return [("output_text", {"content_index": 0, "logprobs": []}, part["text"]) for part in item["content"]]
    return [("reasoning_summary_text", {"summary_index": 0}, part["text"]) for part in item["summary"]]


def named_event(data: dict[str, Any]) -> bytes:
    """Return a server-sent event with its type, as OpenAI sends it."""
    return f"event: {data['type']}\n".encode() + sse(data)


@dataclass(frozen=True)
class ResponsesFault(Fault):
    """`Fault` in this wire format; without arguments it is no fault but an ordinary response."""

    response: Response = Response()

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        model = request.json.get("model", "") if request.body else ""
        if self.status_code != 200 or self.never_streams or not request.stream:
            return False, [self.response.body(model) if self.content is None else self.content]
        events = [self.replaced_events.get(i, piece) for i, piece in enumerate(self.response.events(model))]
        return True, events if self.last_event is None else events[: self.last_event + 1]

    @classmethod
    def ok(cls, text: str | None = None, **fields: Any) -> Self:
        return cls(response=Response(**fields) if text is None else Response(text, **fields))

    @classmethod
    def tools(cls, *calls: Call, **fields: Any) -> Self:
        return cls.ok("", calls=calls or TWO_CALLS, **fields)

    @classmethod
    def cut(cls, end: Any, *, response: Response | None = None, **more: Any) -> Self:
        return cls(response=response or Response(), end=end, **more)

    @classmethod
    def malformed(cls, *, after_events: int = 2) -> Self:
        page = b"<html><body>502 Bad Gateway</body></html>"
        return cls(content=page, replaced_events={after_events: b'data: {"type": "response.output_te\n\n'})

    @classmethod
    def bad_utf8(cls, *, after_events: int = 2) -> Self:
        event = named_event({"type": "response.output_text.delta", "output_index": 0, "delta": "caf@"})
        return cls(
            content=Response("caf@").body("m").replace(b"caf@", b"caf\xff"),
            replaced_events={after_events: event.replace(b"caf@", b"caf\xff")},
        )

    @classmethod
    def error_frame(
        cls, *, after_events: int = 3, message: str = "The server had an error.", code: int | str | None = 500
    ) -> Self:
        """An event of type `error` as the last event; a response that is not streamed has the error as its body."""
        error = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 3}
        body = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
        return cls(content=json.dumps(body).encode(), replaced_events={after_events: named_event(error)},
                   last_event=after_events)  # fmt: skip

    @classmethod
    def failed(cls, *, after_events: int = 3, message: str = "It failed.", code: str = "server_error") -> Self:
        """The event `response.failed` as the last event; the same response as a body."""
        response = Response().response("m", status="failed", error={"code": code, "message": message}, output=[])
        event = named_event({"type": "response.failed", "response": response, "sequence_number": 3})
        return cls(content=json.dumps(response).encode(), replaced_events={after_events: event},
                   last_event=after_events)  # fmt: skip

    @classmethod
    def unfinished(cls) -> Self:
        """A stream with all output and without `response.completed`; a body whose response is still in progress."""
        count = len(Response().events("m"))
        content = json.dumps(Response().response("m", status="in_progress")).encode()
        return cls(content=content, last_event=count - 2)

    @classmethod
    def truncated_arguments(cls, arguments: str = '{"city": "Par', **fields: Any) -> Self:
        return cls.tools(Call(arguments=arguments), **fields)


class ResponsesServer(FaultServer):
    """The server, whose responses are those of the Responses API unless a script says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.script()

    def script(self, faults: Any = (), *, then: Any = None) -> None:
        super().script(faults, then=ResponsesFault() if then is None else then)
