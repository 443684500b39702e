"""The whole table: each backend's subjects, held to each row of the contract.

A row that a subject can't be held to is named here with the reason, so that none is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from modelport.testing import CHECKS, Check, Subject, run_check
from tests.conformance import bedrock_subjects as bedrock
from tests.conformance import litellm_subjects, subjects, table, vllm_subjects

#: What each column can't tell, and why. Everything else must work, or be declared and refused.
UNTOLD: dict[str, dict[str, str]] = {
    "llamacpp": {
        "errors": "there is no service to fail",
        "secrets": "it has no key",
    },
    "transformers": {
        "errors": "there is no service to fail",
        "secrets": "it has no key",
    },
    "mlx": {
        "errors": "there is no service to fail",
        "secrets": "it has no key",
    },
    "openai": dict.fromkeys(
        ("reasoning", "a form after thinking"),
        "SmolLM2 does not think; the columns llamacpp-thinking and openai-mocked do",
    ),
    "openai-vllm": {"errors": "the column openai does: the translation is the same"},
    **{
        name: dict.fromkeys(("reasoning", "a form after thinking"), "as for openai")
        for name in ("openai-sdk", "fallback", "azure", "azure-sdk", "huggingface")
    },
    **litellm_subjects.UNTOLD,
    **vllm_subjects.UNTOLD,
}
#: A server of fixed answers tells these rows.
MOCKED = {
    "generate", "stream", "async", "stop sequences", "early close", "bad input", "too long a prompt",
    "JSON schema", "typed output", "regex", "choice", "context-free grammar", "a form beside tools",
    "partial objects", "reasoning", "reasoning effort",
    "tools: auto", "tools: required", "tools: named", "tools: none",
    "parallel calls", "tool results", "streamed calls", "event loops", "eight at once", "secrets",
}  # fmt: skip
#: What a model does by its own choice: the smallest call no tool unasked, and one where two are wanted. The columns of
#: fixed answers call both.
OWN_CHOICE = {"tools: auto", "parallel calls"}
#: What a chat template with tools changes.
TOOLS = {
    "generate", "stop sequences", "tools: auto", "tools: required", "tools: named", "tools: none", "parallel calls",
    "tool results", "streamed calls", "roles",
}  # fmt: skip
THINKING = {"reasoning", "a form after thinking", "reasoning effort"}
#: Rows for which a column exists, where it is not held to all of them.
ONLY = {
    "llamacpp-seeing": {"generate", "roles", "image input", "usage"},
    "llamacpp-thinking": THINKING,
    "transformers-thinking": THINKING,
    "transformers-tools": TOOLS,
    "mlx-thinking": THINKING,
    "mlx-tools": TOOLS,
    **{name: MOCKED for name in ("openai-mocked", "azure-mocked", "huggingface-mocked")},
    # ministack says of every answer that it ended by itself, and hands on neither tools, schemas nor images.
    "bedrock": {
        "generate", "stream", "async", "stop sequences", "early close", "deterministic", "seed", "usage", "logprobs",
        "roles", "bad input", "time-out", "event loops", "eight at once", "fork", "secrets", "saving",
    },
    # Where none can answer, the first model's failure is told: here that it is not there.
    "fallback": {row.name for row in CHECKS} - {"too long a prompt"},
    "bedrock-forced": {
        "generate", "JSON schema", "typed output", "a cut form", "regex", "choice", "context-free grammar",
        "strict forms", "a form beside tools", "partial objects", "reasoning effort",
    },
    **vllm_subjects.ONLY,
}  # fmt: skip
ONLY |= {column: ONLY["openai-mocked"] for column in ("litellm-mocked", "litellm-router-mocked")}

COLUMNS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "llamacpp": lambda folder: subjects.embedded(),
    "llamacpp-seeing": subjects.seeing,
    "llamacpp-thinking": lambda folder: subjects.thinking(),
    "transformers": lambda folder: subjects.transformers_model(),
    "transformers-thinking": lambda folder: subjects.transformers_thinking(),
    "transformers-tools": lambda folder: subjects.transformers_model(chat_template=subjects.TOOLS_TEMPLATE),
    "mlx": lambda folder: subjects.mlx_model(),
    "mlx-thinking": lambda folder: subjects.mlx_thinking(),
    "mlx-tools": lambda folder: subjects.mlx_model(chat_template=subjects.TOOLS_TEMPLATE),
    "openai": subjects.served,
    "openai-sdk": lambda folder: subjects.served(folder, client_kwargs={"timeout": 60}),
    "openai-vllm": lambda folder: subjects.vllm(),
    "openai-mocked": lambda folder: subjects.mocked(),
    "fallback": subjects.fallback,
    "azure": lambda folder: subjects.served(folder, subjects.azure_openai),
    "azure-sdk": lambda folder: subjects.served(folder, subjects.azure_openai, client_kwargs={"timeout": 60}),
    "azure-mocked": lambda folder: subjects.mocked(subjects.azure_openai),
    "huggingface": lambda folder: subjects.served(folder, subjects.huggingface),
    "huggingface-mocked": lambda folder: subjects.mocked(subjects.huggingface),
    "bedrock": lambda folder: bedrock.on_real_weights(),
    "bedrock-strict": lambda folder: bedrock.strict(),
    "bedrock-forced": lambda folder: bedrock.strict(bedrock.NOVA),
}
#: Columns whose packages can't be installed beside the others. Each belongs to a nox session with an environment
#: of its own, which names it by `--backends`; the session `tests` runs all the others.
ELSEWHERE: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    **litellm_subjects.COLUMNS,
    **vllm_subjects.COLUMNS,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cells of the columns that were asked for."""
    if "row" in metafunc.fixturenames:
        columns = chosen(metafunc.config.getoption("backends"))
        cells = [(column, row) for column in columns for row in CHECKS if row.name in ONLY.get(column, {row.name})]
        metafunc.parametrize(("column", "row"), cells, ids=[f"{column}: {row.name}" for column, row in cells])


def chosen(given: str | None) -> list[str]:
    """The columns that `--backends` names; by default those of the session `tests`."""
    if given is None:
        return [*COLUMNS]
    if unknown := sorted(set(given.split(",")) - {*COLUMNS, *ELSEWHERE}):
        raise pytest.UsageError(f"--backends: {unknown[0]!r} is unknown; there are {', '.join([*COLUMNS, *ELSEWHERE])}")
    return given.split(",")


class Open:
    """The one column that is open: its engine or server serves all its cells, and is closed before the next opens."""

    def __init__(self) -> None:
        self._stack, self._column = ExitStack(), ""
        self._subject: Subject | None = None

    def subject(self, column: str, folder: Path) -> Subject:
        if self._subject is None or column != self._column:
            self.close()
            self._subject, self._column = self._stack.enter_context({**COLUMNS, **ELSEWHERE}[column](folder)), column
        return self._subject

    def close(self) -> None:
        self._subject = None
        self._stack.close()


@pytest.fixture(scope="module")
def columns() -> Iterator[Open]:
    columns = Open()
    yield columns
    columns.close()


@pytest.mark.timeout(600)  # the first cell of openai-vllm installs vLLM and starts it
def test_cell(column: str, row: Check, columns: Open, tmp_path: Path) -> None:
    outcome = run_check(columns.subject(column, tmp_path), row)
    untold = UNTOLD.get(column, {}).get(row.name)
    if untold is not None:
        assert outcome.status in ("not checked", "unsupported"), f"{row.name} can be told after all: {outcome}"
        return
    may_be_untold = row.name in OWN_CHOICE and not column.endswith(("-mocked", "-strict"))
    assert outcome.status in ("works", "unsupported", *(("not checked",) if may_be_untold else ())), outcome.detail
    if outcome.status == "works" and (way := table.way(column, row.name)) is not None:
        assert outcome.detail == way, f"README's table says {way!r}"
