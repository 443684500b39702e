"""Every code block of README.md and docs/ runs exactly as the page shows it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelport import errors
from modelport.testing import CHECKS, Check, Subject, run_check
from tests.docs import (
    BLOCKS,
    FENCE,
    PAGES,
    ROOT,
    Block,
    DocsEnvironment,
    commands,
    docs_environment,
    docstring_examples,
    extras,
    python_blocks,
)
from tests.servers.llamacpp import LlamaServer, llama_server

pytestmark = [pytest.mark.engine, pytest.mark.server]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocsEnvironment]:
    with docs_environment(tmp_path_factory.mktemp("blocks")) as environment:
        yield environment


@pytest.mark.parametrize("block", python_blocks("tests"), ids=str)
def test_python_block_runs(block: Block, environment: DocsEnvironment) -> None:
    environment.run(block)


@pytest.mark.parametrize("block", docstring_examples("tests"), ids=str)
def test_example_in_docstring_runs(block: Block, environment: DocsEnvironment) -> None:
    environment.run(block)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_shell_block_runs_or_names_existing_extras_and_scripts(block: Block, environment: DocsEnvironment) -> None:
    """Commands of modelport run. Commands that install must name existing extras, and scripts must exist."""
    for words in commands(block):
        installed = {
            extra for word in words for found in re.findall(r"modelport\[(.*?)\]", word) for extra in found.split(",")
        }
        assert installed <= extras()
    if all(words[0] == "modelport" for words in commands(block)):
        assert environment.run_shell(block)
    else:
        known = block.page.name in ("README.md", "CONTRIBUTING.md") or all(
            words[0] in ("pip", "uvx", "pipx") or is_project_script(words) for words in commands(block)
        )
        assert known, f"{block}: nothing runs these commands"


def is_project_script(words: list[str]) -> bool:
    """Return whether a command runs a script or a module of this project, which has tests of its own."""
    if words[0] != "python":
        return False
    named = words[2].replace(".", "/") if words[1] == "-m" else words[1]
    return any((ROOT / f"{named}{end}").is_file() for end in ("", ".py", "/__main__.py"))


def test_backend_of_the_docs_has_less_than_70_lines() -> None:
    (block,) = (block for block in BLOCKS if block.name == "llama_server.py")
    assert len(block.code.splitlines()) < 70


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server(slots=1) as server:
        yield server


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_backend_of_the_docs_passes_conformance_check(
    check: Check, server: LlamaServer, environment: DocsEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(environment.folder)
    cls = importlib.import_module("llama_server").LlamaServerModel
    subject = Subject(
        make=lambda: cls(url=server.url, key=server.api_key),
        count_tokens=server.count_prompt_tokens,
        busy=server.busy_slots,
        secrets=(server.api_key,),
    )
    outcome = run_check(subject, check)
    assert outcome.status != "failed", outcome.detail


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_info_is_a_title_or_empty(block: Block) -> None:
    """The site supports only a title after the language; it shows a block with anything else as plain text."""
    assert re.fullmatch(r'( title="[^"]+")?', block.info), f"{block}: write title=… and not {block.info!r}"


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_existing_files(page: Path) -> None:
    """The links must work on GitHub too. The site's own check also looks at anchors."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", FENCE.sub("", page.read_text())):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_errors_page_explains_every_error() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    public = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ModelError) and not name.startswith("_")
    }
    assert set(sections) == public - {"ModelError"}
    for name, text in sections.items():
        assert "**Cause.**" in text and "**Fix.**" in text, name


def test_models_page_shows_every_model() -> None:
    from modelport.registry import COMPOSED, backends

    page = (ROOT / "docs" / "models.md").read_text()
    shown = re.findall(r"^::: modelport\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(entry_point.partition(":")[2] for entry_point in {**backends(), **COMPOSED}.values())
