"""Targets: responses that a chat completions model parses, and the calls of callers. Nothing is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from hypothesis import strategies as st

from modelport import JSONSchema
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.remote.http.errors import error_from_response
from modelport.remote.http.responses import EventReader, read_json
from modelport.remote.http.transport import ServiceCall, Transport
from modelport.testing import ScriptedModel
from tests.fuzz.inputs import calls
from tests.fuzz.junk import encode, events, texts
from tests.fuzz.target import Target
from tests.remote.matrix import TOOL
from tests.remote.matrix_runner import KEY
from tests.servers.faults import Call as ToolCall
from tests.servers.faults import Reply

PERSON = {
    "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False,
}  # fmt: skip
#: The options of a request, which decide how the response is processed.
OPTIONS: list[dict[str, Any]] = [
    {}, {}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "required"}, {"grammar": JSONSchema(PERSON)},
    {"stop_sequences": ["capital", "}"]}, {"logprobs": True},
]  # fmt: skip
_HEADERS = st.dictionaries(
    st.sampled_from(("retry-after", "retry-after-ms", "x-amz-retry-after", "ratelimit", "Location", "x-any")),
    st.one_of(
        st.sampled_from(("1", "-1", "1e400", "nan", "inf", "٣", "Wed, 21 Oct 2099 07:28:00 GMT", ";r=0;t=9",
                         "Wed, 21 Oct 9999 99:99:99 GMT", "Fri, 31 Dec 0000 00:00:00 +9999", "9" * 400)),
        st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12),
    ),
    max_size=3,
)  # fmt: skip


_REPLY = Reply(calls=(ToolCall(),), reasoning="I think.")
RESPONSES = [
    json.loads(reply.body("m"))
    for reply in (Reply(), _REPLY, Reply('{"name": "Ada"}'), Reply("", calls=(ToolCall(),)))
]  # fmt: skip
RESPONSES[0]["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": []}]}
RESPONSES[1]["usage"]["prompt_tokens_details"] = {"cached_tokens": 3}
RESPONSES[1]["usage"]["completion_tokens_details"] = {"reasoning_tokens": 3}
ERRORS = [
    {"error": {"message": "no", "type": "bad", "param": "stop", "code": "unsupported_parameter"}},
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "no"}]},
    {"message": "no", "code": 500},
    {"error": "no"},
]


def _chunks(reply: Reply) -> list[Any]:
    return [json.loads(event[6:]) for event in reply.events("m", include_usage=True)[:-1]]


STREAMS = [_chunks(reply) for reply in (Reply(), _REPLY, Reply("", calls=(ToolCall(),)), Reply(usage="cumulative"))]


class CannedTransport:
    """A transport that returns prepared bytes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def call(self, call: ServiceCall, read: Callable[[Any], Any]) -> Any:
        return read_json(b"".join(self.pieces), read, (KEY,))

    async def stream(self, call: ServiceCall, read: Callable[[Any], Any]) -> AsyncGenerator[Any, None]:
        reader = EventReader(read, (KEY,))
        for piece in self.pieces:
            reader.feed(piece)
            for event in reader.events():
                yield event
            if reader.done:
                return

    def close(self) -> None:
        pass


class _CannedModel(ChatCompletionsModel):
    def _make_transport(self) -> Transport:
        return CannedTransport()


_canned = _CannedModel("m", retry=False, tokens_per_minute=10**12)


def split(data: bytes, size: int) -> list[bytes]:
    """Split bytes into pieces of this size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def play_response(pieces: list[bytes], options: dict[str, Any], streamed: bool) -> Any:
    """Call a chat completions model that receives these bytes."""
    return play_on(_canned, pieces, options, streamed)


def play_on(model: Any, pieces: list[bytes], options: dict[str, Any], streamed: bool) -> Any:
    """Call a model with a `CannedTransport` that receives these bytes."""
    model._transport.pieces = pieces
    if not streamed:
        return model.generate("hello", **options)
    stream = model.generate_stream("hello", **options)
    for _ in stream:
        pass
    return stream.message


_options = st.sampled_from(OPTIONS)
_splits = st.sampled_from((1, 7, 64, 10**9))


def _play_error(value: Any) -> None:
    status, headers, body = value
    raise error_from_response(status, headers, body, (KEY,))


CHAT = {
    "chat completions: a non-streaming response": Target(
        st.tuples(texts(*RESPONSES, *ERRORS), _options), lambda value: play_response([value[0]], value[1], False)
    ),
    "chat completions: a stream": Target(
        st.tuples(st.sampled_from(STREAMS).flatmap(events), _splits, _options),
        lambda value: play_response(split(value[0], max(value[1], len(value[0]) // 5000)), value[2], True),
    ),
    "chat completions: an error response": Target(
        st.tuples(st.integers(300, 599), _HEADERS, texts(*ERRORS)), _play_error
    ),
}  # fmt: skip

# --- callers ----------------------------------------------------------------------------------------------------------


def _play_call(value: Any) -> Any:
    messages, options = value
    return ScriptedModel("The answer.", retry=False).generate(messages, **_with_grammar(options))


def _with_grammar(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options; a grammar that is a pair of a class and its argument is constructed."""
    if isinstance(grammar := options.get("grammar"), tuple):
        return {**options, "grammar": grammar[0](grammar[1])}
    return options


def _play_call_of_service(value: Any) -> Any:
    """Play a call that is translated for a service, whose response is correct."""
    messages, options = value
    _canned._transport.pieces = [encode(RESPONSES[0])]  # type: ignore[attr-defined]
    return _canned.generate(messages, **{"timeout": 20, **_with_grammar(options)})


CALLERS = {
    "callers: messages, tools, schemas, parameters": Target(calls, _play_call),
    "callers: the same through a translator": Target(calls, _play_call_of_service),
}
