"""What the bare install does: it imports fast and alone, and names what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

IMPORT = "from modelport import Model, ChatMessage"
LIST = "import sys, json; print(json.dumps(sorted(m for m in sys.modules)))"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def modules(code: str) -> set[str]:
    return set(json.loads(python(f"{code}\n{LIST}").splitlines()[-1]))


def test_import_pulls_no_third_party_package_and_no_asyncio() -> None:
    loaded = modules(IMPORT) - modules("")
    outside = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"modelport"}
    assert not outside, f"{sorted(outside)} were imported"
    assert "asyncio" not in loaded


def test_import_stays_small() -> None:
    """Counted, not timed: the milliseconds are for benchmarks/import_time.py to say."""
    loaded = modules(IMPORT) - modules("")
    assert len(loaded) <= 80, f"{len(loaded)} modules: {sorted(loaded)}"
    assert not loaded & {"asyncio", "ssl", "socket", "http.client", "logging", "urllib.request", "importlib.metadata"}


def test_a_model_of_ones_own_works_without_any_extra() -> None:
    code = """
from modelport import ChatMessage, Model
class Custom(Model):
    def generate(self, messages, stop_sequences=None, **kwargs):
        return ChatMessage("assistant", "fine. And more")
print([delta.content for delta in Custom().generate_stream("hi", stop_sequences=["."])])
"""
    assert python(code).strip() == "['fine', None]"


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [
        ("modelport.OpenAIServerModel('gpt-4o', api_key='k')('hi')", "aiohttp", "openai"),
        ("modelport.OpenAIServerModel('gpt-4o', api_key='k', client_kwargs={'timeout': 1})", "openai", "openai"),
        ("modelport.load_model('openai/gpt-4o', api_key='k')('hi')", "aiohttp", "openai"),
        ("modelport.AzureOpenAIModel('m', 'https://x.example', api_key='k')('hi')", "aiohttp", "openai"),
        ("modelport.OpenAIServerModel('gpt-4o')", "aiohttp", "openai"),  # and not: there is no key
        ("modelport.AzureOpenAIModel('m')", "aiohttp", "openai"),
        ("modelport.InferenceClientModel()", "huggingface_hub", "huggingface"),
        ("modelport.LlamaCppModel()", "xllamacpp", "llamacpp"),
        ("modelport.AmazonBedrockServerModel('us.amazon.nova-pro-v1:0', api_key='k')", "boto3", "bedrock"),
        ("modelport.LiteLLMModel()", "litellm", "litellm"),
        ("modelport.RedisLimits()", "redis", "redis"),
        ("modelport.MLXModel('some/model')", "mlx-lm", "mlx-lm"),
    ],
)
def test_a_missing_client_is_named_with_its_install(call: str, package: str, extra: str) -> None:
    code = f"""
import modelport
try:
    {call}
except modelport.MissingDependency as error:
    print(error)
"""
    told = python(code)
    assert repr(package) in told and f"pip install 'modelport[{extra}]'" in told, told


def test_no_engine_and_no_client_is_installed() -> None:
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert not installed & {"openai", "aiohttp", "xllamacpp", "torch", "transformers", "boto3", "litellm"}


def test_the_command_line_works() -> None:
    for arguments in (["--help"], ["--version"], ["models"]):
        command = [sys.executable, "-m", "modelport.cli", *arguments]
        assert subprocess.run(command, capture_output=True, text=True, timeout=60).returncode == 0, arguments
    result = subprocess.run([sys.executable, "-m", "modelport.cli", "hi"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "pip install 'modelport[llamacpp]'" in result.stderr
