"""The chat templates of 70 open models, from the source package of llama_cpp_python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.source_packages import SourcePackage

from modelport.local.chat_template import ChatTemplate
from modelport.local.template_renderer import rendered

_PACKAGE = SourcePackage(
    "llama_cpp_python", "0.3.36", "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    "scikit_build_core.build", "vendor/llama.cpp/models/templates",
)  # fmt: skip


def templates_folder() -> Path:
    """Return the folder with the templates, each a file `NAME.jinja`."""
    return _PACKAGE.folder()


def template_source(name: str) -> str:
    return (templates_folder() / f"{name}.jinja").read_text()


def apply_function(source: str) -> Any:
    """Return a function with the arguments of `apply_chat_template`, as `renderer_for` makes it from a tokenizer."""

    def apply(
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Any = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **variables: Any,
    ) -> str:
        reasoning = "reasoning_content"  # The transformers library gives it two more names.
        aliases = [
            {**m, "reasoning": m[reasoning], "thinking": m[reasoning]} if reasoning in m else m for m in messages
        ]
        values = {
            "messages": aliases,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        return rendered(source, {**values, "bos_token": "<BOS>", "eos_token": "<EOS>", **variables})

    return apply


@cache
def load_template(name: str) -> ChatTemplate:
    source = template_source(name)
    return ChatTemplate(apply_function(source), source)
