"""Which fields of llama.cpp's `CommonParams` callers and saved data may set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.errors import InvalidRequest

#: The fields of llama.cpp's `CommonParams` that saved data may set: numbers and switches of the computation. All others
#: could run programs (`mcp_servers_json`, `server_tools`), listen (`hostnames`, `port`) or name paths.
SAVED_ENGINE_FIELDS = frozenset(
    """
    attention_type cache_idle_slots cache_prompt cache_ram_mib cache_type_k cache_type_v check_tensors
    checkpoint_min_step cont_batching ctx_shift embd_normalize enable_reasoning fit_params fit_params_min_ctx
    flash_attn_type grp_attn_n grp_attn_w image_max_tokens image_min_tokens kv_unified kv_unified_per_slot main_gpu
    mmproj_use_gpu moe_cache_size n_batch n_cache_reuse n_ctx n_ctx_checkpoints n_gpu_layers n_keep n_parallel
    n_predict n_ubatch no_extra_bufts no_host no_kv_offload no_mmap no_mmproj no_op_offload numa pooling_type
    prefill_assistant reasoning_format rope_freq_base rope_freq_scale rope_scaling_type slot_prompt_similarity
    split_mode swa_full use_jinja verbosity warmup yarn_attn_factor yarn_beta_fast yarn_beta_slow yarn_ext_factor
    yarn_orig_ctx
    """.split()  # noqa: SIM905
)
#: The fields that keep other users and other machines away from the engine's own HTTP port. No caller may change them.
PROTECTED_ENGINE_FIELDS = ("api_keys", "hostnames", "cors_origins", "cors_origins_explicit", "cors_credentials")


def set_engine_params(params: Any, given: Mapping[str, Any]) -> None:
    """Set fields of llama.cpp's `CommonParams`.

    Args:
        params: The `CommonParams`.
        given: The values by the names of the fields.

    Raises:
        InvalidRequest: There is no such field, or it can't have this value.
    """
    for name, value in given.items():
        if not hasattr(params, name):
            raise InvalidRequest(f"engine_params: llama.cpp's CommonParams has no field {name!r}")
        if name in PROTECTED_ENGINE_FIELDS:
            raise InvalidRequest(
                f"engine_params: {name!r} can't be set: the engine's own server listens on the loopback address "
                "alone, and only for this process, which has its key"
            )
        try:
            setattr(params, name, value)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InvalidRequest(f"engine_params: {name}={value!r}: {error}") from error
