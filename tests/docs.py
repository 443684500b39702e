"""The code blocks of README.md and docs/, and the environment in which they run.

The usual environment variables of each service point to a server of the tests. So the blocks run exactly as the pages
show them.
"""

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
from tests.fast_products import preload
from tests.servers.aimock import aimock
from tests.servers.front import azure, hub
from tests.servers.llamacpp import llama_server, model_file
from tests.servers.ministack import ministack
from tests.servers.smollm2 import OFFLINE, as_hub_cache
from tests.servers.tiny_mmproj import write_tiny_mmproj

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(<!-- continued -->\n)?( *)```(\w+)([^\n]*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
#: What a page says that a line prints: `print(x)  # this`, where … stands for any text.
PRINTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
KEY = "sk-docs-0123456789"
#: The blocks that need an environment of their own, by the name of the nox session that runs them.
SEPARATE_SESSIONS = {"litellm": re.compile("litellm|LiteLLM", re.ASCII), "vllm": re.compile("VLLMModel")}


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Args:
        page: The page.
        number: The position of the block in the page, from 0.
        language: The language of the fence.
        info: What follows the language.
        code: The code.
        before: The code of the earlier blocks that this one continues.
    """

    page: Path
    number: int
    language: str
    info: str
    code: str
    before: str = field(default="", repr=False)

    @property
    def name(self) -> str | None:
        """The name of the file in the block's title, if it has one."""
        found = re.search(r'title="(\w+\.py)"', self.info)
        return found[1] if found else None

    @property
    def session(self) -> str:
        """The nox session that runs the block; empty where it includes a file that has tests of its own."""
        if self.code.startswith("--8<--"):
            return ""
        return next((name for name, pattern in SEPARATE_SESSIONS.items() if pattern.search(self.code)), "tests")

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def _blocks(page: Path) -> Iterator[Block]:
    before = ""
    for number, (continued, _, language, info, code) in enumerate(FENCE.findall(page.read_text())):
        code = textwrap.dedent(code)
        yield Block(page, number, language, info, code, before if continued else "")
        if language == "python":
            before = before + code if continued else code


BLOCKS = [block for page in PAGES for block in _blocks(page)]


def python_blocks(session: str) -> list[Block]:
    """Return the Python blocks that a nox session runs."""
    return [block for block in BLOCKS if block.language == "python" and block.session == session]


def docstring_examples(session: str) -> list[Block]:
    """Return the examples in the docstrings of the backends' classes, as blocks with the expected output."""
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


#: The address that pages show for a server of the reader.
LOCAL_SERVER = "http://localhost:8000/v1"


@dataclass(frozen=True)
class DocsEnvironment:
    """The environment in which blocks run.

    Args:
        folder: The working directory.
        variables: Environment variables.
        replacements: Texts that are replaced in the code before it runs, such as addresses.
        special_variables: Further variables for blocks that contain a word.
    """

    folder: Path
    variables: Mapping[str, str]
    replacements: Mapping[str, str]
    special_variables: Mapping[str, Mapping[str, str]]

    def run(self, block: Block) -> str:
        """Run a Python block, and return its output, which must contain what the block says that it prints."""
        code = block.before + block.code
        for shown, real in self.replacements.items():
            code = code.replace(shown, real)
        script = self.folder / (block.name or "block.py")
        script.write_text(code)
        command = [sys.executable, "-W", "error::ResourceWarning", str(script)]
        if script.name.startswith("test_"):
            tests = "--collect-only" if "server_url" in code else "-q"
            command = [sys.executable, "-m", "pytest", tests, "-q", "-p", "no:cacheprovider", str(script)]
        more = {
            key: value for word, some in self.special_variables.items() if word in code for key, value in some.items()
        }
        printed = self._run(command, more)
        rest = printed
        for line in PRINTED.findall(block.code):
            found = re.search(".*?".join(map(re.escape, line.split("…"))), rest)
            assert found, f"{block} says that it prints {line!r}; it printed {printed!r}"
            rest = rest[found.end() :]
        return printed

    def run_shell(self, block: Block) -> str:
        """Run a shell block, and return its output."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self._run(["bash", "-euo", "pipefail", "-c", block.code], {"PATH": path})

    def _run(self, command: list[str], more: Mapping[str, str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **self.variables, **more}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextlib.contextmanager
def docs_environment(folder: Path) -> Iterator[DocsEnvironment]:
    """Start every service that pages use, on real weights, and write the files that they name.

    Args:
        folder: An empty folder, which becomes the working directory.

    Yields:
        The environment.
    """
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
        reasoner = stack.enter_context(aimock(Path(__file__).parent / "servers/fixtures/conformance.json", api_key=KEY))
        cache = folder / "hub"
        if find_spec("torch"):  # LiteLLM's environment has no torch, and no block in it needs weights of the Hub.
            as_hub_cache(cache, "HuggingFaceTB/SmolLM2-135M-Instruct")
        variables = {
            "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY, "MY_KEY": KEY, "DEEPSEEK_API_KEY": KEY,
            "AZURE_OPENAI_ENDPOINT": resource.url, "AZURE_OPENAI_API_KEY": "az-docs-0123",
            "OPENAI_API_VERSION": "2024-10-21",
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": bedrock.url, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "HF_ENDPOINT": router.url, "HF_TOKEN": "hf_docs0123", "HF_HUB_CACHE": str(cache), "HF_HOME": str(folder),
        }  # fmt: skip
        yield DocsEnvironment(
            folder,
            variables,
            {LOCAL_SERVER: open_server.base_url, "https://api.deepseek.com": reasoner.base_url},
            {
                "TransformersModel": OFFLINE,
                "MLXModel": OFFLINE | preload(),
            },
        )


def commands(block: Block) -> list[list[str]]:
    """Return the words of each line of a shell block."""
    return [shlex.split(line, comments=True) for line in block.code.splitlines() if line.strip()]


def extras() -> set[str]:
    """Return the extras that `pip install 'modelport[…]'` may name."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


__all__ = [
    "BLOCKS",
    "FENCE",
    "PAGES",
    "ROOT",
    "Block",
    "DocsEnvironment",
    "commands",
    "docs_environment",
    "docstring_examples",
    "extras",
    "python_blocks",
]
