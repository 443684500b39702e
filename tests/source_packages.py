"""Source packages of other projects, whose tests or templates this project's tests read.

A package is downloaded once into the user's cache, checked by hash, and neither built nor installed: pip asks it for
its metadata, and a stub answers in the place of its build system.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.servers.cache import cached

_TIMEOUT_S = 170
_BUILD_STUB = """
import os

def get_requires_for_build_wheel(settings=None):
    return []

def prepare_metadata_for_build_wheel(folder, settings=None):
    name = "{name}-{version}.dist-info"
    os.mkdir(os.path.join(folder, name))
    with open(os.path.join(folder, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return name
"""


@dataclass(frozen=True)
class SourcePackage:
    """A source package.

    Args:
        name: The package's name.
        version: Its version.
        sha256: The hash of the archive.
        build_backend: The module that the package names as its build system.
        part: The folder of the archive that is extracted.
    """

    name: str
    version: str
    sha256: str
    build_backend: str
    part: str

    @cache  # noqa: B019  # The packages are constants.
    def folder(self) -> Path:
        """Return the folder with the extracted part; download the package on first use."""
        return cached(f"{self.name}-{self.sha256[:12]}", lambda at: self._extract(self._download(at), at / "part"))

    def _download(self, folder: Path) -> Path:
        *packages, module = self.build_backend.split(".")
        stubs = folder / "stub"
        at = stubs
        for package in packages:
            at = at / package
            at.mkdir(parents=True)
            (at / "__init__.py").touch()
        (at / f"{module}.py").write_text(_BUILD_STUB.format(name=self.name, version=self.version))
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
        done = subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-binary=:all:",
                "--no-build-isolation", "--require-hashes", "--dest", str(folder), "-r", str(requirement),
            ],
            env={**os.environ, "PYTHONPATH": str(stubs)},
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        archives = [*folder.glob("*.tar.gz")]
        if done.returncode or not archives:
            raise RuntimeError(f"pip could not fetch {self.name}=={self.version}:\n{done.stdout}{done.stderr}")
        return archives[0]

    def _extract(self, archive: Path, folder: Path) -> Path:
        prefix = f"{self.name}-{self.version}/{self.part}/"
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.isfile() and m.name.startswith(prefix)]
            tar.extractall(folder, members, filter="data")
        return folder / prefix
