"""Documentation and examples import only public modules."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "modelport", "modelport.backend", "modelport.integrations.langchain", "modelport.integrations.smolagents",
    "modelport.testing",
}  # fmt: skip
_BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.M | re.S)


def code_of(path: Path) -> Iterator[str]:
    """Yield the Python code of a page, a program or a notebook."""
    if path.suffix == ".py":
        yield path.read_text()
    elif path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        yield from ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    else:
        yield from _BLOCK.findall(path.read_text())


def imported_modules(code: str) -> Iterator[str]:
    """Yield the modules of modelport that the code imports."""
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name for name in names if name.partition(".")[0] == "modelport")


PAGES = [
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "decisions"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md")),
    *(path for path in sorted((ROOT / "examples").rglob("*")) if path.suffix in (".py", ".ipynb", ".md")),
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_imports_only_public_modules(path: Path) -> None:
    lines = (re.sub(r"(?m)^\s*[%!].*$", "", code) for code in code_of(path))  # Commands of a notebook are no Python.
    assert {name for code in lines for name in imported_modules(code)} <= PUBLIC


def test_a_private_import_is_found() -> None:
    assert [*imported_modules("from modelport.types.usage import TokenUsage")] == ["modelport.types.usage"]
