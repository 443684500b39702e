"""A strict Converse server of our own: it refuses what AWS would, and misbehaves at exact bytes like `faults`.

Requests are held to botocore's own service model and AWS's documented rules (`bedrock_rules`); answers are encoded from
the service model too, streams as event-stream frames with their checksums.

    with BedrockServer(api_key="k") as server:
        server.script([ConverseFault.reset(), ConverseFault.exception("throttlingException")])
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from .bedrock_rules import Refused, check, sealed_thought, service, signature_of
from .faults import Call, Connection, Fault, FaultServer, Recorded, split_text

ANSWER = "The capital of France is Paris."


def frame(payload: bytes, **headers: str) -> bytes:
    """One event-stream message with its two checksums; headers' names are given without their colon.

    See https://smithy.io/2.0/aws/amazon-eventstream.html
    """
    encoded = b"".join(
        struct.pack("!B", len(name)) + name + struct.pack("!BH", 7, len(value.encode())) + value.encode()
        for name, value in ((f":{name.replace('_', '-')}".encode(), value) for name, value in headers.items())
    )
    prelude = struct.pack("!II", len(encoded) + len(payload) + 16, len(encoded))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + encoded + payload
    return message + struct.pack("!I", zlib.crc32(message))


def event(kind: str, data: Mapping[str, Any]) -> bytes:
    """An event of a Converse stream, in the form that the service model gives it."""
    shape = service().operation_model("ConverseStream").output_shape.members["stream"].members[kind]
    wire = _wire(shape, data)
    if kind == "contentBlockDelta":
        wire["p"] = "abcdefghij"[: 1 + len(str(data)) % 9]  # the padding that AWS puts into them
    return frame(json.dumps(wire).encode(), event_type=kind, content_type="application/json", message_type="event")


def exception(kind: str, message: str) -> bytes:
    """An exception as an event, as a stream that has begun ends with."""
    payload = json.dumps({"message": message}).encode()
    return frame(payload, exception_type=kind, content_type="application/json", message_type="exception")


def _wire(shape: Any, value: Any) -> Any:
    """A value in JSON, as its shape says; a member that the service does not have is a mistake of the test."""
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False):
        assert set(shape.required_members) <= set(value), f"{shape.name} lacks members: {value}"
        return {key: _wire(shape.members[key], item) for key, item in value.items()}
    if shape.type_name == "list":
        return [_wire(shape.member, item) for item in value]
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    if shape.type_name == "string":
        assert not shape.enum or value in shape.enum, f"{value!r} is no {shape.name}"
    return value


@dataclass(frozen=True)
class Converse:
    """What the model says."""

    text: str = ANSWER
    calls: Sequence[Call] = ()
    reasoning: str = ""
    signed: bool = True
    sealed: str = ""
    """A thought that comes as redacted content."""
    stop_reason: str = "auto"
    """auto: tool_use or end_turn."""
    usage: Mapping[str, int] = field(default_factory=lambda: {"inputTokens": 12, "outputTokens": 8, "totalTokens": 20})
    piece: int = 8
    """Characters of text or arguments in an event."""
    metadata: bool = True
    """Whether a stream ends with its metadata."""

    @property
    def _stop(self) -> str:
        return ("tool_use" if self.calls else "end_turn") if self.stop_reason == "auto" else self.stop_reason

    def body(self) -> bytes:
        content: list[dict[str, Any]] = []
        if self.sealed:
            content.append({"reasoningContent": {"redactedContent": sealed_thought(self.sealed)}})
        if self.reasoning:
            signature = {"signature": signature_of(self.reasoning)} if self.signed else {}
            content.append({"reasoningContent": {"reasoningText": {"text": self.reasoning, **signature}}})
        if self.text:
            content.append({"text": self.text})
        for call in self.calls:
            try:
                given = json.loads(call.arguments)
            except ValueError:
                given = call.arguments
            content.append({"toolUse": {"toolUseId": call.id, "name": call.name, "input": given}})
        answer = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": self._stop, "usage": dict(self.usage), "metrics": {"latencyMs": 7},
        }  # fmt: skip
        return json.dumps(_wire(service().operation_model("Converse").output_shape, answer)).encode()

    def events(self) -> list[bytes]:
        """messageStart; for each block its start (of tool use alone), deltas and stop; messageStop; metadata."""
        result = [event("messageStart", {"role": "assistant"})]
        for index, (start, deltas) in enumerate(self._blocks()):
            if start:
                result.append(event("contentBlockStart", {"contentBlockIndex": index, "start": start}))
            result += [event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}) for delta in deltas]
            result.append(event("contentBlockStop", {"contentBlockIndex": index}))
        result.append(event("messageStop", {"stopReason": self._stop}))
        if self.metadata:
            result.append(event("metadata", {"usage": dict(self.usage), "metrics": {"latencyMs": 7}}))
        return result

    def _blocks(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        if self.sealed:
            data = sealed_thought(self.sealed)
            yield {}, [{"reasoningContent": {"redactedContent": part}} for part in (data[:20], data[20:])]
        if self.reasoning:
            thoughts: list[dict[str, Any]] = [{"text": piece} for piece in split_text(self.reasoning, self.piece)]
            signature = signature_of(self.reasoning)
            thoughts += [{"signature": signature[:9]}, {"signature": signature[9:]}] if self.signed else []
            yield {}, [{"reasoningContent": thought} for thought in thoughts]
        if self.text:
            yield {}, [{"text": piece} for piece in split_text(self.text, self.piece)]
        for call in self.calls:
            start = {"toolUse": {"toolUseId": call.id, "name": call.name}}
            yield start, [{"toolUse": {"input": piece}} for piece in ["", *split_text(call.arguments, self.piece)]]


@dataclass(frozen=True)
class ConverseFault(Fault):
    """`Fault` in the form of Bedrock; the plain one answers in good order."""

    said: Converse = Converse()

    stream_type: ClassVar[str] = "application/vnd.amazon.eventstream"

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        if self.status_code != 200 or self.never_streams or not request.stream:
            return False, [self.said.body() if self.content is None else self.content]
        events = [self.replaced_events.get(i, piece) for i, piece in enumerate(self.said.events())]
        return True, events if self.last_event is None else events[: self.last_event + 1]

    @classmethod
    def ok(cls, text: str | None = None, **said: Any) -> Self:
        return cls(said=Converse(**said) if text is None else Converse(text, **said))

    @classmethod
    def status(cls, status: int, *, code: str | None = None, message: str = "scripted", **more: Any) -> Self:
        """An HTTP status with AWS's error body."""
        known = {400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException",
                 408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException",
                 500: "InternalServerException", 503: "ServiceUnavailableException"}  # fmt: skip
        code = code or known.get(status, "UnknownException")
        headers = {"x-amzn-ErrorType": f"{code}:http://internal.amazon.com/", **more.pop("headers", {})}
        body = more.pop("body", None)
        content = json.dumps({"message": message}).encode() if body is None else body
        return cls(status_code=status, headers=headers, content=content, **more)

    @classmethod
    def rate_limit(cls, retry_after: float | str | None = 1) -> Self:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls.status(429, headers=headers, message="Too many requests, please wait before trying again.")

    @classmethod
    def cut(cls, end: Any, *, said: Converse | None = None, **more: Any) -> Self:
        return cls(said=said or Converse(), end=end, **more)

    @classmethod
    def malformed(cls, *, after_events: int = 2, corrupt: int = -1) -> Self:
        """An event with a wrong checksum (`corrupt`: which byte is wrong). Not streamed: a web page."""
        damaged = bytearray(Converse().events()[after_events])
        damaged[corrupt] ^= 0xFF
        return cls(content=b"<html>502 Bad Gateway</html>", replaced_events={after_events: bytes(damaged)})

    @classmethod
    def bad_utf8(cls, *, after_events: int = 2) -> Self:
        payload = b'{"contentBlockIndex":0,"delta":{"text":"caf\xff"}}'
        bad = frame(payload, event_type="contentBlockDelta", content_type="application/json", message_type="event")
        content = Converse("caf@").body().replace(b"caf@", b"caf\xff")
        return cls(content=content, replaced_events={after_events: bad})

    @classmethod
    def exception(cls, kind: str = "internalServerException", message: str = "scripted", after_events: int = 3) -> Self:
        """An exception as the last event."""
        return cls(replaced_events={after_events: exception(kind, message)}, last_event=after_events)

    @classmethod
    def truncated_arguments(cls, arguments: str = '{"city": "Par', **said: Any) -> Self:
        return cls.ok("", calls=(Call(arguments=arguments),), **said)


OK = ConverseFault()


class BedrockServer(FaultServer):
    """The server.

    Args:
        api_key: A Bedrock API key that is taken.
        access_key: The id of an access key whose signatures are taken (they are not checked).
        model: Answers where nothing else is scripted, from the request's parameters.
    """

    paths: ClassVar[tuple[str, ...]] = ("/converse", "/converse-stream")

    def __init__(
        self,
        api_key: str = "",
        access_key: str = "",
        model: Callable[[dict[str, Any]], Converse | ConverseFault] | None = None,
    ) -> None:
        super().__init__()
        self._keys = (api_key, access_key)
        self._model = model or (lambda params: Converse())
        self.asked: list[dict[str, Any]] = []
        """The parameters of each request that was taken, blobs as bytes."""
        self.script()

    def script(self, faults: Any = (), *, then: Any = None) -> None:
        super().script(faults, then=self._answer_by_model if then is None else then)

    def clear(self) -> None:
        super().clear()
        self.asked.clear()

    @property
    def base_url(self) -> str:
        return self.url

    async def _respond(self, connection: Connection, request: Recorded) -> bool:
        if (refusal := self._refusal(request)) is not None:
            self.requests.append(request)
            request.fault, request.done = refusal, True
            return await connection.respond(request, refusal)
        return await super()._respond(connection, request)

    def _refusal(self, request: Recorded) -> ConverseFault | None:
        if not self._authorised(request.headers.get("authorization", "")):
            text = "The security token included in the request is invalid."
            return ConverseFault.status(403, code="UnrecognizedClientException", message=text)
        try:
            operation = "ConverseStream" if request.stream else "Converse"
            self.asked.append(check(request.json, operation))
        except Refused as refused:
            return ConverseFault.status(400, message=str(refused))
        return None

    def _authorised(self, given: str) -> bool:
        api_key, access_key = self._keys
        if given.startswith("Bearer "):
            return bool(api_key) and given == f"Bearer {api_key}"
        return bool(access_key) and given.startswith(f"AWS4-HMAC-SHA256 Credential={access_key}/")

    def _answer_by_model(self, request: Recorded) -> ConverseFault:
        said = self._model(self.asked[-1])
        return ConverseFault(said=said) if isinstance(said, Converse) else said
