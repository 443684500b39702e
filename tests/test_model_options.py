"""Options of a call and of the constructor: which one takes precedence, and their other names."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from modelport.errors import (
    InvalidRequest,
    InvalidToolCall,
)
from modelport.types.capabilities import Capabilities
from modelport.types.output_types import Choice
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice
from tests.echo import TIME, WEATHER, Delta, EchoModel, request_for

# --- precedence of options --------------------------------------------------------------------------------------------


def test_call_option_takes_precedence_over_constructor() -> None:
    settings = {"temperature": 0.1, "max_tokens": 100, "seed": 1}
    parameters = request_for(settings=settings, temperature=0.9, seed=None).parameters
    assert parameters == {"temperature": 0.9, "max_tokens": 100, "seed": 1}


def test_role_conversions_of_the_call_take_precedence_over_constructor() -> None:
    request = request_for([{"role": "system", "content": "s"}], custom_role_conversions={"system": "user"})
    assert request.messages[0].role == "user"
    request = request_for(
        [{"role": "system", "content": "s"}], settings={"custom_role_conversions": {"system": "assistant"}},
        custom_role_conversions={"system": "user"},
    )  # fmt: skip
    assert request.messages[0].role == "user"


def test_time_limits_become_timeouts_and_no_parameters() -> None:
    request = request_for(settings={"timeout": 30, "idle_timeout": 5}, timeout=10)
    assert (request.timeouts.timeout, request.timeouts.idle_timeout, request.timeouts.first_token_timeout) == (
        10,
        5,
        None,
    )
    assert request.parameters == {}
    assert request_for().timeouts.timeout == 600


def test_tools_and_grammar_of_the_constructor_apply_to_every_call() -> None:
    assert request_for(settings={"tools": [TIME]}).tools == (TIME,)
    assert request_for(settings={"grammar": Choice("a", "Paris is it. END And more. ")}).grammar is not None
    assert request_for(settings={"stop": ["END"]}).stop_sequences == ("END",)


def test_capabilities_of_the_caller_take_precedence_over_the_backends() -> None:
    assert EchoModel().capabilities.tools
    assert not EchoModel(capabilities={"tools": False}).capabilities.tools
    assert EchoModel(capabilities={"tools": False}).capabilities.seed
    assert not EchoModel(capabilities=Capabilities()).capabilities.seed


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"max_new_tokens": 100}, {"max_tokens": 5}, lambda r: r.parameters == {"max_tokens": 5}),
        ({"max_tokens": 100}, {"max_new_tokens": 5}, lambda r: r.parameters == {"max_tokens": 5}),
        ({"stop": ["A"]}, {"stop_sequences": ["B"]}, lambda r: r.stop_sequences == ("B",)),
        ({"stop_sequences": ["A"]}, {}, lambda r: r.stop_sequences == ("A",) and not r.parameters),
        ({"stop_sequences": ["A"]}, {"stop": ["B"]}, lambda r: r.stop_sequences == ("B",) and not r.parameters),
        ({"tools": [TIME]}, {"tools_to_call_from": [WEATHER]}, lambda r: r.tools == (WEATHER,)),
        ({"grammar": Choice("a")}, {"response_format": {"type": "text"}}, lambda r: r.grammar is None),
        ({"tool_choice": "required"}, {}, lambda r: r.tool_choice == "auto"),
    ],
)
def test_call_option_under_another_name_takes_precedence_over_constructor(
    settings: Any, options: Any, expected: Any
) -> None:
    request = EchoModel(**settings)._prepare("?", options.pop("stop_sequences", None), options, stream=True)
    assert expected(request)


@pytest.mark.parametrize("settings", [{"requests_per_minute": 0}, {"max_concurrency": "3"}, {"retry": "often"}])
def test_constructor_with_wrong_limits_raises(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        EchoModel(**settings)


def test_constructor_with_misspelt_capability_raises() -> None:
    with pytest.raises(InvalidRequest, match="'tool' is unknown; known are"):
        EchoModel(capabilities={"tool": True})


def test_first_calls_from_several_threads_share_one_limit() -> None:
    """The chain of layers holds the limits; two chains would be two sets of limits."""

    class Slow(EchoModel):
        running = most = 0

        def _layers(self) -> list[Any]:
            time.sleep(0.05)
            return super()._layers()

        async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.01)
            yield Delta(content="hi", finish_reason="stop")
            self.running -= 1

    model = Slow(max_concurrency=1)
    threads = [threading.Thread(target=lambda: list(model.generate_stream("?")), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert model.most == 1


# --- other names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_completion_tokens"])
def test_max_tokens_is_accepted_under_its_other_names(name: str) -> None:
    options: dict[str, Any] = {name: 5}
    assert request_for(**options).parameters == {"max_tokens": 5}
    assert request_for(settings={name: 5}).parameters == {"max_tokens": 5}


def test_stop_is_accepted_as_stop_sequences() -> None:
    assert request_for(stop="END").stop_sequences == request_for("?", ["END"]).stop_sequences == ("END",)
    assert request_for("?", ["END"], stop=["END"]).stop_sequences == ("END",)
    with pytest.raises(InvalidRequest, match="stop_sequences and stop are two names"):
        request_for("?", ["END"], stop=["OTHER"])


def test_tools_to_call_from_require_a_tool_call() -> None:
    request = request_for(tools_to_call_from=[WEATHER])
    assert (request.tools, request.tool_choice, request.tool_errors) == ((WEATHER,), "required", "return")
    with pytest.raises(InvalidToolCall, match="made none"):
        EchoModel().generate("?", tools_to_call_from=[WEATHER], tool_errors="raise")
    constructor = {"tool_choice": "auto", "tool_errors": "raise"}
    request = request_for(settings=constructor, tools_to_call_from=[WEATHER])
    assert (request.tool_choice, request.tool_errors) == ("auto", "raise")
    assert request_for(tools_to_call_from=[WEATHER], tool_choice="auto").tool_choice == "auto"
    assert request_for(tools=[WEATHER]).tool_choice == "auto"
    with pytest.raises(InvalidRequest, match="tools and tools_to_call_from are two names"):
        request_for(tools=[WEATHER], tools_to_call_from=[WEATHER])
    assert request_for(tools_to_call_from=[]).tool_choice == "auto"


def test_response_format_is_accepted_as_grammar() -> None:
    model = EchoModel()
    model.response = "{}"
    assert model.generate("?", response_format={"type": "json_object"}).parsed == {}
    with pytest.raises(InvalidRequest, match="grammar and response_format are two names"):
        request_for(grammar={"type": "object"}, response_format={"type": "json_object"})


def test_named_tool_choice_reaches_the_backend() -> None:
    model = EchoModel()
    with pytest.raises(InvalidToolCall):
        model.generate("?", tools=[WEATHER, TIME], tool_choice={"type": "function", "function": {"name": "time"}})
    assert model.requests[0].tool_choice == NamedToolChoice("time")
