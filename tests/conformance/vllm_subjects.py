"""The subjects of VLLMModel's columns: run by the nox session `vllm`, in vLLM's environment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from modelport import VLLMModel
from modelport.testing import Subject
from tests.conformance.subjects import TOO_LONG
from tests.servers.vllm import TEMPLATE
from tests.servers.vllm_env import ENGINE, use_variables, vllm_environment

#: SmolLM2 does not think by itself: one worked example makes it.
THINKING_TEMPLATE = (
    "<|im_start|>system\nThink, then answer.<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of Spain?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\nThey ask for the capital of Spain. It is Madrid.\n</think>\n\n"
    "The capital of Spain is Madrid.<|im_end|>\n"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


@cache
def kept() -> VLLMModel:
    """Holds the engine that all models of these settings share, until the program ends: it takes half a minute to load.

    The variables stay set, since a forked child loads an engine of its own.
    """
    environment = vllm_environment()
    use_variables(environment)
    return VLLMModel(environment.model, **ENGINE)


@contextmanager
def embedded(**settings: Any) -> Iterator[Subject]:
    """vLLM in this process, on real weights."""
    with VLLMModel(kept().model_id or "", **ENGINE, **settings) as model:
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(rendered(model, messages)),
            busy=lambda: busy(model),
        )


def rendered(model: VLLMModel, messages: list[dict[str, Any]]) -> str:
    """The prompt as transformers' own tokenizer writes it."""
    return str(model._engine().tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def busy(model: VLLMModel) -> int:
    """Whether vLLM's scheduler has work, by its own word."""
    core = model._engine().core
    question = core.llm.engine_core.call_utility_async("has_work")
    return int(asyncio.run_coroutine_threadsafe(question, core.loop).result(10))


@contextmanager
def thinking() -> Iterator[Subject]:
    """With a template that makes it think first."""
    with embedded(chat_template=THINKING_TEMPLATE, max_tokens=100) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject


SUBJECTS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "vllm": lambda folder: embedded(),
    "vllm-tools": lambda folder: embedded(chat_template=TEMPLATE.read_text()),
    "vllm-thinking": lambda folder: thinking(),
}
_LOCAL = {"errors": "there is no service to fail", "secrets": "it has no key"}
NOT_CHECKED = {"vllm": _LOCAL}
SELECTED_CHECKS = {
    "vllm-tools": {
        "generate", "stream", "tools: auto", "tools: required", "tools: named", "tools: none", "parallel tool calls",
        "tool results", "streamed tool calls",
    },
    "vllm-thinking": {"reasoning", "JSON schema", "structured output after reasoning", "reasoning effort"},
}  # fmt: skip
