"""A server with the paths of the Hub and of Hugging Face's router, in place of huggingface_hub's addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.inference._providers import CONVERSATIONAL_AUTO_ROUTER, _common

from modelport import Model
from tests.servers.faults import FaultServer, Reply
from tests.servers.front import Front, hub

TOKEN = "hf_0123456789"
ANSWER = Reply().text
PATHS = {
    "novita": "/novita/v3/openai/chat/completions",
    "together": "/together/v1/chat/completions",
    "cohere": "/cohere/compatibility/v1/chat/completions",
    "groq": "/groq/openai/v1/chat/completions",
}


@pytest.fixture(scope="module")
def fault_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def module_router(fault_server: FaultServer) -> Iterator[Front]:
    with hub(fault_server.url, "upstream-key", token=TOKEN, providers=PATHS) as router:
        yield router


@pytest.fixture
def token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Remove every token, and return the path of the file where huggingface_hub looks for one."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
    return tmp_path / "token"


@pytest.fixture
def router(module_router: Front, fault_server: FaultServer, token_file: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The server in place of the Hub and the router, whose addresses are constants of huggingface_hub."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", module_router.url)
    monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_PROXY_TEMPLATE", f"{module_router.url}/{{provider}}")
    monkeypatch.setattr(CONVERSATIONAL_AUTO_ROUTER, "base_url", module_router.url)
    _common._fetch_inference_provider_mapping.cache_clear()
    module_router.requests.clear()
    fault_server.clear()
    return module_router


@pytest.fixture
def server(fault_server: FaultServer, token_file: Path) -> FaultServer:
    fault_server.clear()
    return fault_server


def texts_of(model: Model, **options: Any) -> list[str]:
    """Return the text of a non-streaming and of a streamed response, and close the model."""
    with model:
        text = model.generate("hello", **options).text
        return [text, "".join(delta.content or "" for delta in model.generate_stream("hello", **options))]
