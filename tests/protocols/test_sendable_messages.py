"""Messages that OpenAI and others would refuse: empty assistant messages, and images in tool results."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import OpenAIServerModel
from modelport.inputs.messages import normalise_messages
from modelport.protocols.chat_completions.request import body_from
from modelport.types.request import Request

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
TEXT = {"type": "text", "text": "A cat."}
USER = {"role": "user", "content": "Look!"}


def sent(*messages: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    capabilities = OpenAIServerModel("gpt-4o", api_key="k").capabilities
    request = Request(normalise_messages(list(messages)), capabilities=capabilities)
    return body_from(request, "gpt-4o", **options)["messages"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("content", [None, "", []])
def test_empty_assistant_message_is_left_out(content: Any) -> None:
    empty = {"role": "assistant", "content": content}
    assert [message["role"] for message in sent(USER, empty, USER)] == ["user", "user"]


def test_assistant_message_with_calls_or_text_is_kept() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "content": "", "tool_call_id": "c1"}
    roles = [message["role"] for message in sent(USER, calls, result, {"role": "assistant", "content": " "})]
    assert roles == ["user", "assistant", "tool", "assistant"]


def results(*contents: Any) -> list[dict[str, Any]]:
    calls = [CALL | {"id": f"c{number}"} for number, _ in enumerate(contents, 1)]
    messages = [{"role": "tool", "content": content, "tool_call_id": f"c{n}"} for n, content in enumerate(contents, 1)]
    return [USER, {"role": "assistant", "content": None, "tool_calls": calls}, *messages]


def test_images_in_tool_results_are_moved_behind_the_results_of_their_turn() -> None:
    messages = sent(*results([TEXT, IMAGE], "no image", [IMAGE]), {"role": "assistant", "content": "Nice."}, USER)
    assert [message["role"] for message in messages] == [
        "user", "assistant", "tool", "tool", "tool", "user", "assistant", "user",
    ]  # fmt: skip
    first, second, third, moved = messages[2:6]
    assert (first["content"], second["content"]) == ([TEXT], "no image")
    assert third["content"] == "The result is in the next user message."
    assert [part["type"] for part in moved["content"]] == ["text", "image_url", "text", "image_url"]
    assert [part["text"] for part in moved["content"] if "text" in part] == [
        "Result of the tool call c1:", "Result of the tool call c3:",
    ]  # fmt: skip


def test_images_in_the_last_tool_result_are_moved_to_the_end() -> None:
    messages = sent(*results([IMAGE]))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]


def test_text_parts_in_tool_results_and_images_in_user_messages_stay() -> None:
    history = [*results([TEXT]), {"role": "user", "content": [TEXT, IMAGE]}]
    assert [message["role"] for message in sent(*history)] == ["user", "assistant", "tool", "user"]
    assert sent(*history)[2]["content"] == "A cat."


def test_images_stay_in_tool_results_for_services_that_accept_them() -> None:
    content = sent(*results([TEXT, IMAGE]), moves_media=False)[2]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"]
