"""Servers that write reasoning into the text: it is split from it, and stop sequences and schemas apply behind it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from modelport.errors import InvalidRequest, StreamInterrupted
from modelport.protocols.chat_completions.think_tags import ThinkTagSplitter
from tests.remote.chat_backends import *  # noqa: F403
from tests.remote.chat_backends import model_for
from tests.remote.matrix_runner import ask
from tests.servers.faults import Fault, FaultServer

WAYS = ("sync", "async streamed")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize("way", WAYS)
def test_reasoning_in_the_text_is_split(server: FaultServer, transport: str, way: str) -> None:
    server.script([Fault.ok("<think>\nIt is.\n</think>\n\nParis", piece=3)])
    message = ask(model_for(server, transport), way)
    assert (message.reasoning, message.content) == ("It is.", "Paris")


@pytest.mark.parametrize("way", WAYS)
def test_splitting_can_be_switched_off(server: FaultServer, way: str) -> None:
    server.script([Fault.ok("<think>It is.</think>Paris")])
    message = ask(model_for(server, split_reasoning=False), way)
    assert (message.reasoning, message.content) == (None, "<think>It is.</think>Paris")


@pytest.mark.parametrize("way", WAYS)
def test_stop_sequence_and_schema_apply_behind_the_reasoning(server: FaultServer, way: str) -> None:
    server.script([Fault.ok('<think>A stop: {"a": 2}</think>{"a": 1} stop and more')])
    message: Any = ask(model_for(server), way, stop_sequences=[" stop"], response_format=SCHEMA)
    assert (message.content, message.parsed, message.stop_sequence) == ('{"a": 1}', {"a": 1}, " stop")


def test_stop_sequence_that_ended_the_reasoning_is_not_sent_again(server: FaultServer) -> None:
    # The server itself ends the first response at the stop sequence, which the model wrote in its reasoning.
    server.script([Fault.ok("<think>A "), Fault.ok("<think>A stop is near.</think>Paris stop")])
    model = model_for(server)
    message = ask(model, "sync", stop_sequences=["stop"])
    assert (message.content, message.reasoning, message.finish_reason) == ("Paris ", "A stop is near.", "stop")
    assert ["stop" in request.json for request in server.requests] == [True, False]
    ask(model, "sync", stop_sequences=["stop"])
    assert "stop" not in server.requests[-1].json


def test_stop_sequence_that_ended_streamed_reasoning_is_an_error_once(server: FaultServer) -> None:
    server.script([Fault.ok("<think>A ")])
    model = model_for(server)
    with pytest.raises(StreamInterrupted, match="stop sequence") as caught:
        ask(model, "async streamed", stop_sequences=["stop"])
    assert caught.value.partial.reasoning == "A"
    assert ask(model, "async streamed", stop_sequences=["stop"]).content
    assert "stop" not in server.requests[-1].json


@pytest.mark.parametrize("way", WAYS)
def test_text_that_begins_inside_the_reasoning_is_split_on_request(
    server: FaultServer, transport: str, way: str
) -> None:
    server.script(then=Fault.ok("A stop is near.</think>\n\nParis stop", piece=3))
    model = model_for(server, transport, split_reasoning="opened")
    message = ask(model, way, stop_sequences=[" stop"])
    assert (message.reasoning, message.content, message.stop_sequence) == ("A stop is near.", "Paris", " stop")
    assert "stop" not in server.requests[0].json


@pytest.mark.parametrize("way", WAYS)
def test_schema_applies_behind_reasoning_that_the_template_opened(server: FaultServer, way: str) -> None:
    """A server that enforced the schema would apply it to the reasoning, so it is not sent."""
    server.script(then=Fault.ok('Is it {"a": 2}?</think>{"a": 1}'))
    model = model_for(server, split_reasoning="opened", capabilities={"tools": False})
    message: Any = ask(model, way, response_format=SCHEMA)
    assert (message.parsed, message.enforcement) == ({"a": 1}, "validated")
    assert "response_format" not in server.requests[0].json


def test_without_reasoning_the_text_is_text(server: FaultServer) -> None:
    server.script(then=Fault.ok("Paris"))
    model = model_for(server, split_reasoning="opened")
    message = ask(model, "sync", reasoning_effort="none")
    assert (message.reasoning, message.content) == (None, "Paris")
    with pytest.raises(InvalidRequest, match="'opened'"):
        model_for(server, split_reasoning="open")


@pytest.mark.parametrize("text", [" ", "<think>" + " " * 50, "<think>a</thin", "<think>a</think>" + " " * 50])
def test_stream_of_white_space_takes_linear_time(text: str) -> None:
    splitter, start = ThinkTagSplitter(), time.process_time()
    splitter.feed(text)
    for _ in range(300_000):
        splitter.feed(" ")
    assert time.process_time() - start < 5
