"""The snippets of the smolagents reference page run on modelport, with only the import changed.

Two things are replaced before a snippet runs: the token of a real account, and the address of the service.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.servers.front import azure
from tests.servers.front import hub as router
from tests.servers.llamacpp import LlamaServer, llama_server
from tests.servers.ministack import ministack

pytestmark = [pytest.mark.engine, pytest.mark.server]

CUSTOM_MODEL = """
from modelport import Model
from huggingface_hub import login, InferenceClient

login("<YOUR_HUGGINGFACEHUB_API_TOKEN>")

model_id = "meta-llama/Llama-3.3-70B-Instruct"

client = InferenceClient(model=model_id)

class CustomModel(Model):
    def generate(self, messages, stop_sequences=["Task"]):
        response = client.chat_completion(messages, stop=stop_sequences, max_tokens=1024)
        answer = response.choices[0].message
        return answer

custom_model = CustomModel()
"""

OPENAI_SERVER_MODEL = """
import os
from modelport import OpenAIServerModel

model = OpenAIServerModel(
    model_id="gpt-4o",
    api_base="https://api.openai.com/v1",
    api_key=os.environ["OPENAI_API_KEY"],
)
"""

AZURE_OPENAI_SERVER_MODEL = """
import os

from modelport import AzureOpenAIServerModel

model = AzureOpenAIServerModel(
    model_id = os.environ.get("AZURE_OPENAI_MODEL"),
    azure_endpoint=os.environ.get("AZURE_OPENAI_ENDPOINT"),
    api_key=os.environ.get("AZURE_OPENAI_API_KEY"),
    api_version=os.environ.get("OPENAI_API_VERSION")
)
"""

INFERENCE_CLIENT_MODEL = """
from modelport import InferenceClientModel

messages = [
  {"role": "user", "content": [{"type": "text", "text": "Hello, how are you?"}]}
]

model = InferenceClientModel(provider="novita", requests_per_minute=60)
print(model(messages))
"""

AMAZON_BEDROCK_SERVER_MODEL = """
import os

from modelport import AmazonBedrockServerModel

model = AmazonBedrockServerModel(
    model_id = os.environ.get("AMAZON_BEDROCK_MODEL_ID"),
)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server(api_key="hf_reference") as server:
        yield server


@pytest.fixture
def hub() -> Iterator[str]:
    """A server with the part of the Hub that `login` needs: the owner of a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {"name": "reader", "type": "user", "auth": {"accessToken": {"displayName": "test", "role": "read"}}}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()


def run_snippet(code: str, folder: Path, **environment: str) -> list[str]:
    """Run a program, which must succeed, and return the lines that it prints."""
    (folder / "snippet.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "snippet.py"], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_custom_model_stops_at_stop_sequences_in_every_way_of_calling(
    server: LlamaServer, hub: str, tmp_path: Path
) -> None:
    snippet = CUSTOM_MODEL.replace("<YOUR_HUGGINGFACEHUB_API_TOKEN>", server.api_key).replace(
        "meta-llama/Llama-3.3-70B-Instruct", server.base_url
    )
    question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    use = f"""
import asyncio
question = {question!r}
print(custom_model(question).content.strip())
print(custom_model(question, stop_sequences=["capital"]).content.strip())
with custom_model.generate_stream(question, stop_sequences=["capital"]) as stream:
    print("".join(delta.content or "" for delta in stream).strip())
print(asyncio.run(custom_model.agenerate(question, stop_sequences=["capital"])).content.strip())
"""
    lines = run_snippet(snippet + use, tmp_path, HF_ENDPOINT=hub, HF_HOME=str(tmp_path))
    assert len(lines) >= 4 and all(lines)
    assert not any("capital" in line for line in lines[1:])


def test_custom_model_without_self_raises_clear_error() -> None:
    code = CUSTOM_MODEL.replace("self, ", "").replace('login("<YOUR_HUGGINGFACEHUB_API_TOKEN>")', "")
    with pytest.raises(TypeError, match=r"CustomModel\.generate lacks 'self'"):
        exec(code, {})


def test_openai_server_model_snippet_answers(server: LlamaServer, tmp_path: Path) -> None:
    snippet = OPENAI_SERVER_MODEL.replace("https://api.openai.com/v1", server.base_url)
    use = """
question = "What is the capital of France? Answer in one sentence."
messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
print(model(messages, temperature=0))
"""
    assert run_snippet(snippet + use, tmp_path, OPENAI_API_KEY=server.api_key) == ["The capital of France is Paris."]


@pytest.mark.parametrize("version", ["2024-10-21", ""], ids=["deployments path", "v1"])
def test_azure_openai_server_model_snippet_answers(server: LlamaServer, tmp_path: Path, version: str) -> None:
    use = """
question = "What is the capital of France? Answer in one sentence."
print(model([{"role": "user", "content": question}], temperature=0))
for delta in model.generate_stream(question, temperature=0):
    print(delta.content or "", end="")
"""
    with azure(server.url, server.api_key, deployment="my-gpt", api_key="az-key-0123456789") as resource:
        lines = run_snippet(
            AZURE_OPENAI_SERVER_MODEL + use, tmp_path, AZURE_OPENAI_MODEL="my-gpt", AZURE_OPENAI_ENDPOINT=resource.url,
            AZURE_OPENAI_API_KEY="az-key-0123456789", OPENAI_API_VERSION=version,
        )  # fmt: skip
    assert lines == ["The capital of France is Paris."] * 2
    path = "/openai/deployments/my-gpt/chat/completions" if version else "/openai/v1/chat/completions"
    assert [request.path for request in resource.requests] == [path] * 2


def test_inference_client_model_snippet_answers(server: LlamaServer, tmp_path: Path) -> None:
    path = "/novita/v3/openai/chat/completions"
    with router(server.url, server.api_key, token="hf_0123456789", providers={"novita": path}) as hub:
        # The address of the router is a constant of huggingface_hub.
        url = f"import huggingface_hub.constants as c; c.INFERENCE_PROXY_TEMPLATE = '{hub.url}/{{provider}}'\n"
        lines = run_snippet(
            url + INFERENCE_CLIENT_MODEL, tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN="hf_0123456789", HF_HOME=str(tmp_path)
        )
    assert lines and all(lines[:1])
    lookup, chat = hub.requests[-2:]  # The client may look up more by itself.
    assert lookup.path == "/api/models/Qwen/Qwen3-Next-80B-A3B-Thinking"
    assert (chat.path, chat.json["model"]) == (path, "novita/the-model")
    assert chat.json["messages"] == [{"role": "user", "content": "Hello, how are you?"}]


def test_amazon_bedrock_server_model_snippet_answers(tmp_path: Path) -> None:
    """The key, the region and the address of the service come from boto3's own environment variables."""
    use = """
question = "What is the capital of France? Answer in one sentence."
messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
print(model(messages, temperature=0))
"""
    with llama_server(api_key=None) as engine, ministack(engine.url) as service:
        environment = {
            "AMAZON_BEDROCK_MODEL_ID": "us.amazon.nova-pro-v1:0", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": service.url,
            "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }  # fmt: skip
        lines = run_snippet(AMAZON_BEDROCK_SERVER_MODEL + use, tmp_path, **environment)
    assert lines == ["The capital of France is Paris."]
