"""docs/how-to/deployment.md: every instruction of its Dockerfiles, and every command and variable that it names."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from modelport.cli.commands import cli
from modelport.registry import model_class

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "deployment.md").read_text()
DOCKERFILES = re.findall(r"^```dockerfile\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
#: The variables that the page names -> where they are read: a module's name, or a file of modelport.
VARIABLES = {
    "MODELPORT_CACHE": "src/modelport/local/llamacpp/weights.py",
    "MODELPORT_MODEL": "src/modelport/cli/options.py",
    "SSL_CERT_FILE": "src/modelport/remote/http/connections.py",
    "OPENAI_BASE_URL": "src/modelport/remote/openai/model.py",
    "OPENAI_ORG_ID": "src/modelport/remote/openai/model.py",
    "OPENAI_PROJECT_ID": "src/modelport/remote/openai/model.py",
    "OPENAI_CUSTOM_HEADERS": "src/modelport/remote/openai/model.py",
    "OPENAI_API_KEY": "src/modelport/remote/openai/model.py",
    "HTTPS_PROXY": "src/modelport/remote/http/environment.py",
    "HTTP_PROXY": "src/modelport/remote/http/environment.py",
    "ALL_PROXY": "src/modelport/remote/http/environment.py",
    "NO_PROXY": "src/modelport/remote/http/environment.py",
    "HF_HOME": "huggingface_hub.constants",
    "HF_HUB_OFFLINE": "huggingface_hub.constants",
    "HF_TOKEN": "huggingface_hub.constants",
    "AWS_CA_BUNDLE": "botocore.configprovider",
    "PIP_CERT": "",  # pip reads each of its options from such a variable: `--cert`.
}


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in dockerfile.splitlines()]


def check_command(words: list[str]) -> None:
    """Check that a command of modelport can be parsed, and that its models have known names."""
    assert words[0] == "modelport"
    name = words[1] if words[1] in cli.commands else "ask"
    arguments = words[2:] if words[1] in cli.commands else words[1:]
    with cli.commands[name].make_context(name, list(arguments)) as context:
        if model := context.params.get("model"):
            model_class(model.partition("/")[0])


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_instruction_of_a_dockerfile_is_known(dockerfile: str) -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for instruction, text in instructions(dockerfile):
        words = shlex.split(text)
        if instruction == "RUN" and words[0] == "modelport":
            check_command(words)
        elif instruction == "RUN" and words[-1].startswith("modelport"):
            assert words[:2] == ["pip", "install"] or words[:3] == ["uv", "pip", "install"]
            assert set(re.fullmatch(r"modelport\[(.*)\]", words[-1])[1].split(",")) <= extras  # type: ignore[index]
        elif instruction == "RUN":
            assert text in ("pip install --no-cache-dir uv", "update-ca-certificates")
        elif instruction == "ENV":
            assert text.partition("=")[0] in VARIABLES
        elif instruction == "CMD":
            check_command(json.loads(text))
        else:
            assert instruction in ("FROM", "COPY", "USER")


@pytest.mark.parametrize("dockerfile", [text for text in DOCKERFILES if "modelport download" in text])
def test_weights_are_downloaded_into_a_folder_that_the_user_can_read_only(dockerfile: str) -> None:
    order = [
        index
        for part in ("ENV (MODELPORT_CACHE|HF_HOME)=/", "RUN modelport download", "USER ")
        for index, line in enumerate(dockerfile.splitlines())
        if re.match(part, line)
    ]
    assert len(order) == 3 and order == sorted(order)
    offline = dockerfile.find("ENV HF_HUB_OFFLINE=1")
    assert offline == -1 or offline > dockerfile.index("RUN modelport download")


def test_every_variable_of_the_page_is_read() -> None:
    named = set(re.findall(r"\b(?:[A-Z]+_)+[A-Z]+\b", PAGE))
    assert named == VARIABLES.keys()
    for variable, where in VARIABLES.items():
        if where.endswith(".py"):
            assert variable in (ROOT / where).read_text(), variable
        elif where:
            module = pytest.importorskip(where)
            assert variable in Path(module.__file__).read_text(), variable


def test_uv_has_the_option_for_the_cpu_build_of_torch() -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed")
    shown = subprocess.run([uv, "pip", "install", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--torch-backend" in shown and re.search(r"\bcpu\b", shown)


def test_wrong_command_is_found() -> None:
    with pytest.raises(click.UsageError):
        check_command(["modelport", "download", "--nope"])
