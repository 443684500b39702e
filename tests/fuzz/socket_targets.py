"""Targets: responses that a server sends over a socket to the real client of a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from modelport import Model
from tests.fuzz.chat_targets import ERRORS, OPTIONS, RESPONSES, STREAMS
from tests.fuzz.junk import damaged, encode, events, texts
from tests.fuzz.target import OpenTarget, Target
from tests.remote.matrix_runner import model_for, server_for
from tests.servers.bedrock import ConverseFault, frame
from tests.servers.faults import Fault


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
    return st.builds(lambda body, end: RawStream(raw=body, end=end), bodies, st.sampled_from((None, None, "close")))


@dataclass(frozen=True)
class RawStream(Fault):
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


_CHAT_BODIES, _CHAT_STREAMS = _bodies(*RESPONSES, *ERRORS), _streamed_bodies()
_CONVERSE_BODIES = st.builds(
    lambda status, body: ConverseFault(status_code=status, content=body),
    st.sampled_from((200,) * 6 + (400, 429, 500)), texts(*CONVERSE),
)  # fmt: skip
_CONVERSE_STREAMS = st.builds(
    lambda raw, end: _RawFrames(raw=raw, end=end), converse_frames(), st.sampled_from((None, "close"))
)


@contextmanager
def open_socket_target(backend: str, faults: st.SearchStrategy[Fault], streamed: bool) -> Iterator[Target]:
    """Open a server and a model of a backend, and yield the target that uses them.

    Args:
        backend: The name of the backend in the fault matrix.
        faults: Generates what the server sends.
        streamed: Whether the calls stream.
    """
    options = OPTIONS[:3] if backend == "bedrock" else OPTIONS[:4] + OPTIONS[5:6]
    with server_for(backend) as server, model_for(server, backend, retry=False, timeout=20.0) as model:
        yield Target(st.tuples(faults, st.sampled_from(options)), _player(model, server, streamed))


def _targets(*backends: str) -> dict[str, OpenTarget]:
    result: dict[str, OpenTarget] = {}
    for backend in backends:
        faults = (_CONVERSE_BODIES, _CONVERSE_STREAMS) if backend == "bedrock" else (_CHAT_BODIES, _CHAT_STREAMS)
        for streamed, kind in enumerate(("a non-streaming response", "a stream")):
            name = f"{backend}, over a socket: {kind}"
            result[name] = partial(open_socket_target, backend, faults[streamed], bool(streamed))
    return result


SOCKETS = _targets("openai", "openai-sdk", "huggingface", "bedrock")
LITELLM_SOCKETS = _targets("litellm", "litellm-http")
