"""The tests in smolagents' source package, with modelport's model classes in the place of its own.

`EXCLUDED` lists those that can't pass, each with its reason. All others must pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.source_packages import SourcePackage

SOURCES = SourcePackage(
    "smolagents", "1.26.0", "4ec92313265f9cfbcabfc88e192b4bc4505f8475dc5f33dc872062fc567037bd",
    "setuptools.build_meta", "tests",
)  # fmt: skip
ROOT = Path(__file__).parents[2]

_PRIVATE = "it calls a private method of smolagents' classes"
_CLIENT = "it replaces the client inside of smolagents' class, or the constructor that makes it"
_HUB = "it loads weights from the Hugging Face Hub, or replaces the functions with which smolagents loads them"
_FIXTURE = "it needs a fixture that the source package does not bring"
_PACKAGE = "it needs a package that is not installed here (ddgs, pandas)"
_SERVICE = "it sends a request to a service on the internet"
#: Parts of the names of tests, with the reason why they can't pass.
EXCLUDED: dict[str, str] = {
    "test_prepare_completion_kwargs": _PRIVATE,
    "TestInferenceClientModel and test_call_with_custom_role_conversions": _CLIENT,
    "test_init_model_with_tokens": _CLIENT,
    "test_structured_outputs_with_unsupported_provider": "the provider of the test does not exist; modelport says so",
    "test_client_kwargs_passed_correctly": _CLIENT,
    "test_client_for_bedrock": _CLIENT,
    "test_stop_sequence_cutting_for_o4_mini": _CLIENT,
    "test_retry_on_rate_limit_error": _CLIENT,
    "test_tool_calls_json_serialization": _CLIENT,
    "test_create_client": "its model_id is not among the models of its router; modelport says so",
    "test_toolcalling_agent_api": _CLIENT,
    "test_call_different_providers_without_key": _SERVICE,
    "test_transformers_message": _HUB,
    "test_transformers_toolcalling_agent": _HUB,
    "TestTransformersModel and test_init": _HUB,
    "test_flatten_messages_as_text_for_all_models and (TransformersModel or MLXModel)": _HUB,
    "handles_image": _FIXTURE,
    "stream_logs_multiple_tool_calls_observations": _FIXTURE,
    "final_answer_cannot_be_called_with_parallel_tool_calls": _FIXTURE,
    "test_process_tool_calls and test_case1": _FIXTURE,
    "test_from_folder": _FIXTURE,
    "test_instantiation_disables_logging_to_terminal": _FIXTURE,
    "test_init_agent_with_different_toolsets": _PACKAGE,
    "TestCodeAgent and test_from_dict": _PACKAGE,
    "TestMultiAgents and test_multiagents": _PACKAGE,
}
#: Variables for the models that the tests make.
_VARIABLES = {
    "OPENAI_API_KEY": "sk-suite", "HF_TOKEN": "hf_suite", "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:1",
    "AZURE_OPENAI_API_KEY": "az-suite", "AWS_REGION": "us-east-1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


def run_suite(folder: Path, *files: str, selected: str) -> tuple[int, str]:
    """Run tests of smolagents, and return the exit status and the output.

    Args:
        folder: An empty folder.
        *files: The names of the files.
        selected: The expression by which tests are selected, besides `EXCLUDED`.
    """
    tests = folder / "tests"
    (tests / "utils").mkdir(parents=True)
    for name in files:
        shutil.copy(SOURCES.folder() / name, tests)
    (tests / "__init__.py").touch()
    (tests / "utils" / "__init__.py").touch()
    # The source package lacks this file. Its mark is for tests that download weights.
    (tests / "utils" / "markers.py").write_text(
        "import pytest\n\nrequire_run_all = pytest.mark.skip(reason='download')\n"
    )
    (folder / "swap.py").write_text((Path(__file__).parent / "swap.py").read_text())
    excluded = " or ".join(f"({expression})" for expression in EXCLUDED)
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "swap", "-p", "no:cacheprovider", "-p", "no:xdist",
        "-o", "asyncio_default_fixture_loop_scope=function", "-k", f"({selected}) and not ({excluded})",
        *(f"tests/{name}" for name in files),
    ]  # fmt: skip
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **_VARIABLES, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr
