"""`modelport download`: what is downloaded from where, and what has nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelport import NotFoundError
from modelport.cli.commands import cli
from tests.cli.running import RUNNER


class FakeHub:
    """Replaces huggingface_hub's functions: a repository with these files, and what was requested of it."""

    def __init__(self, folder: Path, *files: str) -> None:
        self.folder, self.files = folder, files
        self.requested: dict[str, Any] = {}

    def list_repo_files(self, repo: str, *, revision: str | None = None) -> list[str]:
        return [*self.files]

    def snapshot_download(self, repo: str, **options: Any) -> str:
        from huggingface_hub.utils import filter_repo_objects

        if options.get("local_files_only"):
            return str(self.folder)
        self.requested = {"repo": repo, "revision": options.get("revision")}
        patterns = {name: options.get(name) for name in ("allow_patterns", "ignore_patterns")}
        self.requested["files"] = sorted(filter_repo_objects(self.files, **patterns))
        return str(self.folder)


FILES = ("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors", "pytorch_model.bin",
         "model.Q4.gguf", "onnx/model.onnx", "original/consolidated.00.pth")  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    pytest.importorskip("huggingface_hub")
    fake = FakeHub(tmp_path, *FILES)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", fake.list_repo_files)
    return fake


@pytest.mark.parametrize("backend", ["transformers", "vllm", "mlx"])
def test_repository_is_downloaded_once_in_the_format_of_the_engine(backend: str, hub: FakeHub) -> None:
    result = RUNNER.invoke(cli, ["download", f"{backend}/org/name", "--revision", "v1"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{hub.folder}\n", "")
    expected = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert backend == "mlx" or hub.requested == {"repo": "org/name", "revision": "v1", "files": expected}
    assert set(hub.requested["files"]) == set(expected)


def test_repository_without_safetensors_is_downloaded_whole(hub: FakeHub) -> None:
    hub.files = ("config.json", "pytorch_model.bin")
    RUNNER.invoke(cli, ["download", "transformers/org/name"])
    assert hub.requested["files"] == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize(("file", "status"), [("model-00001-of-00002.safetensors", 0), ("config.json", 1)])
def test_offline_the_weights_must_be_in_the_cache(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, file: str, status: int
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    (hub.folder / file).write_text("")
    result = RUNNER.invoke(cli, ["download", "transformers/org/name"])
    assert result.exit_code == status
    error = "modelport: The Hub's cache has no weights of org/name, and HF_HUB_OFFLINE is set.\n"
    assert (result.stdout, result.stderr) == ((f"{hub.folder}\n", "") if status == 0 else ("", error))


def test_default_weights_and_files_of_llamacpp_are_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def resolve(spec: Any) -> Path:
        asked.append(spec)
        return tmp_path

    monkeypatch.setattr("modelport.local.llamacpp.weights.resolve_weights", resolve)
    for args in ([], ["llamacpp"], ["llamacpp/org/repo:file.gguf"]):
        result = RUNNER.invoke(cli, ["download", *args])
        assert (result.exit_code, result.stdout) == (0, f"{tmp_path}\n")
    assert asked == [None, None, "org/repo:file.gguf"]


def test_folder_needs_no_download(tmp_path: Path) -> None:
    result = RUNNER.invoke(cli, ["download", f"transformers/{tmp_path}"])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path.resolve()}\n")


def test_failure_of_the_hub_is_one_line_without_the_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> str:
        raise OSError("Bearer hf_secret at https://user:pw@hub.example/x?token=hf_secret")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    result = RUNNER.invoke(cli, ["download", "transformers/org/name"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "org/name" in result.stderr and "secret" not in result.stderr and "pw" not in result.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["openai/gpt-4o"], "openai/gpt-4o: there is nothing to download"),
        (["groq/openai/gpt-oss-120b"], "there is nothing to download"),
        (["transformers"], "transformers has no default model: write transformers/owner/repo"),
        (["transformers/SmolLM2"], "'SmolLM2' is neither a folder nor 'owner/repo'"),
        (["llamacpp", "--revision", "x"], "--revision: llamacpp downloads files of the main branch only"),
        (["llamacpp/no-weights"], "does not name any weights"),
        (["nosuch/x"], "backend 'nosuch' is unknown"),
    ],
)
def test_what_cannot_be_downloaded_is_refused(args: list[str], expected: str) -> None:
    result = RUNNER.invoke(cli, ["download", *args], prog_name="modelport")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert expected in result.stderr


def test_error_of_the_download_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(spec: Any) -> Path:
        raise NotFoundError("There is no such file.")

    monkeypatch.setattr("modelport.local.llamacpp.weights.resolve_weights", fail)
    result = RUNNER.invoke(cli, ["download"], prog_name="modelport")
    assert (result.exit_code, result.stderr) == (1, "modelport: There is no such file.\n")
