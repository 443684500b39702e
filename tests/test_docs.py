"""Every Python block of the README and of docs/ runs, as it stands."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelport.testing import ROWS, Row, Subject, check
from tests.servers.llamacpp import LlamaServer, llama_server

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python(?: file=(\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (page.relative_to(ROOT), number, name, code)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, (name, code) in enumerate(BLOCK.findall(page.read_text()))
]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every block that has a file name."""
    folder = tmp_path_factory.mktemp("blocks")
    for _, _, name, code in BLOCKS:
        if name:
            (folder / name).write_text(code)
    return folder


@pytest.mark.parametrize(
    ("name", "code"), [block[2:] for block in BLOCKS], ids=[f"{page}:{number}" for page, number, *_ in BLOCKS]
)
def test_block_runs(name: str, code: str, blocks: Path) -> None:
    script = blocks / (name or "block.py")
    script.write_text(code)
    if script.name.startswith("test_"):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(script)]
    else:
        command = [sys.executable, "-W", "error::ResourceWarning", str(script)]
    result = subprocess.run(command, cwd=blocks, capture_output=True, text=True, timeout=170)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_backend_of_the_docs_is_whole_in_under_70_lines() -> None:
    code = next(code for _, _, name, code in BLOCKS if name == "llama_server.py")
    assert len(code.splitlines()) < 70


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_backend_of_the_docs_keeps_the_contract(
    row: Row, server: LlamaServer, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(blocks)
    cls = importlib.import_module("llama_server").LlamaServerModel
    subject = Subject(
        make=lambda: cls(url=server.url, key=server.api_key),
        count_tokens=server.count_prompt_tokens,
        busy=server.busy_slots,
        secrets=(server.api_key,),
    )
    outcome = check(subject, row)
    assert outcome.status != "broken", outcome.detail


@pytest.mark.parametrize("page", [ROOT / "README.md", *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
