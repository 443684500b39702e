"""What the adapt layer plans for a request on a backend with given capabilities; see `plan_cases.py` for the cases."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modelport.errors import UnsupportedFeature
from modelport.layers.adapt.capabilities import needs_plan
from modelport.layers.adapt.plan import Plan, plan_for
from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request

from .plan_cases import BOTH, CALL, CASES, ENGINE, IMAGE, IMAGE_URL, MESSAGES, PERSON, REFUSED, RESULT, SYSTEM, USER


def summary(plan: Plan) -> dict[str, Any]:
    sent = plan.sent
    return {
        "messages": [(str(message.role), message.text) for message in sent.messages],
        "tools": [tool.name for tool in sent.tools],
        "tool_choice": sent.tool_choice,
        "schema": sent.grammar.schema if isinstance(sent.grammar, JSONSchema) else sent.grammar,
        "stop_sequences": sent.stop_sequences,
        "parameters": dict(sent.parameters),
        "enforcement": plan.enforcement,
        "forced_tool": plan.forced_tool,
        "is_wrapped": plan.is_wrapped,
        "nulls_for_optional": plan.nulls_for_optional,
        "text_calls": plan.text_calls,
        "keeps_one_call": plan.keeps_one_call,
        "fetches_images": plan.fetches_images,
        "warnings": [str(warning) for warning in plan.warnings],
        "second": plan.second,
    }


def check(plan: Plan, unchanged: Request, changes: dict[str, Any]) -> None:
    """Check that a plan sends a request with these changes and no others.

    Texts of messages and of warnings are regular expressions. `second` holds the changes of the second request.
    """
    expected = {**summary(Plan(unchanged, unchanged)), **changes}
    actual = summary(plan)
    for key, patterns in (("messages", expected.pop("messages")), ("warnings", expected.pop("warnings"))):
        values = actual.pop(key)
        assert len(values) == len(patterns), (key, values)
        for value, pattern in zip(values, patterns, strict=True):
            if key == "messages":
                (role, value), (expected_role, pattern) = value, pattern
                assert role == expected_role
                pattern = pattern if "messages" in changes else re.escape(pattern)
            assert re.search(pattern, value, re.DOTALL), (key, value, pattern)
    second, expected_second = actual.pop("second"), expected.pop("second")
    assert actual == expected
    assert (second is None) == (expected_second is None)
    if second is not None:
        check(second, unchanged.replace(tools=()), expected_second)


@pytest.mark.parametrize("case", CASES)
def test_plan(case: str) -> None:
    arguments, capabilities, changes = CASES[case]
    request = Request(**{"messages": (USER,), **arguments})
    plan = plan_for(request, Capabilities(**capabilities))
    check(plan, request, changes)
    second = changes.get("second")
    # The response is validated against what the caller asked for, not against what was sent.
    for part, grammar, tools in (
        (plan, None if second else request.grammar, request.tools),
        (plan.second, request.grammar, ()),
    ):
        if part is not None:
            assert (part.original.grammar, part.original.tools) == (grammar, tools)
            assert part.original.tool_choice == request.tool_choice


@pytest.mark.parametrize("case", REFUSED)
def test_plan_is_refused(case: str) -> None:
    arguments, capabilities, message = REFUSED[case]
    with pytest.raises(UnsupportedFeature, match=message):
        plan_for(Request(**{"messages": (USER,), **arguments}), Capabilities(**capabilities))


@pytest.mark.parametrize(
    ("arguments", "capabilities", "needed"),
    [
        pytest.param({}, {}, False, id="text"),
        pytest.param({"stop_sequences": ("a",), "parameters": {"seed": 1}}, {}, False, id="parameters"),
        pytest.param({MESSAGES: (SYSTEM, USER)}, {"system_role": False}, False, id="roles"),
        pytest.param({"tools": BOTH}, {"tools": True}, True, id="tools"),
        pytest.param({"grammar": PERSON}, ENGINE, True, id="grammar"),
        pytest.param({MESSAGES: (USER, CALL, RESULT)}, {"tools": True}, False, id="tool turns, tools supported"),
        pytest.param({MESSAGES: (USER, CALL)}, {}, True, id="tool call, tools not supported"),
        pytest.param({MESSAGES: (USER, RESULT)}, {}, True, id="tool result, tools not supported"),
        pytest.param({MESSAGES: (IMAGE,)}, {}, False, id="image"),
        pytest.param({MESSAGES: (IMAGE_URL,)}, {}, True, id="image by URL"),
        pytest.param({MESSAGES: (IMAGE_URL,)}, {"image_urls": True}, False, id="image by URL, supported"),
    ],
)
def test_needs_plan(arguments: dict[str, Any], capabilities: dict[str, Any], needed: bool) -> None:
    assert needs_plan(Request(**{"messages": (USER,), **arguments}), Capabilities(**capabilities)) is needed
