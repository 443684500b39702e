"""`FallbackModel`: the requests that its models get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelport import Capabilities, ChatMessage, FallbackModel, OpenAIServerModel, Regex
from modelport.errors import InvalidRequest, InvalidToolCall, ServerError, UnsupportedFeature
from modelport.testing import ScriptedModel
from tests.combine.models import ReplayModel, attempts_of, failing


def test_option_of_the_call_overrides_the_outer_and_the_inner_model() -> None:
    first = failing("first", UnsupportedFeature("?"))
    second = ScriptedModel("ok", model_id="second", temperature=0.1, max_tokens=1, seed=1, stop_sequences=["inner"])
    model = FallbackModel([first, second], temperature=0.2, max_tokens=2)
    model.generate("?", temperature=0.3, first_token_timeout=5)
    request = second.requests[0]
    assert request.parameters == {"temperature": 0.3, "max_tokens": 2, "seed": 1}
    assert request.stop_sequences == ("inner",)
    assert (request.timeouts.timeout, request.timeouts.first_token_timeout) == (600, 5)


def test_tools_grammar_and_stop_sequences_reach_each_model() -> None:
    def weather(city: str) -> str:
        """Return the weather of a city."""
        return city

    first = ScriptedModel(ServerError("no"), "x", model_id="a", retry=False)
    second = ScriptedModel("2024 END", model_id="b")
    model = FallbackModel([first, second], tool_choice="required", cooldown=0)
    assert model.generate("?", grammar=Regex(r"\d{4}"), stop_sequences=[" END"]).parsed == "2024"
    for request in (*first.requests, *second.requests):
        assert request.grammar is not None and request.stop_sequences == (" END",) and request.tool_choice == "auto"
    with pytest.raises(InvalidToolCall):
        model.generate("?", tools=[weather])
    assert first.requests[-1].tools[0].name == "weather" and first.requests[-1].tool_choice == "required"


@pytest.mark.parametrize(
    "options", [{"temperature": "hot"}, {"tools": [len], "tool_choice": "nonesuch"}, {"timeout": "soon"}]
)
def test_wrong_option_raises_when_the_call_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        FallbackModel([ReplayModel("a")]).generate_stream("?", **options)


def test_messages_are_copied_when_the_call_is_made() -> None:
    model = ReplayModel("a")
    messages = [{"role": "user", "content": "first"}]
    stream = FallbackModel([model]).generate_stream(messages)
    messages[0]["content"] = "changed"
    list(stream)
    assert model.requests[0].messages[0].content == "first"


def test_messages_are_converted_by_the_outer_and_the_inner_model() -> None:
    inner = ReplayModel("a", flatten_messages_as_text=True)
    model = FallbackModel([inner], custom_role_conversions={"system": "user"})
    model.generate([{"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])
    (message,) = inner.requests[0].messages
    assert (message.role, message.content) == ("user", "a\nb")


def test_request_goes_to_a_model_that_supports_it() -> None:
    plain = ScriptedModel("plain", model_id="plain", capabilities={"seed": False, "inputs": ["text"]})
    seeded = ScriptedModel("seeded", model_id="seeded", capabilities={"logprobs": False}, repeat=True)
    model = FallbackModel([plain, seeded], cooldown=1000)
    assert (
        model.capabilities.seed and "image" in model.capabilities.inputs and not ScriptedModel().capabilities.stop < 1
    )
    assert model.generate("?", seed=1).content == "seeded"
    assert model.generate("?").content == "plain"  # UnsupportedFeature starts no cool-down.
    assert plain.requests and plain.requests[0].parameters == {}


def test_capabilities_of_models_with_schema_rules_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema rules can't be combined: they are stated only if all models have the same."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    first, second = OpenAIServerModel("a"), OpenAIServerModel("b")
    assert first.capabilities.schema_rules is not None
    assert FallbackModel([first, second]).capabilities.schema_rules == first.capabilities.schema_rules
    other = OpenAIServerModel("c", capabilities={"schema_rules": {"recursive": True}})
    assert FallbackModel([first, other]).capabilities.schema_rules is None


def test_call_looks_up_only_the_capabilities_of_models_that_are_called(call: Callable[..., ChatMessage]) -> None:
    """Looking them up may load an engine, and fail."""

    class BrokenModel(ReplayModel):
        @property
        def capabilities(self) -> Capabilities:
            raise ServerError("the engine can't be loaded")

    first = ReplayModel("first")
    assert call(FallbackModel([first, BrokenModel("second")])).content == "first"
    message = call(FallbackModel([BrokenModel("broken"), first]))
    assert attempts_of(message) == [("broken", "ServerError: the engine can't be loaded"), ("first", None)]


def test_request_that_no_model_supports_is_refused_before_anything_is_sent(call: Callable[..., ChatMessage]) -> None:
    models = [ScriptedModel("no", model_id=name, capabilities={"seed": False}) for name in "ab"]
    with pytest.raises(UnsupportedFeature, match="seed") as raised:
        call(FallbackModel(models), seed=1)
    assert [attempt.model_id for attempt in raised.value.attempts] == ["a", "b"]
    assert not models[0].requests and not models[1].requests
