"""The strict Bedrock server, asked by boto3 as it comes: what AWS refuses it refuses, and boto3 reads what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from .bedrock import ANSWER, BedrockServer, Converse, ConverseFault
from .bedrock_rules import sealed_thought, signature_of
from .faults import Call

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
    # boto3's own checks are off: the server's are tried.
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    keys = {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": "s"}
    session = boto3.Session(region_name="us-east-1", **keys)
    client = session.client("bedrock-runtime", endpoint_url=server.url, config=config)
    yield client
    client.close()


def asked(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}], **more}


def turns(*contents: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)], **more}


TEXT = {"text": "a"}
SCHEMA = '{"type": "object", "properties": {}, "additionalProperties": true}'
FORM = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": SCHEMA}}}}
REFUSED = {
    "no messages": {"messages": []},
    "the assistant first": {"messages": [{"role": "assistant", "content": [TEXT]}]},
    "two turns of one role": {"messages": [HI, HI]},
    "blank text": asked({"text": " "}),
    "no content": asked(),
    "two members of a union": asked({"text": "a", "cachePoint": {"type": "default"}}),
    "a wrong role": {"messages": [{"role": "wizard", "content": [TEXT]}]},
    "heat": asked(TEXT, inferenceConfig={"temperature": 1.5}),
    "a wrong type": asked(TEXT, inferenceConfig={"maxTokens": "many"}),
    "no tokens": asked(TEXT, inferenceConfig={"maxTokens": 0}),
    "a blank stop sequence": asked(TEXT, inferenceConfig={"stopSequences": ["\n"]}),
    "calls without toolConfig": turns([TEXT], [USE], [RESULT]),
    "a call without result": turns([TEXT], [USE], [TEXT], toolConfig=TOOLS),
    "a result without call": turns([TEXT], [TEXT], [RESULT], toolConfig=TOOLS),
    "a result after text": turns([TEXT], [USE], [TEXT, RESULT], toolConfig=TOOLS),
    "no tools": asked(TEXT, toolConfig={"tools": []}),
    "a choice of no tool": asked(TEXT, toolConfig={**TOOLS, "toolChoice": {"tool": {"name": "g"}}}),
    "a tool's name": asked(TEXT, toolConfig={"tools": [{"toolSpec": {"name": "a b", "inputSchema": {"json": {}}}}]}),
    "five cache points": asked(TEXT, *[POINT] * 5),
    "a cache of nothing": asked(POINT, TEXT),
    "an unsigned thought": turns([TEXT], [{"reasoningContent": {"reasoningText": {"text": "t"}}}], [TEXT]),
    "a forged thought": turns([TEXT], [{"reasoningContent": {"redactedContent": b"x" * 40}}], [TEXT]),
    "another image": asked({"image": {"format": "png", "source": {"bytes": b"\xff\xd8\xff" + b"0" * 9}}}),
    "a document alone": asked({"document": {"format": "txt", "name": "a", "source": {"bytes": b"a"}}}),
    "a document's name": asked(TEXT, {"document": {"format": "txt", "name": "a.b", "source": {"bytes": b"a"}}}),
    "an open schema": asked(TEXT, outputConfig=FORM),
    "too long": asked({"text": "word " * 6000}),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("params", REFUSED.values(), ids=list(REFUSED))
def test_it_refuses_what_aws_refuses(client: Any, params: dict[str, Any], streamed: bool) -> None:
    with pytest.raises(ClientError) as caught:
        (client.converse_stream if streamed else client.converse)(modelId=MODEL, **params)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_it_refuses_an_unknown_member(server: BedrockServer) -> None:
    from .process import request_json

    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIATEST/"}
    with pytest.raises(RuntimeError, match=r"extraneous key \[colour\]"):
        request_json("POST", f"{server.url}/model/m/converse", {**asked(TEXT), "colour": "red"}, headers=headers)
    with pytest.raises(RuntimeError, match="security token"):
        request_json("POST", f"{server.url}/model/m/converse", asked(TEXT))


SAID = Converse(
    "Grüße!", calls=(Call("f", '{"a": [1, "é"]}', "t1"),), reasoning="I think so.", sealed="hidden", piece=3
)


def test_boto3_reads_its_answers(client: Any, server: BedrockServer) -> None:
    server.script([ConverseFault(said=SAID)])
    answer = client.converse(modelId=MODEL, **asked(TEXT))
    assert answer["output"]["message"]["content"] == [
        {"reasoningContent": {"redactedContent": sealed_thought("hidden")}},
        {"reasoningContent": {"reasoningText": {"text": "I think so.", "signature": signature_of("I think so.")}}},
        {"text": "Grüße!"},
        {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": [1, "é"]}}},
    ]
    assert (answer["stopReason"], answer["usage"]["inputTokens"]) == ("tool_use", 12)


def test_boto3_reads_its_events(client: Any, server: BedrockServer) -> None:
    server.script([ConverseFault(said=SAID)])
    events = list(client.converse_stream(modelId=MODEL, **asked(TEXT))["stream"])
    assert [next(iter(event)) for event in events[:2]] == ["messageStart", "contentBlockDelta"]
    assert [next(iter(event)) for event in events[-2:]] == ["messageStop", "metadata"]
    deltas = [event["contentBlockDelta"] for event in events if "contentBlockDelta" in event]
    assert "".join(d["delta"]["text"] for d in deltas if "text" in d["delta"]) == "Grüße!"
    pieces = [d["delta"]["toolUse"]["input"] for d in deltas if "toolUse" in d["delta"]]
    assert ("".join(pieces), len(pieces) > 3) == ('{"a": [1, "é"]}', True)
    starts = [event["contentBlockStart"] for event in events if "contentBlockStart" in event]
    assert starts == [{"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}]


def test_boto3_raises_its_exceptions(client: Any, server: BedrockServer) -> None:
    server.script([ConverseFault.exception("throttlingException", "slow down")])
    read = []
    with pytest.raises(EventStreamError, match=r"throttlingException.*slow down"):
        for event in client.converse_stream(modelId=MODEL, **asked(TEXT))["stream"]:
            read.append(event)
    assert len(read) == 3
    assert client.converse(modelId=MODEL, **asked(TEXT))["output"]["message"]["content"] == [{"text": ANSWER}]
