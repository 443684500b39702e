"""Which API a request goes to, by the model's name, the request and earlier refusals. These tests need no server."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import ChatMessage, InferenceClientModel, InvalidRequest, JSONSchema, OpenAIServerModel, Regex
from modelport.remote.openai.api_choice import Need, need_by_refusal, need_of, needs_responses_api
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request
from modelport.types.tools import Tool

WEATHER = Tool("get_weather", "", {"type": "object", "properties": {}})

NEEDS: list[tuple[str, Need | None]] = [
    ("gpt-4o", None), ("gpt-5", None), ("gpt-5-mini", None), ("gpt-5.1", None), ("gpt-5.2", None), ("o3", None),
    ("gpt-5.4", "tools_with_effort"), ("gpt-5.4-mini-2026-03-05", "tools_with_effort"), ("gpt-5.5", "tools"),
    ("gpt-5.6", "tools"), ("gpt-5.6-terra", "tools"), ("gpt-6", "tools"), ("gpt-6-astra", "tools"),
    ("gpt-10", "tools"), ("gpt-5.6-chat-latest", None), ("gpt-35-turbo", None), ("gpt-oss-120b", None),
    ("gpt-5-codex", "always"), ("gpt-5.3-codex", "always"), ("codex-mini-latest", "always"), ("o1-pro", "always"),
    ("o3-pro-2025-06-10", "always"), ("gpt-5-pro", "always"), ("gpt-5.4-pro-2026-03-05", "always"),
    ("o4-mini-deep-research", "always"), ("openai/GPT-5.6", "tools"), ("computer-use-preview", "always"),
]  # fmt: skip


@pytest.mark.parametrize(("model_id", "need"), NEEDS)
@pytest.mark.parametrize("service", ["openai", "azure"])
def test_need_of_openais_models_by_name(model_id: str, need: Need | None, service: str) -> None:
    assert need_of(model_id, service) == need


@pytest.mark.parametrize("service", [None, "openrouter", "groq", "vllm"])
def test_names_mean_nothing_on_other_services(service: str | None) -> None:
    assert need_of("gpt-5.6", service) is None


def request(*, tools: bool = False, effort: str | None = None, **values: Any) -> Request:
    parameters = {} if effort is None else {"reasoning_effort": effort}
    parameters |= values.pop("parameters", {})
    messages = values.pop("messages", (ChatMessage("user", "?"),))
    return Request(messages, tools=(WEATHER,) if tools else (), parameters=parameters, **values)


@pytest.mark.parametrize(
    ("need", "values", "needed"),
    [
        (None, {"tools": True, "effort": "high"}, False),
        ("always", {}, True),
        ("tools_with_effort", {"tools": True}, False),
        ("tools_with_effort", {"effort": "high"}, False),
        ("tools_with_effort", {"tools": True, "effort": "none"}, False),
        ("tools_with_effort", {"tools": True, "effort": "high"}, True),
        ("tools", {}, False),
        ("tools", {"effort": "high"}, False),
        ("tools", {"tools": True}, True),
        ("tools", {"tools": True, "effort": "low"}, True),
        ("tools", {"tools": True, "effort": "none"}, False),
        ("tools", {"grammar": Regex("a")}, True),  # It is sent as a custom tool.
        ("tools", {"grammar": JSONSchema({"type": "object"})}, False),
        ("any_tools", {"tools": True, "effort": "none"}, True),
        (None, {"parameters": {"truncation": "auto"}}, True),
        (None, {"parameters": {"previous_response_id": "resp_1"}}, True),
        (None, {"parameters": {"service_tier": "flex"}}, False),
    ],
)
def test_request_needs_responses(need: Need | None, values: dict[str, Any], needed: bool) -> None:
    assert needs_responses_api(request(**values), [need], "openai") is needed


def test_parameters_of_responses_mean_nothing_on_other_services() -> None:
    assert not needs_responses_api(request(parameters={"truncation": "auto"}), [], None)


def test_history_with_items_stays_on_responses() -> None:
    data = ProviderData("responses", ({"type": "reasoning"},), "h")
    assert needs_responses_api(request(messages=(ChatMessage("assistant", "x", provider_data=data),)), [], None)


TOOLS_TEXT = "Function tools with reasoning_effort are not supported for m in /v1/chat/completions. "
USE = TOOLS_TEXT + "Please use /v1/responses instead."
USE_OR_NONE = TOOLS_TEXT + "To use function tools, use /v1/responses or set reasoning_effort to 'none'."
ONLY = "This model is only supported in v1/responses and not in v1/chat/completions."


@pytest.mark.parametrize(
    ("values", "text", "need"),
    [
        ({"tools": True, "effort": "high"}, USE, "tools_with_effort"),
        ({"tools": True}, USE, "tools"),
        ({"tools": True, "effort": "high"}, USE_OR_NONE, "tools"),
        ({"tools": True, "effort": "none"}, USE_OR_NONE, "any_tools"),
        ({"tools": True}, ONLY, "always"),
        ({}, ONLY, "always"),
    ],
)
def test_need_by_refusal(values: dict[str, Any], text: str, need: Need) -> None:
    assert need_by_refusal(request(**values), text) == need


@pytest.mark.parametrize("api", ["Responses", "", None, 1])
def test_unknown_api_is_refused(api: Any) -> None:
    with pytest.raises(InvalidRequest, match="api="):
        OpenAIServerModel("m", api_key="k", api=api)


def test_api_is_refused_by_a_class_without_the_responses_api() -> None:
    """Otherwise it would be sent as a parameter of the call."""
    with pytest.raises(InvalidRequest, match=r"InferenceClientModel.*OpenAIServerModel"):
        InferenceClientModel("m", base_url="http://127.0.0.1:9", token="k", api="responses")
