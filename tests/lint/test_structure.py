"""The structure of the package: few modules in the root, no vendor in the core, and no file that is too long."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "modelport"
#: Packages and modules that any backend uses, and that know none of them.
CORE = [
    path
    for name in ("errors.py", "secrets.py", "model.py", "saving.py", "types", "schema", "constrained", "inputs",
                 "runtime", "layers", "combine")
    for path in ([PACKAGE / name] if name.endswith(".py") else sorted((PACKAGE / name).rglob("*.py")))
    if path.name != "foreign_tools.py"  # the one module that reads tool objects of other libraries
    and not path.name.startswith("vendor_")  # the table of the vendors' own parameters, and their types
]  # fmt: skip
VENDORS = re.compile(
    r"openai|azure|anthropic|claude|bedrock|hugging ?face|litellm|vllm|llama|gemini|mistral|deepseek|groq|langchain"
    r"|smolagents",
    re.IGNORECASE,
)


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_root_package_has_at_most_eight_modules() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(modules) <= 8, sorted(modules)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=relative)
def test_source_file_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_core_module_names_no_vendor(path: Path) -> None:
    assert {f"{path}:{line}: {text}" for text, line in code_words(ast.parse(path.read_text()))} == set()


def code_words(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the identifiers and strings of the code that name a vendor; docstrings and URLs of sources may do so."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.Name):
            text = node.id
        elif isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            text = re.sub(r"https?://\S+", "", node.value)
        if VENDORS.search(text):
            yield text, getattr(node, "lineno", 0)
