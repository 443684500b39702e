"""What the checks install is pinned, held to hashes, what pyproject.toml asks for, and none of the refused versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "locks"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = ("core", "lint", "docs", "release", "tests", "litellm")


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


def asked(name: str) -> list[Requirement]:
    """What a session asks for, by pyproject.toml."""
    options = re.search(rf'"{name}": \[(.*?)\]', (ROOT / "noxfile.py").read_text(), re.S)
    assert options is not None
    words = re.findall(r'"([^"]+)"', options[1])
    result = [*PROJECT["project"]["dependencies"]]
    for kind, what in zip(words[::2], words[1::2], strict=True):
        source = PROJECT["dependency-groups"] if kind == "--group" else PROJECT["project"]["optional-dependencies"]
        result += source[what]
    waiting, found = [Requirement(text) for text in result], []
    while waiting:
        one = waiting.pop()
        if one.name == "modelport":  # an extra that names others
            extras = PROJECT["project"]["optional-dependencies"]
            waiting += [Requirement(text) for extra in one.extras for text in extras[extra]]
        else:
            found.append(one)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_holds_what_is_asked_for(name: str) -> None:
    locked = pins(name)
    for one in asked(name):
        if canonicalize_name(one.name) == "torch":  # installed apart, by exactly its version
            continue
        versions = locked.get(canonicalize_name(one.name), [])
        fits = all(one.specifier.contains(version, prereleases=True) for version in versions)
        assert versions and fits, f"{one} is not locked: run nox -s lock"


@pytest.mark.parametrize("name", NAMES)
def test_every_package_of_a_lock_has_hashes_and_no_place(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == sum(map(len, pins(name).values())) > 5
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
