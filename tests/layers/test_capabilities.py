"""A request is rewritten to what the backend supports, or refused before anything is sent."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from modelport.errors import UnsupportedFeature
from modelport.inputs.merging import append_to_system_message, merge_consecutive_roles, merge_system_messages
from modelport.layers.adapt.capabilities import adapt_to_capabilities
from modelport.model import Model
from modelport.types.capabilities import Capabilities
from modelport.types.content import Attachment, Image, Text
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.output_types import Lark, Regex
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request

PIXEL = Image(b"\x89PNG\r\n\x1a\n", "image/png")
BY_URL = Image(url="https://example.com/a.png")
SOUND = Attachment("audio", b"RIFF", "wav")
CALL = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")


def message(role: str, content: Any, **more: Any) -> ChatMessage:
    return ChatMessage(role, content, **more)


def roles_and_contents(messages: tuple[ChatMessage, ...]) -> list[tuple[str, Any]]:
    return [(str(m.role), m.content) for m in messages]


class UnreachableBackend(Model):
    """A backend that no request may reach."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        raise AssertionError("the request was sent")
        yield ChatMessageStreamDelta()


# --- refused ----------------------------------------------------------------------------------------------------------

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # id: capabilities, options of the call, text of the error
    "seed": ({"seed": False}, {"seed": 1}, "seed"),
    "logprobs": ({"logprobs": False}, {"logprobs": True}, "logprobs"),
    "top_logprobs": ({"logprobs": False}, {"top_logprobs": 3}, "logprobs"),
    "a refused parameter": ({"refused": {"temperature"}}, {"temperature": 0.5}, "temperature"),
    "an unknown parameter": ({"forwards_unknown": False}, {"mirostart": 1}, "'mirostart' is not a parameter of this"),
    "a Lark grammar": ({}, {"grammar": Lark("start: /a/")}, "Lark"),
    "a forced tool with strict": ({"tools": True}, {"grammar": {"type": "object"}, "strict": True}, "strict=True"),
    "a validated grammar with strict": ({}, {"grammar": Regex("a"), "strict": True}, "does not enforce this Regex"),
    "a schema outside the subset with strict": (
        {"grammars": {"json_schema"}, "schema_rules": {}},
        {"grammar": {"type": "object"}, "strict": True},
        "properties that it does not list",
    ),
    "a keyword outside the subset with strict": (
        {"grammars": {"json_schema"}, "schema_rules": {}},
        {"grammar": {"type": "string", "maxLength": 3}, "strict": True},
        "does not enforce maxLength",
    ),
    "a validated grammar and tools with strict": (
        {"tools": True},
        {"grammar": Regex("a"), "tools": [WEATHER], "strict": True},
        "strict=True",
    ),
    "grammar and a forced tool": (
        {"tools": True, "grammars": {"json_schema"}, "grammar_with_tools": True},
        {"tools": [WEATHER], "tool_choice": "required", "grammar": {"type": "object"}},
        "give one of them",
    ),
    "grammar and a forced prompted tool": (
        {"tools": False, "grammars": {"json_schema"}},
        {"tools": [WEATHER], "tool_choice": "required", "grammar": {"type": "object"}},
        "give one of them",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_unsupported_option_is_refused_before_anything_is_sent(case: str, method: str) -> None:
    capabilities, options, message = REFUSED[case]
    with pytest.raises(UnsupportedFeature, match=message):
        list(getattr(UnreachableBackend(capabilities=capabilities), method)("?", **options))


@pytest.mark.parametrize(
    ("part", "capabilities", "error"),
    [
        (PIXEL, {}, r"messages\[1\]\['content'\]\[1\]: this model accepts text, not image"),
        (SOUND, {"inputs": {"text", "image"}}, "accepts image, text, not audio"),
        (Attachment("file", b"%PDF", "application/pdf"), {}, "not file"),
    ],
    ids=["image", "audio", "file"],
)
def test_unsupported_content_part_is_refused_with_its_location(
    part: Any, capabilities: dict[str, Any], error: str
) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [Text("a"), part]}]
    with pytest.raises(UnsupportedFeature, match=error):
        UnreachableBackend(capabilities=capabilities).generate(messages)


def test_parameter_of_false_is_not_refused() -> None:
    request = Request((message("user", "?"),), parameters={"logprobs": False})
    assert adapt_to_capabilities(request, Capabilities(logprobs=False)) is request


def test_refusal_has_the_parameter_as_an_attribute() -> None:
    with pytest.raises(UnsupportedFeature) as raised:
        adapt_to_capabilities(Request((message("user", "?"),), parameters={"seed": 1}), Capabilities())
    assert raised.value.parameter == "seed"


# --- rewritten --------------------------------------------------------------------------------------------------------


def test_supported_request_is_returned_unchanged() -> None:
    request = Request((message("system", "s"), message("user", "u"), message("user", "v")), parameters={"top_k": 3})
    assert adapt_to_capabilities(request, Capabilities()) is request


def test_system_message_is_merged_into_the_next_user_message() -> None:
    messages = (message("system", "s"), message("user", "u"), message("assistant", "a"))
    assert roles_and_contents(merge_system_messages(messages)) == [("user", "s\nu"), ("assistant", "a")]


def test_system_messages_without_a_user_message_become_user_messages() -> None:
    messages = tuple(message(role, role[0] + str(n)) for n, role in enumerate(
        ["system", "system", "user", "assistant", "system", "assistant", "system"]
    ))  # fmt: skip
    assert roles_and_contents(merge_system_messages(messages)) == [
        ("user", "s0\ns1\nu2"), ("assistant", "a3"), ("user", "s4"), ("assistant", "a5"), ("user", "s6"),
    ]  # fmt: skip


def test_system_message_is_merged_into_content_parts() -> None:
    messages = (message("system", "s"), message("user", (Text("u"), PIXEL)))
    assert roles_and_contents(merge_system_messages(messages)) == [("user", (Text("s"), Text("u"), PIXEL))]


def test_consecutive_messages_of_one_role_are_merged() -> None:
    roles = ["user", "user", "assistant", "assistant", "user"]
    messages = tuple(message(role, str(n)) for n, role in enumerate(roles))
    assert roles_and_contents(merge_consecutive_roles(messages)) == [
        ("user", "0\n1"), ("assistant", "2\n3"), ("user", "4"),
    ]  # fmt: skip


def signature(value: str) -> ProviderData:
    return ProviderData("converse", ({"signature": value},))


def test_merging_keeps_parts_calls_and_reasoning() -> None:
    first = message("assistant", "a", reasoning="hm", provider_data=signature("s1"))
    second = message("assistant", None, tool_calls=[CALL], reasoning="so", provider_data=signature("s2"))
    (result,) = merge_consecutive_roles((first, second))
    assert (result.content, result.tool_calls, result.reasoning) == ("a", [CALL], "hm\nso")
    assert result.provider_data == ProviderData("converse", ({"signature": "s1"}, {"signature": "s2"}))
    (result,) = merge_consecutive_roles((message("user", (PIXEL,)), message("user", "u")))
    assert result.content == (PIXEL, Text("u"))


def test_tool_messages_are_not_merged() -> None:
    results = (message("tool", "1", tool_call_id="c1"), message("tool", "2", tool_call_id="c2"))
    assert merge_consecutive_roles(results) is results


def test_former_system_message_is_merged_if_roles_must_alternate() -> None:
    messages = (message("system", "s"), message("assistant", "a"), message("system", "t"), message("user", "u"))
    request = Request((message("user", "first"), *messages))
    adapted = adapt_to_capabilities(request, Capabilities(system_role=False, consecutive_roles=False))
    assert roles_and_contents(adapted.messages) == [("user", "first\ns"), ("assistant", "a"), ("user", "t\nu")]


def test_append_to_system_message_adds_one_if_there_is_none() -> None:
    assert roles_and_contents(append_to_system_message((message("user", "u"),), "t")) == [
        ("system", "t"),
        ("user", "u"),
    ]
    assert roles_and_contents(append_to_system_message((message("system", "s"), message("user", "u")), "t")) == [
        ("system", "s\nt"), ("user", "u"),
    ]  # fmt: skip


def test_messages_of_the_caller_are_not_changed() -> None:
    messages = (
        message("system", "s"), message("user", (Text("u"), PIXEL)), message("user", "v"),
        message("assistant", "a", tool_calls=[CALL]), message("assistant", "b"),
    )  # fmt: skip
    before = copy.deepcopy(messages)
    capabilities = Capabilities(system_role=False, consecutive_roles=False, inputs=frozenset({"text", "image"}))
    assert adapt_to_capabilities(Request(messages), capabilities).messages != messages
    assert messages == before
