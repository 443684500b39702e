"""From a `VLLMModel`'s settings to an engine of vLLM's."""

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
from modelport.local.vllm.core import Core
from modelport.local.vllm.starting import begins_apart

#: Bytes of keys and values on a CPU; a quarter of its memory where that is less.
CPU_CACHE = 4 * 2**30

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.npz", "*.tensors")


def import_vllm() -> None:
    """Imports vLLM, its log kept to errors on standard error where the user has not said otherwise."""
    if "vllm" not in sys.modules:
        # Read at import, and by the processes that vLLM starts. By default it logs to standard output.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise MissingDependency("vllm", "vllm") from None


def engine_args(model: Any) -> dict[str, Any]:
    """The fields of `AsyncEngineArgs`, those of `model_kwargs` checked by name."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    given = dict(model.model_kwargs or {})
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    own = {"model": "model_id", "max_model_len": "context_length", "trust_remote_code": "trust_remote_code"}
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InvalidRequest(f"model_kwargs: {name!r} is no field of vLLM's AsyncEngineArgs{hint}")
        if name in own and getattr(model, own[name]) not in (None, False, given[name]):
            raise InvalidRequest(f"model_kwargs: {name!r} is given twice, also as {own[name]}")
    decoding = given.get("structured_outputs_config") or {}
    if isinstance(decoding, Mapping):
        if decoding.get("backend", "guidance") != "guidance":
            raise InvalidRequest(
                "model_kwargs: structured_outputs_config['backend'] must be 'guidance', whose dialect every grammar "
                f"of this package is written in; not {decoding['backend']!r}"
            )
        given["structured_outputs_config"] = {**decoding, "backend": "guidance"}
    if model.context_length is not None:
        given["max_model_len"] = model.context_length
    given.setdefault("trust_remote_code", model.trust_remote_code)
    given |= _cpu_memory(given)
    return {"model": model.model_id, "disable_log_stats": True, "use_tqdm_on_load": False, **given}


def _cpu_memory(given: Mapping[str, Any]) -> dict[str, Any]:
    """Room for keys and values on a CPU, where nobody has said how much.

    vLLM by itself takes 92 % of the machine's memory, and does not start where less than that is free.
    """
    import psutil  # which vLLM needs too
    from vllm.platforms import current_platform

    said = {"gpu_memory_utilization", "kv_cache_memory_bytes"} & given.keys() or "VLLM_CPU_KVCACHE_SPACE" in os.environ
    if said or not current_platform.is_cpu():
        return {}
    return {"kv_cache_memory_bytes": min(CPU_CACHE, psutil.virtual_memory().total // 4)}


def make_core(model: Any, given: dict[str, Any]) -> Core:
    """Starts the engine.

    Raises:
        NotFoundError: There is no such model, or it has no weights or no tokenizer.
        InvalidRequest: vLLM can't load it with these settings.
        ServerError: The engine could not start.
    """
    folder = Path(given["model"])
    if folder.is_dir() and given.get("load_format") != "dummy" and not any(any(folder.glob(p)) for p in _WEIGHTS):
        raise NotFoundError(f"{str(folder)!r} holds no weights ({', '.join(_WEIGHTS)})", model_id=model.model_id)
    from huggingface_hub.errors import HFValidationError
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        args = AsyncEngineArgs(**given)
        config = args.create_engine_config()
    except (OSError, HFValidationError) as error:  # transformers' word for a model that is not there, and the Hub's
        raise NotFoundError(f"vLLM finds no model {given['model']!r}: {error}", model_id=model.model_id) from None
    except Exception as error:
        raise InvalidRequest(f"vLLM can't load {given['model']!r} so: {error}", model_id=model.model_id) from error
    load_tokenizer(config.model_config, model.chat_template)  # found here, not after a minute of loading
    options = {"disable_log_stats": args.disable_log_stats, "enable_log_requests": args.enable_log_requests}
    try:
        return Core(config, lambda: AsyncLLM.from_vllm_config(config, **options), begins_apart(given))
    except Exception as error:
        raise ServerError(
            f"vLLM could not load {given['model']!r}: {error}\n(Its log is on standard error. Where memory is short, "
            "lower context_length, or on a GPU model_kwargs['gpu_memory_utilization']; a longer context on a CPU needs "
            "more model_kwargs['kv_cache_memory_bytes'].)",
            model_id=model.model_id,
            retryable=False,
        ) from error


def load_tokenizer(config: Any, chat_template: str | None = None) -> tuple[Any, str]:
    """The model's tokenizer, as transformers loads it, and its chat template.

    Args:
        config: vLLM's `ModelConfig`.
        chat_template: Goes before the tokenizer's own.

    Raises:
        NotFoundError: There is no tokenizer.
        InvalidRequest: It does not serve conversations.
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
            f"{config.tokenizer!r} has no chat template, so it may not be made for conversations; give one as "
            "chat_template"
        ) from None


@contextlib.contextmanager
def shown(model: Any) -> Iterator[None]:
    """Shows that a model is being loaded, which takes vLLM half a minute or more."""
    if not (model.progress or (model.progress is None and sys.stderr is not None and sys.stderr.isatty())):
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(f"vLLM loads {model.model_id}", total=None)
        yield
