"""Every code block of README.md and docs/ runs exactly as the page shows it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelport import Model, errors
from modelport.testing import CHECKS, Check, Subject, run_check
from tests.conformance.subjects import (
    REASONING_TEMPLATE,
    TOO_LONG,
    TOOLS_TEMPLATE,
    environment_variable,
    models_with_faults,
)
from tests.docs import (
    BLOCKS,
    FENCE,
    PAGES,
    ROOT,
    Block,
    DocsEnvironment,
    commands,
    docs_environment,
    docstring_examples,
    extras,
    python_blocks,
)
from tests.servers.llamacpp import llama_server

pytestmark = [pytest.mark.engine, pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocsEnvironment]:
    with docs_environment(tmp_path_factory.mktemp("blocks")) as environment:
        yield environment


@pytest.mark.parametrize("block", python_blocks("tests"), ids=str)
def test_python_block_runs(block: Block, environment: DocsEnvironment) -> None:
    environment.run(block)


@pytest.mark.parametrize("block", docstring_examples("tests"), ids=str)
def test_example_in_docstring_runs(block: Block, environment: DocsEnvironment) -> None:
    environment.run(block)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_shell_block_runs_or_names_existing_extras_and_scripts(block: Block, environment: DocsEnvironment) -> None:
    """Commands of modelport run. Commands that install must name existing extras, and scripts must exist."""
    for words in commands(block):
        installed = {
            extra for word in words for found in re.findall(r"modelport\[(.*?)\]", word) for extra in found.split(",")
        }
        assert installed <= extras()
    if all(words[0] == "modelport" for words in commands(block)):
        assert environment.run_shell(block)
    else:
        known = block.page.name in ("README.md", "CONTRIBUTING.md") or all(
            words[0] in ("pip", "uvx", "pipx") or words[:3] == ["uv", "pip", "install"] or is_project_script(words)
            for words in commands(block)
        )
        assert known, f"{block}: nothing runs these commands"


def is_project_script(words: list[str]) -> bool:
    """Return whether a command runs tests, a script or a module of this project."""
    if words[0] == "pytest":
        return (ROOT / words[1]).is_file()
    if words[0] != "python":
        return False
    named = words[2].replace(".", "/") if words[1] == "-m" else words[1]
    return any((ROOT / f"{named}{end}").is_file() for end in ("", ".py", "/__main__.py"))


@pytest.mark.parametrize(("name", "limit"), [("text_chat.py", 39), ("chat_server.py", 112)])
def test_backend_of_the_docs_is_short(name: str, limit: int) -> None:
    """A newcomer must be able to read the minimal backend at a glance, and the complete one on two pages."""
    (block,) = (block for block in BLOCKS if block.name == name)
    assert len(block.code.splitlines()) <= limit


@pytest.fixture(scope="module")
def docs_modules(environment: DocsEnvironment) -> Iterator[Callable[[str], Any]]:
    """A function that imports the file of a backend that the page teaches."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(environment.folder)
        yield importlib.import_module


@pytest.fixture(scope="module")
def complete_subject(environment: DocsEnvironment, docs_modules: Callable[[str], Any]) -> Iterator[Subject]:
    """The complete backend on llama.cpp's server, with images and with a chat template that has tools."""
    cls = docs_modules("chat_server").ChatServerModel

    def make(api_base: str, **settings: Any) -> Model:
        return cls(api_base=api_base, api_key=server.api_key, **settings)  # type: ignore[no-any-return]

    mmproj = environment.folder / "mmproj.gguf"
    with (
        llama_server(slots=1, mmproj=mmproj, chat_template=TOOLS_TEMPLATE) as server,
        environment_variable("CHAT_SERVER_KEY", server.api_key),
        models_with_faults(make) as faults,
    ):
        yield Subject(
            make=lambda: make(server.base_url),
            prompts={"too long": TOO_LONG},
            count_tokens=server.count_prompt_tokens,
            busy=server.busy_slots,
            faults=faults,
            secrets=(server.api_key,),
        )


@pytest.fixture(scope="module")
def reasoning_subject(docs_modules: Callable[[str], Any]) -> Iterator[Subject]:
    """The complete backend on llama.cpp's server, with a chat template that begins the reasoning."""
    cls = docs_modules("chat_server").ChatServerModel
    with llama_server(slots=1, api_key=None, chat_template=REASONING_TEMPLATE) as server:
        yield Subject(
            make=lambda: cls(api_base=server.base_url, max_tokens=100, reasoning_budget=5),
            prompts={"reasoning": "What is the capital of France?"},
        )


@pytest.fixture(scope="module")
def minimal_subject(docs_modules: Callable[[str], Any]) -> Iterator[Subject]:
    """The minimal backend on llama.cpp's server, with the model's own chat template, which has no tools."""
    cls = docs_modules("text_chat").TextChatModel
    with llama_server(slots=1, api_key=None) as server:
        yield Subject(
            make=lambda: cls(api_base=server.base_url),
            prompts={"too long": TOO_LONG},
            count_tokens=server.count_prompt_tokens,
            busy=server.busy_slots,
        )


#: The checks that may end as "not checked" for the complete backend, and why.
NOT_CHECKED = {
    "tools: auto": "the model may answer in text",
    "parallel tool calls": "the model may call one tool where two are wanted",
    "regex": "the backend declares JSON schemas only, and the model is too small to follow a prompt",
    "reasoning": "the model does not reason with this chat template",
    "special tokens": "the service encodes the prompt",
}
#: The expected outcomes of the minimal backend, for the checks that show its code or that the layers must pass for it.
MINIMAL = {
    "generate": "passed", "stream": "passed", "stop sequences": "passed", "cancellation": "passed",
    "max_tokens": "passed", "usage": "passed", "roles": "passed", "context window exceeded": "passed",
    "timeout": "passed", "event loops": "passed", "fork": "passed", "saving": "passed",
    "seed": "unsupported", "logprobs": "unsupported", "image input": "unsupported", "reasoning effort": "unsupported",
    "tools: none": "passed", "truncated structured output": "passed",
    # The model is too small to follow tools or an output type that only the prompt describes.
    "tools: required": "not checked", "tool results": "not checked", "choice": "not checked",
}  # fmt: skip


def test_conformance_test_of_the_page_decides_errors_usage_and_secrets(environment: DocsEnvironment) -> None:
    """The page's test runs on a llama.cpp server. These checks use what its `Subject` provides, and must pass."""
    (code,) = (block.code for block in BLOCKS if block.name == "test_chat_server.py")
    script = environment.folder / "test_decided.py"
    with llama_server(slots=1, api_key="sk-test") as server:
        server_url = f"\n\n@pytest.fixture\ndef server_url():\n    return {server.base_url!r}\n"
        script.write_text(code.replace('!= "failed"', '== "passed"') + server_url)
        checks = "errors or usage or secrets or generate"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", checks, str(script)]
        done = subprocess.run(command, cwd=environment.folder, capture_output=True, text=True, timeout=120)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_complete_backend_passes_conformance_check(check: Check, complete_subject: Subject) -> None:
    outcome = run_check(complete_subject, check)
    allowed = ("passed", "unsupported", *(["not checked"] if check.name in NOT_CHECKED else []))
    assert outcome.status in allowed, outcome


@pytest.mark.parametrize("check", [c for c in CHECKS if c.name in ("reasoning", "reasoning effort")], ids=str)
def test_complete_backend_passes_check_of_reasoning(check: Check, reasoning_subject: Subject) -> None:
    outcome = run_check(reasoning_subject, check)
    assert outcome.status == "passed", outcome


@pytest.mark.parametrize("check", [c for c in CHECKS if c.name in MINIMAL], ids=str)
def test_minimal_backend_has_the_expected_outcome(check: Check, minimal_subject: Subject) -> None:
    outcome = run_check(minimal_subject, check)
    expected = MINIMAL[check.name]
    # MODELPORT_TEST_GGUF may name a model that can follow the prompt.
    assert outcome.status == expected or (expected, outcome.status) == ("not checked", "passed"), outcome


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_info_is_a_title_or_empty(block: Block) -> None:
    """The site supports only a title after the language; it shows a block with anything else as plain text."""
    assert re.fullmatch(r'( title="[^"]+")?', block.info), f"{block}: write title=… and not {block.info!r}"


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_existing_files(page: Path) -> None:
    """The links must work on GitHub too. The site's own check also looks at anchors."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", FENCE.sub("", page.read_text())):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_errors_page_explains_every_error() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    public = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ModelError) and not name.startswith("_")
    }
    assert set(sections) == public - {"ModelError"}
    for name, text in sections.items():
        assert "**Cause.**" in text and "**Fix.**" in text, name


def test_models_page_shows_every_model() -> None:
    from modelport.registry import COMPOSED, backends

    page = (ROOT / "docs" / "models.md").read_text()
    shown = re.findall(r"^::: modelport\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(entry_point.partition(":")[2] for entry_point in {**backends(), **COMPOSED}.values())
