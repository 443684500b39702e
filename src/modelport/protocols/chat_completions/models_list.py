"""Reads the list of a service's models, which services with OpenAI's API return for `GET /models`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.errors import MalformedResponse
from modelport.types.listed_models import ListedModel
from modelport.types.usage import token_count_from

#: The fields with a model's ID, its owner and its context length, in the order in which they are looked for.
#: OpenAI and most others: `id`, `owned_by` (https://platform.openai.com/docs/api-reference/models/object)
#: GitHub: `publisher` (https://docs.github.com/en/rest/models/catalog)
#: Together: `organization` (https://docs.together.ai/reference/models-1)
#: OpenRouter, Together: `context_length` (https://openrouter.ai/docs/overview/models)
#: Groq: `context_window` (https://console.groq.com/docs/models)
#: Mistral: `max_context_length` (https://docs.mistral.ai/api)
#: vLLM: `max_model_len` (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html)
#: llama.cpp: `meta.n_ctx` (https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md)
_OWNERS = ("owned_by", "publisher", "organization")
_CONTEXT_LENGTHS = ("context_length", "context_window", "max_context_length", "max_model_len", "n_ctx", "n_ctx_train")


def listed_models_from(body: Any) -> list[ListedModel]:
    """Return the models in the response of a service, in its order.

    Args:
        body: The parsed response: an object with the list in `data`, or the list itself, as Together and GitHub return.

    Raises:
        MalformedResponse: The response has no list of models.
    """
    entries = body
    if isinstance(body, Mapping) and "data" in body:
        entries = () if body["data"] is None else body["data"]  # Ollama returns null if it has no model.
    if not isinstance(entries, list | tuple):
        raise MalformedResponse("The response is no list of models.")
    return [_model_from(entry) for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)]


def _model_from(entry: Mapping[str, Any]) -> ListedModel:
    owners = [entry[name] for name in _OWNERS if isinstance(entry.get(name), str) and entry[name]]
    meta = entry.get("meta")
    fields = {**(meta if isinstance(meta, Mapping) else {}), **entry}
    lengths = [token_count_from(fields.get(name)) for name in _CONTEXT_LENGTHS]
    return ListedModel(entry["id"], next(iter(owners), None), next(filter(None, lengths), None))
