# ruff: noqa: E501
# Each row of the tables is one line, whatever its length.

"""How the refusals of services are understood: one row for each wording, with the class that it means.

Each wording is quoted from a page or a report; the tables in `modelport.protocols` name them.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from modelport import errors
from modelport.errors import (
    AuthenticationError,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from modelport.protocols import error_phrases, parameter_phrases
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.bedrock.errors import error_from as bedrock_error_from

#: Service, status, body.
CONTEXT_EXCEEDED: list[tuple[str, int, Any]] = [
    ("anthropic", 400, "prompt is too long: 208310 tokens > 200000 maximum"),
    ("anthropic, output", 400, "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length or `max_tokens` and try again"),
    ("openai", 400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 8545 tokens. Please reduce the length of the messages."),
    ("openai, gpt-5", 400, "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 289650 tokens. Please reduce the length of the messages."),
    ("openai, gpt-5, this phrase alone", 400, "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 289650 tokens."),
    ("openai, responses", 400, "Your input exceeds the context window of this model. Please adjust your input and try again."),
    ("openai, code", 400, {"message": "Too long.", "code": "context_length_exceeded"}),
    ("openrouter", 400, "This endpoint's maximum context length is 204800 tokens. However, you requested about 309977 tokens (303247 of text input, 6730 of tool input)."),
    ("gemini", 400, "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576)."),
    ("vertex ai", 400, "Unable to submit request because the input token count is 1251952 but model only supports up to 1048576. Reduce the input token count and try again."),
    ("dashscope", 400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 204800]"),
    ("xai", 400, "This model's maximum prompt length is 131072 but the request contains 136973 tokens."),
    ("kimi", 400, "Invalid request: Your request exceeded model token limit: 262144 (requested: 274613)"),
    ("kimi, input", 400, "Input token length too long"),
    ("glm", 400, "Prompt exceeds max length"),
    ("glm, code", 400, {"code": "1261", "message": "输入过长"}),
    ("glm, 1210", 400, {"code": "1210", "message": "API 调用参数有误，请检查文档。Request 182387 input tokens exceeds the model's maximum context length 202750"}),
    ("sambanova", 400, "Requested generation length 1 is not possible! The provided prompt is 4309 tokens long, so generating 1 tokens requires a sequence length of 4310, but the maximum supported sequence length is just 4096!"),
    ("github models", 413, "Request body too large for gpt-4o model. Max size: 8000 tokens."),
    ("github models, code", 413, {"code": "tokens_limit_reached", "message": "Too large."}),
    ("copilot", 400, "prompt token count of 391491 exceeds the limit of 128000"),
    ("copilot, code", 400, {"code": "model_max_prompt_tokens_exceeded", "message": "No."}),
    ("vllm, old", 400, "max_tokens must be at least 1, got -186."),
    ("vllm", 400, "max_tokens must be at least 1, got -7584. (parameter=max_tokens, value=-7584)"),
    ("vllm, new", 400, "Input length (11680) exceeds model's maximum context length (4096)."),
    ("vllm, engine", 400, "The decoder prompt (length 21535) is longer than the maximum model length of 16384."),
    ("groq", 400, "Please reduce the length of the messages or completion."),
    ("groq, per minute", 413, {"message": "Request too large for model `llama-3.3-70b-versatile` in organization `org_1` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size and try again.", "type": "tokens", "code": "rate_limit_exceeded"}),
    ("cerebras", 400, "Please reduce the length of the messages or completion. Current length is 8209 while limit is 8192"),
    ("minimax", 400, "invalid params, context window exceeds limit"),
    ("mistral", 400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"),
    ("cohere", 400, "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5423."),
    ("fireworks", 400, "The prompt is too long: 200000, model maximum context length: 131071"),
    ("tgi", 422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3474 `inputs` tokens and 60 `max_new_tokens`"),
    ("llama.cpp", 400, "the request exceeds the available context size, try increasing it"),
    ("llama.cpp, type", 400, {"type": "exceed_context_size_error", "message": "No."}),
    ("lm studio", 400, "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough. tokens to keep from the initial prompt is greater than the context length"),
    ("databricks", 400, "Input is too long for requested model."),
    ("ollama", 400, "the input length exceeds the context length"),
    ("sglang", 400, "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
]  # fmt: skip

#: Service, status, body, class of the error.
OTHERS: list[tuple[str, int, Any, type[ModelError]]] = [
    ("openai, id", 400, {"code": "string_above_max_length", "param": "messages[10].tool_calls[0].id", "message": "Invalid 'messages[10].tool_calls[0].id': string too long. Expected a string with maximum length 40, but got a string with length 51 instead."}, InvalidRequest),
    ("vllm, zero", 400, "max_tokens must be at least 1, got 0.", InvalidRequest),
    ("openai, output", 400, "max_tokens is too large: 99999. This model supports at most 4096 completion tokens.", InvalidRequest),
    ("bedrock, output", 400, "The maximum tokens you requested exceeds the model limit of 3000. Try again with a maximum tokens value that is lower than 3000.", InvalidRequest),
    ("nginx", 413, "<html><head><title>413 Request Entity Too Large</title></head></html>", InvalidRequest),
    ("openai, rate", 429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 61337.", RateLimited),
    ("bedrock, rate", 429, "Too many tokens, please wait before trying again.", RateLimited),
]  # fmt: skip


def body_of(body: Any) -> Any:
    return {"error": {"message": body} if isinstance(body, str) else body}


@pytest.mark.parametrize(
    ("status", "body"), [row[1:] for row in CONTEXT_EXCEEDED], ids=[r[0] for r in CONTEXT_EXCEEDED]
)
def test_context_overflow_in_each_wording_is_recognized(status: int, body: Any) -> None:
    assert type(error_from(status, body_of(body))) is ContextWindowExceeded


@pytest.mark.parametrize(("status", "body", "kind"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_similar_error_is_no_context_overflow(status: int, body: Any, kind: type[ModelError]) -> None:
    assert type(error_from(status, body_of(body))) is kind


def test_context_overflow_inside_a_stream_is_recognized() -> None:
    assert type(error_from(None, body_of("prompt is too long: 2 tokens > 1 maximum"))) is ContextWindowExceeded


def openrouter(raw: Any, code: int = 400, **metadata: Any) -> dict[str, Any]:
    raw = raw if isinstance(raw, str) else json.dumps(raw)
    metadata = {"raw": raw, "provider_name": "OpenAI", **metadata}
    return {"error": {"message": "Provider returned error", "code": code, "metadata": metadata}, "user_id": "u"}


FLAGGED = {
    "error": {
        "code": 403,
        "message": 'openai/gpt-5 requires moderation on OpenRouter. Your input was flagged for "violence".',
        "metadata": {"reasons": ["violence"], "flagged_input": "secret prompt", "provider_name": "OpenAI"},
    }
}

#: Service, status, complete body, class of the error.
REFUSALS: list[tuple[str, int | None, Any, type[ModelError]]] = [
    ("openrouter, moderation", 403, FLAGGED, ContentFiltered),
    ("openrouter, text", 403, {"error": {"message": FLAGGED["error"]["message"]}}, ContentFiltered),
    ("openrouter, documentation", 403, {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"}}, ContentFiltered),
    ("openrouter, key", 403, {"error": {"message": "Key limit exceeded", "code": 403}}, AuthenticationError),
    ("deepseek", 400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error", "param": None, "code": "invalid_request_error"}}, ContentFiltered),
    ("deepseek, detail", 400, {"detail": "Content Exists Risk"}, ContentFiltered),
    ("dashscope", 400, {"error": {"code": "data_inspection_failed", "message": "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content."}}, ContentFiltered),
    ("dashscope, own api", 400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}, ContentFiltered),
    ("openai", 400, {"error": {"message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", "type": "invalid_request_error", "param": None, "code": "invalid_prompt"}}, ContentFiltered),
    ("openai by openrouter", 400, openrouter({"error": {"message": "Invalid prompt", "code": "invalid_prompt"}}), ContentFiltered),
    ("kimi", 400, {"error": {"type": "content_filter", "message": "The request was rejected because it was considered high risk"}}, ContentFiltered),
    # A proxy passes the text on, but not the code.
    ("dashscope, text alone", 400, "Input text data may contain inappropriate content.", ContentFiltered),
    ("openai, text alone", 400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", ContentFiltered),
    ("kimi, text alone", 400, "The request was rejected because it was considered high risk", ContentFiltered),
    ("anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}, ContentFiltered),
    ("glm", 400, {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}, ContentFiltered),
    ("in a stream", None, {"error": {"message": "Content Exists Risk"}}, ContentFiltered),
    ("xai", 403, {"code": "The caller does not have permission to execute the specified operation", "error": "Content violates usage guidelines. Team: 1, API key ID: 2, Model: grok-4-0709, Failed check: SAFETY_CHECK_TYPE_BIO"}, ContentFiltered),
    ("minimax", 422, {"type": "error", "error": {"type": "bad_request_error", "message": "input new_sensitive (1026)", "http_code": "422"}}, ContentFiltered),
    ("xai, no access", 403, {"code": "The caller does not have permission to execute the specified operation", "error": "The team has no access to this model."}, AuthenticationError),
    ("gemini, header", 400, [{"error": {"code": 400, "message": "Missing or invalid Authorization header.", "status": "INVALID_ARGUMENT"}}], AuthenticationError),
    ("gemini, no header", 400, [{"error": {"code": 400, "message": "Missing Authorization header.", "status": "INVALID_ARGUMENT"}}], AuthenticationError),
    ("gemini, key", 400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}], AuthenticationError),
    ("gemini, old key", 400, [{"error": {"code": 400, "message": "API key expired. Please renew the API key.", "status": "INVALID_ARGUMENT"}}], AuthenticationError),
    ("gemini, reason", 400, [{"error": {"code": 400, "message": "No.", "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]}}], AuthenticationError),
    ("xai, key", 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***gA. You can obtain an API key from https://console.x.ai."}, AuthenticationError),
    ("openai, key", 401, {"error": {"message": "Incorrect API key provided: sk-1.", "code": "invalid_api_key"}}, AuthenticationError),
    ("openrouter, overflow", 400, openrouter({"message": "input length and `max_tokens` exceed context limit: 149674 + 64000 > 204658"}), ContextWindowExceeded),
    ("openrouter, code", 400, openrouter({"error": {"message": "Too long", "code": "context_length_exceeded"}}), ContextWindowExceeded),
    ("openrouter, rate", 429, openrouter("z-ai/glm is temporarily rate-limited upstream.", 429), RateLimited),
    ("openrouter, no model", 400, openrouter({"error": {"message": "No.", "code": "model_not_found"}}), NotFoundError),
    ("databricks", 400, {"error_code": "BAD_REQUEST", "message": json.dumps({"external_model_provider": "amazon-bedrock", "external_model_error": {"message": "Input is too long for requested model."}})}, ContextWindowExceeded),
    ("databricks, external", 400, {"error": "Received error from openai", "external_model_message": {"error": {"message": "Too long.", "code": "context_length_exceeded"}}}, ContextWindowExceeded),
    ("groq, flex", 498, {"error": {"message": "Flex tier capacity exceeded", "type": "capacity_exceeded"}}, ServerError),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_refusal_is_classified(status: int | None, body: Any, kind: type[ModelError]) -> None:
    error = error_from(status, body)
    assert type(error) is kind
    assert "secret prompt" not in str(error)


#: Service, status, body, what the error's text says.
REASONS: list[tuple[str, Any, str]] = [
    ("openrouter", openrouter({"error": {"message": "At most 1 image", "code": None}}), "Provider returned error (OpenAI): At most 1 image (HTTP 400)."),
    ("openrouter, text", openrouter("Upstream says no."), "Provider returned error (OpenAI): Upstream says no (HTTP 400)."),
    ("openrouter, dict", {"error": {"message": "Provider returned error", "metadata": {"raw": {"detail": "No."}}}}, "Provider returned error: No (HTTP 400)."),
    ("gemini", [{"error": {"code": 400, "message": "Unknown name \"x\".", "status": "INVALID_ARGUMENT"}}], 'Unknown name "x" (HTTP 400).'),
    ("dashscope", {"error": {"message": "<400> InternalError.Algo.InvalidParameter: No."}}, ": <400> InternalError.Algo.InvalidParameter: No (HTTP 400)."),
    ("xai", {"code": "invalid-argument", "error": "No such thing."}, ": No such thing (HTTP 400)."),
    ("databricks", {"error_code": "BAD_REQUEST", "message": '{"message": "Multiple tool calls are not supported.\\n"}'}, ": Multiple tool calls are not supported (HTTP 400)."),
    ("databricks, external", {"error": "Received error from databricks-model-serving", "external_model_message": {"error_code": "INVALID_PARAMETER_VALUE", "message": "Missing parameter."}}, "Missing parameter (HTTP 400)."),
    ("text", "Just text.", ": Just text (HTTP 400)."),
    ("nothing", {}, ": no reason given (HTTP 400)."),
    ("empty text", "", ": no reason given (HTTP 400)."),
    ("number", 7, "(HTTP 400)."),
    ("web page", "<!DOCTYPE html><title>Bad\nGateway</title>", "the response is a web page, 'Bad Gateway'"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in REASONS], ids=[row[0] for row in REASONS])
def test_error_shows_the_innermost_reason(body: Any, expected: str) -> None:
    error = error_from(400, body)
    assert type(error) is InvalidRequest
    assert expected in str(error)


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45.837906927s"}


@pytest.mark.parametrize(
    ("delay", "headers", "expected"),
    [
        ("37s", {}, 37.0), ("45.837906927s", {}, 45.837906927), ("37s", {"retry-after": "5"}, 5.0), ("-3s", {}, None),
        ("soon", {}, None), (37, {}, None), (None, {}, None),
    ],
)  # fmt: skip
def test_retry_delay_of_gemini_is_obeyed_unless_a_header_has_one(delay: Any, headers: Any, expected: Any) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure"}, RETRY_INFO | {"retryDelay": delay}]
    body = {"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED", "details": details}}
    for payload in ([body], body, openrouter(body, 429)):
        error = error_from(429, payload, headers)
        assert type(error) is RateLimited
        assert error.retry_after == expected
    assert error_from(None, [body], headers).status == 429  # This is an event of a stream.


@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms", "x-amz-retry-after"])
@pytest.mark.parametrize("value", ["inf", "1e400", "9" * 400, "1e308", "nan", "1764500000000000"])
def test_endless_wait_in_a_header_is_ignored(name: str, value: str) -> None:
    """A `FallbackModel` would cool the model down for ever, and `time.sleep` raises OverflowError."""
    assert error_from(429, "{}", {name: value}).retry_after is None
    assert error_from(429, "{}", {"ratelimit": f'"q";r=0;t={"9" * 400}'}).retry_after is None


@pytest.mark.parametrize("status", [400, None])
def test_output_that_groq_could_not_use_is_on_the_error(status: int | None) -> None:
    """The event of a stream has the status in its field `status_code`."""
    for code, kind in (("tool_use_failed", errors.InvalidToolCall), ("json_validate_failed", errors.InvalidOutput)):
        body = {
            "message": "Failed to call a function. See 'failed_generation' for more details.",
            "type": "invalid_request_error", "code": code, "failed_generation": "<function=f{", "status_code": 400,
        }  # fmt: skip
        error = error_from(status or code, {"error": body})
        assert type(error) is kind
        assert (error.text, error.status, error.partial) == ("<function=f{", 400, None)  # type: ignore[attr-defined]
        assert "<function=f{" in str(error)


def test_large_and_deep_bodies_are_read_in_little_time() -> None:
    """They come from strangers. The times are CPU times of this thread."""
    deep: Any = "end"
    for _ in range(500):
        deep = {"error": deep}
    nested = "end"
    for _ in range(12):
        nested = json.dumps({"message": nested})[:100_000]
    start = time.thread_time()
    for body in (
        deep, nested, "[" * 60_000, "{" * 60_000, {"message": "[" * 60_000}, "'" * 60_000,
        "input token count " * 3_000, "requires moderation on " * 3_000, "request body too large for " * 3_000,
        "'type': 'a', 'loc': (" * 3_000, "a." * 30_000 + ": extra inputs", "x" * 1_000_000,
    ):  # fmt: skip
        assert isinstance(error_from(400, body), ModelError)
        assert isinstance(error_from(None, {"error": {"message": body}}), ModelError)
    assert time.thread_time() - start < 3


@pytest.mark.parametrize("text", [row[2] for row in CONTEXT_EXCEEDED if isinstance(row[2], str)])
def test_bedrock_recognizes_the_same_wordings(text: str) -> None:
    text = f"The model returned the following errors: {text}"
    assert type(bedrock_error_from("ValidationException", text, 400, {})) is ContextWindowExceeded


@pytest.mark.parametrize(
    ("code", "text", "kind", "parameter"),
    [
        ("ThrottlingException", "Too many tokens, please wait before trying again.", RateLimited, None),
        ("ValidationException", "Output blocked by content filtering policy", ContentFiltered, None),
        ("ValidationException", "This model doesn't support the stopSequences field. Remove stopSequences and try again.", InvalidRequest, "stop_sequences"),
        ("ValidationException", "The model returned the following errors: `temperature` is deprecated for this model.", InvalidRequest, "temperature"),
        ("ValidationException", 'The model returned the following errors: {"type":"error","error":{"type":"invalid_request_error","message":"`temperature` is deprecated for this model."}}', InvalidRequest, "temperature"),
        ("ValidationException", "The model returned the following errors: `temperature` and `top_p` cannot both be specified for this model. Please use only one.", InvalidRequest, "top_p"),
        ("ValidationException", "Malformed input request: extraneous key [top_k] is not permitted, please reformat your input and try again.", InvalidRequest, "top_k"),
        ("ValidationException", "Something else.", InvalidRequest, None),
    ],
)  # fmt: skip
def test_refusal_of_bedrock_is_classified(code: str, text: str, kind: type[ModelError], parameter: str | None) -> None:
    error = bedrock_error_from(code, text, 400, {})
    assert (type(error), error.parameter) == (kind, parameter)
    assert error.incompatible_with == ("temperature" if "both" in text else None)


def problems(*items: tuple[str, list[Any]]) -> list[dict[str, Any]]:
    return [{"type": kind, "loc": location, "msg": "No.", "input": 1} for kind, location in items]


INCLUDE_USAGE = problems(("extra_forbidden", ["body", "stream_options", "include_usage"]))
VLLM = "[{'type': 'extra_forbidden', 'loc': ('body', 'top_k'), 'msg': 'Extra inputs are not permitted', 'input': 15}]"

#: Service, complete body, the rejected parameter, the one with which it is rejected.
PARAMETERS: list[tuple[str, Any, str | None, str | None]] = [
    ("mistral", {"object": "error", "message": {"detail": INCLUDE_USAGE}}, "stream_options.include_usage", None),
    ("mistral, list", {"detail": INCLUDE_USAGE, "message": INCLUDE_USAGE}, "stream_options.include_usage", None),
    ("mistral, in messages", {"detail": problems(("extra_forbidden", ["body", "messages", 2, "assistant", "reasoning"]))}, "messages.2.assistant.reasoning", None),
    ("vllm", {"object": "error", "message": VLLM, "type": "BadRequestError", "param": None, "code": 400}, "top_k", None),
    ("vllm, inside", {"message": VLLM.replace("'top_k'", "'stream_options', 'include_usage'")}, "stream_options.include_usage", None),
    ("nebius", {"detail": "Invalid request. " + VLLM}, "top_k", None),
    ("databricks", {"error_code": "BAD_REQUEST", "message": json.dumps({"message": "tools.0.custom.strict: Extra inputs are not permitted"})}, "tools", None),
    ("databricks, nested", {"error_code": "BAD_REQUEST", "message": json.dumps({"external_model_error": {"error": {"message": "Unsupported parameter: 'stop' is not supported with this model.", "param": "stop", "code": "unsupported_parameter"}}})}, "stop", None),
    ("databricks, go", {"message": 'Bad request: json: unknown field "top_k"'}, "top_k", None),
    ("json schema", {"error": {"message": "Additional properties are not allowed ('stream_options' was unexpected)"}}, "stream_options", None),
    ("json schema, two", {"error": {"message": "Additional properties are not allowed ('seed', 'stop' were unexpected)"}}, "seed", None),
    ("azure", {"error": {"message": "Validation error at #/stream_options: Extra inputs are not permitted"}}, "stream_options", None),
    ("gemini", [{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "frequency_penalty": Cannot find field.', "status": "INVALID_ARGUMENT", "details": [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"description": 'Invalid JSON payload received. Unknown name "frequency_penalty": Cannot find field.'}]}]}}], "frequency_penalty", None),
    ("gemini, in a schema", [{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"const\" at 'tools[0].function_declarations[5].parameters': Cannot find field.", "status": "INVALID_ARGUMENT"}}], None, None),
    ("xai", {"code": "Client specified an invalid argument", "error": "Argument not supported on this model: presencePenalty"}, "presence_penalty", None),
    ("xai, new", {"code": "invalid-argument", "error": "Model grok-4.6 does not support parameter frequencyPenalty."}, "frequency_penalty", None),
    ("anthropic, both", {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model. Please use only one."}}, "top_p", "temperature"),
    ("anthropic, plain", {"error": {"message": "temperature and top_p cannot both be specified for this model. Please use only one."}}, "top_p", "temperature"),
    ("openrouter, both", openrouter({"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}), "top_p", "temperature"),
    ("anthropic, deprecated", {"error": {"message": "`temperature` is deprecated for this model."}}, "temperature", None),
    ("kimi", {"error": {"message": "invalid temperature: only 1 is allowed for this model", "type": "invalid_request_error"}}, "temperature", None),
    ("kimi, 0.6", {"error": {"message": "invalid top_p: only 0.95 is allowed for this model"}}, "top_p", None),
    ("openai", {"error": {"message": "Unsupported parameter: 'max_completion_tokens' is not supported with this model.", "code": "unsupported_parameter", "param": "max_completion_tokens"}}, "max_completion_tokens", None),
    ("deepseek", {"error": {"message": "This response_format type is unavailable now"}}, "response_format", None),
    ("deepseek, serde", {"error": {"message": "Failed to deserialize the JSON body into the target type: response_format: response_format.type `json_schema` is unavailable now at line 1 column 12440"}}, "response_format", None),
    ("lm studio", {"error": "'response_format.type' must be 'json_schema' or 'text'"}, "response_format", None),
    ("dashscope", {"error": {"message": "<400> InternalError.Algo.InvalidParameter: 'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.", "param": None}}, "response_format", None),
    ("dashscope, thinking", {"error": {"message": "<400> InternalError.Algo.InvalidParameter: Json mode response is not supported when enable_thinking is true"}}, "response_format", None),
    ("dashscope, format", {"error": {"message": "Unknown format of response_format, response_format should be a dict"}}, "response_format", None),
    ("groq", {"error": {"message": "This model does not support response format `json_schema`.", "param": "response_format"}}, "response_format", None),
    ("groq, without param", {"error": {"message": "This model does not support response format `json_schema`."}}, "response_format", None),
    ("groq, schema", {"error": {"message": "'response_format' : one of the following must be satisfied[('response_format.type' : value is not one of the allowed values ['text'])]"}}, "response_format", None),
    ("pydantic, literal", {"detail": problems(("literal_error", ["body", "response_format", "type"]))}, "response_format.type", None),
    ("vllm, literal", {"message": "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input should be 'text' or 'json_object'\"}]"}, "response_format.type", None),
    ("pydantic, effort", {"detail": problems(("literal_error", ["body", "reasoning_effort"]))}, None, None),
    ("pydantic, type", {"detail": problems(("int_parsing", ["body", "max_tokens"]))}, None, None),
    ("openai, word", {"error": {"message": "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.", "param": "messages"}}, None, None),
    ("openai, schema", {"error": {"message": "Invalid schema for response_format 'a': 'name' is not supported.", "param": "response_format"}}, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "name", "other"), [row[1:] for row in PARAMETERS], ids=[row[0] for row in PARAMETERS])
def test_rejected_parameter_is_named(body: Any, name: str | None, other: str | None) -> None:
    error = error_from(400, body)
    assert type(error) is InvalidRequest
    assert (error.parameter, error.incompatible_with) == (name, other)


def test_every_phrase_has_a_source_and_compiles_alone() -> None:
    phrases = [
        phrase
        for module in (error_phrases, parameter_phrases)
        for table in vars(module).values()
        if isinstance(table, tuple)
        for phrase in table
        if isinstance(phrase, error_phrases.KnownPhrase)
    ]
    assert len(phrases) == len({phrase.pattern for phrase in phrases}) > 50
    without_page = [phrase for phrase in phrases if not re.fullmatch(r"https://\S+", phrase.source)]
    assert [(phrase.services, phrase.source) for phrase in without_page] == [("Bedrock", "no public page found")]
    for phrase in phrases:
        assert re.compile(phrase.pattern).search("") is None
