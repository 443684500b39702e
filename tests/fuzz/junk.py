"""Strategies: JSON that is nearly an answer, and bytes that are nearly JSON."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

#: Stand for what `json.dumps` can't write, and are put in afterwards.
_DEEP, _DEEPISH, _HUGE, _NUMBER = "@deep@", "@deepish@", "@huge@", "@number@"
_WRITTEN = {
    f'"{_DEEPISH}"'.encode(): b"[" * 900 + b"]" * 900,  # which some parsers take, and then can't print
    f'"{_DEEP}"'.encode(): b"[" * 3000 + b"]" * 3000,
    f'"{_HUGE}"'.encode(): b'"' + b"x" * 200_000 + b'"',
    f'"{_NUMBER}"'.encode(): b"9" * 6000,
}
_WORDS = (
    "stop", "tool_calls", "length", "error", "choices", "message", "delta", "content", "text", "usage", "function",
    "arguments", "name", "id", "index", "model", "role", "data", "code", "param", "null", "0", "²", "-1", "1e999",
    "\ud800", "\x00", "{", _DEEP, _DEEPISH, _HUGE, _NUMBER,
)  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from(_WORDS),
    st.text(max_size=8),
)  # fmt: skip
junk = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_WORDS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                found.append((node, key))
                waiting.append(node[key])
    return found


@st.composite
def nearly(draw: st.DrawFn, *templates: Any) -> Any:
    """One of the templates with some of its nodes replaced, taken out or doubled; or junk altogether."""
    if draw(st.integers(0, 19)) == 0:
        return draw(junk)
    value = copy.deepcopy(draw(st.sampled_from(templates)))
    for _ in range(draw(st.integers(0, 3))):
        places = _places(value)
        if not places:
            break
        node, key = draw(st.sampled_from(range(len(places))).map(places.__getitem__))
        if isinstance(node, list) and key >= len(node):
            continue
        how = draw(st.sampled_from(("replace", "replace", "drop", "double", "wrap")))
        if how == "drop":
            del node[key]
        elif how == "wrap":
            node[key] = [copy.deepcopy(node[key])]
        elif how == "double" and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[key] = draw(junk)
    return value


def written(value: Any) -> bytes:
    """JSON text, also of what JSON should not hold: NaN, lone surrogates, three thousand brackets."""
    data = json.dumps(value).encode()
    for mark, text in _WRITTEN.items():
        data = data.replace(mark, text)
    return data


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes, or what a bad connection or a bad proxy makes of them."""
    how = draw(st.sampled_from(("whole", "whole", "whole", "cut", "bad byte", "swap", "page", "nothing")))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if how == "cut":
        return data[:at]
    if how == "bad byte":
        return data[:at] + draw(st.sampled_from((b"\xff", b"\x00", b"\xed\xa0\x80", b"\n", b'"'))) + data[at:]
    if how == "swap":
        return data[at:] + data[:at]
    if how == "page":
        return b"<html><body>502 Bad Gateway</body></html>"
    return b"" if how == "nothing" else data


@st.composite
def texts(draw: st.DrawFn, *templates: Any) -> bytes:
    """JSON text that is nearly one of the templates', and perhaps damaged."""
    return draw(damaged(written(draw(nearly(*templates)))))


@st.composite
def events(draw: st.DrawFn, templates: list[Any]) -> bytes:
    """A stream of server-sent events in which some are nearly what they should be."""
    result = b""
    for template in templates:
        wrong = draw(st.integers(0, 9)) == 0
        if wrong and draw(st.booleans()):
            continue
        data = draw(texts(template)) if wrong else written(template)
        heads = (b"data: ", b"data:", b"event: error\ndata: ", b": ", b"id: 1\ndata: ")
        head = draw(st.sampled_from(heads)) if wrong else b"data: "
        end = draw(st.sampled_from((b"\n\n", b"\n", b"\r\r", b"\r\n\r\n"))) if wrong else b"\n\n"
        result += head + data + end
    return result + draw(st.sampled_from((b"data: [DONE]\n\n", b"data: [DONE]\n\n", b"", b"data: [DONE]")))
