"""The aimock server answers from its fixture file, on the paths of OpenAI and Azure."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from .aimock import AimockServer, aimock
from .process import request_json
from .raw_client import MESSAGES, TOOLS, USAGE, complete_body, image_message, send_chat, user_message

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def mock() -> Iterator[AimockServer]:
    if shutil.which("npm") is None and "CI" not in os.environ:
        pytest.skip("no npm")
    with aimock(latency_ms=0) as server:
        yield server


# aimock keeps a connection open for 5 s, even if the request asks to close it.
send_to_mock = partial(send_chat, close=False)


def test_aimock_sends_text_and_usage(mock: AimockServer) -> None:
    answer = json.loads(complete_body(send_to_mock(mock.base_url, messages=user_message("usage please"))))
    assert answer["choices"][0]["message"]["content"] == "Seven tokens of answer."
    assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    streamed = send_to_mock(mock.base_url, messages=user_message("usage please"), stream=True, **USAGE)
    assert streamed.text == "Seven tokens of answer."
    assert streamed.events[-1] == "[DONE]"
    assert streamed.events[-2]["choices"] == []
    assert streamed.events[-2]["usage"]["total_tokens"] == 18
    assert "usage" not in send_to_mock(mock.base_url, messages=user_message("usage please"), stream=True).events[-2]


def test_aimock_calls_tools_and_answers_results(mock: AimockServer) -> None:
    deltas = send_to_mock(mock.base_url, messages=user_message("two cities"), stream=True, tools=TOOLS).call_deltas
    arguments = ["".join(d["function"]["arguments"] for d in deltas if d["index"] == index) for index in (0, 1)]
    assert [json.loads(text)["city"] for text in arguments] == ["Paris", "Oslo"]
    one = json.loads(complete_body(send_to_mock(mock.base_url, messages=user_message("one city"), tools=TOOLS)))
    assert [call["id"] for call in one["choices"][0]["message"]["tool_calls"]] == ["call_paris"]
    assert one["choices"][0]["finish_reason"] == "tool_calls"
    turns = [
        *user_message("one city"),
        one["choices"][0]["message"],
        {"role": "tool", "tool_call_id": "call_paris", "content": "21"},
    ]
    assert send_to_mock(mock.base_url, messages=turns, stream=True).text == "Paris has 21 °C."


def test_aimock_sends_reasoning_and_takes_images_and_schemas(mock: AimockServer) -> None:
    answer = send_to_mock(mock.base_url, messages=user_message("think first"), stream=True)
    reasoning = "".join(choice["delta"].get("reasoning_content", "") for choice in answer.choices)
    assert (reasoning, answer.text) == ("Six times seven is forty-two.", "42")
    image = image_message("red")
    image[0]["content"][0]["text"] = "describe the image"
    assert send_to_mock(mock.base_url, messages=image, stream=True).text == "A red square."
    schema = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": {"type": "object"}}}
    invoice = send_to_mock(mock.base_url, messages=user_message("invoice"), stream=True, response_format=schema)
    assert json.loads(invoice.text)["number"] == "A-17"
    assert (
        send_to_mock(mock.base_url, messages=user_message("cut by length"), stream=True).choices[-1]["finish_reason"]
        == "length"
    )


def test_aimock_serves_azure_paths_and_records_requests(mock: AimockServer) -> None:
    mock.clear_requests()
    assert send_to_mock(mock.base_url, messages=user_message("too long")).status == 400
    assert send_to_mock(mock.base_url, messages=user_message("what nobody wrote")).status == 404
    azure = f"{mock.url}/openai/deployments/gpt"
    assert send_to_mock(azure).status == 200
    assert send_to_mock(f"{mock.url}/openai/v1").status == 200
    assert [entry["response"]["status"] for entry in mock.requests()] == [400, 404, 200, 200]
    assert mock.requests()[-1]["body"]["messages"] == MESSAGES
    with pytest.raises(RuntimeError, match="answered 401"):
        request_json("POST", f"{mock.base_url}/chat/completions", {}, headers={"Authorization": "Bearer wrong"})


def test_aimock_without_node_names_the_needed_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match=r"need Node.js 20\.15 or newer"), aimock():
        pass
