"""Tools, parameters, guardrails, cache points and structured output as fields of a Converse request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelport import ChatMessage, InvalidRequest, InvalidToolCall, ModelError, UnsupportedFeature
from modelport.protocols.converse.request import converse_call_from
from modelport.remote.bedrock.model import PROFILES
from modelport.types.capabilities import Capabilities
from modelport.types.request import Request
from tests.protocols.converse.examples import (
    CLAUDE,
    LLAMA,
    NOVA,
    WEATHER_TOOL,
    RecordingModel,
    call_message,
    recording_model,
    result_message,
    sent_body,
    text_part,
    user_message,
)

# --- tools ------------------------------------------------------------------------------------------------------------


def test_tool_choice_is_sent_in_tool_config(model: RecordingModel) -> None:
    spec = {
        "name": "get_weather",
        "description": "The weather.",
        "inputSchema": {"json": WEATHER_TOOL["function"]["parameters"]},
    }
    choices: list[tuple[str, dict[str, Any]]] = [("auto", {}), ("required", {"toolChoice": {"any": {}}}),
               ("get_weather", {"toolChoice": {"tool": {"name": "get_weather"}}})]  # fmt: skip
    for choice, expected in choices:
        try:
            model.generate("hi", tools=[WEATHER_TOOL], tool_choice=choice)
        except InvalidToolCall:
            pass  # The recording model never calls a tool.
        assert model.sent[-1]["toolConfig"] == {"tools": [{"toolSpec": spec}], **expected}
    assert "toolConfig" not in sent_body(model, tools=[WEATHER_TOOL], tool_choice="none")


def test_tool_config_is_sent_while_history_has_calls(model: RecordingModel) -> None:
    history = [user_message(text_part("a")), call_message("c"), result_message("c")]
    message = model.generate(history)
    assert [tool["toolSpec"]["name"] for tool in model.sent[-1]["toolConfig"]["tools"]] == ["get_weather"]
    assert [warning for warning in message.warnings if "toolConfig was sent" in str(warning)]
    message = model.generate(history, tools=[WEATHER_TOOL], tool_choice="none")
    assert model.sent[-1]["toolConfig"]["tools"][0]["toolSpec"]["description"] == "The weather."
    assert message.warnings and not model.calls[-1].allows_tool_calls
    message = model.generate(history, tools=[WEATHER_TOOL])
    assert not message.warnings and model.calls[-1].allows_tool_calls


def test_callers_tool_config_is_merged_and_not_changed(model: RecordingModel) -> None:
    config = {"tools": [{"systemTool": {"name": "nova_grounding"}}]}
    body = sent_body(model, tools=[WEATHER_TOOL], toolConfig=config)
    assert [next(iter(tool)) for tool in body["toolConfig"]["tools"]] == ["systemTool", "toolSpec"]
    assert config == {"tools": [{"systemTool": {"name": "nova_grounding"}}]}
    history = [user_message(text_part("a")), call_message("c"), result_message("c")]
    forced = {**config, "toolChoice": {"any": {}}}
    body = sent_body(model, history, tools=[WEATHER_TOOL], tool_choice="none", toolConfig=forced)
    assert "toolChoice" not in body["toolConfig"]


def test_required_tool_choice_of_model_without_forcing_is_checked_only() -> None:
    model = recording_model(LLAMA)
    with pytest.raises(InvalidToolCall):
        model.generate("hi", tools=[WEATHER_TOOL], tool_choice="required")
    assert "toolChoice" not in model.sent[-1]["toolConfig"]


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_sent_at_the_field_paths_of_the_model(model: RecordingModel) -> None:
    body = sent_body(model, max_tokens=7, temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["END", "\n", " "])
    assert body["inferenceConfig"] == {"maxTokens": 7, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]}
    assert body["additionalModelRequestFields"] == {"top_k": 5}
    nova = recording_model(NOVA)
    body = sent_body(nova, top_k=5, stop_sequences=list("abcdef"))
    assert body["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}
    assert body["inferenceConfig"] == {"stopSequences": list("abcd")}


def test_service_fields_are_passed_through_and_not_changed(model: RecordingModel) -> None:
    fields = {
        "inference_config": {"maxTokens": 9, "temperature": 0.1}, "performanceConfig": {"latency": "optimized"},
        "request_metadata": {"team": "a"}, "serviceTier": {"type": "flex"},
        "additional_model_request_fields": {"thinking": {"type": "disabled"}},
        "additionalModelResponseFieldPaths": ["/stop_sequence"], "outputConfig": {"effort": "low"},
    }  # fmt: skip
    before = json.dumps(fields)
    body = sent_body(model, temperature=0.7, top_k=3, **fields)
    assert body["inferenceConfig"] == {"maxTokens": 9, "temperature": 0.7}
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "disabled"}, "top_k": 3}
    assert body["requestMetadata"] == {"team": "a"} and body["performanceConfig"] == {"latency": "optimized"}
    assert body["outputConfig"] == {"effort": "low"} and body["serviceTier"] == {"type": "flex"}
    assert json.dumps(fields) == before, "the caller's dict was changed"


def test_guardrail_settings_are_merged_and_streaming_mode_is_sent_with_streams_only(model: RecordingModel) -> None:
    config = {
        "guardrailConfig": {"guardrailIdentifier": "abc", "guardrailVersion": "1", "streamProcessingMode": "async"}
    }
    assert sent_body(model, **config)["guardrailConfig"] == {"guardrailIdentifier": "abc", "guardrailVersion": "1"}
    list(model.generate_stream("hi", **config))  # type: ignore[call-overload]
    assert model.sent[-1]["guardrailConfig"] == config["guardrailConfig"]
    body = sent_body(model, guardrail_identifier="abc", guardrail_version=3)
    assert body["guardrailConfig"] == {"guardrailIdentifier": "abc", "guardrailVersion": "3"}


# --- cache points -----------------------------------------------------------------------------------------------------


def test_cache_points_are_added_to_sections_up_to_the_maximum(model: RecordingModel) -> None:
    history = [{"role": "system", "content": "s"}, user_message(text_part("a"))]
    sections = {"tools": "1h", "system": None, "messages": "5m"}
    body = sent_body(model, history, tools=[WEATHER_TOOL], cache_points=sections)
    assert body["toolConfig"]["tools"][-1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert body["system"] == [{"text": "s"}, {"cachePoint": {"type": "default"}}]
    assert body["messages"][0]["content"][-1] == {"cachePoint": {"type": "default", "ttl": "5m"}}
    body = sent_body(model, "hi", cache_points=["tools", "system"])
    assert "cachePoint" not in str(body), "a section without content got a cache point"
    config = {"tools": [{"systemTool": {"name": "a"}}, *[{"cachePoint": {"type": "default"}}] * 3]}
    with pytest.raises(InvalidRequest, match="5 cache points; Bedrock accepts at most 4"):
        model.generate(history, toolConfig=config, cache_points=["system", "messages"])


def test_cache_control_of_a_part_becomes_a_cache_point_after_the_part(model: RecordingModel) -> None:
    def cached_parts(text: str, ttl: str | None = None) -> list[dict[str, Any]]:
        control = {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}
        return [{"type": "text", "text": text, "cache_control": control}, {"type": "text", "text": "."}]

    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [
        {"role": "system", "content": cached_parts("s")},
        {"role": "user", "content": cached_parts("a", "1h")},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": cached_parts("r")},
    ]
    body, point = sent_body(model, history, tools=[WEATHER_TOOL]), {"cachePoint": {"type": "default"}}
    assert body["system"] == [{"text": "s"}, point, {"text": "."}]
    question, _, result = (turn["content"] for turn in body["messages"])
    assert question == [{"text": "a"}, {"cachePoint": {"type": "default", "ttl": "1h"}}, {"text": "."}]
    assert [list(block) for block in result] == [["toolResult"], ["cachePoint"]]
    assert result[0]["toolResult"]["content"] == [{"text": "r"}, {"text": "."}]
    with pytest.raises(InvalidRequest, match="5 cache points"):
        model.generate([{"role": "user", "content": cached_parts("a") * 5}])


# --- structured output ------------------------------------------------------------------------------------------------


def test_schema_is_sent_in_the_services_subset_and_the_rest_as_description(model: RecordingModel) -> None:
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0, "description": "In years."},
            "pets": {"type": "array", "items": {"oneOf": [{"type": "string"}, {"type": "null"}]}, "maxItems": 3},
        },
        "required": ["age"],
    }
    before = json.dumps(schema)
    model.response_text = '{"age": 3}'
    message = model.generate("hi", grammar=schema)
    sent = model.sent[-1]["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert json.loads(sent["schema"]) == {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "description": 'In years. {"minimum": 0}'},
            "pets": {
                "type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "description": '{"maxItems": 3}',
            },
        },
        "required": ["age"],
        "additionalProperties": False,
    }  # fmt: skip
    assert "The schema's maxItems, minimum are checked, not enforced." in map(str, message.warnings)
    with pytest.raises(UnsupportedFeature, match="maxItems, minimum of the schema"):
        model.generate("hi", grammar=schema, strict=True)
    assert json.dumps(schema) == before
    assert "toolConfig" not in model.sent[-1]


def test_schema_of_any_object_is_sent_as_a_forced_tool(model: RecordingModel) -> None:
    with pytest.raises(ModelError):
        model.generate("hi", response_format={"type": "json_object"})
    assert "outputConfig" not in model.sent[-1]
    assert model.sent[-1]["toolConfig"]["toolChoice"] == {"tool": {"name": "json_object"}}


THINKING = {"additional_model_request_fields": {"thinking": {"type": "enabled", "budget_tokens": 1024}}}
HIGH = {"additional_model_request_fields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}}
LOW = {"additional_model_request_fields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}}


@pytest.mark.parametrize(
    ("model_id", "parameters", "left_out"),
    [
        (CLAUDE, THINKING | {"temperature": 0.2}, ["temperature"]),
        (CLAUDE, THINKING | {"temperature": 1}, []),
        (CLAUDE, THINKING | {"top_k": 5, "temperature": 0.2, "top_p": 0.5}, ["temperature", "top_p", "top_k"]),
        (CLAUDE, THINKING | {"top_p": 0.97}, []),
        (CLAUDE, {"reasoning_budget": 1024, "max_tokens": 2000, "temperature": 0.2}, ["temperature"]),
        (CLAUDE, {"temperature": 0.2, "top_k": 5}, []),
        (NOVA, HIGH | {"temperature": 0.2, "top_p": 0.5, "top_k": 5}, ["temperature", "top_p", "top_k"]),
        (NOVA, LOW | {"temperature": 0.2, "top_k": 5}, []),
    ],
)
def test_sampling_that_the_service_refuses_while_the_model_reasons_is_left_out(
    model_id: str, parameters: dict[str, Any], left_out: list[str]
) -> None:
    capabilities = Capabilities().with_profiles(model_id, PROFILES)
    request = Request((ChatMessage("user", "?"),), capabilities=capabilities, parameters=parameters)
    call = converse_call_from(request, model_id)
    assert [warning.feature for warning in call.warnings] == left_out
    sent = str(call.arguments)
    for name, field in (("temperature", "temperature"), ("top_p", "topP"), ("top_k", "top_k"), ("top_k", "topK")):
        assert not (name in left_out and field in sent)
