"""The table of the request parameters that only some services or engines document: `SERVICES`.

The table is the reason why a vendor's own parameter is sent without a warning, and why its name is not taken for a
misspelling. It has no parameters that are in `inputs.parameters.PARAMETERS`, apart from `top_k`, `min_p` and
`repetition_penalty`: modelport knows these three itself, but many services do not have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple


class Service(NamedTuple):
    """A service or an engine, and the request parameters that it documents beyond those that nearly all have.

    Args:
        title: The name for errors and documentation, such as `OpenRouter`.
        source: The URL of the page that documents the parameters.
        parameters: The names of the parameters.
    """

    title: str
    source: str
    parameters: frozenset[str]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAMPLING = _names("top_k min_p repetition_penalty")
_VLLM_SERVER = _SAMPLING | _names(
    """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt chat_template chat_template_kwargs
    continue_final_message documents echo ec_transfer_params ignore_eos include_reasoning include_stop_str_in_output
    kv_transfer_params length_penalty logit_bias logprob_token_ids media_io_kwargs min_tokens mm_processor_kwargs
    priority prompt_logprobs repetition_detection request_id return_prompt_text return_token_ids
    return_tokens_as_token_ids routed_experts_prompt_start session_id skip_special_tokens spaces_between_special_tokens
    stop_token_ids stream_interval stream_options structured_outputs thinking_token_budget truncate_prompt_tokens
    truncation_side use_beam_search user vllm_xargs watermarking
    """
)

#: Key of a service or an engine -> its parameters.
SERVICES: Mapping[str, Service] = {
    "openai": Service(
        "OpenAI",
        "https://platform.openai.com/docs/api-reference/chat/create",
        _names(
            """
            audio function_call functions logit_bias metadata modalities moderation prediction prompt_cache_key
            prompt_cache_options prompt_cache_retention safety_identifier service_tier store stream_options user
            verbosity web_search_options
            """
        ),
    ),
    "openai-responses": Service(
        "OpenAI's Responses API",
        "https://developers.openai.com/api/reference/resources/responses/methods/create",
        _names(
            """
            background context_management conversation include instructions max_tool_calls metadata moderation
            previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning
            safety_identifier service_tier store stream_options text truncation user verbosity
            """
        ),
    ),
    "azure": Service(
        "Azure OpenAI",
        "https://learn.microsoft.com/en-us/azure/foundry/reference/rest/chat-create-chat-completion",
        # `data_sources` is documented at https://learn.microsoft.com/azure/ai-services/openai/references/on-your-data
        _names(
            """
            audio data_sources function_call functions logit_bias metadata modalities prediction prompt_cache_key
            prompt_cache_retention safety_identifier store stream_options user user_security_context verbosity
            """
        ),
    ),
    "openrouter": Service(
        "OpenRouter",
        "https://openrouter.ai/docs/api/reference/parameters",
        _SAMPLING
        | _names(
            """
            cache_control debug deferred_tools image_config include_reasoning logit_bias metadata modalities models
            plugins prediction prompt_cache_key prompt_cache_options provider reasoning route service_tier session_id
            stop_server_tools_when stream_options structured_outputs top_a trace transforms user verbosity
            web_search_options
            """
        ),
    ),
    "groq": Service(
        "Groq",
        "https://console.groq.com/docs/api-reference",
        _names(
            """
            citation_options compound_custom disable_tool_validation documents exclude_domains function_call functions
            include_domains include_reasoning logit_bias metadata reasoning_format search_settings service_tier store
            stream_options user
            """
        ),
    ),
    "together": Service(
        "Together AI",
        "https://docs.together.ai/reference/chat-completions-1",
        _SAMPLING
        | _names(
            """
            chat_template_kwargs compliance context_length_exceeded_behavior echo function_call logit_bias reasoning
            safety_model
            """
        ),
    ),
    "fireworks": Service(
        "Fireworks AI",
        "https://docs.fireworks.ai/api-reference/post-chatcompletions",
        _SAMPLING
        | _names(
            """
            context_length_exceeded_behavior echo echo_last function_call functions ignore_eos logit_bias metadata
            mirostat_lr mirostat_target perf_metrics_in_response prediction prompt_cache_isolation_key prompt_cache_key
            prompt_truncate_len raw_output reasoning_history return_token_ids safe_tokenization service_tier speculation
            thinking typical_p user
            """
        ),
    ),
    "deepseek": Service(
        "DeepSeek",
        "https://api-docs.deepseek.com/api/create-chat-completion",
        _names("stream_options thinking user_id"),
    ),
    "mistral": Service(
        "Mistral",
        "https://docs.mistral.ai/api",
        _names(
            """
            guardrails metadata min_tokens prediction prompt_cache_key prompt_logprobs prompt_mode random_seed
            repetition_penalty safe_prompt service_tier top_k top_prompt_logprobs
            """
        ),
    ),
    "xai": Service(
        "xAI",
        "https://docs.x.ai/developers/rest-api-reference/inference/chat-completions",
        _names("deferred logit_bias search_parameters stream_options user web_search_options"),
    ),
    "dashscope": Service(
        "Alibaba Cloud Model Studio",
        "https://www.alibabacloud.com/help/en/model-studio/qwen-api-via-openai-chat-completions",
        _names(
            """
            audio enable_code_interpreter enable_search enable_thinking modalities preserve_thinking repetition_penalty
            search_options stream_options thinking_budget top_k translation_options vl_high_resolution_images
            """
        ),
    ),
    "moonshot": Service(
        "Moonshot AI",
        "https://platform.kimi.ai/docs/api/chat",
        _names("prompt_cache_key safety_identifier stream_options thinking"),
    ),
    "zhipu": Service(
        "Z.AI",
        "https://docs.z.ai/api-reference/llm/chat-completion",
        _names("do_sample extra meta request_id sensitive_word_check thinking tool_stream user_id watermark_enabled"),
    ),
    "minimax": Service(
        "MiniMax",
        "https://platform.minimax.io/docs/api-reference/text-openai-api",
        _names("reasoning_split thinking"),
    ),
    "gemini": Service(
        "Gemini",
        "https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/call-vertex-using-openai-library",
        _names("function_call functions google modalities web_search_options"),
    ),
    "cerebras": Service(
        "Cerebras",
        "https://inference-docs.cerebras.ai/api-reference/chat-completions",
        _names(
            """
            clear_thinking disable_reasoning logit_bias min_completion_tokens min_tokens model_parameters prediction
            prompt_cache_key reasoning_format service_tier stream_options user
            """
        ),
    ),
    "nvidia": Service(
        "NVIDIA NIM",
        "https://docs.nvidia.com/nim/large-language-models/latest/api-reference.html",
        # NIM 2 refers to the documentation of vLLM's server. NIM 1 takes its own parameters in the field `nvext`.
        _VLLM_SERVER | _names("nvext"),
    ),
    "perplexity": Service(
        "Perplexity",
        "https://docs.perplexity.ai/docs/sonar/openai-compatibility",
        _names(
            """
            disable_search enable_search_classifier image_domain_filter image_format_filter language_preference
            last_updated_after_filter last_updated_before_filter return_images return_related_questions
            search_after_date_filter search_before_date_filter search_domain_filter search_language_filter search_mode
            search_recency_filter stream_mode top_k web_search_options
            """
        ),
    ),
    # Cohere documents that this API has none of the parameters of Cohere's own API.
    "cohere": Service("Cohere", "https://docs.cohere.com/docs/compatibility-api", _names("")),
    "huggingface": Service(
        "Hugging Face",
        "https://huggingface.co/docs/huggingface_hub/package_reference/inference_client",
        _names("logit_bias stream_options tool_prompt"),
    ),
    "tgi": Service(
        "Text Generation Inference",
        "https://huggingface.co/docs/text-generation-inference/reference/api_reference",
        _names("guideline logit_bias stream_options tool_prompt"),
    ),
    "llama.cpp": Service(
        "llama.cpp's server",
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        _names(
            """
            cache_prompt chat_template_kwargs dry_allowed_length dry_base dry_multiplier dry_penalty_last_n
            dry_sequence_breakers dynatemp_exponent dynatemp_range id_slot ignore_eos json_schema logit_bias lora
            min_keep min_p mirostat mirostat_eta mirostat_tau n_cache_reuse n_cmpl n_indent n_keep n_predict n_probs
            post_sampling_probs reasoning_control reasoning_format repeat_last_n repeat_penalty response_fields
            return_progress return_tokens samplers sse_ping_interval t_max_predict_ms thinking_budget_tokens
            timings_per_token top_k top_n_sigma typical_p xtc_probability xtc_threshold
            """
        ),
    ),
    "vllm": Service(
        "vLLM's server", "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html", _VLLM_SERVER
    ),
    "sglang": Service(
        "SGLang",
        "https://docs.sglang.io/basic_usage/openai_api_completions.html",
        _SAMPLING
        | _names(
            """
            cache_salt chat_template_kwargs continue_final_message custom_logit_processor custom_params ebnf extra_key
            ignore_eos input_ids logit_bias lora_path min_tokens no_stop_trim priority reasoning regex
            return_cached_tokens_details return_hidden_states return_routed_experts rid separate_reasoning
            session_params skip_special_tokens stop_regex stop_token_ids stream_options stream_reasoning user
            """
        ),
    ),
    "ollama": Service("Ollama", "https://docs.ollama.com/api/openai-compatibility", _names("reasoning stream_options")),
    "lmstudio": Service(
        "LM Studio",
        "https://lmstudio.ai/docs/developer/openai-compat/chat-completions",
        _names("logit_bias repeat_penalty top_k ttl"),
    ),
    "litellm": Service(
        "LiteLLM",
        "https://docs.litellm.ai/docs/completion/input",
        _names(
            """
            additional_drop_params allowed_openai_params api_base api_key api_version assistant_continue_message audio
            base_url bos_token cache caching context_window_fallback_dict custom_llm_provider deployment_id drop_params
            enable_json_schema_validation ensure_alternating_roles eos_token fallbacks final_prompt_value function_call
            functions guardrails hf_model_name include_server_side_tool_invocations initial_prompt_value
            input_cost_per_second input_cost_per_token litellm_metadata litellm_session_id litellm_trace_id logger_fn
            logit_bias max_retries merge_reasoning_content_in_choices metadata mock_response mock_timeout modalities
            model_list num_retries output_cost_per_second output_cost_per_token prediction prompt_cache_key prompt_id
            prompt_variables prompt_version retry_strategy roles safety_identifier service_tier shared_session
            ssl_verify store stream_options supports_system_message tags thinking top_k ttl user user_continue_message
            verbose verbosity web_search_options
            """
        ),
    ),
    "bedrock": Service(
        "Amazon Bedrock",
        "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html",
        # `top_k` is a field of `additionalModelRequestFields`, for the models that have it.
        _names(
            """
            additionalModelRequestFields additional_model_request_fields additionalModelResponseFieldPaths
            additional_model_response_field_paths cachePoints cache_points guardrailConfig guardrail_config
            guardrailIdentifier guardrail_identifier guardrailVersion guardrail_version inferenceConfig inference_config
            outputConfig output_config performanceConfig performance_config promptVariables prompt_variables
            requestMetadata request_metadata serviceTier service_tier toolConfig tool_config top_k
            """
        ),
    ),
    "llamacpp": Service(
        "llama.cpp",
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        _SAMPLING
        | _names(
            """
            cache_prompt chat_template_kwargs dry_allowed_length dry_base dry_multiplier dry_penalty_last_n
            dry_sequence_breakers dynatemp_exponent dynatemp_range enable_thinking id_slot ignore_eos logit_bias lora
            min_keep mirostat mirostat_eta mirostat_tau n_keep reasoning_format repeat_last_n repeat_penalty samplers
            t_max_predict_ms thinking_budget_tokens top_n_sigma typical_p xtc_probability xtc_threshold
            """
        ),
    ),
    "transformers": Service(
        "transformers",
        "https://huggingface.co/docs/transformers/main_classes/text_generation",
        _SAMPLING
        | _names(
            """
            apply_chat_template_kwargs bad_words_ids begin_suppress_tokens do_sample eos_token_id epsilon_cutoff
            eta_cutoff exponential_decay_length_penalty ignore_eos logit_bias logits_processor min_length min_new_tokens
            no_repeat_ngram_size num_beams num_return_sequences remove_invalid_values renormalize_logits sequence_bias
            suppress_tokens typical_p use_cache
            """
        ),
    ),
    "mlx": Service(
        "mlx-lm",
        "https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/sample_utils.py",
        _SAMPLING | _names("apply_chat_template_kwargs logit_bias logits_processors"),
    ),
    "vllm-engine": Service(
        "vLLM",
        "https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html",
        _SAMPLING
        | _names(
            """
            allowed_token_ids apply_chat_template_kwargs bad_words extra_args ignore_eos logit_bias min_tokens
            repetition_detection stop_token_ids stream_interval thinking_token_budget trace_decode_token_ids
            watermarking
            """
        ),
    ),
}


@cache
def services_by_parameter() -> Mapping[str, tuple[str, ...]]:
    """Return for each parameter the titles of the services that document it, in the order of `SERVICES`.

    The mapping is made when it is first used, because few programs need it.
    """
    return {
        name: tuple(service.title for service in SERVICES.values() if name in service.parameters)
        for name in sorted(frozenset().union(*(service.parameters for service in SERVICES.values())))
    }


def parameters_of(service: str | None) -> frozenset[str]:
    """Return the names of the parameters that a service documents.

    Args:
        service: A key of `SERVICES`. For `None` or an unknown key, the result is empty.
    """
    found = SERVICES.get(service or "")
    return found.parameters if found else frozenset()
