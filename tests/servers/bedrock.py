"""A strict Converse server for tests: it refuses what AWS would refuse, and can fail at exact bytes like `faults`.

Requests are validated against botocore's service model and AWS's documented rules (`bedrock_rules`). Responses are
encoded by the service model too; streams consist of event-stream frames with their checksums.

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

import botocore.auth

from .bedrock_rules import Refused, check, redacted_reasoning, service, signature_of
from .faults import Call, Connection, Fault, FaultServer, Recorded, split_text


def _allow_keys_over_http() -> None:
    """Let boto3 send API keys to servers on the loopback interface over HTTP, which boto3 1.44.8 and later refuse."""
    add_auth = botocore.auth.BearerAuth.add_auth

    def add_auth_as_if_by_https(self: Any, request: Any) -> None:
        url = request.url
        if url.startswith(("http://127.0.0.1", "http://localhost")):
            request.url = url.replace("http", "https", 1)
        try:
            add_auth(self, request)
        finally:
            request.url = url

    botocore.auth.BearerAuth.add_auth = add_auth_as_if_by_https


_allow_keys_over_http()

RESPONSE_TEXT = "The capital of France is Paris."


def frame(payload: bytes, **headers: str) -> bytes:
    """One event-stream message with its two checksums; the names of headers are passed without their colon.

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
    """An event of a Converse stream, encoded by the service model."""
    shape = service().operation_model("ConverseStream").output_shape.members["stream"].members[kind]
    wire = _wire(shape, data)
    if kind == "contentBlockDelta":
        wire["p"] = "abcdefghij"[: 1 + len(str(data)) % 9]  # AWS pads these events too.
    return frame(json.dumps(wire).encode(), event_type=kind, content_type="application/json", message_type="event")


def exception(kind: str, message: str) -> bytes:
    """An exception as an event, which is how a stream that has started ends with an error."""
    payload = json.dumps({"message": message}).encode()
    return frame(payload, exception_type=kind, content_type="application/json", message_type="exception")


def _wire(shape: Any, value: Any) -> Any:
    """A value in JSON, encoded by its shape; a member that the service does not have is a mistake of the test."""
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False):
        assert set(shape.required_members) <= set(value), f"{shape.name} lacks members: {value}"
        return {key: _wire(shape.members[key], item) for key, item in value.items()}
    if shape.type_name == "list":
        return [_wire(shape.member, item) for item in value]
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    if shape.type_name == "string":
        assert not shape.enum or value in shape.enum, f"{value!r} is not a {shape.name}"
    return value


@dataclass(frozen=True)
class Converse:
    """The model's response."""

    text: str = RESPONSE_TEXT
    calls: Sequence[Call] = ()
    reasoning: str = ""
    signed: bool = True
    redacted: str = ""
    """Reasoning that is sent as redacted content."""
    stop_reason: str = "auto"
    """auto: tool_use or end_turn."""
    usage: Mapping[str, int] = field(default_factory=lambda: {"inputTokens": 12, "outputTokens": 8, "totalTokens": 20})
    piece: int = 8
    """Characters of text or arguments in an event."""
    metadata: bool = True
    """Whether a stream ends with its metadata."""

    @property
    def _stop_reason(self) -> str:
        return ("tool_use" if self.calls else "end_turn") if self.stop_reason == "auto" else self.stop_reason

    def body(self) -> bytes:
        content: list[dict[str, Any]] = []
        if self.redacted:
            content.append({"reasoningContent": {"redactedContent": redacted_reasoning(self.redacted)}})
        if self.reasoning:
            signature = {"signature": signature_of(self.reasoning)} if self.signed else {}
            content.append({"reasoningContent": {"reasoningText": {"text": self.reasoning, **signature}}})
        if self.text:
            content.append({"text": self.text})
        for call in self.calls:
            try:
                arguments = json.loads(call.arguments)
            except ValueError:
                arguments = call.arguments
            content.append({"toolUse": {"toolUseId": call.id, "name": call.name, "input": arguments}})
        response = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": self._stop_reason, "usage": dict(self.usage), "metrics": {"latencyMs": 7},
        }  # fmt: skip
        return json.dumps(_wire(service().operation_model("Converse").output_shape, response)).encode()

    def events(self) -> list[bytes]:
        """The events: messageStart; of each block start (tool use only), deltas and stop; messageStop; metadata."""
        result = [event("messageStart", {"role": "assistant"})]
        for index, (start, deltas) in enumerate(self._blocks()):
            if start:
                result.append(event("contentBlockStart", {"contentBlockIndex": index, "start": start}))
            result += [event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}) for delta in deltas]
            result.append(event("contentBlockStop", {"contentBlockIndex": index}))
        result.append(event("messageStop", {"stopReason": self._stop_reason}))
        if self.metadata:
            result.append(event("metadata", {"usage": dict(self.usage), "metrics": {"latencyMs": 7}}))
        return result

    def _blocks(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        if self.redacted:
            data = redacted_reasoning(self.redacted)
            yield {}, [{"reasoningContent": {"redactedContent": part}} for part in (data[:20], data[20:])]
        if self.reasoning:
            parts: list[dict[str, Any]] = [{"text": piece} for piece in split_text(self.reasoning, self.piece)]
            signature = signature_of(self.reasoning)
            parts += [{"signature": signature[:9]}, {"signature": signature[9:]}] if self.signed else []
            yield {}, [{"reasoningContent": part} for part in parts]
        if self.text:
            yield {}, [{"text": piece} for piece in split_text(self.text, self.piece)]
        for call in self.calls:
            start = {"toolUse": {"toolUseId": call.id, "name": call.name}}
            yield start, [{"toolUse": {"input": piece}} for piece in ["", *split_text(call.arguments, self.piece)]]


@dataclass(frozen=True)
class ConverseFault(Fault):
    """`Fault` in Bedrock's wire format; without arguments it is no fault but an ordinary response."""

    response: Converse = Converse()

    stream_type: ClassVar[str] = "application/vnd.amazon.eventstream"

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        if self.status_code != 200 or self.never_streams or not request.stream:
            return False, [self.response.body() if self.content is None else self.content]
        events = [self.replaced_events.get(i, piece) for i, piece in enumerate(self.response.events())]
        return True, events if self.last_event is None else events[: self.last_event + 1]

    @classmethod
    def ok(cls, text: str | None = None, **fields: Any) -> Self:
        return cls(response=Converse(**fields) if text is None else Converse(text, **fields))

    @classmethod
    def status(cls, status: int, *, code: str | None = None, message: str = "scripted", **more: Any) -> Self:
        """An HTTP status with AWS's error body."""
        codes = {400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException",
                 408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException",
                 500: "InternalServerException", 503: "ServiceUnavailableException"}  # fmt: skip
        code = code or codes.get(status, "UnknownException")
        headers = {"x-amzn-ErrorType": f"{code}:http://internal.amazon.com/", **more.pop("headers", {})}
        body = more.pop("body", None)
        content = json.dumps({"message": message}).encode() if body is None else body
        return cls(status_code=status, headers=headers, content=content, **more)

    @classmethod
    def rate_limit(cls, retry_after: float | str | None = 1) -> Self:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls.status(429, headers=headers, message="Too many requests, please wait before trying again.")

    @classmethod
    def cut(cls, end: Any, *, response: Converse | None = None, **more: Any) -> Self:
        return cls(response=response or Converse(), end=end, **more)

    @classmethod
    def malformed(cls, *, after_events: int = 2, corrupt: int = -1) -> Self:
        """An event with a wrong checksum (`corrupt` is the index of the wrong byte). Not streamed: a web page."""
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
    def truncated_arguments(cls, arguments: str = '{"city": "Par', **fields: Any) -> Self:
        return cls.ok("", calls=(Call(arguments=arguments),), **fields)


OK = ConverseFault()


class BedrockServer(FaultServer):
    """The server.

    Args:
        api_key: The Bedrock API key that is accepted.
        access_key: The id of the access key whose signatures are accepted (the signatures are not checked).
        model: Makes the response from the parameters of a request, where nothing else is scripted.
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
        self._model = model or (lambda parameters: Converse())
        self.accepted: list[dict[str, Any]] = []
        """The parameters of each request that was accepted, with blobs as bytes."""
        self.script()

    def script(self, faults: Any = (), *, then: Any = None) -> None:
        super().script(faults, then=self._model_response if then is None else then)

    def clear(self) -> None:
        super().clear()
        self.accepted.clear()

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
        if not self._is_authorised(request.headers.get("authorization", "")):
            text = "The security token included in the request is invalid."
            return ConverseFault.status(403, code="UnrecognizedClientException", message=text)
        try:
            operation = "ConverseStream" if request.stream else "Converse"
            self.accepted.append(check(request.json, operation))
        except Refused as refused:
            return ConverseFault.status(400, message=str(refused))
        return None

    def _is_authorised(self, authorization: str) -> bool:
        api_key, access_key = self._keys
        if authorization.startswith("Bearer "):
            return bool(api_key) and authorization == f"Bearer {api_key}"
        return bool(access_key) and authorization.startswith(f"AWS4-HMAC-SHA256 Credential={access_key}/")

    def _model_response(self, request: Recorded) -> ConverseFault:
        response = self._model(self.accepted[-1])
        return ConverseFault(response=response) if isinstance(response, Converse) else response
