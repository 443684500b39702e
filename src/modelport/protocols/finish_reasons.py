"""The finish reasons of all services, and what each of them means.

A service says with one word why its response ended. Some words say that the response is complete or truncated, and some
that the service or the model failed, so that the response must not pass for a complete one. A word that is not in the
table counts as `stop`, with a warning that names it.

Words are compared in lower case, with `_` for `-` and spaces. Gemini's OpenAI endpoint writes a prefix before some of
them, as in `function_call_filter: MALFORMED_FUNCTION_CALL`, which is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelport.errors import InvalidRequest, InvalidToolCall, MalformedResponse, ModelError, ServerError
from modelport.types.warnings import CallWarning

#: The first four are modelport's own finish reasons. The others say that the response is not usable:
#:
#: - `failed`: the service could not complete the response;
#: - `bad_call`: the model made a tool call that the service could not read or does not allow;
#: - `bad_output`: the service could not read the model's output;
#: - `bad_request`: the request lacks something that the service requires.
Meaning = Literal["stop", "length", "tool_calls", "content_filter", "failed", "bad_call", "bad_output", "bad_request"]


@dataclass(frozen=True)
class FinishWord:
    """One word of a service for the end of a response.

    Args:
        word: The word, in the spelling that `_normalised` returns.
        meaning: What it means.
        source: The page that documents or reports the word, or `no public page found`.
    """

    word: str
    meaning: Meaning
    source: str


_OPENAI = "https://platform.openai.com/docs/api-reference/chat/object"
_ANTHROPIC = "https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons"
_BEDROCK = "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseResponse.html"
_GEMINI = "https://ai.google.dev/api/generate-content#FinishReason"
_COHERE = "https://docs.cohere.com/reference/chat"
#: The words of Cohere's older API, as Oracle's package for it lists them.
_COHERE_V1 = "https://docs.oracle.com/en-us/iaas/tools/dotnet/latest/api/Oci.GenerativeaiinferenceService.Models.CohereChatResponse.FinishReasonEnum.html"
_MISTRAL = "https://docs.mistral.ai/api/"
_DEEPSEEK = "https://api-docs.deepseek.com/api/create-chat-completion"
_GLM = "https://github.com/promptfoo/promptfoo/pull/9905"
_TOGETHER = "https://docs.together.ai/reference/chat-completions-1"
_TGI = "https://huggingface.co/docs/text-generation-inference/reference/api_reference"
_WATSONX = "https://ibm.github.io/watsonx-ai-node-sdk/enums/0_1_x.WatsonXAI.TextGenResult.Constants.StopReason.html"
_VLLM = "https://github.com/vllm-project/vllm/issues/57082"
_OPENROUTER = "https://openrouter.ai/docs/api/reference/errors-and-debugging"
_RESPONSES = "https://platform.openai.com/docs/api-reference/responses/object"
#: Words that were counted in the logs of a gateway in front of many services.
_GATEWAY = "https://github.com/Kilo-Org/cloud/pull/3071"
_NO_PAGE = "no public page found"

FINISH_WORDS = (
    FinishWord("stop", "stop", _OPENAI),
    FinishWord("end_turn", "stop", _ANTHROPIC),
    FinishWord("stop_sequence", "stop", _ANTHROPIC),
    FinishWord("complete", "stop", _COHERE),
    FinishWord("completed", "stop", _GATEWAY),
    FinishWord("eos", "stop", _TOGETHER),
    FinishWord("eos_token", "stop", _TGI),
    FinishWord("length", "length", _OPENAI),
    FinishWord("max_tokens", "length", _ANTHROPIC),
    FinishWord("max_output_tokens", "length", _RESPONSES),
    FinishWord("model_length", "length", _MISTRAL),
    FinishWord("model_context_window_exceeded", "length", _ANTHROPIC),
    FinishWord("error_limit", "length", _COHERE_V1),
    FinishWord("token_limit", "length", _WATSONX),
    FinishWord("tool_calls", "tool_calls", _OPENAI),
    FinishWord("function_call", "tool_calls", _OPENAI),
    FinishWord("tool_call", "tool_calls", _COHERE),
    FinishWord("tool_use", "tool_calls", _ANTHROPIC),
    FinishWord("malformed_tool_use", "bad_call", _BEDROCK),
    FinishWord("content_filter", "content_filter", _OPENAI),
    FinishWord("content_filtered", "content_filter", _BEDROCK),
    FinishWord("guardrail_intervened", "content_filter", _BEDROCK),
    FinishWord("refusal", "content_filter", _ANTHROPIC),
    FinishWord("sensitive", "content_filter", _GLM),
    FinishWord("error_toxic", "content_filter", _COHERE_V1),
    FinishWord("safety", "content_filter", _GEMINI),
    FinishWord("recitation", "content_filter", _GEMINI),
    FinishWord("language", "content_filter", _GEMINI),
    FinishWord("blocklist", "content_filter", _GEMINI),
    FinishWord("prohibited_content", "content_filter", _GEMINI),
    FinishWord("spii", "content_filter", _GEMINI),
    FinishWord("image_safety", "content_filter", _GEMINI),
    FinishWord("image_prohibited_content", "content_filter", _GEMINI),
    FinishWord("image_recitation", "content_filter", _GEMINI),
    FinishWord("error", "failed", _OPENROUTER),
    FinishWord("failed", "failed", _GATEWAY),
    FinishWord("engine_overloaded", "failed", _GATEWAY),
    FinishWord("network_error", "failed", _GLM),
    FinishWord("insufficient_system_resource", "failed", _DEEPSEEK),
    FinishWord("abort", "failed", _VLLM),
    FinishWord("aborted", "failed", _NO_PAGE),
    FinishWord("cancelled", "failed", _WATSONX),
    FinishWord("user_cancel", "failed", _COHERE_V1),
    FinishWord("time_limit", "failed", _WATSONX),
    FinishWord("timeout", "failed", _COHERE),
    FinishWord("malformed_function_call", "bad_call", _GEMINI),
    FinishWord("unexpected_tool_call", "bad_call", _GEMINI),
    FinishWord("too_many_tool_calls", "bad_call", _GEMINI),
    FinishWord("malformed_response", "bad_output", _GEMINI),
    FinishWord("malformed_model_output", "bad_output", _BEDROCK),
    FinishWord("missing_thought_signature", "bad_request", _GEMINI),
)
_MEANINGS = {entry.word: entry.meaning for entry in FINISH_WORDS}
#: The words that are modelport's own. This is a tuple, because a service may send a value that can't be hashed.
OWN_WORDS = ("stop", "tool_calls", "length", "content_filter")
#: A word that begins like this means `content_filter`: `content_policy_violation`, `content_policy`.
_CONTENT_POLICY = "content_policy"
#: Some servers send one of these words where others send `null`.
_NO_WORD = frozenset({"", "null", "none"})


def has_finished(word: object) -> bool:
    """Return whether the value of a finish reason says that the response has ended."""
    return word in OWN_WORDS or (word is not None and str(word).strip().lower() not in _NO_WORD)


def meaning_of(word: object) -> Meaning | None:
    """Return what a service's finish reason means, or `None` if the table does not have it."""
    if word in OWN_WORDS:  # These are nearly all words.
        return word  # type: ignore[return-value]
    text = _normalised(word)
    return "content_filter" if text.startswith(_CONTENT_POLICY) else _MEANINGS.get(text)


def is_failure(word: object) -> bool:
    """Return whether a service's finish reason says that the response is not usable."""
    return meaning_of(word) in ("failed", "bad_call", "bad_output", "bad_request")


def finish_reason_from(word: object) -> str:
    """Return modelport's finish reason for a service's; `stop` for a failure and for a word that nobody knows."""
    meaning = meaning_of(word)
    return meaning if meaning in ("length", "tool_calls", "content_filter") else "stop"


def finish_warning(word: object) -> CallWarning | None:
    """Return the warning about a word that is not in the table, or `None` for any other."""
    if meaning_of(word) is not None:
        return None
    text = f"The service ended the response with the finish reason {_excerpt(word)}, which modelport does not know."
    return CallWarning("other", "finish_reason", f"{text} It is reported as 'stop'.")


def finish_error(word: object) -> ModelError | None:
    """Return the error for a finish reason that says that the response is not usable, or `None` for any other.

    Another attempt may succeed after all of these errors, except that about the request. If the caller of a stream has
    read a part of the response already, the error is the cause of a `StreamInterrupted`.
    """
    meaning, quoted = meaning_of(word), _excerpt(word)
    if meaning == "failed":
        return ServerError(f"The service could not complete the response: its finish reason is {quoted}.")
    if meaning == "bad_call":
        error = InvalidToolCall(
            f"The service reports that the model's tool call was malformed or not allowed (finish reason {quoted}), "
            "and returns no part of it that can be used.",
            retryable=True,
        )
        error.reported_as_interruption = True
        return error
    if meaning == "bad_output":
        return MalformedResponse(
            f"The service reports that the model's output was malformed (finish reason {quoted}).", retryable=True
        )
    if meaning == "bad_request":
        return InvalidRequest(
            f"The service ended the response with the finish reason {quoted}: the request lacks something that earlier "
            "responses contained. Send the messages of earlier turns as modelport returned them."
        )
    return None


def _normalised(word: object) -> str:
    text = str(word).rpartition(":")[2].strip().lower()
    return text.replace("-", "_").replace(" ", "_")


def _excerpt(word: object) -> str:
    return repr(word if len(str(word)) <= 80 else f"{str(word)[:80]}…")
