"""Every block of the README and of docs/ runs, as it stands."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelport import errors
from modelport.testing import CHECKS, Check, Subject, run_check
from tests.docs import BLOCKS, FENCE, PAGES, ROOT, Block, World, commands, examples, extras, python_blocks, world
from tests.servers.llamacpp import LlamaServer, llama_server


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("blocks")) as here:
        yield here


@pytest.mark.parametrize("block", python_blocks("tests"), ids=str)
def test_block_runs(block: Block, here: World) -> None:
    here.run(block)


@pytest.mark.parametrize("block", examples("tests"), ids=str)
def test_example_of_a_docstring_runs(block: Block, here: World) -> None:
    here.run(block)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_commands_run(block: Block, here: World) -> None:
    """Those of our command line run; those that install name extras that there are; those that measure are there."""
    for words in commands(block):
        installed = {
            extra for word in words for found in re.findall(r"modelport\[(.*?)\]", word) for extra in found.split(",")
        }
        assert installed <= extras()
    if all(words[0] == "modelport" for words in commands(block)):
        assert here.run_shell(block)
    else:
        told = block.page.name in ("README.md", "CONTRIBUTING.md") or all(
            w[0] in ("pip", "uvx", "pipx") or is_ours(w) for w in commands(block)
        )
        assert told, f"{block}: nothing runs these commands"


def is_ours(words: list[str]) -> bool:
    """Whether it is `python` with a script or a module of this project: tests of its own run a smaller share of it."""
    if words[0] != "python":
        return False
    named = words[2].replace(".", "/") if words[1] == "-m" else words[1]
    return any((ROOT / f"{named}{end}").is_file() for end in ("", ".py", "/__main__.py"))


def test_the_backend_of_the_docs_is_whole_in_under_70_lines() -> None:
    (block,) = (block for block in BLOCKS if block.name == "llama_server.py")
    assert len(block.code.splitlines()) < 70


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


@pytest.mark.parametrize("row", CHECKS, ids=str)
def test_the_backend_of_the_docs_keeps_the_contract(
    row: Check, server: LlamaServer, here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here.folder)
    cls = importlib.import_module("llama_server").LlamaServerModel
    subject = Subject(
        make=lambda: cls(url=server.url, key=server.api_key),
        count_tokens=server.count_prompt_tokens,
        busy=server.busy_slots,
        secrets=(server.api_key,),
    )
    outcome = run_check(subject, row)
    assert outcome.status != "broken", outcome.detail


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_site_can_show_the_block(block: Block) -> None:
    """Beside the language it knows a title alone, and shows a block with anything else as plain text."""
    assert re.fullmatch(r'( title="[^"]+")?', block.info), f"{block}: write title=… and not {block.info!r}"


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """On GitHub too; the site's own check looks at anchors as well."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", FENCE.sub("", page.read_text())):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_error_is_explained() -> None:
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


def test_every_model_is_shown() -> None:
    from modelport.registry import COMPOSED, backends

    page = (ROOT / "docs" / "models.md").read_text()
    shown = re.findall(r"^::: modelport\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(where.partition(":")[2] for where in {**backends(), **COMPOSED}.values())
