"""pyright on a user's program; mypy checks the same program in `nox -s release`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers.npm import node, npm_package

pytestmark = pytest.mark.node

ROOT = Path(__file__).parents[2]


def pyright(folder: Path, code: str) -> list[str]:
    """Return what pyright reports about a program, each as "line: text"."""
    (folder / "user_code.py").write_text(code)
    (folder / "pyrightconfig.json").write_text(
        json.dumps({
            "include": ["user_code.py"],
            "extraPaths": [str(ROOT / "src")],
            "typeCheckingMode": "standard",
            "reportUnnecessaryTypeIgnoreComment": "error",
        })
    )  # fmt: skip
    command = [node(), str(npm_package("pyright") / "index.js"), "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, done.stderr
    return [f"{one['range']['start']['line'] + 1}: {one['message']}" for one in report["generalDiagnostics"]]


def test_pyright_accepts_users_program_and_finds_each_mistake(tmp_path: Path) -> None:
    code = (ROOT / "tests" / "typing" / "user_code.py").read_text()
    assert pyright(tmp_path, code) == []


def test_pyright_names_the_option_that_is_wrong(tmp_path: Path) -> None:
    code = 'from modelport import Model\n\n\ndef f(model: Model) -> None:\n    model("?", max_tokens="seven")\n'
    found = pyright(tmp_path, code)
    assert len(found) > 0 and any(text.startswith("5:") and "max_tokens" in text for text in found)
