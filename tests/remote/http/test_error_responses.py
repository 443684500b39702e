"""Error responses, redirects and oversized responses: what is read of them, and what the error says."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from modelport.errors import (
    AuthenticationError,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
)
from modelport.remote.http import bodies
from modelport.remote.http.bodies import MAX_RESPONSE_SIZE
from tests.remote.http.models import KEY, MODELS_BY_KEY_PATH, ask_and_close, model_for
from tests.remote.secret_leaks import text_of_error
from tests.servers.faults import Fault, FaultServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(60)]

LONG_BODY = json.dumps({"error": {"message": "x" * 500}}).encode()


@pytest.mark.parametrize("end", ["close", "reset", "stall"])
@pytest.mark.parametrize(
    ("status", "kind"), [(503, ServerError), (429, RateLimited), (401, AuthenticationError), (400, InvalidRequest)]
)
def test_error_with_incomplete_body_is_classified_by_status(
    server: FaultServer,
    transport: str,
    status: int,
    kind: type[ModelError],
    end: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = Fault.status(status, headers={"Retry-After": "7"}, body=LONG_BODY)
    server.script(then=replace(fault, end=end, after_bytes=20))
    # The test of the real limit is `test_stalled_error_body_is_read_for_limited_time`.
    monkeypatch.setattr(bodies, "ERROR_BODY_TIMEOUT", 0.3)
    with model_for(server.base_url, transport) as model, pytest.raises(kind) as caught:
        model.generate("hello")
    assert (caught.value.status, caught.value.retry_after) == (status, 7)
    assert len(server.requests) == 1
    if end == "stall":  # The server would stall for 30 seconds.
        server.wait_for(lambda: server.requests[0].client_left)


@pytest.mark.parametrize("transport", ["http", "sdk"])
def test_stalled_error_body_is_read_for_limited_time(server: FaultServer, transport: str) -> None:
    server.script(then=replace(Fault.status(503, body=LONG_BODY), end="stall", after_bytes=20))
    with model_for(server.base_url, transport) as model, pytest.raises(ServerError):
        model.generate("hello")
    server.wait_for(lambda: server.requests[0].client_left)


def test_large_error_body_is_truncated(server: FaultServer) -> None:
    server.script(then=Fault.status(500, body=b"x" * 10_000_000))
    with model_for(server.base_url) as model, pytest.raises(ServerError, match="xxx"):
        model.generate("hello")


@pytest.mark.parametrize("way", ["sync", "streamed"])
def test_response_that_decompresses_beyond_limit_is_not_read_to_end(server: FaultServer, way: str) -> None:
    """A megabyte on the wire may decompress to any size."""
    compressed = gzip.compress(b" " * 2 * MAX_RESPONSE_SIZE)
    server.script(then=Fault(content=compressed, headers={"Content-Encoding": "gzip"}, never_streams=True))
    with model_for(server.base_url) as model:
        tracemalloc.start()
        try:
            with pytest.raises(MalformedResponse, match="larger than 16 MiB"):
                ask_and_close(model, way)
            assert tracemalloc.get_traced_memory()[1] < 2 * MAX_RESPONSE_SIZE
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("way", ["sync", "streamed"])
@pytest.mark.parametrize("key_path", ["http", "sdk", "azure-sdk", "azure-sdk v1", "own client", "own async client"])
def test_redirect_is_refused_and_shows_no_key(server: FaultServer, key_path: str, way: str) -> None:
    """Otherwise the prompt and the caller's headers would be sent to the other address."""
    with FaultServer() as other:
        location = f"{other.base_url}/{KEY}/completions?key={KEY}"
        server.script(then=Fault.status(307, headers={"Location": location}))
        with (
            MODELS_BY_KEY_PATH[key_path](server.base_url) as model,
            pytest.raises(InvalidRequest, match=r"redirects to http.*/\*\*\*/completions; pass") as caught,
        ):
            ask_and_close(model, way)
        assert other.requests == []
    assert KEY not in text_of_error(caught.value, __file__)
