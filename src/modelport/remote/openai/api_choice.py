"""Decides whether a request goes to chat completions or to the Responses API. The functions are pure.

OpenAI's newer models answer some requests only on the Responses API. Which models do is known by name, but only for
OpenAI's and Azure's own addresses: other services may serve models of the same name in another way. There, the
Responses API is used only after a refusal that names it.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, get_args

from modelport.inputs.vendor_parameters import parameters_of
from modelport.protocols.responses.request import CHAT_ONLY
from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request

ApiSetting = Literal["auto", "chat", "responses"]
#: The values of the setting `api`.
API_SETTINGS: tuple[ApiSetting, ...] = get_args(ApiSetting)

#: Which requests need the Responses API:
#:
#: - `always`: every request.
#: - `any_tools`: requests with tools.
#: - `tools`: requests with tools, unless they have the effort `none`. The model reasons by default.
#: - `tools_with_effort`: requests with tools and an effort other than `none`.
Need = Literal["always", "any_tools", "tools", "tools_with_effort"]
NEED_TEXTS: dict[Need, str] = {
    "always": "every request",
    "any_tools": "requests with tools",
    "tools": "requests with tools and reasoning",
    "tools_with_effort": "requests with tools and a reasoning_effort",
}

#: The services of OpenAI's own models.
OWN_SERVICES = ("openai", "azure")
#: Pairs of a shell pattern and the requests that need the Responses API; `None` for none. The pattern must match the
#: last part of the model's name, after any slash, in lower case. The last pattern that matches counts.
#:
#: Sources: https://github.com/pipecat-ai/pipecat/issues/4043 (gpt-5.4),
#: https://github.com/jeffdafoe/llm-memory-api/pull/178 (gpt-5.5 also without an effort in the request),
#: https://github.com/BerriAI/litellm/pull/34569 (gpt-5.6), https://github.com/pgadmin-org/pgadmin4/issues/9795 (-pro),
#: https://github.com/n8n-io/n8n/issues/18352 (deep-research), https://developers.openai.com/api/docs/models
NEEDS: tuple[tuple[str, Need | None], ...] = (
    ("gpt-5.4*", "tools_with_effort"),
    ("gpt-5.[5-9]*", "tools"),
    ("gpt-[6-9]*", "tools"),
    ("gpt-1[0-9]*", "tools"),
    ("gpt-*-chat*", None),
    ("*codex*", "always"),
    ("o[1-9]*-pro*", "always"),
    ("gpt-*-pro*", "always"),
    ("*deep-research*", "always"),
    ("computer-use-preview*", "always"),
)
#: Parameters that only the Responses API has.
RESPONSES_ONLY = parameters_of("openai-responses") - parameters_of("openai") - parameters_of("azure")


@lru_cache(64)
def need_of(model_id: str | None, service: str | None) -> Need | None:
    """Return which requests of a model need the Responses API by the table; `None` if none do.

    Args:
        model_id: The model's name.
        service: The key of the service in `inputs.vendor_parameters.SERVICES`; `None` if it is not known.
    """
    if service not in OWN_SERVICES:
        return None
    name = (model_id or "").rsplit("/", 1)[-1].lower()
    return next((need for pattern, need in reversed(NEEDS) if fnmatchcase(name, pattern)), None)


def needs_responses_api(request: Request, needs: Collection[Need | None], service: str | None) -> bool:
    """Return whether a request must go to the Responses API.

    Args:
        request: The request, as the layer `adapt` has adapted it.
        needs: What is known about the model: by the table, and by earlier refusals.
        service: See `need_of`.
    """
    if any(message.provider_data is not None and message.provider_data.protocol == "responses"
           for message in request.messages):  # fmt: skip
        return True
    if service in OWN_SERVICES and RESPONSES_ONLY & request.parameters.keys():
        return True
    effort, has_tools = request.parameters.get("reasoning_effort"), _has_tools(request)
    return (
        "always" in needs
        or (has_tools and "any_tools" in needs)
        or (has_tools and effort != "none" and "tools" in needs)
        or (has_tools and effort not in (None, "none") and "tools_with_effort" in needs)
    )


def need_by_refusal(request: Request, text: str) -> Need:
    """Return what a refusal says that names the Responses API.

    Args:
        request: The refused request.
        text: The service's text.
    """
    if not _has_tools(request) or "tool" not in text.lower():
        return "always"
    effort = request.parameters.get("reasoning_effort")
    if effort == "none":
        return "any_tools"
    # The text of models that reason by default says "or set reasoning_effort to 'none'".
    return "tools" if effort is None or "'none'" in text else "tools_with_effort"


def _has_tools(request: Request) -> bool:
    """Return whether chat completions would get tools. Grammars other than JSON schemas are sent as a custom tool."""
    return bool(request.tools) or not isinstance(request.grammar, JSONSchema | None)


def responses_capabilities(declared: Capabilities, dialect: str | None) -> Capabilities:
    """Return what a model can do if all its requests go to the Responses API.

    Args:
        declared: What the model can do by chat completions.
        dialect: The setting `dialect`. Such a server accepts the fields of chat completions on this API too.
    """
    extra = (declared.extra_parameters or frozenset()) | parameters_of("openai-responses")
    changes = {"stop": False, "inputs": declared.inputs - {"audio"}, "extra_parameters": extra}
    if dialect is None:
        changes |= {"seed": False, "refused": declared.refused | CHAT_ONLY, "extra_parameters": extra - CHAT_ONLY}
    elif dialect == "llama.cpp":
        changes["logprobs"] = False  # The server sends none on this API.
    return declared.replace(**changes)
