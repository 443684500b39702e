"""The npm packages that tests use: their versions and hashes are in locks/npm, which `nox -s lock` updates."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from .cache import cached

#: The folder with the packages' versions (package.json) and hashes (package-lock.json).
LOCK = Path(__file__).parents[2] / "locks" / "npm"
_FILES = ("package.json", "package-lock.json")
_NODE_AT_LEAST = (20, 15)
_NODE_TEXT = ".".join(map(str, _NODE_AT_LEAST))
_INSTALL_TIMEOUT_S = 300.0


def npm_package(name: str) -> Path:
    """Return the folder of a package. On first use, all packages are installed into the user's cache."""
    digest = hashlib.sha256(b"".join((LOCK / file).read_bytes() for file in _FILES)).hexdigest()[:16]
    return cached(f"npm-{digest}", _npm_install) / "node_modules" / name


def _npm_install(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"these tests need npm (Node.js {_NODE_TEXT} or newer) on the PATH")
    folder = folder / "npm"
    folder.mkdir()
    for name in _FILES:
        shutil.copy(LOCK / name, folder)
    command = [npm, "ci", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    # npm runs in that folder, because it would also read a package.json of the current folder.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"could not install the packages of locks/npm:\n{done.stdout}{done.stderr}")
    return folder


def node() -> str:
    """Return the path of Node.js."""
    path = shutil.which("node")
    if path is None:
        raise RuntimeError(f"these tests need Node.js {_NODE_TEXT} or newer on the PATH")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("v").split(".")[:2]) < _NODE_AT_LEAST:
        raise RuntimeError(f"these tests need Node.js {_NODE_TEXT} or newer, found {version}")
    return path
