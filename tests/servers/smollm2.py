"""Makes the f32 folder of SmolLM2's weights that transformers, MLX and vLLM load, once, from the GGUF file."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Increase this number when `_convert` makes other files.
_RECIPE = 1
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def smollm2_folder(gguf: Path | None = None, python: str = sys.executable) -> Path:
    """Return a folder with config.json, model.safetensors (f32), the tokenizer and the model's own chat template.

    Args:
        gguf: The file of the weights; by default that of the servers.
        python: The interpreter that makes the folder; its environment has transformers and torch.
    """
    from .cache import cached

    if gguf is None:
        from .llamacpp import model_file

        gguf = model_file()
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def convert(folder: Path) -> Path:
        # -P keeps the modules next to this file from hiding packages with the same names.
        command = [python, "-P", __file__, str(gguf.resolve()), str(folder / "part")]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": ""} | OFFLINE
        subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, timeout=900, check=True)
        return folder / "part"

    return cached(f"smollm2-f32-{digest[:16]}-{_RECIPE}", convert)


def as_hub_cache(root: Path, model_id: str) -> Path:
    """Make a cache of the Hub with the weights under this name, for `HF_HUB_CACHE` with `HF_HUB_OFFLINE=1`."""
    folder = root / f"models--{model_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / ("0" * 40)).symlink_to(smollm2_folder())
    return root


def _convert(gguf: Path, target: Path) -> None:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # save_pretrained refuses a model that was loaded from GGUF, so its weights are copied into a new model.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    copy = transformers.LlamaForCausalLM(config)
    copy.load_state_dict(loaded.state_dict())
    copy.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(target)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
