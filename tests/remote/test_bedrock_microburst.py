"""Faults of a server of others: microburst in front of ministack, whose own words stand for a model's here.

They come as others encode them: a gateway's error bodies, and error frames (not exceptions) within a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from modelport import AmazonBedrockServerModel
from modelport.errors import (
    ConnectionFailed,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import QUICK, ask
from tests.servers.microburst import Microburst, microburst
from tests.servers.ministack import ministack


@pytest.fixture(scope="module")
def proxy() -> Iterator[Microburst]:
    with ministack("") as service, microburst(service.url) as proxy:
        yield proxy


def model_for(proxy: Microburst) -> AmazonBedrockServerModel:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return AmazonBedrockServerModel(
        "amazon.nova-pro-v1:0", None, keys, region_name="us-east-1", api_base=proxy.url, retry=QUICK, timeout=20
    )


def frames(**surgery: Any) -> dict[str, Any]:
    return {"response": {"event_frames": [{"at": 3, **surgery}]}}


CASES: list[tuple[str, dict[str, Any], str, Any]] = [
    ("throttled once", {"error": {"code": "ThrottlingException", "status": 429}, "times": 1}, "", None),
    ("failed twice", {"error": {"code": "InternalServerException", "status": 500}, "times": 2}, "", None),
    ("reset once", {"reset": True, "times": 1}, "", None),
    ("throttled for ever", {"error": {"code": "ThrottlingException", "status": 429}}, "", RateLimited),
    ("unavailable for ever", {"error": {"code": "ServiceUnavailableException", "status": 503}}, "", ServerError),
    ("a body cut short", {"response": {"truncate_frac": 0.5}}, "whole", MalformedResponse),
    ("a bad checksum", frames(bad_crc=True), "streamed", MalformedResponse),
    ("half a frame", frames(cut=0.5), "streamed", MalformedResponse),
    ("an error frame", frames(error={"code": "ThrottlingException"}), "streamed", RateLimited),
    ("another error frame", frames(error={"code": "InternalServerException"}), "streamed", ServerError),
    ("a broken connection", {"response": {"abort_frac": 0.6}}, "streamed", (ConnectionFailed, MalformedResponse)),
]
CELLS = [
    pytest.param(rule, way, error, id=f"{name} - {way}")
    for name, rule, where, error in CASES
    for way in WAYS
    if not where or (where == "streamed") == ("streamed" in way)
]


@pytest.mark.parametrize(("rule", "way", "error"), CELLS)
def test_a_fault_of_others(proxy: Microburst, rule: dict[str, Any], way: str, error: Any) -> None:
    proxy.break_by()
    whole = ask(model_for(proxy), "sync")
    before = proxy.requests()
    proxy.break_by(rule)
    if error is None:
        assert ask(model_for(proxy), way).content == whole.content
        assert proxy.requests() - before == rule["times"] + 1
        return
    with pytest.raises(ModelError) as caught:
        ask(model_for(proxy), way)
    raised = caught.value
    if "response" in rule and "streamed" in way:
        assert isinstance(raised, StreamInterrupted)
        assert raised.partial.text and whole.text.startswith(raised.partial.text)
        assert isinstance(raised.__cause__, error), repr(raised.__cause__)
    else:
        assert isinstance(raised, error), repr(raised)
