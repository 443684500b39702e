"""Faults that another implementation encodes: microburst in front of ministack, which makes up the model's responses.

microburst sends error bodies as a gateway does, and error frames (not exceptions) within a stream.
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

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def proxy() -> Iterator[Microburst]:
    with ministack("") as service, microburst(service.url) as proxy:
        yield proxy


def model_for(proxy: Microburst) -> AmazonBedrockServerModel:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return AmazonBedrockServerModel(
        "amazon.nova-pro-v1:0", None, keys, region_name="us-east-1", api_base=proxy.url, retry=QUICK, timeout=20
    )


def fault_in_frame(**change: Any) -> dict[str, Any]:
    return {"response": {"event_frames": [{"at": 3, **change}]}}


CASES: list[tuple[str, dict[str, Any], str, Any]] = [
    ("throttled once", {"error": {"code": "ThrottlingException", "status": 429}, "times": 1}, "", None),
    ("failed twice", {"error": {"code": "InternalServerException", "status": 500}, "times": 2}, "", None),
    ("reset once", {"reset": True, "times": 1}, "", None),
    ("always throttled", {"error": {"code": "ThrottlingException", "status": 429}}, "", RateLimited),
    ("always unavailable", {"error": {"code": "ServiceUnavailableException", "status": 503}}, "", ServerError),
    ("truncated body", {"response": {"truncate_frac": 0.5}}, "non-streaming", MalformedResponse),
    ("wrong checksum", fault_in_frame(bad_crc=True), "streamed", MalformedResponse),
    ("half a frame", fault_in_frame(cut=0.5), "streamed", MalformedResponse),
    ("throttling error frame", fault_in_frame(error={"code": "ThrottlingException"}), "streamed", RateLimited),
    ("server error frame", fault_in_frame(error={"code": "InternalServerException"}), "streamed", ServerError),
    ("broken connection", {"response": {"abort_frac": 0.6}}, "streamed", (ConnectionFailed, MalformedResponse)),
]
CELLS = [
    pytest.param(rule, way, error, id=f"{name} - {way}")
    for name, rule, only, error in CASES
    for way in WAYS
    if not only or (only == "streamed") == ("streamed" in way)
]


@pytest.mark.parametrize(("rule", "way", "error"), CELLS)
def test_fault_is_retried_or_raises_its_error(proxy: Microburst, rule: dict[str, Any], way: str, error: Any) -> None:
    proxy.set_rules()
    complete = ask(model_for(proxy), "sync")
    before = proxy.request_count()
    proxy.set_rules(rule)
    if error is None:
        assert ask(model_for(proxy), way).content == complete.content
        assert proxy.request_count() - before == rule["times"] + 1
        return
    with pytest.raises(ModelError) as raised:
        ask(model_for(proxy), way)
    failure = raised.value
    if "response" in rule and "streamed" in way:
        assert isinstance(failure, StreamInterrupted)
        assert failure.partial.text and complete.text.startswith(failure.partial.text)
        assert isinstance(failure.__cause__, error), repr(failure.__cause__)
    else:
        assert isinstance(failure, error), repr(failure)
