"""The argument `messages`: each format gives the same normal form, and mistakes are named by their path."""

from __future__ import annotations

import copy
import datetime
import json
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image as PILImage

from modelport.errors import InvalidRequest
from modelport.inputs.messages import normalise_messages
from modelport.layers.limit.estimate import text_size
from modelport.protocols.chat_completions.request import plain_dict
from modelport.types.content import Attachment, Image, Text
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.provider_data import ProviderData
from tests.inputs.message_examples import CALL, IMAGE, normalise_one


@pytest.mark.parametrize(
    "messages",
    [
        "Hello",
        {"role": "user", "content": "Hello"},
        ChatMessage("user", "Hello"),
        [ChatMessage("user", "Hello")],
        ({"role": "user", "content": "Hello"},),
        iter([{"role": "user", "content": "Hello"}]),
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        [{"role": "user", "content": [Text("Hello")], "name": None, "tool_calls": None}],
        [SimpleNamespace(role="user", content="Hello")],
    ],
)
def test_normalise_messages_each_format_gives_same_message(messages: Any) -> None:
    assert normalise_messages(messages) == (ChatMessage("user", "Hello"),)


def test_normalise_messages_mixed_formats_are_accepted() -> None:
    messages = [
        {"role": "system", "content": "s"},
        ChatMessage("user", "u"),
        SimpleNamespace(role="assistant", content="a"),
    ]
    assert [(m.role, m.content) for m in normalise_messages(messages)] == [
        ("system", "s"), ("user", "u"), ("assistant", "a"),
    ]  # fmt: skip


def test_normalise_messages_several_texts_stay_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert normalise_one({"role": "user", "content": parts}).content == (Text("a"), Text("b"))


def test_normalise_messages_openai_objects_are_accepted() -> None:
    chat = pytest.importorskip("openai.types.chat")
    response = chat.ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [CALL]})
    expected = ChatMessageToolCall(ChatMessageToolCallFunction('{"city": "Paris"}', "weather"), "c1")
    for message in (
        response,
        response.model_dump(),
    ):  # The dump has the keys refusal, annotations, audio and function_call too.
        result = normalise_one(message)
        assert (result.role, result.content, result.tool_calls) == ("assistant", None, [expected])


@pytest.mark.server
def test_normalise_messages_smolagents_objects_are_accepted() -> None:
    from smolagents.models import ChatMessage as AgentsMessage
    from smolagents.models import ChatMessageToolCall as AgentsCall
    from smolagents.models import ChatMessageToolCallFunction as AgentsFunction
    from smolagents.models import MessageRole as AgentsRole

    parts = [{"type": "text", "text": "Look:"}, {"type": "image", "image": PILImage.new("RGB", (2, 2), "red")}]
    assert normalise_one(AgentsMessage(AgentsRole.USER, parts)).content == (Text("Look:"), IMAGE)
    call = AgentsCall(AgentsFunction(name="weather", arguments={"city": "Paris"}), "c1", "function")
    result = normalise_one(AgentsMessage(AgentsRole.ASSISTANT, None, [call]))
    assert result.tool_calls == [ChatMessageToolCall(ChatMessageToolCallFunction('{"city": "Paris"}', "weather"), "c1")]
    assert normalise_one(AgentsMessage(AgentsRole.TOOL_RESPONSE, "rain")).role == "user"


def test_normalise_messages_agent_roles_are_mapped() -> None:
    call = normalise_one({"role": "tool-call", "content": [{"type": "text", "text": "Calling …"}]})
    assert (call.role, call.content) == ("assistant", "Calling …")
    assert normalise_one({"role": "tool-response", "content": "rain"}).role == "user"
    result = normalise_one({"role": "tool-response", "content": "rain", "tool_call_id": "c1"})
    assert (result.role, result.tool_call_id) == ("tool", "c1")


def test_normalise_messages_developer_role_is_system() -> None:
    assert normalise_one({"role": "developer", "content": "s"}).role == "system"


@pytest.mark.parametrize("conversions", [{"system": "user"}, {ChatMessage("system", "").role: "user"}])
def test_role_conversions_replace_roles(conversions: Any) -> None:
    assert normalise_one({"role": "system", "content": "s"}, role_conversions=conversions).role == "user"
    assert normalise_one({"role": "assistant", "content": "a"}, role_conversions=conversions).role == "assistant"


def test_role_conversions_merge_the_messages_that_get_the_same_role() -> None:
    """Two turns of the user that the caller wrote one behind the other stay apart."""
    roles = ("system", "user", "user", "tool-call", "assistant", "tool-response", "system")
    written = [{"role": role, "content": f"{n}"} for n, role in enumerate(roles)]
    conversions = {"system": "user", "tool-call": "assistant", "tool-response": "user"}
    messages = normalise_messages(iter(written), role_conversions=conversions)
    expected = [("user", "0\n1"), ("user", "2"), ("assistant", "3\n4"), ("user", "5\n6")]
    assert [(message.role, message.content) for message in messages] == expected


@pytest.mark.server
def test_role_conversions_accept_unknown_roles_and_enums() -> None:
    from smolagents.models import MessageRole as AgentsRole

    assert normalise_one({"role": "critic", "content": "c"}, role_conversions={"critic": "user"}).role == "user"
    assert (
        normalise_one({"role": "system", "content": "c"}, role_conversions={AgentsRole.SYSTEM: AgentsRole.USER}).role
        == "user"
    )


def test_flatten_joins_texts_and_refuses_images() -> None:
    parts = [{"type": "text", "text": "a"}, Text("b")]
    assert normalise_one({"role": "user", "content": parts}, flatten=True).content == "a\nb"
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\['content'\]\[0\]: image can't be flattened"):
        normalise_one({"role": "user", "content": [IMAGE]}, flatten=True)


def test_normalise_messages_reasoning_is_read_under_both_names() -> None:
    assert normalise_one({"role": "assistant", "content": "a", "reasoning": "hm"}).reasoning == "hm"
    assert normalise_one({"role": "assistant", "content": "a", "reasoning_content": "hm"}).reasoning == "hm"


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"}, {"reasoning_content": ""}, {"reasoning_details": [{"signature": "s1"}, {"x": 2}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"extra_content": {"google": {"thought_signature": "s"}}},
    ],
    ids=lambda fields: "-".join(fields),
)  # fmt: skip
def test_normalise_messages_fields_given_by_hand_become_provider_data(fields: dict[str, Any]) -> None:
    given = {"role": "assistant", "content": "a", **fields}
    expected = ProviderData("chat_completions", (fields,))
    assert normalise_one(given).provider_data == expected
    assert normalise_one(ChatMessage.from_dict(given)).provider_data == expected
    assert normalise_one(SimpleNamespace(**given)).provider_data == expected
    assert normalise_one(normalise_one(given).to_dict()).provider_data == expected


MISTRAL = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
DATABRICKS = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm", "signature": "s"}]}
ANSWER = {"type": "text", "text": "a"}


@pytest.mark.parametrize("part", [MISTRAL, DATABRICKS], ids=["mistral", "databricks"])
@pytest.mark.parametrize("others", [[ANSWER], []], ids=["with text", "alone"])
def test_normalise_messages_reasoning_in_content_becomes_provider_data(part: Any, others: list[Any]) -> None:
    given = {"role": "assistant", "content": [part, *others], "tool_calls": [CALL]}
    for message in (given, ChatMessage.from_dict(given), SimpleNamespace(**given)):
        result = normalise_one(message)
        assert (result.text, result.reasoning) == ("a" if others else "", "hm")
        assert result.provider_data == ProviderData("chat_completions", ({"content": [part]},))
        assert plain_dict(result)["content"] == [part, *others]
    again = normalise_one(result.to_dict())
    assert (plain_dict(again)["content"], again.reasoning) == ([part, *others], "hm")


def test_normalise_messages_other_reasoning_in_content_is_refused() -> None:
    for part in ({"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "reasoning"}):
        with pytest.raises(InvalidRequest, match=r"\['content'\]\[0\]: type '(thinking|reasoning)' is unknown"):
            normalise_one({"role": "assistant", "content": [part]})
    with pytest.raises(InvalidRequest, match="exclude each other"):
        normalise_one({"role": "assistant", "content": [MISTRAL], "provider_data": {"protocol": "responses"}})
    with pytest.raises(InvalidRequest, match="type 'thinking' is unknown"):
        normalise_one({"role": "user", "content": [MISTRAL]})


@pytest.mark.parametrize(
    "fields",
    [{"extra_content": {"google": {"thought_signature": "s"}}}, {"provider_specific_fields": {"signature": "s"}}],
    ids=lambda fields: "-".join(fields),
)
def test_normalise_messages_fields_of_calls_become_provider_data(fields: dict[str, Any]) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}
    given = {"role": "assistant", "content": None, "tool_calls": [call]}
    for message in (given, ChatMessage.from_dict(given), ChatMessage.from_dict(given).to_dict()):
        calls = normalise_one(message).tool_calls or []
        assert [result.provider_data for result in calls] == [ProviderData("chat_completions", (fields,))]


def test_normalise_messages_field_beside_provider_data_is_refused() -> None:
    recorded = {"protocol": "chat_completions", "items": [{"reasoning_content": "a"}], "service": "s"}
    given = {"role": "assistant", "content": "a", "provider_data": recorded, "reasoning_content": "b"}
    with pytest.raises(InvalidRequest, match="'provider_data' and 'reasoning_content' exclude each other"):
        normalise_one(given)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"reasoning_content": 3}, "'reasoning_content' must be a string, not int"),
        ({"reasoning_details": "s1"}, "'reasoning_details' must be a list of dicts, as in the response, not str"),
        ({"thinking_blocks": ["s1"]}, "'thinking_blocks' must be a list of dicts, as in the response, not list"),
        ({"extra_content": []}, "'extra_content' must be a dict, as in the response, not list"),
        ({"provider_data": 3}, "'provider_data': must be a dict with 'protocol' and 'items', not int"),
        ({"provider_data": {"protocol": "x"}}, "'provider_data': 'protocol' is 'x'; it must be one of chat"),
        ({"provider_data": {"protocol": "responses", "items": [1]}}, "'provider_data': 'items' must be a list of"),
        ({"provider_data": {"protocol": "responses", "service": 1}}, "'provider_data': 'service' must be a string"),
        ({"provider_data": {"protocol": "responses", "item": 1}}, "'provider_data': unknown key 'item'"),
    ],
)
def test_normalise_messages_wrong_provider_data_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(f"messages[0]: {problem}")):
        normalise_one({"role": "assistant", "content": "a", **fields})


def test_normalise_messages_response_can_be_sent_back() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")
    response = ChatMessage("assistant", None, [call], raw=object(), finish_reason="tool_calls", model_id="m")
    sent = ChatMessageToolCall(ChatMessageToolCallFunction('{"city": "Paris"}', "weather"), "c1")
    for message in (response, response.to_dict()):
        result = normalise_one(message) if message is not response else normalise_messages([message])[0]
        assert result == ChatMessage("assistant", None, [sent])
    assert call.function.arguments == {"city": "Paris"}


def test_normalise_messages_empty_assistant_message_is_accepted() -> None:
    assert normalise_one({"role": "assistant", "content": None}).content is None
    assert normalise_one({"role": "assistant", "content": ""}).content == ""


GOOD = {"role": "user", "content": "fine"}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "fine"}, *parts]}


@pytest.mark.parametrize(
    ("messages", "error_text"),
    [
        (None, "messages must be a string or a list of messages, not NoneType"),
        (5, "not int"),
        (b"hello", "not bytes"),
        ([], "messages is empty"),
        ([GOOD, "hello"], r"messages\[1\]: must be a dict or a ChatMessage, not str"),
        ([GOOD, {"role": "user"}], r"messages\[1\]: has no 'content'"),
        ([GOOD, {"role": "user", "content": None}], r"messages\[1\]: has no 'content'"),
        ([GOOD, {"content": "a"}], r"messages\[1\]: has no 'role'; it must be one of assistant, developer"),
        ([{"role": "robot", "content": "a"}], r"messages\[0\]: role 'robot' is unknown"),
        ([{"role": ["user"], "content": "a"}], r"messages\[0\]: role \['user'\] is unknown"),
        ([{"role": "user", "contents": "a"}], r"messages\[0\]: unknown key 'contents'"),
        ([{"role": "user", "content": 5}], r"messages\[0\]\['content'\]: must be a string or a list of parts, not int"),
        ([{"role": "user", "content": {"type": "text", "text": "a"}}], r"messages\[0\]\['content'\]: .* not dict"),
        ([{"role": "tool", "content": "a"}], r"messages\[0\]: a 'tool' message needs the 'tool_call_id'"),
        ([{"role": "user", "content": "a", "name": 5}], r"messages\[0\]\['name'\]: must be a string, not int"),
        ([{"role": "assistant", "content": "a", "reasoning": []}], r"messages\[0\]\['reasoning'\]: .* not list"),
        ([{"role": "assistant", "tool_calls": 5}], r"messages\[0\]\['tool_calls'\]: must be a list, not int"),
        ([{"role": "assistant", "tool_calls": [{}]}], r"messages\[0\]\['tool_calls'\]\[0\]: a tool call needs a 'func"),
        ("\ud800", r"messages: holds '\\ud800', half of a surrogate pair"),
        ([{"role": "user", "content": "\ud800"}], r"messages\[0\]\['content'\]: holds '\\ud800'"),
        ([user({"type": "text", "text": "\udcff"})], r"messages\[0\]\['content'\]\[1\]\['text'\]: holds '\\udcff'"),
        ([user(Text(5))], r"\['content'\]\[1\]: Text's 'text' must be str, not int"),  # type: ignore[arg-type]
        ([user(Text("a", {"type": "x"}))], r"\['content'\]\[1\]\['cache_control'\]: must be {'type': 'ephemeral'}"),
        ([user(Text("a", 5))], r"\['content'\]\[1\]\['cache_control'\]: must be"),  # type: ignore[arg-type]
        ([user(Image())], r"\['content'\]\[1\]: Image's 'data' must be bytes, not NoneType"),
        ([user(Image("a", "image/png"))], r"Image's 'data' must be bytes, not str"),  # type: ignore[arg-type]
        ([user(Image(url=5))], r"Image's 'url' must be str, not int"),  # type: ignore[arg-type]
        ([user(Attachment("audio", "a", "wav"))], r"Attachment's 'data' must be bytes"),  # type: ignore[arg-type]
        ([user({"type": "image", "image": SimpleNamespace(save=5)})], r"\['image'\]: the Simple.* can't be written"),
        (
            [user({"type": "image_url", "image_url": {"url": "http://h/a", "key": 1}})],
            r"\['image_url'\]: unknown key 'k",
        ),
        ([user({"type": "input_audio", "input_audio": {"data": "AAAA", "key": 1}})], r"\['input_audio'\]: unknown key"),
        ([user({"type": "input_audio", "input_audio": {"data": "é"}})], r"\['content'\]\[1\]: .* not base64"),
        (
            [user({"type": "file", "file": {"file_data": "data:a;base64,AA==", "key": 1}})],
            r"\['file'\]: unknown key 'k",
        ),
        ([GOOD, user("a")], r"messages\[1\]\['content'\]\[1\]: must be a dict with a 'type', not str"),
        ([user({"text": "a"})], r"messages\[0\]\['content'\]\[1\]: has no 'type'"),
        ([user({"type": "video"})], r"messages\[0\]\['content'\]\[1\]: type 'video' is unknown"),
        ([user({"type": ["text"]})], r"messages\[0\]\['content'\]\[1\]: type \['text'\] is unknown"),
        ([user({"type": "text"})], r"messages\[0\]\['content'\]\[1\]\['text'\]: must be a string, not NoneType"),
        (
            [user({"type": "text", "text": "a", "txt": "b"})],
            r"\[1\]: unknown key 'txt'; .* cache_control, text",
        ),
        (
            [user({"type": "text", "text": "a", "cache_control": True})],
            r"\['cache_control'\]: must be \{'type'",
        ),
        (
            [user({"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": 5}})],
            "'5m' or '1h', not 5",
        ),
        ([user({"type": "image"})], r"messages\[0\]\['content'\]\[1\]: holds no image"),
        ([user({"type": "image", "image": 5})], r"\[1\]\['image'\]: must be a PIL image, bytes, a path or a URL"),
        ([user({"type": "image", "image": b"text"})], r"\[1\]\['image'\]: is not a PNG, JPEG, GIF, WebP or BMP image"),
        ([user({"type": "image", "path": "/no/such.png"})], r"\['path'\]: the image file '/no/such.png' can't be read"),
        ([user({"type": "image", "path": "a\0b"})], r"\['path'\]: the image file 'a\\x00b' can't be read"),
        ([user({"type": "image", "path": "~nobody-here/a.png"})], r"\['path'\]: the image file .* can't be read"),
        ([user({"type": "image", "base64": "%%%"})], r"\['base64'\]: the data URL's payload is not base64"),
        ([user({"type": "image_url", "image_url": {}})], r"\['image_url'\]: must be a PIL image"),
        ([user({"type": "image", "url": "https://a", "detail": 5})], r"\['url'\]: 'detail' must be a string"),
        ([user({"type": "input_audio"})], r"\[1\]: write \{'type': 'input_audio'"),
        ([user({"type": "input_audio", "input_audio": {"data": "é"}})], r"\[1\]: "),
        ([user({"type": "input_audio", "input_audio": {"data": "", "format": 5}})], "'format' must be a string"),
        ([user({"type": "file", "file": {"file_data": "x"}})], r"\[1\]: a data URL looks like"),
        ([user({"type": "file", "file": {}})], r"\[1\]: write \{'type': 'file'"),
    ],
)
def test_normalise_messages_invalid_message_raises_with_path(messages: Any, error_text: str) -> None:
    before = copy.deepcopy(messages)
    with pytest.raises(InvalidRequest, match=error_text) as raised:
        normalise_messages(messages)
    assert messages == before
    assert "\n" not in str(raised.value)


CYCLE: dict[str, Any] = {}
CYCLE["again"] = CYCLE
DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"in": DEEP}


@pytest.mark.parametrize(
    ("arguments", "error_text"),
    [
        ({"on": datetime.date(2020, 1, 1)}, "date is not JSON serializable"),
        ({"all": {1}}, "set is not JSON serializable"),
        ({"a": b""}, "bytes is not JSON serializable"),
        ({(1, 2): 3}, "keys must be str"),
        ({"a": math.nan}, "not JSON compliant"),
        ({"a": math.inf}, "not JSON compliant"),
        ({"a": 10**5000}, "4300 digits"),
        (CYCLE, "Circular reference"),
        (DEEP, "recursion"),
        ({"a": "\ud800"}, "half of a surrogate pair"),
        (object(), "object is not JSON serializable"),
    ],
)
@pytest.mark.parametrize("make_message", [dict, ChatMessage])
def test_normalise_messages_call_arguments_outside_json_raise_with_path(
    make_message: Any, arguments: Any, error_text: str
) -> None:
    """Every backend would raise another error for such arguments, or none, so they are checked before."""
    function = {"name": "f", "arguments": arguments}
    calls = [CALL, {"id": "c1", "type": "function", "function": function}]
    message = make_message(role="assistant", content=None, tool_calls=calls)
    with pytest.raises(
        InvalidRequest, match=r"messages\[1\]\['tool_calls'\]\[1\]\['function'\]\['argum.*" + error_text
    ):
        normalise_messages([GOOD, message])


def test_normalise_messages_empty_list_of_parts_is_empty_text() -> None:
    assert normalise_one({"role": "user", "content": []}).content == ""


def test_plain_dict_of_normal_message_round_trips() -> None:
    message = normalise_one({"role": "assistant", "content": "So:", "tool_calls": [CALL]})
    assert plain_dict(message) == {"role": "assistant", "content": "So:", "tool_calls": [CALL]}
    response = normalise_one({"role": "tool", "content": [Text("a"), IMAGE], "tool_call_id": "c1", "name": "weather"})
    written = plain_dict(response)
    assert json.loads(json.dumps(written)) == written
    assert normalise_one(written) == response


def test_text_size_counts_bytes_of_text_and_calls() -> None:
    assert text_size(ChatMessage("user", "éé")) == 4
    assert text_size(normalise_one({"role": "assistant", "tool_calls": [CALL]})) == len("weather") + len(
        '{"city": "Paris"}'
    )


@pytest.mark.parametrize(
    "message",
    [
        {"role": "x" * 10**6, "content": "a"},
        {"role": ["x" * 10**6] * 1000, "content": "a"},
        {"role": "user", "content": "a", "x" * 10**6: 1},
        {"role": "user", "content": [{"type": "x" * 10**6}]},
        {"role": "user", "content": [{"type": "text", "text": "a", "x" * 10**6: 1}]},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": "x" * 10**6}]},
        {"role": "assistant", "content": "a", "provider_data": {"protocol": "x" * 10**6, "items": []}},
    ],
    ids=["role", "roles", "key", "type of a part", "key of a part", "cache_control", "protocol"],
)
def test_error_about_a_long_value_is_short(message: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        normalise_messages([message])
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("role", ["x" * 10**6, "", "tool_call"])
def test_unknown_role_of_a_stored_message_raises_short_value_error(role: str) -> None:
    with pytest.raises(ValueError, match="'role' in a message is") as raised:
        ChatMessage.from_dict({"role": role, "content": "a"})
    assert len(str(raised.value)) < 2000
