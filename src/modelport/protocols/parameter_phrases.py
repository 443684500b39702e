# ruff: noqa: E501
# Each phrase is one line, whatever its length.
"""Phrases with which services say that they do not accept a parameter of a request, or not together with another one.

See `error_phrases`: one line for one phrase, with the services that send it and a page that quotes it. `_NAME` stands
for the name of the parameter. A phrase without it names its parameter in the table.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from modelport.protocols.error_phrases import MAX_TEXT, KnownPhrase, compile_patterns

_WORD = r"(?:parameter|argument|field|property)s?"
_NAME = r"['\"`]?([a-z_]\w{0,63})"
_QUOTED = r"['\"`]([a-z_]\w{0,63})['\"`]"

#: These phrases say that the service does not accept a parameter, and name the parameter.
UNSUPPORTED_PARAMETER = (
    KnownPhrase(rf"(?:unsupported|unknown|unrecognized) (?:request )?{_WORD}(?: supplied)?[:\s]+{_NAME}", "OpenAI, Databricks", "https://github.com/jamesrochabrun/SwiftOpenAI/issues/67"),
    KnownPhrase(rf"argument not supported on this model:\s*{_NAME}", "xAI", "https://github.com/n8n-io/n8n/issues/14581"),
    KnownPhrase(rf"(?:does not|doesn't) support (?:the )?(?:parameter|argument|field)s?[:\s]+{_NAME}", "xAI", "https://github.com/open-webui/open-webui/issues/21266"),
    KnownPhrase(rf"(?:does not|doesn't) support the {_NAME} (?:field|parameter)", "Bedrock", "https://github.com/crewAIInc/crewAI/issues/3317"),
    # A name inside of another field is followed by "at 'tools[0]…'".
    KnownPhrase(rf"unknown name {_QUOTED}: cannot find field", "Gemini", "https://github.com/n4ze3m/page-assist/issues/418"),
    KnownPhrase(rf"extra inputs are not permitted, field:\s*{_NAME}", "Fireworks", "https://github.com/anomalyco/opencode/issues/24696"),
    KnownPhrase(r"\b([a-z_]\w{0,63})(?:\.[\w.]{1,100})?: extra inputs are not permitted", "Anthropic, Databricks, Azure", "https://github.com/tidyverse/ellmer/issues/548"),
    KnownPhrase(rf"{_QUOTED} is (?:unsupported|deprecated|not (?:supported|permitted|allowed))", "Groq, Anthropic, Bedrock", "https://github.com/Mintplex-Labs/anything-llm/issues/5461"),
    KnownPhrase(r"\b([a-z_]\w{0,63}) is deprecated for this model", "Bedrock", "https://github.com/DayuanJiang/next-ai-draw-io/issues/861"),
    KnownPhrase(rf"additional properties are not allowed \({_NAME}", "servers that validate with JSON Schema", "https://github.com/python-jsonschema/jsonschema/blob/main/jsonschema/_keywords.py"),
    KnownPhrase(rf"extraneous key \[{_NAME}\] is not permitted", "Bedrock", "https://github.com/langchain-ai/langchain-aws/issues/62"),
    KnownPhrase(rf"does not support parameters: [\[{{]{_NAME}", "LiteLLM", "https://docs.litellm.ai/docs/completion/drop_params"),
    KnownPhrase(rf"invalid {_NAME}: only [\d.]{{1,9}} is allowed", "Kimi", "https://github.com/nashsu/llm_wiki/issues/173"),
    # DeepSeek's text is "This response_format type is unavailable now".
    KnownPhrase(r" ([a-z_]\w{0,63}) type is unavailable", "DeepSeek", "https://github.com/ItzCrazyKns/Vane/issues/969"),
    KnownPhrase(r"(response_format)\.type .{1,20} is unavailable", "DeepSeek", "https://github.com/browser-use/browser-use/pull/215"),
    KnownPhrase(r"'(response_format)(?:\.type)?' must be 'json_schema'", "LM Studio", "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/189"),
    KnownPhrase(r"'(response_format)' : one of the following must be satisfied", "Groq", "https://github.com/vercel/ai/issues/7808"),
    KnownPhrase(r"does not support (response[ _]format)", "Groq", "https://github.com/ItzCrazyKns/Vane/issues/980"),
    KnownPhrase(r"must contain the word 'json' in some form, to use '(response_format)'", "DashScope", "https://github.com/agno-agi/agno/pull/5317"),
    KnownPhrase(r"unknown format of (response_format)", "DashScope", "https://www.alibabacloud.com/help/model-studio/error-code"),
    KnownPhrase(r"(json mode response) is not supported when", "DashScope", "https://github.com/presenton/presenton/issues/184"),
)  # fmt: skip

#: Words for a parameter in the phrases above -> the parameter.
_WORDS_FOR_PARAMETERS = {"json mode response": "response_format", "response format": "response_format"}

#: These phrases name two parameters that the service does not accept together. The second one is left out.
INCOMPATIBLE_PARAMETERS = (
    KnownPhrase(rf"{_NAME}['\"`]? and {_NAME}['\"`]? cannot both be specified", "Anthropic, Bedrock", "https://github.com/skydiscover-ai/skydiscover/issues/15"),
)  # fmt: skip

#: This phrase says that the service does not accept the parameter which the error names in its field `param`.
PARAM_IS_UNSUPPORTED = (
    KnownPhrase(r"unsupported|not support", "OpenAI, Groq", "https://github.com/teilomillet/gollm/issues/33"),
)  # fmt: skip

#: This phrase says that a JSON schema is not accepted. The service accepts the parameter that contains the schema.
INVALID_SCHEMA = (
    KnownPhrase(r"\Ainvalid schema", "OpenAI, Groq", "https://github.com/i-am-bee/beeai-framework/issues/1215"),
)  # fmt: skip

#: A problem of a pydantic validation in Python's notation, which vLLM and others send: its type and its location.
#: See https://github.com/1Panel-dev/MaxKB/issues/2912
_PROBLEM_IN_TEXT = re.compile(r"'type': '(\w{1,40})', 'loc': \(([^)]{1,300})\)")

_UNSUPPORTED_PARAMETER = compile_patterns(phrase.pattern for phrase in UNSUPPORTED_PARAMETER)
_INCOMPATIBLE_PARAMETERS = compile_patterns(phrase.pattern for phrase in INCOMPATIBLE_PARAMETERS)
_PARAM_IS_UNSUPPORTED = compile_patterns(phrase.pattern for phrase in PARAM_IS_UNSUPPORTED)
_INVALID_SCHEMA = compile_patterns(phrase.pattern for phrase in INVALID_SCHEMA)


class Problem(NamedTuple):
    """A problem that pydantic found in a request.

    Args:
        kind: The type of the problem, such as `extra_forbidden`.
        path: The names and indices on the way to the value, without the leading `body`.
    """

    kind: str
    path: tuple[str, ...]


def means_param_is_unsupported(text: str) -> bool:
    """Return whether an error text says that the parameter in the error's field `param` is not accepted."""
    return _PARAM_IS_UNSUPPORTED.search(text, 0, MAX_TEXT) is not None


def means_invalid_schema(text: str) -> bool:
    """Return whether an error text rejects a JSON schema."""
    return _INVALID_SCHEMA.match(text) is not None


def unsupported_parameter_in(text: str) -> str | None:
    """Return the parameter that an error text names as not accepted, in snake case, or `None`."""
    found = _UNSUPPORTED_PARAMETER.search(text, 0, MAX_TEXT)
    name = next(filter(None, found.groups()), None) if found else None
    return snake_case(_WORDS_FOR_PARAMETERS.get(name.lower(), name)) if name else None


def incompatible_parameters_in(text: str) -> tuple[str, str] | None:
    """Return the two parameters that an error text does not allow together, or `None`."""
    found = _INCOMPATIBLE_PARAMETERS.search(text, 0, MAX_TEXT)
    return (snake_case(found[1]), snake_case(found[2])) if found else None


def problems_in(text: str) -> list[Problem]:
    """Return the problems that an error text lists in Python's notation."""
    return [
        Problem(kind, path_of(re.findall(r"'([^']*)'|(\d+)", location)))
        for kind, location in _PROBLEM_IN_TEXT.findall(text[:MAX_TEXT])
    ]


def path_of(location: object) -> tuple[str, ...]:
    """Return the path of a problem, from its `loc`: a list of names and indices, or of pairs of which one is empty."""
    path: list[str] = []
    for item in location if isinstance(location, list) else ():
        if isinstance(item, tuple):
            item = "".join(item)
        if isinstance(item, str | int):
            path.append(str(item))
    return tuple(path[1:] if path[:1] == ["body"] and len(path) > 1 else path)


def snake_case(name: str) -> str:
    """Return a name in snake case: `presence_penalty` for `presencePenalty`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
