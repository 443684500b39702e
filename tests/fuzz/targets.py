"""The targets of fuzzing: each plays an input, and returns a message or raises a typed error."""

from __future__ import annotations

import json
import pickle
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from modelport import ChatMessage, JSONSchema, Model
from modelport.errors import ModelError
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.remote.http.errors import error_from_response
from modelport.remote.http.responses import EventReader, read_json
from modelport.remote.http.transport import ServiceCall, Transport
from modelport.testing import ScriptedModel
from tests.fuzz.inputs import calls
from tests.fuzz.junk import damaged, encode, events, texts
from tests.remote.matrix import TOOL
from tests.remote.matrix_runner import KEY, model_for, server_for
from tests.servers.bedrock import ConverseFault, frame
from tests.servers.faults import Call as ToolCall
from tests.servers.faults import Fault, Reply

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


@dataclass
class Target:
    """A target of fuzzing.

    Args:
        strategy: Generates inputs.
        play: Plays an input: returns a message or another result, or raises a `ModelError`.
        share: The share of the inputs of a run that this target gets; an input over a socket costs more time.

    Attributes:
        counts: The numbers of `inputs`, `responses`, typed `errors`, and inputs that were `lost`.
        lost: The first example of each kind of defect, by the line that raised it.
    """

    strategy: st.SearchStrategy[Any]
    play: Callable[[Any], Any]
    share: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)
    lost: dict[str, str] = field(default_factory=dict)

    def run(self, value: Any) -> None:
        """Play an input, and count the result."""
        self.counts["inputs"] += 1
        try:
            try:
                result = self.play(value)
            except ModelError as error:
                self.counts["errors"] += 1
                assert len(str(error)) < 5000, f"an error of {len(str(error))} characters"
                pickle.loads(pickle.dumps(error))
                repr(error)
                return
            self.counts["responses"] += 1
            if isinstance(result, ChatMessage):
                _check_message(result)
        except Exception as error:
            self.counts["lost"] += 1
            frames = traceback.extract_tb(error.__traceback__)
            last = next((f for f in reversed(frames) if "modelport" in f.filename), frames[-1])
            where = f"{type(error).__name__} at {last.filename}:{last.lineno}"
            if where not in self.lost:
                text = "".join(traceback.format_exception(error)[-12:])
                self.lost[where] = f"{where}: {str(error)[:300]}\n{text[-3000:]}\ninput: {str(value)[:1500]}"


def _check_message(message: ChatMessage) -> None:
    """Assert that a message has the declared types, and can be printed, stored and sent back."""
    assert isinstance(message.content, str | None) and isinstance(message.reasoning, str | None)
    assert message.finish_reason in ("stop", "length", "tool_calls", "content_filter")
    assert isinstance(message.model_id, str | None) and isinstance(message.stop_sequence, str | None)
    for call in message.tool_calls or ():
        assert isinstance(call.id, str) and isinstance(call.function.name, str)
    if (usage := message.token_usage) is not None:
        assert all(count is None or type(count) is int for count in usage.dict().values()), usage
    assert isinstance(message.logprobs, list | None) and all(isinstance(p, dict) for p in message.logprobs or ())
    str(message), repr(message), json.dumps(message.to_dict()), message.render_as_markdown()
    ScriptedModel("ok").generate([message, {"role": "user", "content": "and?"}])


# --- chat completions, without a socket ------------------------------------------------------------------------------

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


class _CannedTransport:
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
        return _CannedTransport()


_canned = _CannedModel("m", retry=False, tokens_per_minute=10**12)


def _split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _play_response(pieces: list[bytes], options: dict[str, Any], streamed: bool) -> Any:
    _canned._transport.pieces = pieces  # type: ignore[attr-defined]
    if not streamed:
        return _canned.generate("hello", **options)
    stream = _canned.generate_stream("hello", **options)
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
        st.tuples(texts(*RESPONSES, *ERRORS), _options), lambda value: _play_response([value[0]], value[1], False)
    ),
    "chat completions: a stream": Target(
        st.tuples(st.sampled_from(STREAMS).flatmap(events), _splits, _options),
        lambda value: _play_response(_split(value[0], max(value[1], len(value[0]) // 5000)), value[2], True),
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

# --- over a socket ----------------------------------------------------------------------------------------------------


def _player(model: Model, server: Any, streamed: bool) -> Callable[[Any], Any]:
    """Return a function that plays a fault of a server and the options of a call."""

    def play(value: Any) -> Any:
        fault, options = value
        server.clear()
        server.script(then=fault)
        if not streamed:
            return model.generate("hello", **options)
        with model.generate_stream("hello", **options) as stream:
            for _ in stream:
                pass
            return stream.message

    return play


def _bodies(*templates: Any) -> st.SearchStrategy[Any]:
    statuses = st.sampled_from((200,) * 6 + (400, 404, 429, 500))
    return st.builds(
        lambda status, headers, body: Fault(status_code=status, headers=headers, content=body),
        statuses, st.just({}), texts(*templates),
    )  # fmt: skip


def _streamed_bodies() -> st.SearchStrategy[Any]:
    bodies = st.sampled_from(STREAMS).flatmap(events)
    return st.builds(lambda body, end: _RawStream(raw=body, end=end), bodies, st.sampled_from((None, None, "close")))


@dataclass(frozen=True)
class _RawStream(Fault):
    """A stream of exactly these bytes."""

    raw: bytes = b""

    def payload(self, request: Any) -> tuple[bool, list[bytes]]:
        return True, [self.raw]


CONVERSE = [
    {"output": {"message": {"role": "assistant", "content": [
        {"reasoningContent": {"reasoningText": {"text": "I think.", "signature": "c2ln"}}}, {"text": "Paris."},
        {"toolUse": {"toolUseId": "t1", "name": "get_weather", "input": {"city": "Paris"}}},
    ]}}, "stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
     "metrics": {"latencyMs": 1}},
    {"output": {"message": {"role": "assistant", "content": [{"text": "Paris."}]}}, "stopReason": "end_turn",
     "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7, "cacheReadInputTokens": 2},
     "metrics": {"latencyMs": 1}},
    {"message": "Too many requests", "code": "ThrottlingException"},
]  # fmt: skip
CONVERSE_EVENTS = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "I think."}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "c2ln"}}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Paris."}}),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t1", "name": "get_weather"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"city": "Paris"}'}}}),
    ("contentBlockStop", {"contentBlockIndex": 2}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}, "metrics": {"latencyMs": 1}}),
]
_KINDS = st.sampled_from(("event",) * 8 + ("exception", "error", "novelty"))


@st.composite
def converse_frames(draw: st.DrawFn) -> bytes:
    """Draw an event stream, of which some events are wrong and some frames damaged."""
    result = b""
    for kind, data in CONVERSE_EVENTS:
        wrong = draw(st.integers(0, 9)) == 0
        if wrong and draw(st.booleans()):
            continue
        payload = draw(texts(data)) if wrong else encode(data)
        headers = {"content_type": "application/json"}
        message = draw(_KINDS) if wrong else "event"
        if message == "exception":
            headers |= {"exception_type": draw(st.sampled_from(("throttlingException", "validationException", "new")))}
        elif message == "error":
            headers |= {"error_code": "500", "error_message": draw(st.text(max_size=5))}
        else:
            headers |= {"event_type": draw(st.sampled_from((kind, kind, kind, "novelty", ""))) if wrong else kind}
        one = frame(payload, message_type=message, **headers)
        result += draw(damaged(one)) if wrong and draw(st.integers(0, 9)) == 0 else one
    return result


@dataclass(frozen=True)
class _RawFrames(ConverseFault):
    """An event stream of exactly these bytes."""

    raw: bytes = b""

    def payload(self, request: Any) -> tuple[bool, list[bytes]]:
        return True, [self.raw]


@contextmanager
def socket_targets(litellm: bool) -> Iterator[dict[str, Target]]:
    """Open a server for each backend, and yield the targets that use them.

    Args:
        litellm: Whether to use the backends of LiteLLM instead of the others.
    """
    chat = ["litellm", "litellm-http"] if litellm else ["openai", "openai-sdk", "huggingface"]
    options = st.sampled_from(OPTIONS[:4] + OPTIONS[5:6])
    result: dict[str, Target] = {}
    with ExitStack() as stack:
        for backend in chat:
            server = stack.enter_context(server_for(backend))
            model = stack.enter_context(model_for(server, backend, retry=False, timeout=20.0))
            for name, strategy, streamed in (
                ("a non-streaming response", _bodies(*RESPONSES, *ERRORS), False),
                ("a stream", _streamed_bodies(), True),
            ):
                play = _player(model, server, streamed)
                result[f"{backend}, over a socket: {name}"] = Target(st.tuples(strategy, options), play, share=0.1)
        if not litellm:
            server = stack.enter_context(server_for("bedrock"))
            model = stack.enter_context(model_for(server, "bedrock", retry=False, timeout=20.0))
            bodies = st.builds(
                lambda status, body: ConverseFault(status_code=status, content=body),
                st.sampled_from((200,) * 6 + (400, 429, 500)), texts(*CONVERSE),
            )  # fmt: skip
            frames = st.builds(
                lambda raw, end: _RawFrames(raw=raw, end=end), converse_frames(), st.sampled_from((None, "close"))
            )
            options = st.sampled_from(OPTIONS[:3])
            for kind, strategy, streamed in (("a non-streaming response", bodies, False), ("a stream", frames, True)):
                play = _player(model, server, streamed)
                result[f"bedrock, over a socket: {kind}"] = Target(st.tuples(strategy, options), play, share=0.1)
        yield result
