"""How much a model is to think: one option, told to each in its own way, or refused by name."""

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
from modelport.inputs.parameters import EFFORTS, normalise_parameters
from modelport.layers.adapt.capabilities import REASONING_BUDGETS, adapt_to_capabilities
from modelport.local.chat_template import Template
from modelport.protocols.chat_completions.request import body_from
from modelport.testing import ScriptedModel
from modelport.types.capabilities import Capabilities
from tests.protocols.test_converse import CLAUDE, LLAMA, NOVA, recording

TOOL = Tool("f", "", {"type": "object", "properties": {"a": {"type": "string"}}})
ASKED = (ChatMessage("user", "?"),)
SONNET_37, OPUS_47 = "us.anthropic.claude-3-7-sonnet-20250219-v1:0", "us.anthropic.claude-opus-4-7-v1:0"
NOVA_2, GPT_OSS = "us.amazon.nova-2-lite-v1:0", "openai.gpt-oss-120b-1:0"


def fitted(capabilities: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return dict(adapt_to_capabilities(Request(ASKED, parameters=parameters), Capabilities(**capabilities)).parameters)


def body(model_id: str, dialect: str | None = None, **parameters: Any) -> dict[str, Any]:
    model = OpenAIServerModel(model_id, api_key="k", dialect=dialect)
    request = adapt_to_capabilities(Request(ASKED, parameters=normalise_parameters(parameters)), model.capabilities)
    sent = body_from(request, model_id, model.capabilities, dialect)
    return {key: value for key, value in sent.items() if key not in ("model", "messages")}


@pytest.mark.parametrize(
    ("capabilities", "asked", "sent"),
    [
        ({"reasoning": True, "reasoning_efforts": {"low"}}, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning": True, "reasoning_budget": True}, {"reasoning_effort": "low"}, {"reasoning_budget": 2048}),
        ({"reasoning": True, "reasoning_budget": True}, {"reasoning_budget": 99}, {"reasoning_budget": 99}),
        ({}, {"reasoning_effort": "none"}, {}),  # it does not think
    ],
)
def test_an_effort_goes_as_the_model_knows_it(capabilities: Any, asked: Any, sent: Any) -> None:
    assert fitted(capabilities, **asked) == sent


@pytest.mark.parametrize(
    ("capabilities", "asked", "says"),
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
def test_what_a_model_can_not_be_told_is_refused_by_name(capabilities: Any, asked: Any, says: str) -> None:
    with pytest.raises(UnsupportedFeature, match=says) as raised:
        fitted(capabilities, **asked)
    assert raised.value.parameter in asked


def test_mistakes_are_named() -> None:
    for asked, says in (
        ({"reasoning_effort": "lots"}, "reasoning_effort='lots': must be one of none, minimal, low"),
        ({"reasoning_budget": 0}, "reasoning_budget=0"),
        ({"reasoning_effort": "low", "reasoning_budget": 9}, "give one"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            ScriptedModel("x").generate("?", **asked)


def test_a_calls_word_goes_before_the_constructors() -> None:
    for first, then in (
        ({"reasoning_budget": 9}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "low"}, {"reasoning_budget": 9}),
    ):
        model = ScriptedModel("x", **first)
        model.generate("?", **then)
        assert model.requests[0].parameters == then


def test_more_effort_is_a_larger_budget() -> None:
    assert [*REASONING_BUDGETS] == [effort for effort in EFFORTS if effort != "none"]
    assert sorted(REASONING_BUDGETS.values()) == [*REASONING_BUDGETS.values()]


# --- chat completions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "dialect", "asked", "sent"),
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
def test_services_and_servers(model_id: str, dialect: str | None, asked: Any, sent: Any) -> None:
    assert body(model_id, dialect, **asked) == sent


@pytest.mark.parametrize(
    ("model_id", "asked"),
    [
        ("gpt-4o", {"reasoning_effort": "low"}),
        ("o3", {"reasoning_effort": "none"}),
        ("o3", {"reasoning_budget": 2048}),
        ("deepseek-reasoner", {"reasoning_effort": "low"}),
        ("grok-4-fast", {"reasoning_effort": "low"}),
    ],
)
def test_models_that_can_not_be_told(model_id: str, asked: Any) -> None:
    with pytest.raises(UnsupportedFeature):
        body(model_id, **asked)


def test_azure_knows_the_same_of_models() -> None:
    model = AzureOpenAIServerModel("o3", "https://r.openai.azure.com", "k")
    assert model.capabilities.reasoning_efforts == {"low", "medium", "high"}


# --- Bedrock ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "asked", "sent"),
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
def test_bedrocks_models_have_a_field_each(model_id: str, asked: Any, sent: Any) -> None:
    model = recording(model_id)
    model.generate("?", **asked)
    assert model.sent[-1].get("additionalModelRequestFields") == sent


@pytest.mark.parametrize(
    ("model_id", "asked", "says"),
    [
        (CLAUDE, {"reasoning_budget": 100}, "at least 1024"),
        (CLAUDE, {"reasoning_budget": 2000, "max_tokens": 2000}, "max_tokens=2000 counts the thinking too"),
        (LLAMA, {"reasoning_effort": "low"}, "cannot be set"),
        (NOVA, {"reasoning_budget": 2000}, "does not accept a reasoning_budget"),
        (SONNET_37, {"reasoning_budget": 2000, "tools": [TOOL], "tool_choice": "required"}, "while it thinks"),
        (SONNET_37, {"reasoning_budget": 2000, "grammar": TOOL.parameters}, "nor to answer through one"),
        (OPUS_47, {"reasoning_budget": 2000}, "it accepts reasoning_effort: none, low, medium, high"),
    ],
)
def test_what_bedrocks_models_refuse_is_found_before(model_id: str, asked: Any, says: str) -> None:
    with pytest.raises((InvalidRequest, UnsupportedFeature), match=says):
        recording(model_id).generate("?", **asked)


# --- chat templates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "efforts"),
    [
        ("<think> {% if enable_thinking %}", {"none"}),
        ("{{ reasoning_effort }}", {"low", "medium", "high"}),
        ("<think>", set()),
    ],
)
def test_a_template_takes_the_variables_that_it_names(source: str, efforts: set[str]) -> None:
    assert Template(lambda *_, **__: "", source).capabilities()["reasoning_efforts"] == efforts
