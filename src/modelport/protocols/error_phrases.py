# Each phrase is one line, whatever its length.
"""Phrases that identify errors which services send without an error code of their own.

This module is the only place where modelport interprets the text of an error. Code that classifies errors uses the
status and the error code wherever a service sends them. All wire formats share the tables. They are data: one line for
one phrase, with the services that send it and a page that quotes it.

`parameter_phrases` has the phrases that say which parameter a service does not accept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

#: The phrases are searched for in so many characters of an error text.
MAX_TEXT = 4000


class KnownPhrase(NamedTuple):
    """A phrase in the error texts of one or several services.

    Args:
        pattern: A regular expression that is searched for, ignoring case.
        services: The services whose error texts contain the phrase. This is documentation; no code reads it.
        source: The address of a page that quotes the phrase, or else of one that describes the error, or
            `no public page found`. This is documentation too.
    """

    pattern: str
    services: str
    source: str


#: These phrases say that the prompt, or the prompt together with the requested output, exceeds the context window.
CONTEXT_EXCEEDED = (
    KnownPhrase(r"maximum context length", "OpenAI, OpenRouter, vLLM, GLM, Mistral", "https://github.com/neulab/prompt2model/issues/353"),
    KnownPhrase(r"context[ _](?:length|window|size|limit)", "OpenAI, llama.cpp, LM Studio, MiniMax, Anthropic", "https://github.com/continuedev/continue/issues/6080"),
    KnownPhrase(r"max_model_len", "vLLM", "https://github.com/google/tunix/pull/222"),
    KnownPhrase(r"longer than the maximum model length", "vLLM", "https://github.com/xorbitsai/inference/issues/3785"),
    KnownPhrase(r"max(?:_completion)?_tokens must be at least 1, got -", "vLLM", "https://github.com/vllm-project/vllm/pull/36789"),
    KnownPhrase(r"too many (?:input )?tokens", "Cohere", "https://portkey.ai/error-library/input-limit-exceeded-error-10147"),
    KnownPhrase(r"`inputs` (?:tokens \+ `max_new_tokens` must be|must have less than)", "TGI, Together", "https://github.com/huggingface/llm-vscode/issues/94"),
    KnownPhrase(r"prompt is too long", "Anthropic, Fireworks", "https://github.com/anthropics/claude-code/issues/12186"),
    KnownPhrase(r"input is too long", "Bedrock, Databricks", "https://github.com/continuedev/continue/issues/6005"),
    KnownPhrase(r"input tokens exceed the configured limit", "OpenAI, Azure", "https://github.com/cline/cline/issues/5474"),
    KnownPhrase(r"exceeds? the maximum (?:number of )?(?:input )?tokens", "Gemini, Bedrock", "https://github.com/google-gemini/gemini-cli/issues/4692"),
    KnownPhrase(r"input token count is \d+ but model only supports up to", "Gemini", "https://github.com/google-gemini/gemini-cli/issues/19727"),
    KnownPhrase(r"maximum (?:input|context) (?:length|size|tokens)", "Bedrock", "no public page found"),
    KnownPhrase(r"range of input length should be", "DashScope", "https://github.com/QwenLM/qwen-code/issues/98"),
    KnownPhrase(r"maximum prompt length is", "xAI", "https://github.com/cline/cline/issues/3120"),
    KnownPhrase(r"exceeded model token limit", "Kimi", "https://platform.kimi.ai/docs/api/errors"),
    KnownPhrase(r"input token length too long", "Kimi", "https://platform.kimi.ai/docs/api/errors"),
    KnownPhrase(r"prompt exceeds max length", "GLM", "https://github.com/zeroclaw-labs/zeroclaw/issues/4124"),
    KnownPhrase(r"maximum supported sequence length", "SambaNova", "https://github.com/cline/cline/issues/294"),
    KnownPhrase(r"request body too large for .{1,100} model\. max size: \d+ tokens", "GitHub Models", "https://github.com/cline/cline/issues/995"),
    KnownPhrase(r"prompt token count of \d+ exceeds", "GitHub Copilot", "https://github.com/ericc-ch/copilot-api/issues/65"),
    KnownPhrase(r"reduce the length of the messages", "Groq", "https://github.com/letta-ai/letta/issues/1963"),
    # The request needs more tokens than the account may use in a minute, so waiting does not help.
    KnownPhrase(r"request too large for model .{1,200}please reduce your message size", "Groq", "https://github.com/assafelovic/gpt-researcher/issues/985"),
    KnownPhrase(r"messages or completion\. current length is", "Cerebras", "https://github.com/cline/cline/issues/5140"),
)  # fmt: skip

#: This phrase says that one string of the request is too long, such as the id of a tool call or a description.
STRING_TOO_LONG = (
    KnownPhrase(r"string too long\. expected a string with maximum length", "OpenAI", "https://github.com/microsoft/autogen/issues/6377"),
)  # fmt: skip

#: These phrases say that a content policy refused the prompt or the answer.
CONTENT_REFUSED = (
    KnownPhrase(r"content exists risk", "DeepSeek", "https://github.com/666ghj/BettaFish/issues/108"),
    KnownPhrase(r"data may contain inappropriate content", "DashScope", "https://www.alibabacloud.com/help/model-studio/error-code"),
    KnownPhrase(r"prompt was flagged as potentially violating", "OpenAI", "https://github.com/openai/codex/issues/7250"),
    KnownPhrase(r"requires moderation .{1,100}your input was flagged", "OpenRouter", "https://openrouter.ai/docs/api/reference/errors-and-debugging"),
    KnownPhrase(r"rejected because it was considered high risk", "Kimi", "https://platform.kimi.ai/docs/api/errors"),
    KnownPhrase(r"(?:input|output) new_sensitive", "MiniMax", "https://platform.minimax.io/docs/api-reference/errorcode"),
    KnownPhrase(r"content violates usage guidelines", "xAI", "https://github.com/theopenco/llmgateway/pull/1785"),
    KnownPhrase(r"blocked by content filtering policy", "Anthropic", "https://github.com/anthropics/claude-code/issues/6195"),
)  # fmt: skip

#: These phrases say that a model does not stream: with tools, or at all.
NO_STREAM_WITH_TOOLS = (
    KnownPhrase(r"support tool use in streaming mode", "Bedrock", "https://github.com/earendil-works/pi/issues/3739"),
)  # fmt: skip
NO_STREAM = (
    KnownPhrase(r"unsupported for streaming", "Bedrock", "https://github.com/aws-samples/amazon-bedrock-client-for-mac/issues/112"),
)  # fmt: skip

#: These phrases say that the key is wrong, in errors with status 400.
WRONG_KEY = (
    KnownPhrase(r"api key not valid", "Gemini", "https://github.com/cequence-io/openai-scala-client/issues/109"),
    KnownPhrase(r"api key expired", "Gemini", "https://github.com/continuedev/continue/issues/11336"),
    KnownPhrase(r"api key not found", "Gemini", "https://github.com/google-gemini/gemini-cli/issues/25198"),
    KnownPhrase(r"(?:missing|invalid) authorization header", "Gemini", "https://github.com/NVIDIA/NemoClaw/issues/2093"),
    KnownPhrase(r"incorrect api key provided", "xAI", "https://docs.x.ai/developers/debugging"),
)  # fmt: skip


#: These phrases refuse a chat completion, because the Responses API answers this model or this kind of request.
NEEDS_RESPONSES = (
    KnownPhrase(r"use (?:the )?[`'\"]?/?v1/responses", "OpenAI", "https://github.com/pipecat-ai/pipecat/issues/4043"),
    KnownPhrase(r"only supported in [`'\"]?/?v1/responses", "OpenAI", "https://github.com/n8n-io/n8n/issues/18352"),
    KnownPhrase(r"not accessible via the /chat/completions endpoint", "GitHub Copilot", "https://github.com/caozhiyuan/copilot-api/issues/102"),
    KnownPhrase(r"the chatCompletion operation does not work with the specified model", "Azure", "https://github.com/langchain-ai/langchain-azure/issues/228"),
)  # fmt: skip

#: With these phrases, a status 404 is about a stored item, an earlier response or the model, and not about the path.
NOT_ABOUT_PATH = (
    KnownPhrase(r"item with id", "OpenAI", "https://github.com/vercel/ai/issues/7543"),
    KnownPhrase(r"previous[_ ]response|conversation with id", "OpenAI, Azure", "https://developers.openai.com/api/docs/guides/conversation-state"),
    KnownPhrase(r"does not exist", "OpenAI, Azure", "https://learn.microsoft.com/en-us/answers/questions/2225315/i-cant-call-this-azure-openai-api-i-tried-multiple"),
)  # fmt: skip


def compile_patterns(patterns: Iterable[str]) -> re.Pattern[str]:
    """Return one regular expression that finds any of several, ignoring case."""
    return re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)


_CONTEXT_EXCEEDED = compile_patterns(phrase.pattern for phrase in CONTEXT_EXCEEDED)
_STRING_TOO_LONG = compile_patterns(phrase.pattern for phrase in STRING_TOO_LONG)
_CONTENT_REFUSED = compile_patterns(phrase.pattern for phrase in CONTENT_REFUSED)
_NO_STREAM_WITH_TOOLS = compile_patterns(phrase.pattern for phrase in NO_STREAM_WITH_TOOLS)
_NO_STREAM = compile_patterns(phrase.pattern for phrase in NO_STREAM)
_WRONG_KEY = compile_patterns(phrase.pattern for phrase in WRONG_KEY)
_NEEDS_RESPONSES = compile_patterns(phrase.pattern for phrase in NEEDS_RESPONSES)
_NOT_ABOUT_PATH = compile_patterns(phrase.pattern for phrase in NOT_ABOUT_PATH)


def means_context_exceeded(text: str) -> bool:
    """Return whether an error text says that the context window is exceeded."""
    return _CONTEXT_EXCEEDED.search(text, 0, MAX_TEXT) is not None


def means_string_too_long(text: str) -> bool:
    """Return whether an error text says that one string of the request is too long."""
    return _STRING_TOO_LONG.search(text, 0, MAX_TEXT) is not None


def means_content_refused(text: str) -> bool:
    """Return whether an error text says that a content policy refused the prompt or the answer."""
    return _CONTENT_REFUSED.search(text, 0, MAX_TEXT) is not None


def means_no_stream(text: str, *, with_tools: bool) -> bool:
    """Return whether an error text says that the model does not stream: with tools, or at all."""
    return (_NO_STREAM_WITH_TOOLS if with_tools else _NO_STREAM).search(text, 0, MAX_TEXT) is not None


def means_wrong_key(text: str) -> bool:
    """Return whether the text of an error with status 400 says that the key is wrong."""
    return _WRONG_KEY.search(text, 0, MAX_TEXT) is not None


def needs_responses(text: str) -> bool:
    """Return whether the error text of a chat completion says that the Responses API must be used."""
    return _NEEDS_RESPONSES.search(text, 0, MAX_TEXT) is not None


def means_missing_path(text: str) -> bool:
    """Return whether the text of a status 404 or 405 says that the service does not have the Responses API's path."""
    return "/responses" in text[:MAX_TEXT] or _NOT_ABOUT_PATH.search(text, 0, MAX_TEXT) is None
