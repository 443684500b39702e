"""The model behind an application inference profile on Bedrock, which is looked up once."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelport import AmazonBedrockServerModel
from modelport.remote.bedrock.inference_profiles import has_own_address, is_application_profile, model_in
from tests.remote.matrix_runner import ask
from tests.servers.bedrock import BedrockServer, ConverseFault
from tests.servers.faults import Connection, Fault, Recorded

pytestmark = pytest.mark.server

ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "secret-access-key-0123456789"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcdefghijkl"
NOVA = "amazon.nova-pro-v1:0"


def profile(*models: str) -> dict[str, Any]:
    """Return the answer, whose fields are those of `GetInferenceProfile` in botocore's service model."""
    arns = [f"arn:aws:bedrock:us-east-{i + 1}::foundation-model/{model}" for i, model in enumerate(models)]
    return {
        "inferenceProfileName": "mine", "inferenceProfileArn": ARN, "inferenceProfileId": "abcdefghijkl",
        "models": [{"modelArn": arn} for arn in arns], "status": "ACTIVE", "type": "APPLICATION",
    }  # fmt: skip


class ProfileServer(BedrockServer):
    """Bedrock's two services at one address: `bedrock` answers each GET request as scripted."""

    def __init__(self) -> None:
        super().__init__(access_key=ACCESS_KEY)
        self.page: Any = profile(NOVA)
        self.gets: list[str] = []

    async def _respond(self, connection: Connection, request: Recorded) -> bool:
        if request.method != "GET":
            return await super()._respond(connection, request)
        self.gets.append(request.target)
        page = self.page if isinstance(self.page, Fault) else Fault(content=json.dumps(self.page).encode())
        return await connection.respond(request, page)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ProfileServer]:
    with ProfileServer() as server:
        for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", server.url)
        yield server


def model_for(server: ProfileServer, **settings: Any) -> AmazonBedrockServerModel:
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    given = {"api_base": server.url, "region_name": "us-east-1", "client_kwargs": keys, "retry": False, **settings}
    return AmazonBedrockServerModel(ARN, **given)


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_model_behind_the_profile_is_looked_up_once(server: ProfileServer, way: str) -> None:
    server.page = profile(NOVA, NOVA)
    model = model_for(server)
    assert ask(model, way, top_k=5).content
    assert ask(model, way).content
    assert [target.startswith("/inference-profiles/") for target in server.gets] == [True]
    assert server.accepted[0]["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}
    assert "application-inference-profile" in server.requests[0].target
    copied = pickle.loads(pickle.dumps(model))
    assert "top_k" not in copied.capabilities.refused and copied._has_looked_up


FAILURES = {
    "access denied": (
        ConverseFault.status(403, code="AccessDeniedException", message="not authorized to perform"),
        r"GetInferenceProfile failed \(.*not authorized.*base_model=",
    ),
    "hanging": (Fault.silence(), r"GetInferenceProfile failed \(no answer in time\)"),
}


@pytest.mark.parametrize(("page", "text"), FAILURES.values(), ids=FAILURES)
def test_failure_is_recorded_and_fails_no_call(
    server: ProfileServer, page: Fault, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.page = page
    if page is FAILURES["hanging"][0]:
        monkeypatch.setattr("modelport.remote.server_kind.PROBE_TIMEOUT", 0.5)
    model = model_for(server)
    with pytest.warns(UserWarning, match=text) as warned:
        assert ask(model, "sync").content
    asked = len(server.gets)
    assert ask(model, "sync").content
    assert len(server.gets) == asked
    assert SECRET_KEY not in str([str(one.message) for one in warned])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (profile(NOVA), NOVA),
        (profile(NOVA, NOVA), NOVA),
        (profile(NOVA, "anthropic.claude-3-haiku-20240307-v1:0"), None),
        ({"models": [{"modelArn": "x"}]}, None),
        ({"models": [{"modelArn": None}]}, None),
        ({"models": [1]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_model_is_that_of_all_regions(answer: Any, expected: str | None) -> None:
    assert model_in(answer) == expected


def test_nothing_is_looked_up_without_need(server: ProfileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(model_for(server, base_model=NOVA), "sync")
    monkeypatch.delenv("AWS_ENDPOINT_URL_BEDROCK")
    ask(model_for(server), "sync")  # The address is the caller's own, so AWS is not asked with its key.
    assert server.gets == []
    assert has_own_address("http://gateway", {}) and has_own_address(None, {"endpoint_url": "http://gateway"})
    assert not has_own_address(None, {})


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        (ARN, True),
        (ARN.replace("arn:aws:", "arn:aws-us-gov:"), True),
        (ARN.replace("application-", ""), False),
        (NOVA, False),
        (f"{ARN}/x", False),
        (None, False),
    ],
)
def test_arn_of_an_application_profile_is_recognised(model_id: str | None, expected: bool) -> None:
    assert is_application_profile(model_id) is expected
