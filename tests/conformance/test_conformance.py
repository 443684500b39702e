"""Every conformance check on every backend under test.

A backend under test is a model on a real engine, or behind its real client. Each check must pass, or be declared
unsupported and refused. Where a check can't decide, this file names the reason, so that none is skipped silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from modelport.testing import CHECKS, Check, Subject, run_check
from tests.conformance import bedrock_subjects as bedrock
from tests.conformance import litellm_subjects, subjects, table, vllm_subjects
from tests.conformance.loop_watch import MAX_HOLD, Holds, LoopWatch

pytestmark = [pytest.mark.engine, pytest.mark.server]

_REASONING_CHECKS = ("reasoning", "structured output after reasoning")
_LOCAL = {"errors": "there is no service that could fail", "secrets": "it has no key"}
#: The checks that end as "not checked" for a backend, and why.
NOT_CHECKED: dict[str, dict[str, str]] = {
    "llamacpp": _LOCAL,
    "transformers": _LOCAL,
    "mlx": _LOCAL,
    "openai": dict.fromkeys(
        _REASONING_CHECKS, "SmolLM2 does not reason; the backends llamacpp-thinking and openai-mocked do"
    ),
    "openai-vllm": {"errors": "the backend openai checks them: the translation is the same"},
    "openai-vllm-responses": {"errors": "the backend openai-responses checks them: the translation is the same"},
    **{
        name: dict.fromkeys(_REASONING_CHECKS, "as for openai")
        for name in ("openai-sdk", "openai-responses", "fallback", "azure", "azure-sdk", "huggingface")
    },
    **litellm_subjects.NOT_CHECKED,
    **vllm_subjects.NOT_CHECKED,
}
#: The backends whose engine is in this process. Of the others the service encodes the prompt.
_LOCAL_BACKENDS = ("llamacpp", "transformers", "mlx", "vllm")
#: The checks that a server of fixed responses can decide.
MOCKED = {
    "generate", "stream", "async", "stop sequences", "cancellation", "invalid input", "context window exceeded",
    "JSON schema", "typed output", "regex", "choice", "context-free grammar", "structured output with tools",
    "partial objects", "reasoning", "reasoning effort",
    "tools: auto", "tools: required", "tools: named", "tools: none",
    "parallel tool calls", "tool results", "streamed tool calls", "event loops", "concurrent calls", "closing",
    "secrets",
}  # fmt: skip
#: The checks that depend on what the model chooses to do. The smallest model calls no tool unless it must, and one tool
#: where two are wanted; the servers of fixed responses call both.
MODEL_DEPENDENT = {"tools: auto", "parallel tool calls"}
#: The checks that a chat template with tools affects.
TOOLS = {
    "generate", "stop sequences", "tools: auto", "tools: required", "tools: named", "tools: none",
    "parallel tool calls", "tool results", "streamed tool calls", "roles", "special tokens",
}  # fmt: skip
THINKING = {*_REASONING_CHECKS, "reasoning effort"}
#: The checks of backends that do not run all of them.
SELECTED_CHECKS = {
    "llamacpp-seeing": {"generate", "roles", "image input", "usage"},
    "llamacpp-thinking": THINKING,
    # llama.cpp reads the calls that the model chooses to make. modelport enforces those that it must make.
    "llamacpp-tools": {"tools: required", "tools: named", "tools: none", "parallel tool calls", "streamed tool calls"},
    "transformers-thinking": THINKING,
    "transformers-tools": TOOLS,
    "mlx-thinking": THINKING,
    "mlx-tools": TOOLS,
    **{name: MOCKED for name in ("openai-mocked", "azure-mocked", "huggingface-mocked")},
    **{name: MOCKED for name in ("litellm-mocked", "litellm-router-mocked")},
    # ministack reports of every response that it ended by itself, and passes on neither tools, schemas nor images.
    "bedrock": {
        "generate", "stream", "async", "stop sequences", "cancellation", "deterministic", "seed", "usage", "logprobs",
        "roles", "invalid input", "timeout", "event loops", "concurrent calls", "fork", "closing", "secrets", "saving",
    },
    # It has the client of openai-sdk, and the address and key of azure, which run all checks.
    "azure-sdk": {
        "generate", "stream", "async", "cancellation", "usage", "logprobs", "JSON schema", "tools: required",
        "streamed tool calls", "image input", "errors", "timeout", "event loops", "concurrent calls", "fork",
        "closing", "secrets", "saving",
    },
    # If every model fails, the first model's error is raised; here it says that this model does not exist.
    "fallback": {check.name for check in CHECKS} - {"context window exceeded"},
    "bedrock-forced": {
        "generate", "JSON schema", "typed output", "truncated structured output", "regex", "choice",
        "context-free grammar", "strict structured output", "structured output with tools", "partial objects",
        "reasoning effort",
    },
    **vllm_subjects.SELECTED_CHECKS,
}  # fmt: skip

OpenSubject = Callable[[Path], AbstractContextManager[Subject]]
#: The backends under test, by name. Each function takes an empty folder and opens the subject.
SUBJECTS: dict[str, OpenSubject] = {
    "llamacpp": lambda folder: subjects.local_llamacpp(),
    "llamacpp-seeing": subjects.llamacpp_with_images,
    "llamacpp-thinking": lambda folder: subjects.llamacpp_with_reasoning(),
    "llamacpp-tools": lambda folder: subjects.local_llamacpp(chat_template=subjects.TOOLS_TEMPLATE),
    "transformers": lambda folder: subjects.local_transformers(),
    "transformers-thinking": lambda folder: subjects.transformers_with_reasoning(),
    "transformers-tools": lambda folder: subjects.local_transformers(chat_template=subjects.TOOLS_TEMPLATE),
    "mlx": lambda folder: subjects.local_mlx(),
    "mlx-thinking": lambda folder: subjects.mlx_with_reasoning(),
    "mlx-tools": lambda folder: subjects.local_mlx(chat_template=subjects.TOOLS_TEMPLATE),
    "openai": subjects.on_llamacpp_server,
    "openai-sdk": lambda folder: subjects.on_llamacpp_server(folder, client_kwargs={"timeout": 60}),
    "openai-responses": lambda folder: subjects.on_llamacpp_server(folder, api="responses"),
    "openai-vllm": lambda folder: subjects.on_vllm_server(),
    "openai-vllm-responses": lambda folder: subjects.on_vllm_server(api="responses"),
    "openai-mocked": lambda folder: subjects.on_mock_server(),
    "fallback": subjects.fallback,
    "azure": lambda folder: subjects.on_llamacpp_server(folder, subjects.azure_model),
    "azure-sdk": lambda folder: subjects.on_llamacpp_server(
        folder, subjects.azure_model, client_kwargs={"timeout": 60}
    ),
    "azure-mocked": lambda folder: subjects.on_mock_server(subjects.azure_model),
    "huggingface": lambda folder: subjects.on_llamacpp_server(folder, subjects.huggingface_model),
    "huggingface-mocked": lambda folder: subjects.on_mock_server(subjects.huggingface_model),
    "bedrock": lambda folder: bedrock.real_weights(),
    "bedrock-strict": lambda folder: bedrock.strict_server(),
    "bedrock-forced": lambda folder: bedrock.strict_server(bedrock.NOVA),
}
#: Backends whose packages can't be installed beside the others. Each belongs to a nox session with an environment of
#: its own, which names the backend by `--backends`; the session `tests` runs all the others.
SEPARATE_SUBJECTS: dict[str, OpenSubject] = {
    **litellm_subjects.SUBJECTS,
    **vllm_subjects.SUBJECTS,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test by the selected backends and their checks."""
    if "check" in metafunc.fixturenames:
        backends = selected_backends(metafunc.config.getoption("backends"))
        pairs = [
            pytest.param(backend, check, id=f"{backend}: {check.name}", marks=markers(backend, metafunc.config))
            for backend in backends
            for check in CHECKS
            if check.name in SELECTED_CHECKS.get(backend, {check.name})
        ]
        metafunc.parametrize(("backend", "check"), pairs)


def markers(backend: str, config: pytest.Config) -> list[pytest.MarkDecorator]:
    """Return the markers of a backend's tests: what they need, and that one process runs them all."""
    marks = []
    if backend.endswith("-mocked"):
        marks.append(pytest.mark.node)
    elif backend.partition("-")[0] in _LOCAL_BACKENDS:
        marks.append(pytest.mark.engine)
    elif backend not in ("bedrock-strict", "bedrock-forced"):  # These talk to a server of this project.
        marks.append(pytest.mark.server)
    if config.pluginmanager.hasplugin("xdist"):
        # The two backends on vLLM's server share it.
        marks.append(pytest.mark.xdist_group(backend.removesuffix("-responses") if "vllm" in backend else backend))
    return marks


def selected_backends(option: str | None) -> list[str]:
    """Return the names in the option `--backends`; by default those of the nox session `tests`."""
    if option is None:
        return [*SUBJECTS]
    known = [*SUBJECTS, *SEPARATE_SUBJECTS]
    if unknown := sorted(set(option.split(",")) - {*known}):
        raise pytest.UsageError(f"--backends: {unknown[0]!r} is unknown; there are {', '.join(known)}")
    return option.split(",")


class OpenBackend:
    """Keeps one backend open: its engine or server runs all its checks, and is closed before the next one opens."""

    def __init__(self) -> None:
        self._stack, self._backend = ExitStack(), ""
        self._subject: Subject | None = None

    def subject(self, backend: str, folder: Path) -> Subject:
        if self._subject is None or backend != self._backend:
            self.close()
            open_subject = {**SUBJECTS, **SEPARATE_SUBJECTS}[backend]
            self._subject, self._backend = self._stack.enter_context(open_subject(folder)), backend
        return self._subject

    def close(self) -> None:
        self._subject = None
        self._stack.close()


@pytest.fixture(scope="module")
def open_backend() -> Iterator[OpenBackend]:
    open_backend = OpenBackend()
    yield open_backend
    open_backend.close()


@pytest.fixture(scope="module")
def loop_watch() -> Iterator[LoopWatch]:
    with LoopWatch().installed() as watch:
        yield watch


@pytest.fixture
def holds(loop_watch: LoopWatch, backend: str, check: Check, request: pytest.FixtureRequest) -> Iterator[Holds]:
    """Watch the event loops during a check, and add what was measured to the figures of the backend."""
    loop_watch.begin(backend, check.name)
    yield loop_watch.holds
    if folder := request.config.getoption("loop_watch"):
        loop_watch.write(Path(folder))


@pytest.mark.timeout(600)  # The first check of openai-vllm installs vLLM and starts it.
def test_backend_passes_check(
    backend: str, check: Check, open_backend: OpenBackend, tmp_path: Path, holds: Holds
) -> None:
    outcome = run_check(open_backend.subject(backend, tmp_path), check)
    held = f"the event loop was held for {holds.longest:.0f} ms of processor time by {holds.callback}"
    assert holds.longest <= MAX_HOLD, f"{held}\n{holds.stack}"
    is_remote = backend.partition("-")[0] not in _LOCAL_BACKENDS
    if check.name in NOT_CHECKED.get(backend, {}) or (check.name == "special tokens" and is_remote):
        assert outcome.status in ("not checked", "unsupported"), f"{check.name} can be checked after all: {outcome}"
        return
    allowed = ["passed", "unsupported"]
    if check.name in MODEL_DEPENDENT and not backend.endswith(("-mocked", "-strict")):
        allowed.append("not checked")
    assert outcome.status in allowed, outcome.detail
    enforcement = table.expected_enforcement(backend, check.name)
    if outcome.status == "passed" and enforcement is not None:
        assert outcome.detail == enforcement, f"README's table says {enforcement!r}"
