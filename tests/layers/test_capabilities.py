"""A request is rewritten to what the backend takes, or refused before anything is sent."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from modelport.errors import UnsupportedFeature
from modelport.layers.adapt.capabilities import adapt_to_capabilities, merged, with_system_text, without_system
from modelport.model import Model
from modelport.types.capabilities import Capabilities
from modelport.types.content import Attachment, Image, Text
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.output_types import Lark, Regex
from modelport.types.request import Request

PIXEL = Image(b"\x89PNG\r\n\x1a\n", "image/png")
BY_URL = Image(url="https://example.com/a.png")
SOUND = Attachment("audio", b"RIFF", "wav")
CALL = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")


def message(role: str, content: Any, **more: Any) -> ChatMessage:
    return ChatMessage(role, content, **more)


def shown(messages: tuple[ChatMessage, ...]) -> list[tuple[str, Any]]:
    return [(str(m.role), m.content) for m in messages]


class Never(Model):
    """A backend that must not be reached."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        raise AssertionError("the request was sent")
        yield ChatMessageStreamDelta()


# --- refused ----------------------------------------------------------------------------------------------------------

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # what: capabilities, the call, what the error names
    "seed": ({"seed": False}, {"seed": 1}, "seed"),
    "logprobs": ({"logprobs": False}, {"logprobs": True}, "logprobs"),
    "top_logprobs": ({"logprobs": False}, {"top_logprobs": 3}, "logprobs"),
    "a refused parameter": ({"refused": {"temperature"}}, {"temperature": 0.5}, "temperature"),
    "an unknown parameter": ({"extra_parameters": {"mirostat"}}, {"mirostart": 1}, "did you mean 'mirostat'"),
    "a misspelt parameter": ({"extra_parameters": ()}, {"temprature": 1}, "did you mean 'temperature'"),
    "a Lark grammar": ({}, {"grammar": Lark("start: /a/")}, "Lark"),
    "a form by a tool, strictly": ({"tools": True}, {"grammar": {"type": "object"}, "strict": True}, "strict=True"),
    "a checked form, strictly": ({}, {"grammar": Regex("a"), "strict": True}, "does not enforce this Regex"),
    "a schema that does not fit, strictly": (
        {"grammars": {"json_schema"}, "schema_rules": {}},
        {"grammar": {"type": "object"}, "strict": True},
        "properties that it does not list",
    ),
    "a keyword that is left out, strictly": (
        {"grammars": {"json_schema"}, "schema_rules": {}},
        {"grammar": {"type": "string", "maxLength": 3}, "strict": True},
        "does not enforce maxLength",
    ),
    "a checked form beside tools, strictly": (
        {"tools": True},
        {"grammar": Regex("a"), "tools": [WEATHER], "strict": True},
        "strict=True",
    ),
    "grammar and a forced tool": (
        {"tools": True, "grammars": {"json_schema"}, "grammar_with_tools": True},
        {"tools": [WEATHER], "tool_choice": "required", "grammar": {"type": "object"}},
        "give one of them",
    ),
    "grammar and a forced emulated tool": (
        {"tools": False, "grammars": {"json_schema"}},
        {"tools": [WEATHER], "tool_choice": "required", "grammar": {"type": "object"}},
        "give one of them",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_what_a_model_cannot_do_is_refused_before_anything_is_sent(what: str, call: str) -> None:
    capabilities, options, named = REFUSED[what]
    with pytest.raises(UnsupportedFeature, match=named):
        list(getattr(Never(capabilities=capabilities), call)("?", **options))


@pytest.mark.parametrize(
    ("part", "capabilities", "named"),
    [
        (PIXEL, {}, r"messages\[1\]\['content'\]\[1\]: this model takes text, not image"),
        (SOUND, {"inputs": {"text", "image"}}, "takes image, text, not audio"),
        (Attachment("file", b"%PDF", "application/pdf"), {}, "not file"),
    ],
)
def test_parts_that_a_model_does_not_take_are_refused_by_their_place(
    part: Any, capabilities: dict[str, Any], named: str
) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [Text("a"), part]}]
    with pytest.raises(UnsupportedFeature, match=named):
        Never(capabilities=capabilities).generate(messages)


def test_parameters_that_ask_for_nothing_are_not_refused() -> None:
    request = Request((message("user", "?"),), parameters={"logprobs": False})
    assert adapt_to_capabilities(request, Capabilities(logprobs=False)) is request


def test_a_refusal_names_the_parameter_for_programs_too() -> None:
    with pytest.raises(UnsupportedFeature) as raised:
        adapt_to_capabilities(Request((message("user", "?"),), parameters={"seed": 1}), Capabilities())
    assert raised.value.parameter == "seed"


# --- rewritten --------------------------------------------------------------------------------------------------------


def test_a_request_that_fits_is_passed_on_as_it_is() -> None:
    request = Request((message("system", "s"), message("user", "u"), message("user", "v")), parameters={"top_k": 3})
    assert adapt_to_capabilities(request, Capabilities()) is request


def test_a_system_message_goes_in_front_of_the_user_message_that_follows() -> None:
    messages = (message("system", "s"), message("user", "u"), message("assistant", "a"))
    assert shown(without_system(messages)) == [("user", "s\nu"), ("assistant", "a")]


def test_several_system_messages_and_those_without_a_user_message() -> None:
    messages = tuple(message(role, role[0] + str(n)) for n, role in enumerate(
        ["system", "system", "user", "assistant", "system", "assistant", "system"]
    ))  # fmt: skip
    assert shown(without_system(messages)) == [
        ("user", "s0\ns1\nu2"), ("assistant", "a3"), ("user", "s4"), ("assistant", "a5"), ("user", "s6"),
    ]  # fmt: skip


def test_a_system_message_is_folded_into_parts_too() -> None:
    messages = (message("system", "s"), message("user", (Text("u"), PIXEL)))
    assert shown(without_system(messages)) == [("user", (Text("s"), Text("u"), PIXEL))]


def test_neighbours_of_one_role_are_merged() -> None:
    roles = ["user", "user", "assistant", "assistant", "user"]
    assert shown(merged(tuple(message(role, str(n)) for n, role in enumerate(roles)))) == [
        ("user", "0\n1"), ("assistant", "2\n3"), ("user", "4"),
    ]  # fmt: skip


def test_merging_keeps_parts_calls_and_thinking() -> None:
    first = message("assistant", "a", reasoning="hm", reasoning_details=[{"signature": "s1"}])
    second = message("assistant", None, tool_calls=[CALL], reasoning="so", reasoning_details=[{"signature": "s2"}])
    (result,) = merged((first, second))
    assert (result.content, result.tool_calls, result.reasoning) == ("a", [CALL], "hm\nso")
    assert result.reasoning_details == [{"signature": "s1"}, {"signature": "s2"}]
    (result,) = merged((message("user", (PIXEL,)), message("user", "u")))
    assert result.content == (PIXEL, Text("u"))


def test_tool_results_are_never_merged() -> None:
    results = (message("tool", "1", tool_call_id="c1"), message("tool", "2", tool_call_id="c2"))
    assert merged(results) is results


def test_a_folded_system_message_is_merged_where_roles_must_alternate() -> None:
    messages = (message("system", "s"), message("assistant", "a"), message("system", "t"), message("user", "u"))
    request = Request((message("user", "first"), *messages))
    fitted = adapt_to_capabilities(request, Capabilities(system_role=False, consecutive_roles=False))
    assert shown(fitted.messages) == [("user", "first\ns"), ("assistant", "a"), ("user", "t\nu")]


def test_text_is_added_to_the_system_message_or_makes_one() -> None:
    assert shown(with_system_text((message("user", "u"),), "t")) == [("system", "t"), ("user", "u")]
    assert shown(with_system_text((message("system", "s"), message("user", "u")), "t")) == [
        ("system", "s\nt"), ("user", "u"),
    ]  # fmt: skip


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = (
        message("system", "s"), message("user", (Text("u"), PIXEL)), message("user", "v"),
        message("assistant", "a", tool_calls=[CALL]), message("assistant", "b"),
    )  # fmt: skip
    before = copy.deepcopy(messages)
    capabilities = Capabilities(system_role=False, consecutive_roles=False, inputs={"text", "image"})
    assert adapt_to_capabilities(Request(messages), capabilities).messages != messages
    assert messages == before
