"""Loading of `MLXModel`: folders, settings, the Hugging Face hub, progress, and saved settings."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.local.mlx_model.tiny import copy_folder, run_python
from tests.servers.smollm2 import as_hub_cache

from modelport import InvalidRequest, MLXModel, ModelError, NotFoundError, ServerError

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("mlx")]


def break_folder(folder: Path, fault: str, source: Path) -> None:
    """Put a fault into a folder that `copy_folder` made."""
    remove = {"no weights": "model.safetensors", "no config": "config.json", "no tokenizer": "tokenizer.json"}
    if fault in remove:
        (folder / remove[fault]).unlink()
    if fault == "no tokenizer":
        (folder / "tokenizer_config.json").unlink()
    if fault == "no template":
        (folder / "chat_template.jinja").unlink()
    if fault == "unknown type":
        change_config(folder, model_type="nonesuch")
    if fault == "truncated weights":
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:100_000])
    if fault == "gguf":
        for file in folder.iterdir():
            file.unlink()
        (folder / "model.gguf").write_bytes(b"GGUF")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("no weights", NotFoundError, "safetensors"),
        ("no config", NotFoundError, "config.json"),
        ("gguf", NotFoundError, "LlamaCppModel"),
        ("no tokenizer", ModelError, "can't load"),
        ("no template", InvalidRequest, "chat_template="),
        ("unknown type", InvalidRequest, "nonesuch"),
        ("truncated weights", ServerError, "can't load"),
    ],
)
def test_load_broken_folder_raises_matching_error(
    fault: str, kind: type[ModelError], text: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = copy_folder(tiny_folder, tmp_path, fault.replace(" ", "-"))
    break_folder(folder, fault, tiny_folder)
    with pytest.raises(kind, match=text):
        MLXModel(folder)


def test_load_repository_code_runs_only_if_trusted(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_folder(tiny_folder, tmp_path, "own-code")
    change_config(folder, model_file="own.py")
    marker = tmp_path / "it-ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nfrom mlx_lm.models.llama import *\n")
    with pytest.raises(InvalidRequest, match="trust_remote_code=True"):
        MLXModel(folder)
    assert not marker.exists()
    MLXModel(folder, trust_remote_code=True).close()
    assert marker.exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"model_id": "/no/such/folder"}, NotFoundError, "/no/such/folder"),
        ({"model_id": "no-such-name"}, NotFoundError, "owner/repo"),
        ({"parallel": 0}, InvalidRequest, "parallel=0"),
        ({"prefix_cache_bytes": -1}, InvalidRequest, "prefix_cache_bytes=-1"),
        ({"context_length": "many"}, InvalidRequest, "context_length='many'"),
        ({"load_kwargs": {"nonesuch": 1}}, InvalidRequest, "nonesuch"),
    ],
    ids=["folder", "name", "parallel", "prefix_cache_bytes", "context_length", "load_kwargs"],
)
def test_constructor_wrong_setting_raises_and_names_it(
    arguments: dict[str, Any], kind: type[ModelError], text: str, tiny_folder: Path
) -> None:
    with pytest.raises(kind, match=text):
        MLXModel(**{"model_id": tiny_folder, **arguments})


REFERENCE_SNIPPET = """
from modelport import MLXModel

model = MLXModel(model_id="HuggingFaceTB/SmolLM-135M-Instruct")

print(model([{"role": "user", "content": "Ok!"}], stop_sequences=["great"]))
"""


def test_reference_page_snippet_runs(tmp_path: Path) -> None:
    """A cache of the Hub contains SmolLM2's weights under SmolLM's name."""
    hub = as_hub_cache(tmp_path, "HuggingFaceTB/SmolLM-135M-Instruct")
    done = run_python(REFERENCE_SNIPPET, HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "great" not in done.stdout


def test_load_without_hub_raises_and_names_model(tmp_path: Path) -> None:
    code = (
        "import modelport\ntry: modelport.MLXModel('nobody/nothing')\n"
        "except modelport.ModelError as e: print(type(e).__name__, e)"
    )
    output = run_python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1", HF_TOKEN="hf_secret").stdout
    assert output.startswith("ConnectionFailed") and "nobody/nothing" in output and "hf_secret" not in output


def test_load_shows_progress_only_if_requested(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    MLXModel(tiny_folder, context_length=64, progress=True).close()
    assert "Loading" in capfd.readouterr().err
    MLXModel(tiny_folder, context_length=64, progress=False).close()
    assert capfd.readouterr().err == ""


def test_template_variables_and_recommended_parameters_are_applied(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_folder(tiny_folder, tmp_path, "recommended")
    recommended = {"do_sample": True, "temperature": 0.7, "top_k": 1, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    template = "{% for m in messages %}{{ greeting }} {{ m.content }}{% endfor %}"
    kwargs = {"greeting": "Ahoy", "add_generation_prompt": True}  # smolagents passes the second variable.
    with MLXModel(folder, apply_chat_template_kwargs=kwargs, chat_template=template) as model:
        assert model._engine()._defaults == {"temperature": 0.7, "top_k": 1}
        usage = model("sailor", max_tokens=1).token_usage
        assert usage and usage.input_tokens == model.count_tokens("Ahoy sailor")
        usage = model("sailor", max_tokens=1, apply_chat_template_kwargs={"greeting": "Oh oh oh"}).token_usage
        assert usage and usage.input_tokens == model.count_tokens("Oh oh oh sailor")


def test_settings_survive_dict_and_pickle(tiny_model: MLXModel, tiny_folder: Path) -> None:
    data = tiny_model.to_dict()
    assert data == {
        "class": "MLXModel", "model_id": str(tiny_folder), "context_length": 2048, "retry": False, "temperature": 0
    }  # fmt: skip
    with pickle.loads(pickle.dumps(tiny_model)) as twin:
        assert twin.to_dict() == data and twin("Hi", max_tokens=2).text
