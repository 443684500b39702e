"""Makes vLLM's engine from the settings of a `VLLMModel`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from modelport.errors import InvalidRequest, MissingDependency, NotFoundError, ServerError
from modelport.local.progress import shows_progress
from modelport.local.vllm.processes import needs_caller_script
from modelport.local.vllm.shared_engine import SharedEngine

#: The default memory for keys and values on a CPU, in bytes. If a quarter of the machine's memory is less, the default
#: is that quarter.
CPU_CACHE_BYTES = 4 * 2**30

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.npz", "*.tensors")


def import_vllm() -> None:
    """Import vLLM, and limit its log to errors on standard error, unless the user has configured the log.

    Raises:
        MissingDependency: vLLM is not installed.
    """
    if "vllm" not in sys.modules:
        # vLLM reads these variables when it is imported, in this process and in those that it starts. By default it
        # logs to standard output.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise MissingDependency("vllm", "vllm") from None


def engine_args(model: Any) -> dict[str, Any]:
    """Return the fields of vLLM's `AsyncEngineArgs` for a `VLLMModel`.

    Raises:
        InvalidRequest: A name in `model_kwargs` is unknown, or is also a parameter of `VLLMModel` that is set to
            another value; or a value is not supported.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    given = dict(model.model_kwargs or {})
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    # Fields of `AsyncEngineArgs`, and the parameters of `VLLMModel` that set them.
    parameters = {"model": "model_id", "max_model_len": "context_length", "trust_remote_code": "trust_remote_code"}
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InvalidRequest(f"model_kwargs: vLLM's AsyncEngineArgs has no field {name!r}{hint}")
        if name in parameters and getattr(model, parameters[name]) not in (None, False, given[name]):
            raise InvalidRequest(f"model_kwargs: {name!r} is set twice, also as {parameters[name]}")
    decoding = given.get("structured_outputs_config") or {}
    if isinstance(decoding, Mapping):
        if decoding.get("backend", "guidance") != "guidance":
            raise InvalidRequest(
                "model_kwargs: structured_outputs_config['backend'] must be 'guidance', because modelport writes every "
                f"grammar in guidance's dialect; not {decoding['backend']!r}"
            )
        given["structured_outputs_config"] = {**decoding, "backend": "guidance"}
    if model.context_length is not None:
        given["max_model_len"] = model.context_length
    given.setdefault("trust_remote_code", model.trust_remote_code)
    given |= _cpu_memory(given)
    return {"model": model.model_id, "disable_log_stats": True, "use_tqdm_on_load": False, **given}


def _cpu_memory(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field that limits the memory for keys and values on a CPU; empty if the user has set a limit.

    By default vLLM takes 92 % of the machine's memory, and does not start if less than that is free.
    """
    import psutil  # vLLM depends on it.
    from vllm.platforms import current_platform

    names = {"gpu_memory_utilization", "kv_cache_memory_bytes"}
    is_set = bool(names & given.keys()) or "VLLM_CPU_KVCACHE_SPACE" in os.environ
    if is_set or not current_platform.is_cpu():
        return {}
    return {"kv_cache_memory_bytes": min(CPU_CACHE_BYTES, psutil.virtual_memory().total // 4)}


def start_engine(model: Any, given: dict[str, Any]) -> SharedEngine:
    """Start vLLM's engine.

    Args:
        model: The `VLLMModel`.
        given: The fields of vLLM's `AsyncEngineArgs`, as `engine_args` returns them.

    Raises:
        NotFoundError: There is no such model, or it has no weights or no tokenizer.
        InvalidRequest: vLLM can't load the model with these settings.
        ServerError: The engine could not start.
    """
    folder = Path(given["model"])
    if folder.is_dir() and given.get("load_format") != "dummy" and not any(any(folder.glob(p)) for p in _WEIGHT_FILES):
        raise NotFoundError(
            f"{str(folder)!r} contains no weights ({', '.join(_WEIGHT_FILES)})", model_id=model.model_id
        )
    from huggingface_hub.errors import HFValidationError
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        args = AsyncEngineArgs(**given)
        config = args.create_engine_config()
    except (OSError, HFValidationError) as error:  # Raised by transformers or the Hub if there is no such model.
        raise NotFoundError(f"vLLM finds no model {given['model']!r}: {error}", model_id=model.model_id) from None
    except Exception as error:
        raise InvalidRequest(
            f"vLLM can't load {given['model']!r} with these settings: {error}", model_id=model.model_id
        ) from error
    # Starting the engine takes up to a minute. So the tokenizer is loaded before, only to find a problem with it early.
    load_tokenizer(config.model_config, model.chat_template)
    options = {"disable_log_stats": args.disable_log_stats, "enable_log_requests": args.enable_log_requests}
    try:
        return SharedEngine(
            config, lambda: AsyncLLM.from_vllm_config(config, **options), with_caller_script=needs_caller_script(given)
        )
    except Exception as error:
        raise ServerError(
            f"vLLM could not load {given['model']!r}: {error}\n(Its log is on standard error. If memory is short, "
            "lower context_length, or on a GPU model_kwargs['gpu_memory_utilization']. A longer context on a CPU needs "
            "more model_kwargs['kv_cache_memory_bytes'].)",
            model_id=model.model_id,
            retryable=False,
        ) from error


def load_tokenizer(config: Any, chat_template: str | None = None) -> tuple[Any, str]:
    """Return the model's tokenizer, as transformers loads it, and the source text of its chat template.

    Args:
        config: vLLM's `ModelConfig`.
        chat_template: Overrides the tokenizer's own template.

    Raises:
        NotFoundError: There is no tokenizer.
        InvalidRequest: The tokenizer is not a fast one (of the `tokenizers` package), or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            config.tokenizer, revision=config.tokenizer_revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise NotFoundError(f"{config.tokenizer!r} has no tokenizer that transformers can load: {error}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidRequest(f"{config.tokenizer!r} has no fast tokenizer (tokenizer.json), which grammars need")
    try:
        return tokenizer, tokenizer.get_chat_template(chat_template)
    except ValueError:
        raise InvalidRequest(
            f"{config.tokenizer!r} has no chat template, so it may not be a chat model; pass chat_template=…"
        ) from None


@contextlib.contextmanager
def loading_indicator(model: Any) -> Iterator[None]:
    """Show on standard error that a model is being loaded, which takes vLLM half a minute or more."""
    if not shows_progress(model.progress):
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(f"vLLM loads {model.model_id}", total=None)
        yield
