"""The token usage of a message or an error is the sum over all requests of the call."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import FallbackModel, InvalidOutput, InvalidToolCall, ModelError, ServerError
from modelport.types.output_types import JSONSchema
from modelport.types.usage import TokenUsage

from .adapt_backend import SCHEMA, TIME, Delta, ScriptedBackend, tool_call
from .test_output_errors import WAYS, ask

ENFORCED: dict[str, Any] = {"grammars": frozenset({JSONSchema})}
TOOLS: dict[str, Any] = {"tools": True, "tool_choices": frozenset({"auto", "required", "named"})}
GOOD, BAD = ['{"age": 1}'], ["hello"]


class Claiming(ScriptedBackend):
    """A service of which it is not known whether it enforces output types."""

    _may_ignore_output_types = True


def failed(*, counted: bool = True) -> list[Any]:
    """Return a response that the service reports to be unusable, usually together with its usage."""
    error = InvalidToolCall("malformed_function_call", retryable=True)
    error.token_usage = TokenUsage(10, 5, 1) if counted else None
    return [error]


def model(*responses: list[Any], claims: bool = False, **capabilities: Any) -> ScriptedBackend:
    return (Claiming if claims else ScriptedBackend)(*responses, capabilities=capabilities)


TYPED: dict[str, Any] = {"grammar": SCHEMA}
#: The model, the options of the call, and how many requests are counted. Each has 10 + 5 tokens.
ONLY_PLAIN: dict[str, tuple[Any, dict[str, Any], int]] = {
    "feedback": (lambda: model(BAD, BAD, GOOD), TYPED, 3),
    "disproved": (lambda: model(BAD, GOOD, claims=True, **ENFORCED), TYPED, 2),
    "disproved, then feedback": (lambda: model(BAD, BAD, GOOD, claims=True, **ENFORCED), TYPED, 3),
    "failed, then feedback": (lambda: model(failed(), BAD, failed(), GOOD), TYPED, 4),
    "usage before the error": (
        lambda: model([Delta("a", token_usage=TokenUsage(10, 5, 1)), *failed(counted=False)], GOOD), {}, 2),
    "output not accepted": (
        lambda: FallbackModel([model(BAD, **ENFORCED), model(GOOD, **ENFORCED)], fallback_on=InvalidOutput), TYPED, 2),
    "none accepted in time": (
        lambda: FallbackModel([model(BAD, BAD, BAD), model(BAD, GOOD)], fallback_on=InvalidOutput), TYPED, 5),
}  # fmt: skip
IN_ALL_WAYS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "one request": (lambda: model(GOOD), {}, 1),
    "failed response": (lambda: model(failed(), failed(), GOOD), {}, 3),
    "failed response without usage": (lambda: model(failed(counted=False), GOOD), {}, 1),
    "failed, then typed": (lambda: model(failed(), GOOD, **ENFORCED), TYPED, 2),
    "two requests": (
        lambda: model(failed(), BAD, failed(), GOOD, **TOOLS, **ENFORCED), {**TYPED, "tools": [TIME]}, 4),
    "returned": (lambda: model(failed(), BAD, **ENFORCED), {**TYPED, "output_errors": "return"}, 2),
    "fallback": (lambda: FallbackModel([model(failed(), failed(), failed()), model(GOOD)]), {}, 4),
    "fallback in a fallback": (
        lambda: FallbackModel([FallbackModel([model(failed(), failed(), failed())], retry=False), model(GOOD)]), {}, 4),
}  # fmt: skip
CASES = [(name, "sync") for name in ONLY_PLAIN] + [(name, way) for name in IN_ALL_WAYS for way in WAYS]


@pytest.mark.filterwarnings("ignore:.*ignored it:UserWarning")
@pytest.mark.parametrize(("name", "way"), CASES)
def test_usage_of_a_message_is_that_of_all_requests(name: str, way: str) -> None:
    make, options, requests = {**ONLY_PLAIN, **IN_ALL_WAYS}[name]
    message = ask(make(), way, **options)
    assert message.token_usage == TokenUsage(10 * requests, 5 * requests, requests)


@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
def test_stream_emits_the_sum_once(streamed: bool) -> None:
    """smolagents adds up the usage of all deltas."""
    with model(failed(), GOOD, **ENFORCED).generate_stream("?", grammar=SCHEMA if streamed else None) as stream:
        usages = [delta.token_usage for delta in stream if delta.token_usage is not None]
    assert usages == [TokenUsage(20, 10, 2)]


def test_count_that_one_request_lacks_is_unknown() -> None:
    last = Delta(finish_reason="stop", token_usage=TokenUsage(10, 5))
    assert ask(model(failed(), ["a", last]), "sync").token_usage == TokenUsage(20, 10, None)


ERRORS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "feedback": (lambda: model(BAD, BAD, BAD), TYPED, 3),
    "disproved": (lambda: model(BAD, BAD, BAD, BAD, claims=True, **ENFORCED), TYPED, 4),
    "disproved, then down": (
        lambda: model(BAD, [ServerError("down", retryable=False)], claims=True, **ENFORCED), TYPED, 1),
    "failed, then invalid": (lambda: model(failed(), BAD, **ENFORCED), TYPED, 2),
    "always failed": (lambda: model(failed(), failed(), failed()), {}, 3),
    "invalid call": (lambda: model(failed(), tool_call("sun", "{}")), {"tools": [TIME]}, 2),
    "all models": (
        lambda: FallbackModel([model(BAD, **ENFORCED), model(BAD, BAD, BAD)], fallback_on=InvalidOutput), TYPED, 4),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*ignored it:UserWarning")
@pytest.mark.parametrize("name", ERRORS)
def test_usage_of_an_error_is_that_of_all_requests(name: str) -> None:
    make, options, requests = ERRORS[name]
    with pytest.raises(ModelError) as raised:
        ask(make(), "sync", **options)
    usages = [raised.value.token_usage, *([raised.value.partial.token_usage] if raised.value.partial else ())]
    cached = None if name == "invalid call" else requests
    assert usages == [TokenUsage(10 * requests, 5 * requests, cached)] * len(usages)
    assert raised.value.partial is not None or not isinstance(raised.value, InvalidOutput)
