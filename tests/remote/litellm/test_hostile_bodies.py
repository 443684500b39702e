"""Bodies without an end, and bombs of gzip and of JSON, through LiteLLM's clients."""

from __future__ import annotations

import json
import time

import pytest

from modelport import InvalidOutput, JSONSchema, LiteLLMRouterModel, MalformedResponse
from modelport.remote.litellm.package import litellm_package
from tests.remote.litellm.helpers import deployments_on, model_on
from tests.remote.test_hostile_bodies import check_attacks
from tests.servers.faults import Fault, FaultServer, Reply


def test_hostile_body_raises_typed_error_in_bounded_memory() -> None:
    # The openai package's own parser of events takes 4 s for an event of 16 MiB that comes in pieces.
    check_attacks("litellm", "litellm-http", max_cpu=10)


def test_schema_of_a_stranger_is_not_validated_by_litellm(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM would validate it on the event loop, without bounds: 2^30 short checks for this one."""
    monkeypatch.setattr(litellm_package(), "enable_json_schema_validation", True)
    levels = 30
    branches = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    schema = {
        "$defs": {**branches, f"d{levels}": {"type": "integer"}},
        "type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "required": ["a"],
    }  # fmt: skip
    server.script(then=Fault(status_code=200, content=Reply('{"a": "x"}').body("m")))
    deployments = deployments_on(server, model="openai/gpt-4o", enable_json_schema_validation=True)
    for model in (
        model_on(server, "openai/gpt-4o", retry=False, timeout=20),
        model_on(server, "openai/gpt-4o", retry=False, timeout=20, enable_json_schema_validation=True),
        LiteLLMRouterModel("g", deployments, retry=False, timeout=20),
    ):
        begin = time.process_time()
        with model, pytest.raises(InvalidOutput):
            model("hi", grammar=JSONSchema(schema))
        assert time.process_time() - begin < 5


def test_nested_data_in_a_response_raises_malformed_response(server: FaultServer) -> None:
    body = json.loads(Reply("a").body("m"))
    body["choices"][0]["message"]["reasoning_details"] = [{"type": "x", "a": "@"}]
    data = json.dumps(body).replace('"@"', "[" * 200 + "]" * 200).encode()
    server.script(then=Fault(status_code=200, content=data))
    with model_on(server, retry=False) as model, pytest.raises(MalformedResponse):
        model("hi")
