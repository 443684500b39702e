"""Strategies: JSON that is almost a valid response, and bytes that are almost JSON."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

#: Placeholders for text that `json.dumps` can't write. `encode` replaces them.
_TOO_DEEP, _DEEP, _HUGE, _NUMBER = "@too deep@", "@deep@", "@huge@", "@number@"
_REPLACEMENTS = {
    f'"{_DEEP}"'.encode(): b"[" * 900 + b"]" * 900,  # Some parsers accept this, and then can't print it.
    f'"{_TOO_DEEP}"'.encode(): b"[" * 3000 + b"]" * 3000,
    f'"{_HUGE}"'.encode(): b'"' + b"x" * 200_000 + b'"',
    f'"{_NUMBER}"'.encode(): b"9" * 6000,
}
_WORDS = (
    "stop", "tool_calls", "length", "error", "choices", "message", "delta", "content", "text", "usage", "function",
    "arguments", "name", "id", "index", "model", "role", "data", "code", "param", "null", "0", "²", "-1", "1e999",
    "\ud800", "\x00", "{", _TOO_DEEP, _DEEP, _HUGE, _NUMBER,
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


def _paths(value: Any) -> list[tuple[Any, Any]]:
    """Return every pair of a container and a key in a tree."""
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
def mutated(draw: st.DrawFn, *templates: Any) -> Any:
    """Draw one of the templates with some nodes replaced, deleted, duplicated or wrapped; sometimes draw only junk."""
    if draw(st.integers(0, 19)) == 0:
        return draw(junk)
    value = copy.deepcopy(draw(st.sampled_from(templates)))
    for _ in range(draw(st.integers(0, 3))):
        paths = _paths(value)
        if not paths:
            break
        node, key = draw(st.sampled_from(range(len(paths))).map(paths.__getitem__))
        if isinstance(node, list) and key >= len(node):
            continue
        mutation = draw(st.sampled_from(("replace", "replace", "delete", "duplicate", "wrap")))
        if mutation == "delete":
            del node[key]
        elif mutation == "wrap":
            node[key] = [copy.deepcopy(node[key])]
        elif mutation == "duplicate" and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[key] = draw(junk)
    return value


def encode(value: Any) -> bytes:
    """Return JSON text, also of values that JSON should not have: NaN, lone surrogates, three thousand brackets."""
    data = json.dumps(value).encode()
    for placeholder, text in _REPLACEMENTS.items():
        data = data.replace(placeholder, text)
    return data


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw the bytes as they are, or as a bad connection or a bad proxy damages them."""
    damage = draw(st.sampled_from(("none", "none", "none", "truncated", "bad byte", "swapped", "page", "empty")))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if damage == "truncated":
        return data[:at]
    if damage == "bad byte":
        return data[:at] + draw(st.sampled_from((b"\xff", b"\x00", b"\xed\xa0\x80", b"\n", b'"'))) + data[at:]
    if damage == "swapped":
        return data[at:] + data[:at]
    if damage == "page":
        return b"<html><body>502 Bad Gateway</body></html>"
    return b"" if damage == "empty" else data


@st.composite
def texts(draw: st.DrawFn, *templates: Any) -> bytes:
    """Draw the JSON text of a mutated template, perhaps damaged."""
    return draw(damaged(encode(draw(mutated(*templates)))))


@st.composite
def events(draw: st.DrawFn, templates: list[Any]) -> bytes:
    """Draw a stream of server-sent events, of which some are wrong."""
    result = b""
    for template in templates:
        wrong = draw(st.integers(0, 9)) == 0
        if wrong and draw(st.booleans()):
            continue
        data = draw(texts(template)) if wrong else encode(template)
        heads = (b"data: ", b"data:", b"event: error\ndata: ", b": ", b"id: 1\ndata: ")
        head = draw(st.sampled_from(heads)) if wrong else b"data: "
        end = draw(st.sampled_from((b"\n\n", b"\n", b"\r\r", b"\r\n\r\n"))) if wrong else b"\n\n"
        result += head + data + end
    return result + draw(st.sampled_from((b"data: [DONE]\n\n", b"data: [DONE]\n\n", b"", b"data: [DONE]")))
