"""The table of README.md: how each class secures the form of an answer, from what it declares.

    python -m tests.conformance.table          # writes it
    python -m tests.conformance.table --check  # fails where it is stale

Nothing is loaded or asked for: the ways are those that the port's own plan takes (`layers/adapt.py`). The contract's
columns are held to them (`way`), so that what stands in the table is what came out.
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
BEGIN, END = "<!-- forms: written by `python -m tests.conformance.table` -->", "<!-- /forms -->"


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Args:
        name: The class, and for which models or servers the line holds.
        capabilities: What is declared there.
        columns: Of the contract, which prove it.
        local: Whether tools and thinking are a matter of the model's chat template.
    """

    name: str
    capabilities: Capabilities
    columns: tuple[str, ...] = ()
    local: bool = False


class Own(Model):
    """A class of a user's."""

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        return ChatMessage("assistant", "")


#: Columns on those servers, by class.
_LLAMA_CPP = {
    "openai": ("openai", "openai-sdk", "openai-sdk-2"), "azure": ("azure", "azure-sdk"),
    "huggingface": ("huggingface",),
}  # fmt: skip
_VLLM = {"openai": ("openai-vllm",)}


@cache
def entries() -> list[Entry]:
    """Every class."""
    found = [
        Entry(f"`{cls.__name__}`", cls.declared_capabilities, columns, local=True)
        for cls, columns in (
            (LlamaCppModel, ("llamacpp", "llamacpp-thinking")),
            (TransformersModel, ("transformers", "transformers-tools", "transformers-thinking")),
            (MLXModel, ("mlx", "mlx-tools", "mlx-thinking")),
            (VLLMModel, ("vllm", "vllm-tools", "vllm-thinking")),
        )
    ]
    chat: tuple[tuple[type[Any], str], ...] = (
        (OpenAIServerModel, "openai"), (AzureOpenAIServerModel, "azure"), (InferenceClientModel, "huggingface"),
    )  # fmt: skip
    for cls, column in chat:
        declared = cls.declared_capabilities
        found.append(Entry(f"`{cls.__name__}`", declared, (f"{column}-mocked",)))
        if cls in (OpenAIServerModel, AzureOpenAIServerModel):
            found.append(Entry(f"`{cls.__name__}`, `gpt-5…`", declared.with_profiles("gpt-5", PROFILES)))
        if cls is InferenceClientModel:
            found.append(Entry(f'`{cls.__name__}`, `dialect="tgi"`', declared.replace(**DIALECTS["tgi"])))
        for dialect, proving in (("llama.cpp", _LLAMA_CPP[column]), ("vllm", _VLLM.get(column, ()))):
            name = f'`{cls.__name__}`, `dialect="{dialect}"`'
            found.append(Entry(name, declared.replace(**DIALECTS[dialect]), proving))
    # LiteLLM takes no dialect: a server behind LiteLLM is used through OpenAI's API alone.
    found += [
        Entry(f"`{cls.__name__}`", cls.declared_capabilities, (column, f"{column}-mocked"))
        for cls, column in ((LiteLLMModel, "litellm"), (LiteLLMRouterModel, "litellm-router"))
    ]
    for models, example, columns in (
        ("Claude 4.5, Qwen3, …", "anthropic.claude-sonnet-4-5", ("bedrock-strict",)),
        ("Claude 3, Nova, …", "amazon.nova-pro-v1:0", ("bedrock-forced",)),
        ("others", "meta.llama3-3-70b", ()),
    ):
        known = AmazonBedrockServerModel.declared_capabilities.with_profiles(example, BEDROCK)
        found.append(Entry(f"`AmazonBedrockServerModel`, {models}", known, columns))
    return [*found, Entry("a `Model` of your own with `generate`", Own().capabilities)]


class _Person:
    """A typed form, in the fields that every subset of schemas has."""

    name: str
    age: int | None


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
TOOL = Tool("get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
_ASKED = (ChatMessage("user", "?"),)
SAID = {"enforced": "enforced", "forced_tool": "forced tool", "validated": "validated"}


def _form(form: Callable[[], Grammar]) -> Callable[[Entry], str]:
    def way(entry: Entry) -> str:
        try:
            return SAID[str(plan_for(Request(_ASKED, grammar=form()), entry.capabilities).enforcement)]
        except UnsupportedFeature:
            return "refused"

    return way


def _tools(entry: Entry) -> str:
    if entry.local:
        return "the template's, else prompt"
    return "native" if entry.capabilities.tools else "prompt"


def _forced(entry: Entry) -> str:
    capabilities = entry.capabilities
    if not capabilities.tools:
        return "enforced" if JSONSchema in capabilities.grammars and capabilities.schema_rules is None else "validated"
    return "native" if "required" in capabilities.tool_choices else "validated"


def _beside(entry: Entry) -> str:
    plan = plan_for(Request(_ASKED, grammar=JSONSchema(SCHEMA), tools=(TOOL,)), entry.capabilities)
    ends = plan.second or plan
    return f"{SAID[str(ends.enforcement)]}, {'two requests' if plan.second else 'one request'}"


def _thinking(entry: Entry) -> str:
    if entry.local:
        return "by template"
    return "apart" if entry.capabilities.reasoning else "–"


def _effort(entry: Entry) -> str:
    if entry.local:
        return "by template"
    capabilities = entry.capabilities
    ways = [
        *(["name"] if capabilities.reasoning_efforts - {"none"} else []),
        *(["tokens"] if capabilities.reasoning_budget else []),
    ]
    return " or ".join(ways) or "refused"


def _typed() -> Grammar:
    from dataclasses import dataclass

    return grammar_from(dataclass(_Person))


#: The contract's rows, and how each is secured.
ROWS: dict[str, Callable[[Entry], str]] = {
    "JSON schema": _form(lambda: JSONSchema(SCHEMA)),
    "typed output": _form(_typed),
    "regex": _form(lambda: Regex("a+")),
    "choice": _form(lambda: Choice("yes", "no")),
    "context-free grammar": _form(lambda: Lark('start: "a"')),
    "tools": _tools,
    "a forced call": _forced,
    "a form beside tools": _beside,
    "reasoning": _thinking,
    "reasoning effort": _effort,
}
FORMS = frozenset({"JSON schema", "typed output", "regex", "choice", "context-free grammar"})


def way(column: str, row: str) -> str | None:
    """How a column of the contract must have secured a row, as a message's `enforcement` says it."""
    entry = next((entry for entry in entries() if column in entry.columns), None)
    if entry is None or row not in FORMS:
        return None
    names = {said: name for name, said in SAID.items()}
    return names.get(ROWS[row](entry), "")


def table() -> str:
    """The table; lines that say the same are one, and so are columns."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for entry in entries():
        lines.setdefault(tuple(row(entry) for row in ROWS.values()), []).append(entry.name)
    columns: dict[tuple[str, ...], list[str]] = {}
    for place, row in enumerate(ROWS):
        columns.setdefault(tuple(cells[place] for cells in lines), []).append(row)
    head = ["", *(", ".join(rows) for rows in columns.values())]
    body = [["<br>".join(_grouped(names)), *(cells[n] for cells in columns)] for n, names in enumerate(lines.values())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def _grouped(names: list[str]) -> list[str]:
    """The names, those of one class beside each other."""
    by_class: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        cls, _, rest = name.partition(", ")
        by_class.setdefault(cls, []).append(rest)
    return [", ".join([cls, *filter(None, rests)]) for cls, rests in by_class.items()]


def written(text: str) -> str:
    """README with the table between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"README.md has no place for the table: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    text = README.read_text()
    if "--check" in sys.argv and written(text) != text:
        sys.exit("The table of README.md is stale: run python -m tests.conformance.table")
    README.write_text(written(text))
