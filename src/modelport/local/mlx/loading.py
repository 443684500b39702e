"""Loads a model from a folder or the Hugging Face Hub for MLX: weights, tokenizer and chat template."""

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
from modelport.local.hub_errors import error_from_hub
from modelport.local.progress import shows_progress
from modelport.local.template_formats import library_format
from modelport.local.template_renderer import renderer_for
from modelport.protocols.output_text.calls import CallFormat

if TYPE_CHECKING:
    from modelport.local.mlx.model import MLXModel

#: Patterns of the files that are downloaded: those that mlx-lm reads. Python files among them run only with
#: `trust_remote_code`.
FILES = ["*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt", "*.jsonl", "*.jinja"]
#: The context length of a model whose files do not state one.
DEFAULT_CONTEXT_LENGTH = 32768

#: The id of the process that last loaded a model. In a process that was forked afterwards, this is the id of the parent
#: or of an earlier ancestor.
_loading_process: int | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, with its tokenizer and its settings.

    Args:
        model: The neural network, as mlx-lm loads it.
        tokenizer: A fast tokenizer of transformers.
        apply_template: Renders a conversation; takes the arguments of transformers' `apply_chat_template`.
        template: The source text of the chat template. If the template is Python code of mlx-lm, this is the tag that
            begins the model's reasoning, or an empty string.
        library_calls: How the model writes tool calls, if mlx-lm has a parser for that format.
        eos: The token ids that end an output.
        vocab_size: The length of the logits.
        prefill_step_size: The device's default for the number of tokens of prompts that are computed in one step.
        bytes_per_token: The approximate memory of one token's keys and values.
        context_length: The most tokens of prompt and output together.
        defaults: The sampling parameters that the model's authors recommend.
    """

    model: Any
    tokenizer: Any
    apply_template: Callable[..., Any]
    template: str
    library_calls: CallFormat | None
    eos: frozenset[int]
    vocab_size: int
    prefill_step_size: int
    bytes_per_token: int
    context_length: int
    defaults: Mapping[str, Any]


def load(settings: MLXModel, inherited: LoadedModel | None) -> LoadedModel:
    """Load a model. The thread that calls this must be the thread that computes with the model.

    Args:
        settings: The `MLXModel` whose settings apply.
        inherited: In a forked process, the model that the parent process has loaded; `None` if there is none.

    Raises:
        MissingDependency: mlx-lm is not installed.
        ModelError: The model can't be loaded; the subclass says why.
    """
    global _loading_process
    try:
        import mlx.core as mx
        import mlx_lm  # noqa: F401
    except ImportError:
        raise MissingDependency("mlx-lm", "mlx-lm") from None
    if _loading_process not in (None, os.getpid()):  # This process was forked from one that had loaded a model.
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
    _loading_process = os.getpid()
    mx.clear_cache()
    return loaded


def _inherit(inherited: LoadedModel | None) -> LoadedModel:
    """Return the model that the parent process has loaded.

    A forked process can't load a model: MLX reads files in threads, which do not exist after a fork.

    Raises:
        ServerError: The parent has not loaded this model, or MLX uses a GPU.
    """
    import mlx.core as mx

    if inherited is None or mx.default_device() != mx.cpu:
        raise ServerError(
            "MLX can't load a model or use a GPU in a process that was forked from a process with a loaded model: "
            "start processes with 'spawn', or make the model in the child process first",
            retryable=False,
        )
    # `clear_cache` would wait for MLX's threads, which do not exist in a forked process. Without it, unused memory is
    # freed later.
    mx.clear_cache = lambda: None
    return inherited


def model_folder(model_id: str, revision: str | None, progress: bool | None) -> Path:
    """Return the folder with a model's files; download files that are not in the Hub's cache.

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

    download = partial(snapshot_download, repo, revision=revision, allow_patterns=FILES)
    if progress is False:
        download.keywords["tqdm_class"] = partial(tqdm, disable=True)
    try:
        try:
            return Path(download(local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(download())
    except Exception as error:
        # `from None`: the text or the request of the original exception may contain the user's access token.
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
    layer_caches = make_prompt_cache(model)
    if not all(hasattr(layer_cache, "merge") for layer_cache in layer_caches):
        raise UnsupportedFeature("mlx-lm can't run this model in a batch: its caches can't be merged")
    # One token is computed to find the length of the logits and the memory of the caches.
    logits = model(mx.array([[next(iter(wrapper.eos_token_ids), 0)]]), cache=layer_caches)
    mx.eval(logits)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    text_config = config.get("text_config", config)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        apply_template=_renderer(wrapper),
        template=template or wrapper.think_start or "",
        library_calls=_library_calls(wrapper, tokenizer),
        eos=frozenset(wrapper.eos_token_ids),
        vocab_size=logits.shape[-1],
        prefill_step_size=16 if mx.default_device() == mx.cpu else 512,
        # A cache with one token has memory for `KVCache.step` tokens.
        bytes_per_token=sum(layer_cache.nbytes for layer_cache in layer_caches) // KVCache.step,
        context_length=text_config.get("max_position_embeddings")
        or config.get("max_position_embeddings")
        or DEFAULT_CONTEXT_LENGTH,
        defaults=_recommended_parameters(folder),
    )


def _renderer(wrapper: Any) -> Callable[..., Any]:
    """Return a function that renders conversations as mlx-lm's wrapper of the tokenizer does, within a budget."""
    if getattr(wrapper, "_chat_template", None) is not None:  # It is Python code of mlx-lm.
        return wrapper.apply_chat_template  # type: ignore[no-any-return]
    apply = renderer_for(wrapper._tokenizer)
    # Templates name the variable for reasoning differently; mlx-lm knows its name.
    name = getattr(wrapper, "_thinking_kwarg", "enable_thinking")

    def render(*args: Any, **variables: Any) -> Any:
        if name != "enable_thinking" and "enable_thinking" in variables:
            variables[name] = variables.pop("enable_thinking")
        return apply(*args, **{name: wrapper.has_thinking, **variables})

    return render


def _rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary position embeddings under the names that mlx-lm's models read.

    transformers 5 writes them as `rope_parameters`, which most of mlx-lm's models ignore. These models would use their
    default `rope_theta`, and their logits would be slightly wrong.

    Args:
        config: The content of the model's `config.json`.

    Returns:
        The settings; empty if `config` has none, or has them under mlx-lm's names already.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping) or "rope_theta" not in rope or "rope_theta" in config:
        return {}
    scaling = None if rope.get("rope_type", "default") == "default" else dict(rope)
    return {"rope_theta": rope["rope_theta"], **({"rope_scaling": scaling} if scaling else {})}


def _library_calls(wrapper: Any, tokenizer: Any) -> CallFormat | None:
    """Return the format of the model's tool calls, with mlx-lm's parser for it.

    Returns:
        `None` if mlx-lm knows no format, or if calls are JSON between tags, which modelport reads itself.
    """
    if not wrapper.has_tool_calling or tokenizer.init_kwargs.get("tool_parser_type") == "json_tools":
        return None
    return library_format(wrapper.tool_call_start, wrapper.tool_call_end or "", wrapper.tool_parser)


def _recommended_parameters(folder: Path) -> dict[str, Any]:
    """Return the sampling parameters of the model's `generation_config.json`, as transformers and vLLM apply them."""
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
    """Read the weights from disk, one tensor after another, and show a progress bar."""
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
