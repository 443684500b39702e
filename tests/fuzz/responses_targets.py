"""Targets: responses and streams of the Responses API that a model parses, and items that a caller sends back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from modelport import OpenAIServerModel
from modelport.remote.http.transport import Transport
from tests.fuzz.chat_targets import ERRORS, OPTIONS, CannedTransport, play_on, split
from tests.fuzz.junk import encode, events, texts
from tests.fuzz.target import Target
from tests.servers.faults import Call
from tests.servers.responses import Response


class _CannedModel(OpenAIServerModel):
    def _make_transport(self) -> Transport:
        return CannedTransport()


_canned = _CannedModel("m", api="responses", retry=False, tokens_per_minute=10**12)
_REPLIES = (
    Response(), Response(calls=(Call(),), reasoning="I think."), Response('{"name": "Ada"}'),
    Response("", calls=(Call(),)), Response(status="incomplete", incomplete_reason="max_output_tokens"),
)  # fmt: skip
RESPONSES = [reply.response("m") for reply in _REPLIES]
STREAMS = [
    [
        json.loads(event.partition(b"data: ")[2])
        for piece in reply.events("m")
        for event in piece.split(b"\n\n")
        if event
    ]
    for reply in _REPLIES
]
_FAILED = Response().response("m", status="failed", error={"code": "server_error", "message": "no"})
#: This API has no logprobs as chat completions have them, so that option is left out.
_options = st.sampled_from(OPTIONS)
_splits = st.sampled_from((1, 7, 64, 10**9))


def _play_items(text: bytes) -> Any:
    """Send items back that a service might have returned."""
    try:
        items = json.loads(text)["output"]
    except (ValueError, KeyError, TypeError, RecursionError):
        items = text
    _canned._transport.pieces = [encode(RESPONSES[0])]  # type: ignore[attr-defined]
    data = {"protocol": "responses", "items": items}
    answer = {"role": "assistant", "content": "The capital", "provider_data": data}
    return _canned.generate([{"role": "user", "content": "hello"}, answer, {"role": "user", "content": "hello"}])


RESPONSES_API = {
    "Responses API: a non-streaming response": Target(
        st.tuples(texts(*RESPONSES, _FAILED, *ERRORS), _options),
        lambda value: play_on(_canned, [value[0]], value[1], False),
    ),
    "Responses API: a stream": Target(
        st.tuples(st.sampled_from(STREAMS).flatmap(events), _splits, _options),
        lambda value: play_on(_canned, split(value[0], max(value[1], len(value[0]) // 5000)), value[2], True),
    ),
    "Responses API: items sent back": Target(texts(*RESPONSES), _play_items),
}
