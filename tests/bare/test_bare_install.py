"""The bare install: it imports nothing but the standard library, and errors name what to install for a backend."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

IMPORT = "from modelport import Model, ChatMessage"
LIST = "import sys, json; print(json.dumps(sorted(m for m in sys.modules)))"


def run_python(code: str) -> str:
    """Run a program in a process of its own, and return its output."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def imported_modules(code: str) -> set[str]:
    """Return the modules that a program has imported at its end."""
    return set(json.loads(run_python(f"{code}\n{LIST}").splitlines()[-1]))


def test_import_loads_no_third_party_package_and_no_asyncio() -> None:
    loaded = imported_modules(IMPORT) - imported_modules("")
    third_party = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"modelport"}
    assert not third_party, f"{sorted(third_party)} were imported"
    assert "asyncio" not in loaded


def test_import_loads_few_modules_and_none_that_are_slow() -> None:
    """Modules are counted, because times vary; benchmarks/import_time.py measures the milliseconds."""
    loaded = imported_modules(IMPORT) - imported_modules("")
    assert len(loaded) <= 80, f"{len(loaded)} modules: {sorted(loaded)}"
    assert not loaded & {"asyncio", "ssl", "socket", "http.client", "logging", "urllib.request", "importlib.metadata"}


def test_model_of_user_works_without_any_extra() -> None:
    code = """
from modelport import ChatMessage, Model
class Custom(Model):
    def generate(self, messages, stop_sequences=None, **kwargs):
        return ChatMessage("assistant", "fine. And more")
print([delta.content for delta in Custom().generate_stream("hi", stop_sequences=["."])])
"""
    assert run_python(code).strip() == "['fine', None]"


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [
        ("modelport.OpenAIServerModel('gpt-4o', api_key='k')('hi')", "aiohttp", "openai"),
        ("modelport.OpenAIServerModel('gpt-4o', api_key='k', client_kwargs={'timeout': 1})", "openai", "openai"),
        ("modelport.load_model('openai/gpt-4o', api_key='k')('hi')", "aiohttp", "openai"),
        ("modelport.AzureOpenAIModel('m', 'https://x.example', api_key='k')('hi')", "aiohttp", "openai"),
        ("modelport.OpenAIServerModel('gpt-4o')", "aiohttp", "openai"),  # The error must not be that there is no key.
        ("modelport.AzureOpenAIModel('m')", "aiohttp", "openai"),
        ("modelport.InferenceClientModel()", "huggingface_hub", "huggingface"),
        ("modelport.LlamaCppModel()", "xllamacpp", "llamacpp"),
        ("modelport.AmazonBedrockServerModel('us.amazon.nova-pro-v1:0', api_key='k')", "boto3", "bedrock"),
        ("modelport.LiteLLMModel()", "litellm", "litellm"),
        ("modelport.RedisLimits()", "redis", "redis"),
        ("import modelport.integrations.langchain", "langchain_core", "langchain"),
        ("modelport.MLXModel('some/model')", "mlx-lm", "mlx-lm"),
    ],
)
def test_missing_dependency_names_the_install_command(call: str, package: str, extra: str) -> None:
    code = f"""
import modelport
try:
    {call}
except modelport.MissingDependency as error:
    print(error)
"""
    output = run_python(code)
    assert repr(package) in output and f"pip install 'modelport[{extra}]'" in output, output


def test_bare_install_has_no_engine_and_no_client() -> None:
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert not installed & {"openai", "aiohttp", "xllamacpp", "torch", "transformers", "boto3", "litellm"}


def test_command_line_runs_and_names_the_missing_engine() -> None:
    for arguments in (["--help"], ["--version"], ["models"]):
        command = [sys.executable, "-m", "modelport.cli", *arguments]
        assert subprocess.run(command, capture_output=True, text=True, timeout=60).returncode == 0, arguments
    result = subprocess.run([sys.executable, "-m", "modelport.cli", "hi"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "pip install 'modelport[llamacpp]'" in result.stderr
