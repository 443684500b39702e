"""`reasoning_effort` and `reasoning_budget`: each model gets its own parameter, or the request is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import (
    AzureOpenAIServerModel,
    ChatMessage,
    InvalidRequest,
    OpenAIServerModel,
    Request,
    Tool,
    UnsupportedFeature,
)
from modelport.inputs.options import normalise_options
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.layers.adapt.capabilities import REASONING_BUDGETS, adapt_to_capabilities
from modelport.local.chat_template import ChatTemplate
from modelport.protocols.chat_completions.request import body_from
from modelport.testing import ScriptedModel
from modelport.types.capabilities import Capabilities
from tests.protocols.converse.examples import CLAUDE, LLAMA, NOVA, recording_model

TOOL = Tool("f", "", {"type": "object", "properties": {"a": {"type": "string"}}})
MESSAGES = (ChatMessage("user", "?"),)
SONNET_37, OPUS_47 = "us.anthropic.claude-3-7-sonnet-20250219-v1:0", "us.anthropic.claude-opus-4-7-v1:0"
NOVA_2, GPT_OSS = "us.amazon.nova-2-lite-v1:0", "openai.gpt-oss-120b-1:0"


def adapted_parameters(capabilities: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return dict(
        adapt_to_capabilities(Request(MESSAGES, parameters=parameters), Capabilities(**capabilities)).parameters
    )


def body_parameters(model_id: str, dialect: str | None = None, **parameters: Any) -> dict[str, Any]:
    model = OpenAIServerModel(model_id, api_key="k", dialect=dialect)
    request = Request(MESSAGES, parameters=normalise_options(parameters), capabilities=model.capabilities)
    body = body_from(adapt_to_capabilities(request, model.capabilities), model_id, dialect)
    return {key: value for key, value in body.items() if key not in ("model", "messages")}


@pytest.mark.parametrize(
    ("capabilities", "given", "expected"),
    [
        ({"reasoning": True, "reasoning_efforts": {"low"}}, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning": True, "reasoning_budget": True}, {"reasoning_effort": "low"}, {"reasoning_budget": 2048}),
        ({"reasoning": True, "reasoning_budget": True}, {"reasoning_budget": 99}, {"reasoning_budget": 99}),
        ({}, {"reasoning_effort": "none"}, {}),  # The model does not support reasoning.
    ],
)
def test_adapt_effort_becomes_the_parameter_that_the_model_supports(
    capabilities: Any, given: Any, expected: Any
) -> None:
    assert adapted_parameters(capabilities, **given) == expected


@pytest.mark.parametrize(
    ("capabilities", "given", "error_text"),
    [
        ({}, {"reasoning_effort": "low"}, "its reasoning effort cannot be set"),
        ({"reasoning": True}, {"reasoning_effort": "none"}, "reasoning_effort='none'"),
        ({"reasoning": True, "reasoning_budget": True}, {"reasoning_effort": "none"}, "reasoning_effort='none'"),
        ({"reasoning_efforts": {"high", "low"}}, {"reasoning_effort": "max"}, "it accepts low, high"),
        (
            {"reasoning_efforts": {"low"}},
            {"reasoning_budget": 5},
            "a reasoning_budget; it accepts reasoning_effort: low",
        ),
    ],
)
def test_adapt_unsupported_reasoning_parameter_raises_with_name(capabilities: Any, given: Any, error_text: str) -> None:
    with pytest.raises(UnsupportedFeature, match=error_text) as raised:
        adapted_parameters(capabilities, **given)
    assert raised.value.parameter in given


def test_generate_invalid_reasoning_parameter_raises() -> None:
    for given, error_text in (
        ({"reasoning_effort": "lots"}, "reasoning_effort='lots': must be one of none, minimal, low"),
        ({"reasoning_budget": 0}, "reasoning_budget=0"),
        ({"reasoning_effort": "low", "reasoning_budget": 9}, "give one"),
    ):
        with pytest.raises(InvalidRequest, match=error_text):
            ScriptedModel("x").generate("?", **given)


def test_call_reasoning_parameter_takes_precedence_over_constructor() -> None:
    for of_constructor, of_call in (
        ({"reasoning_budget": 9}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "low"}, {"reasoning_budget": 9}),
    ):
        model = ScriptedModel("x", **of_constructor)
        model.generate("?", **of_call)
        assert model.requests[0].parameters == of_call


def test_budgets_grow_with_effort() -> None:
    assert [*REASONING_BUDGETS] == [effort for effort in REASONING_EFFORTS if effort != "none"]
    assert sorted(REASONING_BUDGETS.values()) == [*REASONING_BUDGETS.values()]


@pytest.mark.parametrize(
    ("model_id", "dialect", "given", "expected"),
    [
        ("o3", None, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ("gpt-5.2", None, {"reasoning_effort": "none"}, {"reasoning_effort": "none"}),
        ("gpt-4o", None, {"reasoning_effort": "none"}, {}),
        ("some/model", None, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ("qwen3", "llama.cpp", {"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("qwen3", "llama.cpp", {"reasoning_effort": "low"}, {"thinking_budget_tokens": 2048}),
        ("qwen3", "llama.cpp", {"reasoning_budget": 7}, {"thinking_budget_tokens": 7}),
        ("qwen3", "vllm", {"reasoning_effort": "none"}, {"reasoning_effort": "none"}),
        ("qwen3", "vllm", {"reasoning_effort": "high"}, {"thinking_token_budget": 16384}),
        ("openai/gpt-oss-20b", "vllm", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (
            "gpt-oss-20b", "llama.cpp", {"reasoning_effort": "high", "chat_template_kwargs": {"a": 1}},
            {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high", "a": 1}},
        ),
    ],
    ids=str,
)  # fmt: skip
def test_body_reasoning_parameters_by_model_and_dialect(
    model_id: str, dialect: str | None, given: Any, expected: Any
) -> None:
    assert body_parameters(model_id, dialect, **given) == expected


@pytest.mark.parametrize(
    ("model_id", "given"),
    [
        ("gpt-4o", {"reasoning_effort": "low"}),
        ("o3", {"reasoning_effort": "none"}),
        ("o3", {"reasoning_budget": 2048}),
        ("deepseek-reasoner", {"reasoning_effort": "low"}),
        ("grok-4-fast", {"reasoning_effort": "low"}),
    ],
)
def test_body_unsupported_reasoning_parameter_raises(model_id: str, given: Any) -> None:
    with pytest.raises(UnsupportedFeature):
        body_parameters(model_id, **given)


def test_azure_capabilities_use_the_same_profiles() -> None:
    model = AzureOpenAIServerModel("o3", "https://r.openai.azure.com", "k")
    assert model.capabilities.reasoning_efforts == {"low", "medium", "high"}


@pytest.mark.parametrize(
    ("model_id", "given", "expected"),
    [
        (CLAUDE, {"reasoning_budget": 5000}, {"thinking": {"type": "enabled", "budget_tokens": 5000}}),
        (SONNET_37, {"reasoning_effort": "high"}, {"thinking": {"type": "enabled", "budget_tokens": 16384}}),
        (SONNET_37, {"reasoning_effort": "none"}, None),
        (OPUS_47, {"reasoning_effort": "low"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        (NOVA_2, {"reasoning_effort": "medium"},
         {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}}),
        (GPT_OSS, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    ],
    ids=str,
)  # fmt: skip
def test_bedrock_request_has_the_field_of_the_model(model_id: str, given: Any, expected: Any) -> None:
    model = recording_model(model_id)
    model.generate("?", **given)
    assert model.sent[-1].get("additionalModelRequestFields") == expected


@pytest.mark.parametrize(
    ("model_id", "given", "error_text"),
    [
        (CLAUDE, {"reasoning_budget": 100}, "requires at least 1024"),
        (CLAUDE, {"reasoning_budget": 2000, "max_tokens": 2000}, "max_tokens=2000 includes the reasoning"),
        (LLAMA, {"reasoning_effort": "low"}, "cannot be set"),
        (NOVA, {"reasoning_budget": 2000}, "does not accept a reasoning_budget"),
        (SONNET_37, {"reasoning_budget": 2000, "tools": [TOOL], "tool_choice": "required"}, "while it reasons"),
        (SONNET_37, {"reasoning_budget": 2000, "grammar": TOOL.parameters}, "nor to return structured output"),
        (OPUS_47, {"reasoning_budget": 2000}, "it accepts reasoning_effort: none, low, medium, high"),
    ],
)
def test_bedrock_unsupported_reasoning_raises_before_sending(model_id: str, given: Any, error_text: str) -> None:
    with pytest.raises((InvalidRequest, UnsupportedFeature), match=error_text):
        recording_model(model_id).generate("?", **given)


@pytest.mark.parametrize(
    ("source", "efforts"),
    [
        ("<think> {% if enable_thinking %}", {"none"}),
        ("{{ reasoning_effort }}", {"low", "medium", "high"}),
        ("<think>", set()),
    ],
)
def test_template_efforts_follow_from_its_variables(source: str, efforts: set[str]) -> None:
    assert ChatTemplate(lambda *_, **__: "", source).capabilities()["reasoning_efforts"] == efforts
