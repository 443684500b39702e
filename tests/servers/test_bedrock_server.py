"""The strict Bedrock server, called by boto3: it refuses what AWS refuses, and boto3 reads its responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from .bedrock import RESPONSE_TEXT, BedrockServer, Converse, ConverseFault
from .bedrock_rules import redacted_reasoning, signature_of
from .faults import Call

pytestmark = pytest.mark.server

MODEL = "amazon.nova-pro-v1:0"
HI = {"role": "user", "content": [{"text": "hi"}]}
USE = {"toolUse": {"toolUseId": "a", "name": "f", "input": {}}}
RESULT = {"toolResult": {"toolUseId": "a", "content": [{"text": "r"}]}}
TOOLS = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object"}}}}]}
POINT = {"cachePoint": {"type": "default"}}


@pytest.fixture(scope="module")
def server() -> Iterator[BedrockServer]:
    with BedrockServer(access_key="AKIATEST") as server:
        yield server


@pytest.fixture
def client(server: BedrockServer) -> Iterator[Any]:
    server.clear()
    # boto3's own checks are switched off, so that the server's are tested.
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    keys = {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": "s"}
    session = boto3.Session(region_name="us-east-1", **keys)
    client = session.client("bedrock-runtime", endpoint_url=server.url, config=config)
    yield client
    client.close()


def user_request(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The parameters of a request with one user message."""
    return {"messages": [{"role": "user", "content": list(content)}], **more}


def turns_request(*contents: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The parameters of a request whose messages are the user's and the assistant's in turn."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)], **more}


TEXT = {"text": "a"}
SCHEMA = '{"type": "object", "properties": {}, "additionalProperties": true}'
OPEN_SCHEMA = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": SCHEMA}}}}
NAME_WITH_SPACE = {"tools": [{"toolSpec": {"name": "a b", "inputSchema": {"json": {}}}}]}
REFUSED = {
    "no messages": {"messages": []},
    "assistant message first": {"messages": [{"role": "assistant", "content": [TEXT]}]},
    "two turns of one role": {"messages": [HI, HI]},
    "blank text": user_request({"text": " "}),
    "no content": user_request(),
    "two members of a union": user_request({"text": "a", "cachePoint": {"type": "default"}}),
    "unknown role": {"messages": [{"role": "wizard", "content": [TEXT]}]},
    "temperature": user_request(TEXT, inferenceConfig={"temperature": 1.5}),
    "wrong type": user_request(TEXT, inferenceConfig={"maxTokens": "many"}),
    "no tokens": user_request(TEXT, inferenceConfig={"maxTokens": 0}),
    "blank stop sequence": user_request(TEXT, inferenceConfig={"stopSequences": ["\n"]}),
    "calls without toolConfig": turns_request([TEXT], [USE], [RESULT]),
    "call without result": turns_request([TEXT], [USE], [TEXT], toolConfig=TOOLS),
    "result without call": turns_request([TEXT], [TEXT], [RESULT], toolConfig=TOOLS),
    "result after text": turns_request([TEXT], [USE], [TEXT, RESULT], toolConfig=TOOLS),
    "no tools": user_request(TEXT, toolConfig={"tools": []}),
    "choice of an unknown tool": user_request(TEXT, toolConfig={**TOOLS, "toolChoice": {"tool": {"name": "g"}}}),
    "tool name": user_request(TEXT, toolConfig=NAME_WITH_SPACE),
    "five cache points": user_request(TEXT, *[POINT] * 5),
    "cache point without content": user_request(POINT, TEXT),
    "unsigned reasoning": turns_request([TEXT], [{"reasoningContent": {"reasoningText": {"text": "t"}}}], [TEXT]),
    "forged reasoning": turns_request([TEXT], [{"reasoningContent": {"redactedContent": b"x" * 40}}], [TEXT]),
    "image of another format": user_request(
        {"image": {"format": "png", "source": {"bytes": b"\xff\xd8\xff" + b"0" * 9}}}
    ),
    "document without text": user_request({"document": {"format": "txt", "name": "a", "source": {"bytes": b"a"}}}),
    "document name": user_request(TEXT, {"document": {"format": "txt", "name": "a.b", "source": {"bytes": b"a"}}}),
    "open schema": user_request(TEXT, outputConfig=OPEN_SCHEMA),
    "prompt too long": user_request({"text": "word " * 6000}),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["non-streaming", "streaming"])
@pytest.mark.parametrize("parameters", REFUSED.values(), ids=list(REFUSED))
def test_request_that_aws_refuses_is_refused(client: Any, parameters: dict[str, Any], streamed: bool) -> None:
    with pytest.raises(ClientError) as raised:
        (client.converse_stream if streamed else client.converse)(modelId=MODEL, **parameters)
    assert raised.value.response["Error"]["Code"] == "ValidationException"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_request_with_unknown_member_or_without_key_is_refused(server: BedrockServer) -> None:
    from .process import request_json

    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIATEST/"}
    with pytest.raises(RuntimeError, match=r"extraneous key \[colour\]"):
        request_json("POST", f"{server.url}/model/m/converse", {**user_request(TEXT), "colour": "red"}, headers=headers)
    with pytest.raises(RuntimeError, match="security token"):
        request_json("POST", f"{server.url}/model/m/converse", user_request(TEXT))


RESPONSE = Converse(
    "Grüße!", calls=(Call("f", '{"a": [1, "é"]}', "t1"),), reasoning="I think so.", redacted="hidden", piece=3
)


def test_boto3_reads_the_servers_response(client: Any, server: BedrockServer) -> None:
    server.script([ConverseFault(response=RESPONSE)])
    response = client.converse(modelId=MODEL, **user_request(TEXT))
    assert response["output"]["message"]["content"] == [
        {"reasoningContent": {"redactedContent": redacted_reasoning("hidden")}},
        {"reasoningContent": {"reasoningText": {"text": "I think so.", "signature": signature_of("I think so.")}}},
        {"text": "Grüße!"},
        {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": [1, "é"]}}},
    ]
    assert (response["stopReason"], response["usage"]["inputTokens"]) == ("tool_use", 12)


def test_boto3_reads_the_servers_events(client: Any, server: BedrockServer) -> None:
    server.script([ConverseFault(response=RESPONSE)])
    events = list(client.converse_stream(modelId=MODEL, **user_request(TEXT))["stream"])
    assert [next(iter(event)) for event in events[:2]] == ["messageStart", "contentBlockDelta"]
    assert [next(iter(event)) for event in events[-2:]] == ["messageStop", "metadata"]
    deltas = [event["contentBlockDelta"] for event in events if "contentBlockDelta" in event]
    assert "".join(d["delta"]["text"] for d in deltas if "text" in d["delta"]) == "Grüße!"
    pieces = [d["delta"]["toolUse"]["input"] for d in deltas if "toolUse" in d["delta"]]
    assert ("".join(pieces), len(pieces) > 3) == ('{"a": [1, "é"]}', True)
    starts = [event["contentBlockStart"] for event in events if "contentBlockStart" in event]
    assert starts == [{"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}]


def test_boto3_raises_the_servers_exceptions(client: Any, server: BedrockServer) -> None:
    server.script([ConverseFault.exception("throttlingException", "slow down")])
    events = []
    with pytest.raises(EventStreamError, match=r"throttlingException.*slow down"):
        for event in client.converse_stream(modelId=MODEL, **user_request(TEXT))["stream"]:
            events.append(event)
    assert len(events) == 3
    response = client.converse(modelId=MODEL, **user_request(TEXT))
    assert response["output"]["message"]["content"] == [{"text": RESPONSE_TEXT}]
