"""Ways to run the command line: on a scripted model in this process, and in a process or a terminal of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from inspect import signature
from typing import Any

import pexpect
from click.testing import CliRunner

from modelport import Model
from modelport.testing import ScriptedModel

CLI = [sys.executable, "-m", "modelport.cli"]
PARIS = "What is the capital of France? Answer in one sentence."
STORY = "Write a long story about a fox who finds a library in the forest."
#: One thread, because with two llama.cpp is much slower beside another busy process on a machine of two cores.
LOCAL_MODEL = ["-m", "llamacpp", "--set", "threads=1", "--set", "context_length=2048", "-t", "0"]
#: Before click 8.2, a runner mixed standard error into standard output by default.
_RUNNER_OPTIONS: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
RUNNER = CliRunner(**_RUNNER_OPTIONS)
#: A program that runs the command line on a scripted model. Its first argument is an expression for the script.
PROGRAM_ON_SCRIPTED_MODEL = "\n".join(
    (
        "import sys, modelport.registry",
        "from modelport.cli import main",
        "from modelport.testing import ScriptedModel",
        "model = ScriptedModel(*eval(sys.argv.pop(1)), repeat=True)",
        "modelport.registry.load_model = lambda spec, **settings: model",
        "main()",
    )
)


class ClosableModel(ScriptedModel):
    """A scripted model that counts how often it was closed."""

    closed = 0

    def close(self, drain: float = 0.0) -> None:
        self.closed += 1


class FakeLoadModel:
    """A replacement for `load_model`: records its calls, and returns prepared models.

    Attributes:
        calls: The name of the model and the settings of each call.
        models: The model (or the exception to raise) for each name; `*` is for all other names.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.models: dict[str, Any] = {}

    def __call__(self, spec: str, **settings: Any) -> Model:
        self.calls.append((spec, settings))
        model = self.models.get(spec, self.models.get("*"))
        if isinstance(model, BaseException):
            raise model
        return model


def run_process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, and return what it printed."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", "timeout": 120, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run([*CLI, *args], **options)


def start_process(*args: str) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen([*CLI, *args], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def start_in_terminal(
    script: str, *args: str, columns: int = 100, env: Mapping[str, str] | None = None
) -> pexpect.spawn:
    """Start the command line on a scripted model in a terminal of its own.

    Args:
        script: An expression for the script of the model.
        *args: The arguments of the command line.
        columns: The width of the terminal.
        env: Further environment variables.
    """
    command = ["-c", PROGRAM_ON_SCRIPTED_MODEL, script, *args]
    environment = {**os.environ, "TERM": "xterm", **(env or {})}
    dimensions = (24, columns)
    return pexpect.spawn(sys.executable, command, encoding="utf-8", env=environment, timeout=30, dimensions=dimensions)


def read_terminal(columns: int, *args: str, script: str = "['Fine.']") -> str:
    """Run the command line in a terminal of this width, and return what the terminal shows."""
    terminal = start_in_terminal(script, *args, columns=columns)
    shown = terminal.read()
    terminal.close()
    return str(shown)
