"""README.md's table of structured output, tools and reasoning: what each class does, from its declared capabilities.

    python -m tests.conformance.table          # writes the table
    python -m tests.conformance.table --check  # fails where the table is stale

Nothing is loaded and no request is sent: the table shows what `modelport.layers.adapt` plans for the declared
capabilities. The conformance tests compare the plan with what came out (`expected_enforcement`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modelport import (
    AmazonBedrockServerModel,
    AzureOpenAIServerModel,
    Choice,
    InferenceClientModel,
    JSONSchema,
    Lark,
    LiteLLMModel,
    LiteLLMRouterModel,
    LlamaCppModel,
    MLXModel,
    Model,
    OpenAIServerModel,
    Regex,
    TransformersModel,
    UnsupportedFeature,
    VLLMModel,
)
from modelport.inputs.output_types import grammar_from
from modelport.layers.adapt.plan import plan_for
from modelport.protocols.chat_completions.dialects import DIALECTS
from modelport.remote.bedrock.model import PROFILES as BEDROCK
from modelport.remote.profiles import PROFILES
from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Grammar
from modelport.types.request import Request
from modelport.types.tools import Tool

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- structured-output: written by `python -m tests.conformance.table` -->"
END = "<!-- /structured-output -->"


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Args:
        name: The class, and the models or servers to which the row applies.
        capabilities: The declared capabilities.
        backends: The backends under test that prove the row.
        local: Whether tools and reasoning depend on the model's chat template.
    """

    name: str
    capabilities: Capabilities
    backends: tuple[str, ...] = ()
    local: bool = False


class UserModel(Model):
    """A class that a user wrote."""

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        return ChatMessage("assistant", "")


#: The backends under test that run on such a server, by the prefix of the class.
_ON_LLAMA_CPP = {
    "openai": ("openai", "openai-sdk", "openai-sdk-2", "openai-responses"), "azure": ("azure", "azure-sdk"),
    "huggingface": ("huggingface",),
}  # fmt: skip
_ON_VLLM = {"openai": ("openai-vllm", "openai-vllm-responses")}


@cache
def entries() -> list[Entry]:
    """Return the rows of every class."""
    rows = [
        Entry(f"`{cls.__name__}`", cls.declared_capabilities, backends, local=True)
        for cls, backends in (
            (LlamaCppModel, ("llamacpp", "llamacpp-thinking", "llamacpp-tools")),
            (TransformersModel, ("transformers", "transformers-tools", "transformers-thinking")),
            (MLXModel, ("mlx", "mlx-tools", "mlx-thinking")),
            (VLLMModel, ("vllm", "vllm-tools", "vllm-thinking")),
        )
    ]
    chat: tuple[tuple[type[Any], str], ...] = (
        (OpenAIServerModel, "openai"), (AzureOpenAIServerModel, "azure"), (InferenceClientModel, "huggingface"),
    )  # fmt: skip
    for cls, prefix in chat:
        declared = cls.declared_capabilities
        rows.append(Entry(f"`{cls.__name__}`", declared, (f"{prefix}-mocked",)))
        if cls in (OpenAIServerModel, AzureOpenAIServerModel):
            rows.append(Entry(f"`{cls.__name__}`, `gpt-5…`", declared.with_profiles("gpt-5", PROFILES)))
        if cls is InferenceClientModel:
            rows.append(Entry(f'`{cls.__name__}`, `dialect="tgi"`', declared.replace(**DIALECTS["tgi"].capabilities)))
        for dialect, backends in (("llama.cpp", _ON_LLAMA_CPP[prefix]), ("vllm", _ON_VLLM.get(prefix, ()))):
            name = f'`{cls.__name__}`, `dialect="{dialect}"`'
            rows.append(Entry(name, declared.replace(**DIALECTS[dialect].capabilities), backends))
    # LiteLLM takes no dialect: a server behind LiteLLM is used through OpenAI's API alone.
    rows += [
        Entry(f"`{cls.__name__}`", cls.declared_capabilities, (backend, f"{backend}-mocked"))
        for cls, backend in ((LiteLLMModel, "litellm"), (LiteLLMRouterModel, "litellm-router"))
    ]
    for models, example, backends in (
        ("Claude 4.5, Qwen3, …", "anthropic.claude-sonnet-4-5", ("bedrock-strict",)),
        ("Claude 3, Nova, …", "amazon.nova-pro-v1:0", ("bedrock-forced",)),
        ("others", "meta.llama3-3-70b", ()),
    ):
        known = AmazonBedrockServerModel.declared_capabilities.with_profiles(example, BEDROCK)
        rows.append(Entry(f"`AmazonBedrockServerModel`, {models}", known, backends))
    return [*rows, Entry("a `Model` of your own with `generate`, called as `model(…)`", UserModel().capabilities)]


class _Person:
    """A Python type whose fields every service's subset of JSON Schema supports."""

    name: str
    age: int | None


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
TOOL = Tool("get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
_MESSAGES = (ChatMessage("user", "?"),)
#: The values of `message.enforcement`, and how the table writes them.
LABELS = {"enforced": "enforced", "forced_tool": "forced tool", "validated": "validated"}


def _structured_output(make_grammar: Callable[[], Grammar]) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        try:
            plan = plan_for(Request(_MESSAGES, grammar=make_grammar()), entry.capabilities)
        except UnsupportedFeature:
            return "refused"
        return LABELS[str(plan.enforcement)]

    return cell


def _tools(entry: Entry) -> str:
    if entry.local:
        return "the template's, else prompt"
    return "native" if entry.capabilities.tools else "prompt"


def _forced_tool_call(entry: Entry) -> str:
    capabilities = entry.capabilities
    if not capabilities.tools:
        return "enforced" if JSONSchema in capabilities.grammars and capabilities.schema_rules is None else "validated"
    return "native" if "required" in capabilities.tool_choices else "validated"


def _structured_output_with_tools(entry: Entry) -> str:
    plan = plan_for(Request(_MESSAGES, grammar=JSONSchema(SCHEMA), tools=(TOOL,)), entry.capabilities)
    last = plan.second or plan
    return f"{LABELS[str(last.enforcement)]}, {'two requests' if plan.second else 'one request'}"


def _reasoning(entry: Entry) -> str:
    if entry.local:
        return "by template"
    return "separate" if entry.capabilities.reasoning else "–"


def _reasoning_effort(entry: Entry) -> str:
    if entry.local:
        return "by template"
    capabilities = entry.capabilities
    ways = [
        *(["name"] if capabilities.reasoning_efforts - {"none"} else []),
        *(["tokens"] if capabilities.reasoning_budget else []),
    ]
    return " or ".join(ways) or "refused"


def _typed_output() -> Grammar:
    from dataclasses import dataclass

    return grammar_from(dataclass(_Person))


#: The columns of the table, by the names of checks where there is such a check, and the functions that fill the cells.
FEATURES: dict[str, Callable[[Entry], str]] = {
    "JSON schema": _structured_output(lambda: JSONSchema(SCHEMA)),
    "typed output": _structured_output(_typed_output),
    "regex": _structured_output(lambda: Regex("a+")),
    "choice": _structured_output(lambda: Choice("yes", "no")),
    "context-free grammar": _structured_output(lambda: Lark('start: "a"')),
    "tools": _tools,
    "forced tool call": _forced_tool_call,
    "structured output with tools": _structured_output_with_tools,
    "reasoning": _reasoning,
    "reasoning effort": _reasoning_effort,
}
#: The checks whose outcome has `message.enforcement` as its detail.
STRUCTURED_OUTPUT = frozenset({"JSON schema", "typed output", "regex", "choice", "context-free grammar"})


def expected_enforcement(backend: str, check: str) -> str | None:
    """Return the `enforcement` that a check must report for a backend under test.

    Args:
        backend: The name of a backend under test.
        check: The name of a check.

    Returns:
        The enforcement by the table; `None` where the table says nothing about it.
    """
    entry = next((entry for entry in entries() if backend in entry.backends), None)
    if entry is None or check not in STRUCTURED_OUTPUT:
        return None
    enforcements = {label: enforcement for enforcement, label in LABELS.items()}
    return enforcements.get(FEATURES[check](entry), "")


def table() -> str:
    """Return the table; equal rows are merged, and so are equal columns."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for entry in entries():
        rows.setdefault(tuple(cell(entry) for cell in FEATURES.values()), []).append(entry.name)
    columns: dict[tuple[str, ...], list[str]] = {}
    for index, feature in enumerate(FEATURES):
        columns.setdefault(tuple(cells[index] for cells in rows), []).append(feature)
    head = ["", *(", ".join(features) for features in columns.values())]
    body = [["<br>".join(_group(names)), *(cells[n] for cells in columns)] for n, names in enumerate(rows.values())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def _group(names: list[str]) -> list[str]:
    """Return the names of rows, those of one class joined."""
    by_class: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        cls, _, rest = name.partition(", ")
        by_class.setdefault(cls, []).append(rest)
    return [", ".join([cls, *filter(None, rests)]) for cls, rests in by_class.items()]


def with_table(text: str) -> str:
    """Return the text of README.md with the current table between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"README.md lacks the markers of the table: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    text = README.read_text()
    if "--check" in sys.argv and with_table(text) != text:
        sys.exit("The table of README.md is stale: run python -m tests.conformance.table")
    README.write_text(with_table(text))
