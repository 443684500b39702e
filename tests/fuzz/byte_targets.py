"""Targets: bodies and lines that a service could send to exhaust the memory or the processor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.byte_inputs import Line, body_faults, lines, many, stream_of
from tests.fuzz.chat_targets import OPTIONS, play_response, split
from tests.fuzz.socket_targets import open_socket_target
from tests.fuzz.target import OpenTarget, Target
from tests.servers.faults import Fault

_options = st.sampled_from(OPTIONS)


def _play_lines(value: Any) -> Any:
    described, size, options = value
    data = stream_of(described)
    return play_response(split(data, max(size, len(data) // 2000, 1)), options, True)


BYTES = {
    "bytes: lines of a stream": Target(st.tuples(lines, st.sampled_from((1, 7, 1000, 2**16)), _options), _play_lines),
    "bytes: very many of one thing": Target(
        st.tuples(many, _options), lambda value: play_response([value[0]], value[1], False)
    ),
}


@dataclass(frozen=True)
class _Lines(Fault):
    """A stream of these lines."""

    described: tuple[Line, ...] = ()

    def payload(self, request: Any) -> tuple[bool, list[bytes]]:
        return True, split(stream_of(self.described), 2**16)


_statuses = st.sampled_from((200,) * 6 + (400, 404, 429, 500))
_line_faults = lines.map(lambda described: _Lines(described=tuple(described)))

BYTE_SOCKETS: dict[str, OpenTarget] = {
    f"{backend}, over a socket: {kind}": partial(open_socket_target, backend, faults, streamed)
    for backend in ("openai", "openai-sdk", "huggingface", "bedrock")
    for kind, faults, streamed in (
        ("large and odd bodies", body_faults(_statuses), False),
        ("large and odd bodies of streams", body_faults(_statuses), True),
        ("lines of a stream", _line_faults, True),
    )
    if backend != "bedrock" or kind != "lines of a stream"
}  # fmt: skip
