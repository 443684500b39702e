"""Loads a model for MLX from a folder or the Hugging Face Hub: weights, tokenizer and chat template."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelport.errors import (
    InvalidRequest,
    MissingDependency,
    ModelError,
    NotFoundError,
    ServerError,
    UnsupportedFeature,
)
from modelport.local.chat_template import ToolCallFormat
from modelport.local.hub_errors import error_from_hub
from modelport.local.progress import shows_progress

if TYPE_CHECKING:
    from modelport.local.mlx.model import MLXModel

#: The files that mlx-lm reads of a repository. Code among them runs only with `trust_remote_code`.
FILES = ["*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt", "*.jsonl", "*.jinja"]
#: The context length of a model whose files do not state one.
DEFAULT_CONTEXT_LENGTH = 32768

#: The id of the process that loaded a model first.
_first_process: int | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Args:
        model: mlx-lm's model.
        tokenizer: A fast tokenizer of transformers.
        apply_template: Renders a conversation, as transformers' `apply_chat_template`.
        template: The template's source text, if there is one.
        tool_call_format: How the model writes tool calls, where mlx-lm has a parser for that format.
        eos: The token ids that end an output.
        vocab_size: The length of the logits.
        prefill_step_size: How many tokens of prompts this device computes in one step while other rows wait.
        bytes_per_token: The approximate memory of one token's keys and values.
        context_length: The most tokens of prompt and output.
        defaults: The sampling parameters that the model's authors recommend.
    """

    model: Any
    tokenizer: Any
    apply_template: Callable[..., Any]
    template: str
    tool_call_format: ToolCallFormat | None
    eos: frozenset[int]
    vocab_size: int
    prefill_step_size: int
    bytes_per_token: int
    context_length: int
    defaults: Mapping[str, Any]


def load(settings: MLXModel, inherited: LoadedModel | None) -> LoadedModel:
    """Load a model, in the thread that computes with it.

    Args:
        settings: The model whose settings apply.
        inherited: In a forked process, the model that its parent had loaded.

    Raises:
        MissingDependency: mlx-lm is not installed.
        ModelError: The model can't be loaded; the subclass says why.
    """
    global _first_process
    try:
        import mlx.core as mx
        import mlx_lm  # noqa: F401
    except ImportError:
        raise MissingDependency("mlx-lm", "mlx-lm") from None
    if _first_process not in (None, os.getpid()):
        return _inherit(inherited)
    arguments = dict(settings.load_kwargs or {})
    folder = model_folder(settings.model_id or "", arguments.pop("revision", None), settings.progress)
    try:
        loaded = _load(folder, settings, arguments)
    except ModelError:
        raise
    except Exception as error:
        text = f"mlx-lm can't load {settings.model_id!r}: {type(error).__name__}: {error}"
        if isinstance(error, RuntimeError | MemoryError):
            raise ServerError(text, retryable=False) from error
        raise InvalidRequest(text) from error
    _first_process = os.getpid()
    mx.clear_cache()
    return loaded


def _inherit(inherited: LoadedModel | None) -> LoadedModel:
    """Return the model that the parent process had loaded.

    MLX can't read a file in a forked process, because its reading threads do not exist there.
    """
    import mlx.core as mx

    if inherited is None or mx.default_device() != mx.cpu:
        raise ServerError(
            "MLX can't load a model or use a GPU in a process that was forked from a process with a loaded model: "
            "start processes with 'spawn', or make the model in the child process first",
            retryable=False,
        )
    # `clear_cache` waits for all of MLX's threads, and the parent's threads do not run here. Without it, unused memory
    # is freed later.
    mx.clear_cache = lambda: None
    return inherited


def model_folder(model_id: str, revision: str | None, progress: bool | None) -> Path:
    """Return the folder with a model's files, and download them if they are not in the Hub's cache.

    Raises:
        NotFoundError: There is no such folder or repository, or it contains no weights.
        ModelError: The files can't be downloaded; the subclass says why.
    """
    path = Path(model_id).expanduser()
    if not path.is_dir():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model_id):
            raise NotFoundError(
                f"There is no folder {model_id!r}. Pass a folder, or 'owner/repo' for a model on the Hugging Face Hub."
            )
        path = _from_hub(model_id, revision, progress)
    if not (path / "config.json").is_file() or not any(path.glob("model*.safetensors")):
        missing = "weights (model*.safetensors)" if (path / "config.json").is_file() else "config.json"
        hint = "MLX reads safetensors: mlx_lm.convert makes them from other weights"
        if any(path.glob("*.gguf")):
            hint = "GGUF files are for LlamaCppModel"
        raise NotFoundError(f"{model_id!r} contains no {missing}. {hint}.")
    return path


def _from_hub(repo: str, revision: str | None, progress: bool | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import tqdm

    get = partial(snapshot_download, repo, revision=revision, allow_patterns=FILES)
    if progress is False:
        get.keywords["tqdm_class"] = partial(tqdm, disable=True)
    try:
        try:
            return Path(get(local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(get())
    except Exception as error:
        # Without the original exception as its cause, whose text or request may contain a token.
        raise error_from_hub(error, repo, "the model") from None


def _load(folder: Path, settings: MLXModel, arguments: dict[str, Any]) -> LoadedModel:
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.models.cache import KVCache, make_prompt_cache

    config = json.loads((folder / "config.json").read_text())
    tokenizer_config = {"trust_remote_code": settings.trust_remote_code, **arguments.pop("tokenizer_config", {})}
    if settings.chat_template is not None:
        tokenizer_config["chat_template"] = settings.chat_template
    lazy = arguments.pop("lazy", False)
    model, wrapper = mlx_lm.load(
        str(folder),
        tokenizer_config=tokenizer_config,
        model_config=_rope_settings(config) | arguments.pop("model_config", {}),
        lazy=True,
        **{"trust_remote_code": settings.trust_remote_code, **arguments},
    )
    tokenizer = wrapper._tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedFeature("the model's tokenizer has no tokenizer.json, which this backend needs")
    if not wrapper.has_chat_template:
        raise InvalidRequest("the model has no chat template: pass chat_template=, or use a chat model")
    if not lazy:
        _read_weights(model, settings.progress)
    cache = make_prompt_cache(model)
    if not all(hasattr(layer, "merge") for layer in cache):
        raise UnsupportedFeature("mlx-lm can't run this model in a batch: its caches can't be merged")
    logits = model(mx.array([[next(iter(wrapper.eos_token_ids), 0)]]), cache=cache)
    mx.eval(logits)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    text_config = config.get("text_config", config)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        apply_template=wrapper.apply_chat_template,
        template=template or wrapper.think_start or "",
        tool_call_format=_tool_call_format(wrapper, tokenizer),
        eos=frozenset(wrapper.eos_token_ids),
        vocab_size=logits.shape[-1],
        prefill_step_size=16 if mx.default_device() == mx.cpu else 512,
        bytes_per_token=sum(layer.nbytes for layer in cache) // KVCache.step,  # A cache grows in such steps.
        context_length=text_config.get("max_position_embeddings")
        or config.get("max_position_embeddings")
        or DEFAULT_CONTEXT_LENGTH,
        defaults=_recommended_parameters(folder),
    )


def _rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary position embeddings under the names that mlx-lm's models read.

    transformers 5 writes them as `rope_parameters`, which most of mlx-lm's models ignore. These models would compute
    with another base, and their logits would be slightly wrong.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping) or "rope_theta" not in rope or "rope_theta" in config:
        return {}
    scaling = None if rope.get("rope_type", "default") == "default" else dict(rope)
    return {"rope_theta": rope["rope_theta"], **({"rope_scaling": scaling} if scaling else {})}


def _tool_call_format(wrapper: Any, tokenizer: Any) -> ToolCallFormat | None:
    """Return the format of tool calls with mlx-lm's parser; `None` for JSON between marks, which modelport reads."""
    if not wrapper.has_tool_calling or tokenizer.init_kwargs.get("tool_parser_type") == "json_tools":
        return None
    return ToolCallFormat(wrapper.tool_call_start, wrapper.tool_call_end, wrapper.tool_parser)


def _recommended_parameters(folder: Path) -> dict[str, Any]:
    """Return the sampling parameters of `generation_config.json`, which transformers and vLLM apply too."""
    try:
        config = json.loads((folder / "generation_config.json").read_text())
    except (OSError, ValueError):
        return {}
    names = ["repetition_penalty"]
    if config.get("do_sample"):
        names += ["temperature", "top_p", "top_k", "min_p"]
        config.setdefault("temperature", 1.0)
    return {name: config[name] for name in names if config.get(name) is not None}


def _read_weights(model: Any, progress: bool | None) -> None:
    """Read the weights from disk, one tensor after another."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    tensors = [tensor for _, tensor in tree_flatten(model.parameters())]
    with _progress_bar(progress, sum(tensor.nbytes for tensor in tensors)) as advance:
        for tensor in tensors:
            mx.eval(tensor)
            advance(tensor.nbytes)


@contextlib.contextmanager
def _progress_bar(progress: bool | None, total: int) -> Iterator[Callable[[int], None]]:
    if not shows_progress(progress):
        yield lambda nbytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("Loading"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda nbytes: bar.advance(task, nbytes)
