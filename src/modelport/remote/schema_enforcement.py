"""Which services are known to enforce output schemas, and which ignore them, with other fields of the request.

A service that is in neither table may enforce a schema, ignore it or refuse it. The schema is then sent, and the output
is checked, but not labelled `enforced`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema

#: The service's key, as in `inputs.vendor_parameters`, or a dialect -> the page that documents the enforcement.
ENFORCING: Mapping[str, str] = {
    "openai": "https://developers.openai.com/api/docs/guides/structured-outputs",
    "azure": "https://learn.microsoft.com/azure/ai-foundry/openai/how-to/structured-outputs",
    "groq": "https://console.groq.com/docs/structured-outputs",
    "together": "https://docs.together.ai/learn/structured-outputs",
    "fireworks": "https://docs.fireworks.ai/structured-responses/structured-response-formatting",
    "mistral": "https://docs.mistral.ai/capabilities/structured-output/custom_structured_output/",
    "xai": "https://docs.x.ai/developers/model-capabilities/text/structured-outputs",
    "gemini": "https://ai.google.dev/gemini-api/docs/openai",
    "cerebras": "https://inference-docs.cerebras.ai/capabilities/structured-outputs",
    "cohere": "https://docs.cohere.com/docs/structured-outputs",
    "perplexity": "https://docs.perplexity.ai/docs/grounded-llm/output-control/structured-outputs",
    "vllm": "https://docs.vllm.ai/en/latest/features/structured_outputs.html",
    "llama.cpp": "https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md",
    "tgi": "https://huggingface.co/docs/text-generation-inference/conceptual/guidance",
}


class IgnoringHost(NamedTuple):
    """A service that accepts output schemas and other fields, and ignores them.

    Args:
        source: The page that says so.
        changes: The values of `Capabilities` in which the service therefore differs, beside the schemas.
    """

    source: str
    changes: Mapping[str, Any]


#: The host of a service -> what it ignores.
IGNORING_HOSTS: Mapping[str, IgnoringHost] = {
    # "Ignored" in the page's tables: response_format, reasoning_effort, logprobs, seed, the penalties, and parts of the
    # content other than texts and images. The model's reasoning is not returned.
    "api.anthropic.com": IgnoringHost(
        "https://platform.claude.com/docs/en/api/openai-sdk",
        {
            "reasoning": False,
            "reasoning_efforts": frozenset(),
            "logprobs": False,
            "seed": False,
            "inputs": frozenset({"text", "image"}),
            "refused": frozenset({"presence_penalty", "frequency_penalty"}),
        },
    )
}


def claimed_capabilities(declared: Capabilities, service: str | None, host: str | None = None) -> Capabilities:
    """Return the capabilities, without claims about output schemas that are not known to be true.

    Args:
        declared: The capabilities that the backend declares.
        service: The service's key or the dialect; `None` if neither is known.
        host: The host of the service's address, if known.
    """
    changes: dict[str, Any] = {}
    if ignoring := IGNORING_HOSTS.get(host or ""):
        changes = {**ignoring.changes, "grammars": declared.grammars - {JSONSchema}}
    elif service not in ENFORCING:
        changes["enforces_grammars"] = False
    return declared.replace(**changes)
