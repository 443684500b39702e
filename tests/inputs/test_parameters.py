"""The parameters of a call: names, ranges and errors."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from modelport.errors import InvalidRequest
from modelport.inputs.options import normalise_options
from modelport.inputs.parameters import (
    BY_ANY_NAME,
    EXCLUSIVE,
    NEEDED_CAPABILITIES,
    PARAMETERS,
    TIMEOUTS,
    stop_sequences_from,
)
from modelport.types.capabilities import Capabilities
from modelport.types.request import Timeouts


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_completion_tokens"])
def test_normalise_options_max_tokens_has_three_names(name: str) -> None:
    assert normalise_options({name: 5}) == {"max_tokens": 5}


def test_normalise_options_two_names_with_different_values_raise() -> None:
    assert normalise_options({"max_tokens": 5, "max_new_tokens": 5}) == {"max_tokens": 5}
    with pytest.raises(InvalidRequest, match="two names of one parameter"):
        normalise_options({"max_tokens": 5, "max_new_tokens": 6})


def test_normalise_options_drops_none_and_keeps_unknown_options() -> None:
    assert normalise_options({"temperature": None, "mirostat": [1]}) == {"mirostat": [1]}
    assert normalise_options({"n": 1}) == {}


def test_normalise_options_top_logprobs_sets_logprobs() -> None:
    assert normalise_options({"top_logprobs": 3}) == {"top_logprobs": 3, "logprobs": True}
    with pytest.raises(InvalidRequest, match="top_logprobs needs logprobs=True"):
        normalise_options({"top_logprobs": 3, "logprobs": False})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [0, -1, 1.5, "5", True, float("inf")]),
        ("temperature", [-0.1, "hot", float("nan"), float("inf"), True, []]),
        ("timeout", [0, -1, float("inf"), 10**400]),
        ("top_p", [0, 1.1, -1, None.__class__]),
        ("min_p", [-0.1, 1.1]),
        ("top_k", [-1, 0.5]),
        ("seed", ["x", 1.5, 10**400]),
        ("presence_penalty", [-2.1, 2.1]),
        ("frequency_penalty", [-2.1, 2.1]),
        ("repetition_penalty", [0]),
        ("logprobs", [1, "yes"]),
        ("top_logprobs", [-1, 21]),
        ("parallel_tool_calls", [0, "no"]),
        ("n", [2, 0]),
        ("stream", [True, "no"]),
        ("timeout", [0, -1, "1m"]),
        ("first_token_timeout", [0]),
        ("idle_timeout", [0]),
    ],
)
def test_normalise_options_value_out_of_range_raises_with_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest, match=f"^{name}=") as raised:
            normalise_options({name: value})
        assert raised.value.parameter == name


@pytest.mark.parametrize("name", ["extra_body", "extra_headers", "extra_query"])
def test_normalise_options_extra_parameter_must_be_dict_and_is_not_shown(name: str) -> None:
    for value in ([("Authorization", "hidden")], "hidden", 5, [], {1: "hidden"}):
        with pytest.raises(InvalidRequest, match=f"^{name} must be a dict whose keys are strings, not") as raised:
            normalise_options({name: value})
        assert "hidden" not in str(raised.value)


def test_normalise_options_values_at_limits_are_accepted() -> None:
    given = {"max_tokens": 10**400, "temperature": 0, "top_p": 1, "seed": -(2**63), "timeout": 0.001}
    assert normalise_options(given) == given


@pytest.mark.parametrize(
    ("given", "result"),
    [(None, ()), ("END", ("END",)), (["a", "b", "a"], ("a", "b")), ((), ()), (iter(["a"]), ("a",)), ({"a": 1}, ("a",))],
)
def test_stop_sequences_from_each_format(given: Any, result: tuple[str, ...]) -> None:
    assert stop_sequences_from(given) == result


@pytest.mark.parametrize("given", ["", [""], ["a", ""], 5, False, ["a", 5], [None], [["a"]], [{}]])
def test_stop_sequences_from_invalid_value_raises(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="stop_sequences"):
        stop_sequences_from(given)


def test_stop_sequences_error_uses_name_that_the_caller_gave() -> None:
    with pytest.raises(InvalidRequest, match=r"^stop\[1\]=''"):
        normalise_options({"stop": ["a", ""]})


def test_normalise_options_stop_sequences_that_are_too_long_raise() -> None:
    assert normalise_options({"stop": ["a" * 9_999]})
    with pytest.raises(InvalidRequest, match=r"stop: the stop sequences have 10001 characters together; at most 10000"):
        normalise_options({"stop": ["a" * 10_000, "b"]})


def test_normalise_options_exclusive_parameters_raise() -> None:
    with pytest.raises(InvalidRequest, match=r"reasoning_effort and reasoning_budget .* give one"):
        normalise_options({"reasoning_budget": 100, "reasoning_effort": "low"})


def test_parameter_table_is_consistent() -> None:
    assert len(BY_ANY_NAME) == sum(len(parameter.names) for parameter in PARAMETERS.values()), "a name occurs twice"
    assert all(EXCLUSIVE[excluded] == name for name, excluded in EXCLUSIVE.items())
    assert set(NEEDED_CAPABILITIES.values()) <= {field.name for field in fields(Capabilities)}
    assert {field.name for field in fields(Timeouts)} - {"deadline", "call", "waits_for"} == TIMEOUTS
