"""Which services are known to enforce output schemas, and which ignore them.

A service that is in neither table may enforce a schema, ignore it or refuse it. The schema is then sent, and the output
is checked, but not labelled `enforced`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema

#: The service's key, as in `inputs.vendor_parameters`, or a dialect -> the page that documents the enforcement.
ENFORCING: Mapping[str, str] = {
    "openai": "https://developers.openai.com/api/docs/guides/structured-outputs",
    "azure": "https://learn.microsoft.com/azure/ai-foundry/openai/how-to/structured-outputs",
    "groq": "https://console.groq.com/docs/structured-outputs",
    "together": "https://docs.together.ai/docs/json-mode",
    "fireworks": "https://docs.fireworks.ai/structured-responses/structured-response-formatting",
    "mistral": "https://docs.mistral.ai/capabilities/structured_output",
    "xai": "https://docs.x.ai/docs/guides/structured-outputs",
    "gemini": "https://ai.google.dev/gemini-api/docs/openai",
    "cerebras": "https://inference-docs.cerebras.ai/capabilities/structured-outputs",
    "cohere": "https://docs.cohere.com/docs/structured-outputs",
    "perplexity": "https://docs.perplexity.ai/guides/structured-outputs",
    "vllm": "https://docs.vllm.ai/en/latest/features/structured_outputs.html",
    "llama.cpp": "https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md",
    "tgi": "https://huggingface.co/docs/text-generation-inference/conceptual/guidance",
}
#: The host of a service that accepts schemas and ignores them -> the page that says so.
IGNORING_HOSTS: Mapping[str, str] = {"api.anthropic.com": "https://docs.claude.com/en/api/openai-sdk"}


def claimed_capabilities(declared: Capabilities, service: str | None, host: str | None = None) -> Capabilities:
    """Return the capabilities, with only those claims about output schemas that are known to be true.

    Args:
        declared: The capabilities that the backend declares.
        service: The service's key or the dialect; `None` if neither is known.
        host: The host of the service's address, if known.
    """
    changes: dict[str, Any] = {}
    if host in IGNORING_HOSTS:
        changes["grammars"] = declared.grammars - {JSONSchema}
    elif service not in ENFORCING:
        changes["enforces_grammars"] = False
    return declared.replace(**changes)
