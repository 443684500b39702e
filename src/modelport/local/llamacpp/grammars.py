"""The grammars that llama.cpp enforces: of an output type, of a call that the model must make, after reasoning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.constrained.reasoning import allow_reasoning
from modelport.layers.adapt.prompted_tools import call_schema
from modelport.local.grammar_matching import TextMatcher, checked_text_matcher
from modelport.local.special_tokens import SpecialTokens
from modelport.local.template_formats import reasoning_format_in
from modelport.protocols.output_text.reasoning import ReasoningReader
from modelport.protocols.output_text.reasoning_formats import THINK
from modelport.types.output_types import Grammar, JSONSchema
from modelport.types.request import Request


def compile_grammar(grammar: Grammar) -> tuple[str, TextMatcher]:
    """Return the grammar for the engine, and a matcher for the text of the output."""
    lark = as_lark(grammar, old_llguidance=True)
    return lark, checked_text_matcher(lark, extra="llamacpp")


def required_call(request: Request) -> JSONSchema | None:
    """Return the output type of a call that the model must make; `None` if it need not make one."""
    if not request.tools or request.tool_choice in ("auto", "none"):
        return None
    return JSONSchema(call_schema(request.tools, parallel=bool(request.parameters.get("parallel_tool_calls"))))


def give_tools_to_template(body: dict[str, Any]) -> None:
    """Change a body so that only the chat template gets the tools. The engine refuses a grammar beside tools."""
    body["chat_template_kwargs"] = {**(body.get("chat_template_kwargs") or {}), "tools": body.pop("tools")}
    for name in ("tool_choice", "parallel_tool_calls"):
        body.pop(name, None)


def supports_reasoning(template: str) -> bool:
    """Return whether the source of a chat template contains marks around reasoning, or a field for it."""
    form = reasoning_format_in(template)
    return (form is not None and bool(form.begin)) or "reasoning" in template


def grammar_after_reasoning(
    lark: str, template: str, prompt: str, special_tokens: SpecialTokens, query: Callable[[str, Any], Any]
) -> str:
    """Return a grammar that allows reasoning before output of the given grammar.

    Args:
        lark: The grammar of the output.
        template: The source of the model's chat template.
        prompt: The rendered prompt.
        special_tokens: The model's special tokens.
        query: Sends a request to the engine's own port.
    """
    form = reasoning_format_in(template) or THINK
    tail = form.tail_of(prompt)
    pieces = query("/tokenize", {"content": form.marks, "parse_special": True, "with_pieces": True})["tokens"]
    ids = {piece["piece"]: piece["id"] for piece in pieces if isinstance(piece["piece"], str)}
    special = {text: number for text, number in ids.items() if special_tokens.occur_in(text)}
    return allow_reasoning(lark, ReasoningReader(form, tail).in_reasoning, marks=form.grammar_marks(tail, special))
