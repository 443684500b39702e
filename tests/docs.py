"""The code blocks of README and docs/, and the world that they run in: each service's usual variables lead to a server
of the tests, so that the code which is shown is the code which runs."""

from __future__ import annotations

import ast
import contextlib
import doctest
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from modelport.registry import COMPOSED, backends
from tests.servers.aimock import aimock
from tests.servers.front import azure, hub
from tests.servers.llamacpp import llama_server, model_file
from tests.servers.ministack import ministack
from tests.servers.smollm2 import OFFLINE, as_hub_cache
from tests.servers.tiny_mmproj import write_tiny_mmproj

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(<!-- continued -->\n)?( *)```(\w+)([^\n]*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
#: A page's promise of what is printed: `print(x)  # this`, with … for anything.
PRINTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
KEY = "sk-docs-0123456789"
#: Which environment of the tests has what the block needs; the nox sessions of these names run them.
ELSEWHERE = {"litellm": re.compile("litellm|LiteLLM", re.ASCII), "vllm": re.compile("VLLMModel")}


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    number: int
    language: str
    info: str
    code: str
    before: str = field(default="", repr=False)
    """The blocks of the page that this one goes on from."""

    @property
    def name(self) -> str | None:
        """The file that it is to be saved as."""
        found = re.search(r'title="(\w+\.py)"', self.info)
        return found and found[1]

    @property
    def session(self) -> str:
        """The nox session that runs it; none where it shows a file that has tests of its own."""
        if self.code.startswith("--8<--"):
            return ""
        return next((name for name, mark in ELSEWHERE.items() if mark.search(self.code)), "tests")

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def _blocks(page: Path) -> Iterator[Block]:
    before = ""
    for number, (goes_on, _, language, info, code) in enumerate(FENCE.findall(page.read_text())):
        code = textwrap.dedent(code)
        yield Block(page, number, language, info, code, before if goes_on else "")
        if language == "python":
            before = before + code if goes_on else code


BLOCKS = [block for page in PAGES for block in _blocks(page)]


def python_blocks(session: str) -> list[Block]:
    """Those that this nox session runs."""
    return [block for block in BLOCKS if block.language == "python" and block.session == session]


def examples(session: str) -> list[Block]:
    """The examples in the docstrings of the backends' classes; what they print comes below each line, as in a shell."""
    blocks = []
    for where in {**backends(), **COMPOSED}.values():
        module, _, name = where.partition(":")
        path = ROOT / "src" / f"{module.replace('.', '/')}.py"
        (cls,) = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef) and n.name == name)
        code = "import os\nfrom modelport import *\n"
        for example in doctest.DocTestParser().get_examples(ast.get_docstring(cls) or ""):
            printed = f"  # {example.want.strip()}" if example.want else ""
            code += f"{example.source.rstrip()}{printed}\n"
        blocks.append(Block(path, 0, "python", "", code))
    return [block for block in blocks if block.session == session]


#: The address that pages show for a server of one's own.
LOCAL_SERVER = "http://localhost:8000/v1"


@dataclass(frozen=True)
class World:
    """Where blocks run."""

    folder: Path
    environment: Mapping[str, str]
    replaced: Mapping[str, str]
    special: Mapping[str, Mapping[str, str]]
    """Variables for blocks that name these words."""

    def run(self, block: Block) -> str:
        """What the block prints; it must end well, and print what it says."""
        code = block.before + block.code
        for shown, real in self.replaced.items():
            code = code.replace(shown, real)
        script = self.folder / (block.name or "block.py")
        script.write_text(code)
        command = [sys.executable, "-W", "error::ResourceWarning", str(script)]
        if script.name.startswith("test_"):
            tests = "--collect-only" if "server_url" in code else "-q"
            command = [sys.executable, "-m", "pytest", tests, "-q", "-p", "no:cacheprovider", str(script)]
        more = {key: value for word, some in self.special.items() if word in code for key, value in some.items()}
        printed = self._done(command, more)
        rest = printed
        for line in PRINTED.findall(block.code):
            found = re.search(".*?".join(map(re.escape, line.split("…"))), rest)
            assert found, f"{block} says that it prints {line!r}; it printed {printed!r}"
            rest = rest[found.end() :]
        return printed

    def run_shell(self, block: Block) -> str:
        """What the commands print."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self._done(["bash", "-euo", "pipefail", "-c", block.code], {"PATH": path})

    def _done(self, command: list[str], more: Mapping[str, str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **self.environment, **more}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=170,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """Every service that pages speak of, on real weights; and the files that they name."""
    (folder / "model.gguf").symlink_to(model_file().resolve())
    write_tiny_mmproj(folder / "mmproj.gguf")
    Image.new("RGB", (32, 32), "tan").save(folder / "cat.png")
    for block in BLOCKS:
        if block.name:
            (folder / block.name).write_text(block.code)
    with ExitStack() as stack:
        server = stack.enter_context(llama_server(api_key=KEY, mmproj=folder / "mmproj.gguf"))
        open_server = stack.enter_context(llama_server(api_key=None))
        resource = stack.enter_context(azure(server.url, KEY, deployment="my-deployment", api_key="az-docs-0123"))
        bedrock = stack.enter_context(ministack(open_server.url))
        novita = {"novita": "/novita/v3/openai/chat/completions"}
        router = stack.enter_context(hub(server.url, KEY, token="hf_docs0123", providers=novita))
        thinker = stack.enter_context(aimock(Path(__file__).parent / "servers/fixtures/conformance.json", api_key=KEY))
        cache = folder / "hub"
        if find_spec("torch"):  # not in LiteLLM's environment, where no block needs the Hub's weights
            as_hub_cache(cache, "HuggingFaceTB/SmolLM2-135M-Instruct")
        environment = {
            "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY,
            "AZURE_OPENAI_ENDPOINT": resource.url, "AZURE_OPENAI_API_KEY": "az-docs-0123",
            "OPENAI_API_VERSION": "2024-10-21",
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": bedrock.url, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "HF_ENDPOINT": router.url, "HF_TOKEN": "hf_docs0123", "HF_HUB_CACHE": str(cache), "HF_HOME": str(folder),
        }  # fmt: skip
        yield World(
            folder,
            environment,
            {LOCAL_SERVER: open_server.base_url},
            {
                "deepseek-reasoner": {"OPENAI_BASE_URL": thinker.base_url},
                "TransformersModel": OFFLINE,
                "MLXModel": OFFLINE,
            },
        )


def commands(block: Block) -> list[list[str]]:
    """The words of each line of a shell block."""
    return [shlex.split(line, comments=True) for line in block.code.splitlines() if line.strip()]


def extras() -> set[str]:
    """What `pip install 'modelport[…]'` may name."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


__all__ = [
    "BLOCKS",
    "FENCE",
    "PAGES",
    "ROOT",
    "Block",
    "World",
    "commands",
    "examples",
    "extras",
    "python_blocks",
    "world",
]
