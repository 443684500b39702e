"""`resolve_weights`: model ids, files, folders, and files on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.local.weights.cache import Hub, WeightsCache, read_terminal

from modelport import errors
from modelport.local.llamacpp.weights import resolve_weights

pytestmark = pytest.mark.engine


@pytest.mark.engine
@pytest.mark.xdist_group("weights")
@pytest.mark.parametrize("spec", [None, "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_resolve_default_model_returns_default_weights(
    weights_cache: WeightsCache, gguf: Path, spec: str | None
) -> None:
    weights_cache.add(gguf)
    assert resolve_weights(spec) == weights_cache.path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def test_resolve_file_accepts_every_spelling_of_path(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = models / "a:b.gguf"
    file.write_bytes(b"GGUF")
    (models / "sha256-1").write_bytes(b"GGUF and so on")
    monkeypatch.setenv("HOME", str(models))
    assert resolve_weights(file) == resolve_weights(str(file)) == resolve_weights("~/a:b.gguf") == file
    assert resolve_weights("models/a:b.gguf") == Path("models/a:b.gguf")
    assert resolve_weights(models / "sha256-1") == models / "sha256-1"


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_resolve_file_of_other_format_raises_invalid_request(models: Path, name: str) -> None:
    (models / name).write_bytes(b"version https://git-lfs")
    with pytest.raises(
        errors.InvalidRequest, match=f"{name} is not a GGUF file: it begins with b'vers'. Is the download"
    ):
        resolve_weights(models / name)


@pytest.mark.parametrize(
    "spec", ["/no/where", "~/no.gguf", "./no", "../no", "no.gguf", "no/no.gguf", "NO.GGUF", Path("o/r:no.gguf")]
)
def test_resolve_missing_path_raises_not_found(models: Path, spec: str | Path) -> None:
    with pytest.raises(errors.NotFoundError, match=re.escape(str(Path(spec).expanduser()))):
        resolve_weights(spec)


def test_resolve_folder_returns_its_only_model(models: Path) -> None:
    with pytest.raises(errors.NotFoundError, match=f"{models} contains no GGUF model"):
        resolve_weights(models)
    (models / "readme.md").touch()
    (models / "mmproj-a.gguf").write_bytes(b"GGUF")
    (models / "a.gguf").write_bytes(b"GGUF")
    assert resolve_weights(models) == models / "a.gguf"
    assert resolve_weights("models") == Path("models/a.gguf")
    (models / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.NotFoundError, match=r"name one of a\.gguf, b\.gguf"):
        resolve_weights(models)


def test_resolve_split_model_returns_first_part_if_complete(models: Path) -> None:
    parts = [models / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts[:2]:
        part.write_bytes(b"GGUF")
    with pytest.raises(errors.NotFoundError, match=r"big-00003-of-00003\.gguf is not next to it"):
        resolve_weights(models)
    parts[2].write_bytes(b"GGUF")
    assert resolve_weights(models) == resolve_weights(parts[0]) == resolve_weights(parts[1]) == parts[0]


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("owner/repo", "'owner/repo:file.gguf'"),
        ("some-one/Some.Model-GGUF", "'some-one/Some.Model-GGUF:file.gguf'"),
        ("owner/repo:Q4_K_M", "'owner/repo:file.gguf'"),
        ("gpt2", "'owner/repo:file.gguf'"),
        ("", "'owner/repo:file.gguf'"),
        ("owner/repo:../../x.gguf", "'owner/repo:file.gguf'"),
        ("owner/repo:/x.gguf", "'owner/repo:file.gguf'"),
        ("https://bob:hunter2@huggingface.co/o/r/f.gguf", "'owner/repo:file.gguf'"),
    ],
)
def test_resolve_unknown_name_raises_with_advice(models: Path, spec: str, advice: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=re.escape(advice)) as caught:
        resolve_weights(spec)
    assert "hunter2" not in str(caught.value)


# --- the Hugging Face hub ---------------------------------------------------------------------------------------------


def test_resolve_hub_file_downloads_and_caches(hub: Hub) -> None:
    one, nested, split, again, err = hub.resolve(
        "o/r:a.gguf", "o/r:q4/b.gguf", "o/s:c-00002-of-00002.gguf", "o/r:a.gguf"
    )
    assert Path(one[1]).read_bytes() == b"GGUFa.gguf"
    assert Path(nested[1]).read_bytes() == b"GGUFq4/b.gguf"
    assert Path(split[1]).name == "c-00001-of-00002.gguf"
    assert split[2] == ["c-00001-of-00002.gguf", "c-00002-of-00002.gguf"]
    assert again[1] == one[1]
    assert err.count("modelport: downloading") == 3
    assert "%" not in err  # huggingface_hub shows its bars only on terminals.
    assert ("/o/r/resolve/main/a.gguf", "Bearer hf_hunter2") in hub.requests


def test_resolve_hub_file_shows_bars_unless_progress_is_false(hub: Hub, weights_cache: WeightsCache) -> None:
    hub.set_variables()
    code = "from modelport.local.llamacpp.weights import resolve_weights; resolve_weights('o/r:{}.gguf', {})"
    screen = read_terminal(lambda terminal: weights_cache.start(code.format("a", None), stderr=terminal))
    assert "modelport: downloading a.gguf of o/r" in screen
    assert "a.gguf: 100%" in screen
    assert read_terminal(lambda terminal: weights_cache.start(code.format("b", False), stderr=terminal)) == ""


def test_resolve_hub_file_in_cache_needs_no_network(hub: Hub) -> None:
    first, _ = hub.resolve("o/r:a.gguf")
    second, err = hub.resolve("o/r:a.gguf", port=9)
    assert first == second
    assert err == ""


def test_resolve_hub_refusal_raises_matching_error(hub: Hub) -> None:
    *results, _ = hub.resolve(
        "o/none:a.gguf", "o/r:none.gguf", "o/gated:a.gguf", "o/token:a.gguf", "o/busy:a.gguf", "o/broken:a.gguf",
        "o..o/r:a.gguf",
    )  # fmt: skip
    assert [(kind, status) for kind, _, status in results] == [
        ("NotFoundError", 401),
        ("NotFoundError", 404),
        ("AuthenticationError", 403),
        ("AuthenticationError", 401),
        ("RateLimited", 429),
        ("ServerError", 503),
        ("InvalidRequest", None),
    ]
    texts = [text for _, text, _ in results]
    assert "repository o/none" in texts[0]
    assert "none.gguf in o/r" in texts[1]
    assert all("HF_TOKEN" in text for text in texts[2:4])


def test_resolve_without_hub_raises_connection_failed(hub: Hub, weights_cache: WeightsCache) -> None:
    (kind, text, _), stderr = hub.resolve("o/r:a.gguf", user="bob:hunter2@", port=9)
    assert kind == "ConnectionFailed" and "pass the path of a file" in text
    assert stderr == "modelport: downloading a.gguf of o/r from the Hugging Face hub\n"
    assert "a.gguf of o/r" in text
    assert "ConnectError" in text
    (kind, text, _), _ = hub.resolve("o/other:a.gguf", user="bob:hunter2@")
    assert kind == "ConnectionFailed"
    assert "http://127.0.0.1" in text
    weights_cache.set_variable("HF_HUB_OFFLINE", "1")
    (kind, text, _), _ = hub.resolve("o/r:a.gguf")
    assert kind == "ConnectionFailed"
    assert "HF_HUB_OFFLINE" in text
