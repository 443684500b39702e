"""Makes docs/providers.md, the page of the services, from the tables in src and from models of each service.

`python -m tests.providers_page` writes the page. `test_providers_page` checks that it is current. What no table says is
in `providers_table`.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import modelport
from modelport import Model
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.inputs.vendor_parameters import SERVICES
from modelport.protocols import error_phrases, parameter_phrases
from modelport.protocols.chat_completions.call_ids import CallIdRule
from modelport.protocols.chat_completions.history_rules import initial_rules
from modelport.protocols.chat_completions.provider_fields import ProviderFields, provider_data_of_call
from modelport.protocols.finish_reasons import FINISH_WORDS
from modelport.protocols.responses.request import CHAT_ONLY
from modelport.providers import PROVIDERS
from modelport.remote.bedrock.model import PROFILES as BEDROCK_PROFILES
from modelport.remote.openai.api_choice import NEED_TEXTS, NEEDS, OWN_SERVICES
from modelport.remote.profiles import PROFILES
from modelport.remote.schema_enforcement import ENFORCING, IGNORING_HOSTS
from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema
from tests.providers_table import AFTER_SERVICES, GROUPS, INTRODUCTION, Provider

PAGE = Path(__file__).parents[1] / "docs" / "providers.md"
#: The tables of phrases in errors -> what they say.
PHRASES = {
    "CONTEXT_EXCEEDED": "the prompt is too long", "CONTENT_REFUSED": "the content is refused",
    "WRONG_KEY": "the key is wrong", "NEEDS_RESPONSES": "the Responses API must be used",
    "NO_STREAM_WITH_TOOLS": "the model does not stream with tools", "NO_STREAM": "the model does not stream",
    "UNSUPPORTED_PARAMETER": "a parameter is not accepted",
    "INCOMPATIBLE_PARAMETERS": "two parameters are not accepted together",
}  # fmt: skip
#: What the meanings of finish reasons are called on the page.
MEANINGS = {
    "stop": "`stop`", "length": "`length`", "tool_calls": "`tool_calls`", "content_filter": "`content_filter`",
    "failed": "`ServerError`", "bad_call": "`InvalidToolCall`", "bad_output": "`MalformedResponse`",
    "bad_request": "`InvalidRequest`",
}  # fmt: skip


class _Variables(dict[str, str]):
    """Environment variables that are all set."""

    def __missing__(self, name: str) -> str:
        return "key"


class _OS:
    environ = _Variables()


def model_of(provider: Provider) -> Model | None:
    """Return the model that the page's line of code makes, or `None` if its package is not installed."""
    names: dict[str, Any] = {**vars(modelport), "os": _OS()}
    names.update((name, getattr(modelport, name)) for name in modelport.__all__)
    keys = {"OPENAI_API_KEY": "key", "AZURE_OPENAI_API_KEY": "key", "HF_TOKEN": "hf_key",
            "AWS_BEARER_TOKEN_BEDROCK": "key", **{p.key_variable: "key" for p in PROVIDERS.values()}}  # fmt: skip
    with patch.dict(os.environ, keys), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Model = eval(provider.code, names)
        if provider.is_built:
            assert model.capabilities is not None
            return model
    return None


def entry(provider: Provider) -> str:
    """Return the section of one service."""
    lines = [f"### {provider.title}", "", "```py", provider.code, "```", "", provider.text, ""]
    model = model_of(provider) if provider.is_built else None
    lines += [f"- {line}" for line in (*_facts_of_name(provider), *_facts(provider, model), *provider.facts)]
    if provider.limits:
        lines.append(f"- **Not possible**: {provider.limits}")
    return "\n".join([*lines, ""])


def name_of(provider: Provider) -> str | None:
    """Return the name by which `load_model` knows the service, or `None` if the page shows a class."""
    found = re.match(r'load_model\("(\w+)/', provider.code)
    return found[1] if found else None


def _facts_of_name(provider: Provider) -> Iterator[str]:
    """Yield what the provider's name stands for."""
    name = name_of(provider)
    if name is None:
        return
    named = PROVIDERS[name]
    settings = {"dialect": named.dialect, **named.settings} if named.dialect else named.settings
    others = "".join(f", `{setting}={value!r}`" for setting, value in settings.items())
    cls = "OpenAIServerModel" if named.backend == "openai" else "LiteLLMModel"
    address = f"`{cls}` at `{named.api_base}`" if named.api_base else f"`{cls}`"
    key = f"the key in `{named.key_variable}`{'' if named.needs_key else ', if there is one'}"
    yield f"**`{name}/`** stands for {address}, {key}{others} ([source]({named.source}))."
    if named.litellm_names:
        yield f"**LiteLLM's name** {_names(frozenset(named.litellm_names))} means the same."


def _facts(provider: Provider, model: Model | None) -> Iterator[str]:
    """Yield what the tables say about a service."""
    if model is not None:
        service = getattr(model, "_service", None)
        yield from _facts_of_parameters(model, service)
        yield f"**Output schemas** {_schemas(model, service)}"
        yield from _facts_of_history(provider, model, service)
        if service in OWN_SERVICES:
            yield (
                "**Responses API**: for [these models](#models-that-need-the-responses-api), and after a refusal that "
                f"names it. It has no {_names(CHAT_ONLY)}."
            )
    kinds = [text for table, text in PHRASES.items() if _names_service(table, provider.names)]
    if kinds:
        yield f"**Errors** recognised by their text: {', '.join(kinds)}."


def _facts_of_parameters(model: Model, service: str | None) -> Iterator[str]:
    capabilities = model.capabilities
    own = SERVICES[service].parameters if service in SERVICES else frozenset()
    if own:
        shown = ", ".join(f"`{name}`" for name in sorted(own)[:6])
        more = f" and {len(own) - 6} [more](options.md#parameters-of-services-and-engines)" if len(own) > 6 else ""
        yield f"**Own parameters**, sent without a warning: {shown}{more}."
    if capabilities.renamed:
        yield f"**Renamed**: {_renamed(capabilities.renamed)}."
    if not capabilities.stop:
        yield "**Stop sequences** are applied by modelport, because the model refuses them."
    if capabilities.max_stop_sequences != 4 and capabilities.stop:
        most = capabilities.max_stop_sequences
        count = "any number" if most is None else "one" if most == 1 else f"up to {most}"
        yield f"**Stop sequences**: {count} {'is' if most == 1 else 'are'} sent."
    if capabilities.tool_choices != frozenset({"auto", "none", "required", "named"}):
        names = _names(capabilities.tool_choices)
        yield f"**`tool_choice`**: {names}. Another one is replaced, and the calls are validated."
    refused = [f"`{name}`" for name in ("logprobs", "seed") if not getattr(capabilities, name)]
    refused += [f"{kind} inputs" for kind in ("image", "audio", "file") if kind not in capabilities.inputs]
    if refused := [*(f"`{name}`" for name in sorted(capabilities.refused)), *refused]:
        yield f"**Refused**, because the service lacks or ignores them: {', '.join(refused)}."
    if capabilities.reasoning_efforts != frozenset(REASONING_EFFORTS) or capabilities.reasoning_budget:
        yield f"**Reasoning effort**: {_efforts(capabilities)}."


def _schemas(model: Model, service: str | None) -> str:
    capabilities = model.capabilities
    types = sorted({"JSONSchema": "schemas", "Regex": "regular expressions", "Choice": "choices",
                    "Lark": "Lark grammars"}[kind.__name__] for kind in capabilities.grammars)  # fmt: skip
    host = getattr(model, "_host", None)
    if JSONSchema not in capabilities.grammars:
        source = f" ([source]({IGNORING_HOSTS[host].source}))" if host in IGNORING_HOSTS else ""
        return f"are not sent. They become the arguments of a forced tool call, and the output is validated{source}."
    if not capabilities.enforces_grammars:
        return "are sent, and the output is validated. They may not be enforced, so `strict=True` is refused."
    source = f" ([source]({ENFORCING[service]}))" if service in ENFORCING else ""
    others = [name for name in types if name != "schemas"]
    more = f", as are {', '.join(others[:-1])} and {others[-1]}" if others else ""
    return f"are enforced{more}{source}."


def _facts_of_history(provider: Provider, model: Model, service: str | None) -> Iterator[str]:
    rule: CallIdRule | None = getattr(model, "_call_id_rule", None)
    if rule is not None:
        form = "nine letters or digits" if rule.length == 9 else "at most 40 characters"
        yield f"**IDs of tool calls**: {form}. Others are replaced, in the call and in its result."
    fields = fields_sent_back(provider, getattr(model, "_provider", None))
    if fields:
        yield f"**Goes back** in later requests: {', '.join(fields)}."
    if "thought_signature" in initial_rules(service, model.model_id).required:
        yield "**Calls of another model** get a placeholder for the signature that the service requires."


def fields_sent_back(provider: Provider, service: str | None) -> list[str]:
    """Return the names of the fields that modelport reads from the service's responses and sends back to it."""
    result = []
    for message in provider.returns:
        reader = ProviderFields(service)
        reader.read(message)
        data = reader.take()
        names = [*data.items[0]] if data else []
        result += [_part_types(message) if name == "content" else f"`{name}`" for name in names]
        for call in message.get("tool_calls", ()):
            data = provider_data_of_call(call, service)
            result += [f"`{name}` of tool calls" for name in (data.items[0] if data else ())]
    return result


def _part_types(message: Mapping[str, Any]) -> str:
    kinds = [part["type"] for part in message["content"] if part["type"] != "text"]
    return f"the parts of the content with the type `{kinds[0]}`"


def _names_service(table: str, names: tuple[str, ...]) -> bool:
    phrases = getattr(error_phrases, table, None) or getattr(parameter_phrases, table)
    return any(name in phrase.services.split(", ") for phrase in phrases for name in names)


def _needs_table() -> str:
    rows = [f"| `{pattern}` | {NEED_TEXTS[need] if need else 'none'} |" for pattern, need in NEEDS]
    return "\n".join(["| Models | Requests |", "| --- | --- |", *rows])


def _names(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _renamed(names: Mapping[str, str]) -> str:
    return ", ".join(f"`{ours}` is sent as `{theirs}`" for ours, theirs in names.items())


def _efforts(capabilities: Capabilities) -> str:
    efforts = capabilities.reasoning_efforts
    texts = [_names(efforts)] if efforts else []
    texts += ["others as a budget in tokens"] if capabilities.reasoning_budget else []
    return "; ".join(texts) or ("refused" if capabilities.reasoning else "refused, except for `none`")


#: Capabilities of a profile -> how the page says it.
_CHANGES: dict[str, Any] = {
    "stop": lambda v: "" if v else "stop sequences are applied by modelport",
    "max_stop_sequences": lambda v: f"{v} stop sequences are sent",
    "renamed": _renamed,
    "reasoning_efforts": lambda v: f"`reasoning_effort`: {_names(v) or 'refused'}",
    "reasoning_budget": lambda v: "`reasoning_budget`" if v else "no `reasoning_budget`",
    "reasoning": lambda v: "" if v else "does not reason",
    "grammars": lambda v: f"enforced: {', '.join(sorted(k.__name__ for k in v))}" if v else "no output schemas",
    "tools": lambda v: "" if v else "tools are described in the prompt",
    "system_role": lambda v: "" if v else "system messages are merged into the next user message",
    "tool_choices": lambda v: f"`tool_choice`: {_names(frozenset(v))}",
    "inputs": lambda v: f"inputs: {', '.join(sorted(v))}",
    "sends_reasoning": lambda v: "reasoning is sent back" if v else "",
    "logprobs": lambda v: "" if v else "no `logprobs`",
    "refused": lambda v: "`top_k` is accepted" if "top_k" not in v else "",
}


def changes_text(changes: Mapping[str, Any]) -> str:
    """Return what a profile changes, in words."""
    texts = [_CHANGES[name](value) for name, value in changes.items()]
    return "; ".join(dict.fromkeys(filter(None, texts))) or "stop sequences are sent"


def _table(profiles: Any) -> str:
    rows = [f"| `{pattern}` | {changes_text(changes)} |" for pattern, changes in profiles]
    return "\n".join(["| Models | What differs |", "| --- | --- |", *rows])


def _finish_table() -> str:
    rows = []
    for meaning, text in MEANINGS.items():
        words = [f"`{entry.word}`" for entry in FINISH_WORDS if entry.meaning == meaning]
        rows.append(f"| {text} | {', '.join(words)} |")
    return "\n".join(["| Result | The service's words |", "| --- | --- |", *rows])


def page() -> str:
    """Return the text of the page."""
    parts = [INTRODUCTION]
    for title, providers in GROUPS.items():
        parts += [f"## {title}\n", *map(entry, providers)]
    tables = {"PROFILES": _table(PROFILES), "BEDROCK": _table(BEDROCK_PROFILES), "FINISH": _finish_table(),
              "NEEDS": _needs_table()}  # fmt: skip
    return "\n".join(parts) + "\n" + AFTER_SERVICES.format(**tables)


if __name__ == "__main__":
    PAGE.write_text(page())
