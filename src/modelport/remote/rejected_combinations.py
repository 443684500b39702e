"""Recognises that a service rejects a parameter only beside another one. All functions are pure.

An example is the text "Function tools with reasoning_effort are not supported": the model accepts the effort in a
request without tools. Only the combination is then recorded, so that requests without tools still send the effort.
"""

from __future__ import annotations

import re

from modelport.types.request import Request

#: Parameters that error texts name without quotes -> the words that mean them. Other names without an underscore, such
#: as `user`, are words of the language too: they count only in quotes.
_WORDS = {
    "tools": r"tools?|functions?", "response_format": r"response[_ ]format|json[_ ](?:mode|schema)",
    "temperature": "temperature", "logprobs": "logprobs",
}  # fmt: skip
#: These parameters are never sent without tools.
_NEED_TOOLS = frozenset({"tool_choice", "parallel_tool_calls"})


def parameters_of_request(request: Request) -> frozenset[str]:
    """Return the names of everything that a caller can leave out of a request."""
    names = set(request.parameters)
    names.update(
        name
        for name, present in (
            ("tools", request.tools), ("response_format", request.grammar), ("stop", request.stop_sequences),
        )
        if present
    )  # fmt: skip
    return frozenset(names)


def rejected_beside(name: str, text: str, request: Request) -> frozenset[str]:
    """Return the other parameters of the request that a rejection names; empty if it names none.

    Args:
        name: The rejected parameter.
        text: The text of the rejection.
        request: The rejected request.
    """
    others = parameters_of_request(request) - {name}
    if name in _NEED_TOOLS:
        others -= {"tools"}
    return frozenset(other for other in others if re.search(_pattern_of(other), text, re.IGNORECASE))


def _pattern_of(name: str) -> str:
    if (words := _WORDS.get(name)) or "_" in name:
        return rf"(?<![\w.])(?:{words or re.escape(name)})(?!\w)"
    return rf"['\"`]{re.escape(name)}['\"`]"
