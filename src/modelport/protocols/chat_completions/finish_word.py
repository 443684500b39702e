"""Finds the word with which a service says why a choice of a chat completion ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.protocols.finish_reasons import has_finished, is_failure, meaning_of


def finish_word(word: Any, choice: Mapping[str, Any]) -> Any:
    """Return the finish reason of a choice as the service wrote it, or `None` if the choice has not ended.

    OpenRouter and LiteLLM rewrite the words of other services, and put the original word beside their own. The original
    is used where theirs says less: `error` or `stop` for a failure, and LiteLLM's `stop` for a word that it does not
    know.

    Args:
        word: The field `finish_reason` of the choice.
        choice: The choice, which may have the original word too.
    """
    if not has_finished(word):
        return None
    original = choice.get("native_finish_reason")
    if has_finished(original) and (is_failure(original) or meaning_of(original) == "content_filter"):
        return original
    extra = choice.get("provider_specific_fields")
    original = extra.get("native_finish_reason") if isinstance(extra, Mapping) else None
    if has_finished(original) and (is_failure(original) or meaning_of(word) == "stop"):
        return original
    return word
