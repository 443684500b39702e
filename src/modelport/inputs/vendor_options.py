"""The types of the vendors' own parameters: `VendorOptions`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict


class VendorOptions(TypedDict, total=False):
    """The parameters of a call that only some services or engines have, for type checkers.

    Each parameter of `vendor_parameters.SERVICES` has a key, except those in `parameters.PARAMETERS`. `Any` means that
    services disagree about the type, or that it is a class of another package. `None` means "not given".
    """

    add_generation_prompt: bool | None
    add_special_tokens: bool | None
    additionalModelRequestFields: Mapping[str, Any] | None
    additionalModelResponseFieldPaths: Sequence[str] | None
    additional_drop_params: Sequence[str] | None
    additional_model_request_fields: Mapping[str, Any] | None
    additional_model_response_field_paths: Sequence[str] | None
    allowed_openai_params: Sequence[str] | None
    allowed_token_ids: Sequence[int] | None
    api_base: str | None
    api_key: str | None
    api_version: str | None
    apply_chat_template_kwargs: Mapping[str, Any] | None
    assistant_continue_message: Mapping[str, Any] | None
    audio: Mapping[str, Any] | None
    background: bool | None
    bad_words: Sequence[str] | None
    bad_words_ids: Sequence[Sequence[int]] | None
    base_url: str | None
    begin_suppress_tokens: Sequence[int] | None
    bos_token: str | None
    cache: Mapping[str, Any] | None
    cachePoints: Mapping[str, str | None] | Sequence[str] | None
    cache_control: Mapping[str, Any] | None
    cache_points: Mapping[str, str | None] | Sequence[str] | None
    cache_prompt: bool | None
    cache_salt: str | None
    caching: bool | None
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    citation_options: str | None
    clear_thinking: bool | None
    compliance: str | None
    compound_custom: Mapping[str, Any] | None
    context_length_exceeded_behavior: str | None
    context_management: Sequence[Mapping[str, Any]] | None
    context_window_fallback_dict: Mapping[str, str] | None
    continue_final_message: bool | None
    conversation: str | Mapping[str, Any] | None
    custom_llm_provider: str | None
    custom_logit_processor: str | Sequence[str] | None
    custom_params: Mapping[str, Any] | None
    data_sources: Sequence[Mapping[str, Any]] | None
    debug: Mapping[str, Any] | None
    deferred: bool | None
    deferred_tools: Mapping[str, Any] | None
    deployment_id: str | None
    disable_reasoning: bool | None
    disable_search: bool | None
    disable_tool_validation: bool | None
    do_sample: bool | None
    documents: Sequence[Mapping[str, Any]] | None
    drop_params: bool | None
    dry_allowed_length: int | None
    dry_base: float | None
    dry_multiplier: float | None
    dry_penalty_last_n: int | None
    dry_sequence_breakers: Sequence[str] | None
    dynatemp_exponent: float | None
    dynatemp_range: float | None
    ebnf: str | None
    ec_transfer_params: Mapping[str, Any] | None
    echo: bool | None
    echo_last: int | None
    enable_code_interpreter: bool | None
    enable_json_schema_validation: bool | None
    enable_search: bool | None
    enable_search_classifier: bool | None
    enable_thinking: bool | None
    ensure_alternating_roles: bool | None
    eos_token: str | None
    eos_token_id: int | Sequence[int] | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    exclude_domains: Sequence[str] | None
    exponential_decay_length_penalty: Sequence[float] | None
    extra: Mapping[str, Any] | None
    extra_args: Mapping[str, Any] | None
    extra_key: str | Sequence[str] | None
    fallbacks: Sequence[Any] | None
    final_prompt_value: str | None
    function_call: str | Mapping[str, Any] | None
    functions: Sequence[Mapping[str, Any]] | None
    google: Mapping[str, Any] | None
    guardrailConfig: Mapping[str, Any] | None
    guardrailIdentifier: str | None
    guardrailVersion: str | None
    guardrail_config: Mapping[str, Any] | None
    guardrail_identifier: str | None
    guardrail_version: str | None
    guardrails: Sequence[Any] | None
    guideline: str | None
    hf_model_name: str | None
    id_slot: int | None
    ignore_eos: bool | None
    image_config: Mapping[str, Any] | None
    image_domain_filter: Sequence[str] | None
    image_format_filter: Sequence[str] | None
    include: Sequence[str] | None
    include_domains: Sequence[str] | None
    include_reasoning: bool | None
    include_server_side_tool_invocations: bool | None
    include_stop_str_in_output: bool | None
    inferenceConfig: Mapping[str, Any] | None
    inference_config: Mapping[str, Any] | None
    initial_prompt_value: str | None
    input_cost_per_second: float | None
    input_cost_per_token: float | None
    input_ids: Sequence[int] | None
    instructions: str | None
    json_schema: Mapping[str, Any] | None
    kv_transfer_params: Mapping[str, Any] | None
    language_preference: str | None
    last_updated_after_filter: str | None
    last_updated_before_filter: str | None
    length_penalty: float | None
    litellm_metadata: Mapping[str, Any] | None
    litellm_session_id: str | None
    litellm_trace_id: str | None
    logger_fn: Callable[..., Any] | None
    logit_bias: Mapping[str, float] | Mapping[int, float] | Sequence[Any] | None
    logits_processor: Any | None
    logits_processors: Sequence[Any] | None
    logprob_token_ids: Sequence[int] | None
    lora: Sequence[Mapping[str, Any]] | None
    lora_path: str | Sequence[str] | None
    max_retries: int | None
    max_tool_calls: int | None
    media_io_kwargs: Mapping[str, Any] | None
    merge_reasoning_content_in_choices: bool | None
    meta: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    min_completion_tokens: int | None
    min_keep: int | None
    min_length: int | None
    min_new_tokens: int | None
    min_tokens: int | None
    mirostat: int | None
    mirostat_eta: float | None
    mirostat_lr: float | None
    mirostat_target: float | None
    mirostat_tau: float | None
    mm_processor_kwargs: Mapping[str, Any] | None
    mock_response: Any | None
    mock_timeout: Any | None
    modalities: Sequence[str] | None
    model_list: Sequence[Mapping[str, Any]] | None
    model_parameters: Mapping[str, Any] | None
    models: Sequence[str] | None
    moderation: Mapping[str, Any] | None
    n_cache_reuse: int | None
    n_cmpl: int | None
    n_indent: int | None
    n_keep: int | None
    n_predict: int | None
    n_probs: int | None
    no_repeat_ngram_size: int | None
    no_stop_trim: bool | None
    num_beams: int | None
    num_retries: int | None
    num_return_sequences: int | None
    nvext: Mapping[str, Any] | None
    outputConfig: Mapping[str, Any] | None
    output_config: Mapping[str, Any] | None
    output_cost_per_second: float | None
    output_cost_per_token: float | None
    perf_metrics_in_response: bool | None
    performanceConfig: Mapping[str, Any] | None
    performance_config: Mapping[str, Any] | None
    plugins: Sequence[Mapping[str, Any]] | None
    post_sampling_probs: bool | None
    prediction: Mapping[str, Any] | None
    preserve_thinking: bool | None
    previous_response_id: str | None
    priority: int | None
    prompt: Mapping[str, Any] | None
    promptVariables: Mapping[str, Any] | None
    prompt_cache_isolation_key: str | None
    prompt_cache_key: str | None
    prompt_cache_options: Mapping[str, Any] | None
    prompt_cache_retention: str | None
    prompt_id: str | None
    prompt_logprobs: Any | None
    prompt_mode: str | None
    prompt_truncate_len: int | None
    prompt_variables: Mapping[str, Any] | None
    prompt_version: int | None
    provider: Mapping[str, Any] | None
    random_seed: int | None
    raw_output: bool | None
    reasoning: Mapping[str, Any] | None
    reasoning_control: bool | None
    reasoning_format: str | None
    reasoning_history: str | None
    reasoning_split: bool | None
    regex: str | None
    remove_invalid_values: bool | None
    renormalize_logits: bool | None
    repeat_last_n: int | None
    repeat_penalty: float | None
    repetition_detection: Any | None
    requestMetadata: Mapping[str, Any] | None
    request_id: str | None
    request_metadata: Mapping[str, Any] | None
    response_fields: Sequence[str] | None
    retry_strategy: str | None
    return_cached_tokens_details: bool | None
    return_hidden_states: bool | str | None
    return_images: bool | None
    return_progress: bool | None
    return_prompt_text: bool | None
    return_related_questions: bool | None
    return_routed_experts: bool | None
    return_token_ids: bool | None
    return_tokens: bool | None
    return_tokens_as_token_ids: bool | None
    rid: str | Sequence[str] | None
    roles: Mapping[str, Any] | None
    route: str | None
    routed_experts_prompt_start: int | None
    safe_prompt: bool | None
    safe_tokenization: bool | None
    safety_identifier: str | None
    safety_model: str | None
    samplers: str | Sequence[str] | None
    search_after_date_filter: str | None
    search_before_date_filter: str | None
    search_domain_filter: Sequence[str] | None
    search_language_filter: Sequence[str] | None
    search_mode: str | None
    search_options: Mapping[str, Any] | None
    search_parameters: Mapping[str, Any] | None
    search_recency_filter: str | None
    search_settings: Mapping[str, Any] | None
    sensitive_word_check: Mapping[str, Any] | None
    separate_reasoning: bool | None
    sequence_bias: Any | None
    serviceTier: str | Mapping[str, Any] | None
    service_tier: str | Mapping[str, Any] | None
    session_id: str | None
    session_params: Mapping[str, Any] | None
    shared_session: Any | None
    skip_special_tokens: bool | None
    spaces_between_special_tokens: bool | None
    speculation: str | Sequence[int] | None
    sse_ping_interval: float | None
    ssl_verify: bool | str | None
    stop_regex: str | Sequence[str] | None
    stop_server_tools_when: Sequence[Mapping[str, Any]] | None
    stop_token_ids: Sequence[int] | None
    store: bool | None
    stream_interval: int | None
    stream_mode: str | None
    stream_options: Mapping[str, Any] | None
    stream_reasoning: bool | None
    structured_outputs: Any | None
    supports_system_message: bool | None
    suppress_tokens: Sequence[int] | None
    t_max_predict_ms: int | None
    tags: Sequence[str] | None
    text: Mapping[str, Any] | None
    thinking: Mapping[str, Any] | None
    thinking_budget: int | None
    thinking_budget_tokens: int | None
    thinking_token_budget: int | None
    timings_per_token: bool | None
    toolConfig: Mapping[str, Any] | None
    tool_config: Mapping[str, Any] | None
    tool_prompt: str | None
    tool_stream: bool | None
    top_a: float | None
    top_n_sigma: float | None
    top_prompt_logprobs: int | None
    trace: Mapping[str, Any] | None
    trace_decode_token_ids: Sequence[int] | None
    transforms: Sequence[str] | None
    translation_options: Mapping[str, Any] | None
    truncate_prompt_tokens: int | None
    truncation: str | None
    truncation_side: str | None
    ttl: float | None
    typical_p: float | None
    use_beam_search: bool | None
    use_cache: bool | None
    user: str | None
    user_continue_message: Mapping[str, Any] | None
    user_id: str | None
    user_security_context: Mapping[str, Any] | None
    verbose: bool | None
    verbosity: str | None
    vl_high_resolution_images: bool | None
    vllm_xargs: Mapping[str, Any] | None
    watermark_enabled: bool | None
    watermarking: bool | None
    web_search_options: Mapping[str, Any] | None
    xtc_probability: float | None
    xtc_threshold: float | None
