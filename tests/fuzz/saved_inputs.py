"""Strategies: saved data, as `Model.from_dict` reads it, from somebody who wants to run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from modelport.registry import BACKENDS_BY_CLASS, COMPOSED
from tests.fuzz.gguf_inputs import TEMPLATES
from tests.fuzz.junk import junk

#: The name of a module that does not exist. An import of it shows that saved data was imported.
CANARY = "modelport_fuzz_canary"
#: The TCP port in each address of the data. Nothing may connect to it.
HOSTILE_PORT = 9
_URL, _REDIS = (f"{scheme}://127.0.0.1:{HOSTILE_PORT}" for scheme in ("http", "redis"))
KEY = "sk-fuzz-0123456789"


def command(canary: Path) -> str:
    """Return a shell command that writes a file."""
    return f"touch {canary}"


def hostile_settings(canary: Path) -> dict[str, Any]:
    """Return settings of engines and clients that run code, listen, read files or send keys elsewhere.

    Args:
        canary: The file that code would write.
    """
    servers = f'{{"mcpServers": {{"x": {{"command": "/bin/sh", "args": ["-c", "{command(canary)}; cat"]}}}}}}'
    return {
        "engine_params": {
            "mcp_servers_json": servers, "mcp_servers_config": str(canary), "server_tools": ["all"], "port": 0,
            "hostnames": ["0.0.0.0"], "hostname": "0.0.0.0", "api_keys": [], "api_prefix": "/x", "webui": True,
            "public_path": "/", "slot_save_path": "/tmp", "ssl_file_key": "/etc/passwd", "models_dir": "/",
            "path_prompt_cache": str(canary), "logits_file": str(canary), "lora_adapters": [{"path": "/etc/passwd"}],
            "n_ctx": 2**31, "n_batch": -1, "flash_attn_type": 99, "chat_template": "{{ 1 }}", "log_file": str(canary),
        },
        "model_kwargs": {
            "compilation_config": {"inductor_passes": {"x": f"{CANARY}.f"}}, "worker_cls": f"{CANARY}.W",
            "trust_remote_code": True, "attn_implementation": f"{CANARY}/kernels", "quantization_config": {"x": 1},
            "weights_only": False, "use_kernels": True, "gguf_file": "/etc/passwd", "cache_dir": "/",
            "subfolder": "../..",
            "load_format": CANARY, "logits_processors": [f"{CANARY}:P"], "tool_parser_plugin": f"{CANARY}.py",
        },
        "load_kwargs": {"model_config": {"model_file": f"{CANARY}.py"},
        "tokenizer_config": {"trust_remote_code": True}},
        "client_kwargs": {
            "http_client": CANARY, "transport": f"{CANARY}:T", "proxies": {"https": _URL}, "verify": False,
            "endpoint_url": _URL, "base_url": _URL, "config": {"retries": CANARY},
            "headers": {"X": KEY}, "provider": CANARY, "event_hooks": {"request": [CANARY]}, "timeout": "soon",
        },
        "model_list": [{"model_name": "m", "litellm_params": {"model": "openai/m", "custom_handler": CANARY}}],
        "custom_llm_provider": CANARY, "callbacks": [CANARY], "success_callback": [CANARY],
        "capabilities": {"tools": 1},
        "mmproj": "/dev/zero", "device_map": CANARY, "dtype": f"{CANARY}.x", "chat_template": TEMPLATES[7], "retry": {},
        "api_key": {"env": "PATH"}, "token": {"env": "HOME"}, "api_base": _URL, "dialect": CANARY,
        "trust_remote_code": True, "class_name": CANARY, "__class__": f"{CANARY}.M", "__reduce__": [CANARY, []],
        "limits": {"class": CANARY}, "grammar": {"type": "json_schema",
        "schema": {"$ref": f"http://127.0.0.1/{CANARY}"}},
        "layers": [CANARY], "tools": [{"name": "f"}], "region_name": "../x", "models": [{"class": CANARY}],
        "tokens_per_minute": -1, "redis_url": _REDIS, "shared_limits": {"url": _REDIS},
    }  # fmt: skip


CLASSES = (*BACKENDS_BY_CLASS, *COMPOSED)
_PLAIN: dict[str, Any] = {
    "temperature": 0.5, "max_tokens": 5, "retry": False, "timeout": 1.0, "context_length": 256, "parallel": 1,
    "api_version": "2024-10-21", "azure_endpoint": _URL, "max_concurrency": 2, "seed": 1,
}  # fmt: skip


@st.composite
def saved(draw: st.DrawFn, canary: Path, model_id: str, classes: tuple[str, ...] = CLASSES) -> Any:
    """Draw data: a class, and settings of which some are plain, some hostile and some junk."""
    if draw(st.integers(0, 39)) == 0:
        return draw(junk)
    hostile = hostile_settings(canary)
    names = ("OpenAIServerModel", "os.system", f"{CANARY}.M", "Model", "", 7, None)
    used = draw(st.sampled_from(names)) if draw(st.integers(0, 19)) == 0 else draw(st.sampled_from(classes))
    # Without a model_id, llama.cpp would load the large default weights.
    data: dict[Any, Any] = {"class": used, "model_id": model_id if draw(st.integers(0, 5)) else draw(junk) or model_id}
    for name in draw(st.lists(st.sampled_from(sorted(_PLAIN)), max_size=3)):
        data[name] = _PLAIN[name]
    for name in draw(st.lists(st.sampled_from(sorted(hostile)), max_size=draw(st.sampled_from((0, 1, 1, 2))))):
        value = hostile[name]
        if isinstance(value, dict) and value:  # One field alone is not hidden behind another that is refused first.
            fields = draw(st.lists(st.sampled_from(sorted(value)), min_size=1, max_size=2))
            value = {field: value[field] for field in fields}
            if draw(st.integers(0, 4)) == 0:  # `dict()` accepts this too.
                value = [[field, item] for field, item in value.items()]
        data[name] = value
    if draw(st.integers(0, 3)) == 0:
        data[draw(st.sampled_from((*_PLAIN, *hostile)))] = draw(junk)
    if used == "FallbackModel":
        inner = saved(canary, model_id, tuple(name for name in classes if name != "FallbackModel"))
        data["models"] = draw(st.lists(inner, max_size=2))
        data.pop("model_id")
    return data
