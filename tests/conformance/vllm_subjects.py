"""The backends under test with `VLLMModel`. The nox session `vllm` runs them, in vLLM's environment."""

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

#: SmolLM2 does not support reasoning. With this worked example in its prompt, it writes some.
REASONING_TEMPLATE = (
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
def shared_model() -> VLLMModel:
    """Return a model that keeps the shared engine alive until the program ends: it takes half a minute to load.

    The environment variables stay set, because a forked child process loads its own engine.
    """
    environment = vllm_environment()
    use_variables(environment)
    return VLLMModel(environment.model, **ENGINE)


@contextmanager
def vllm_model(**settings: Any) -> Iterator[Subject]:
    """`VLLMModel` in this process, with real weights."""
    with VLLMModel(shared_model().model_id or "", **ENGINE, **settings) as model:
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(render(model, messages)),
            busy=lambda: has_work(model),
        )


def render(model: VLLMModel, messages: list[dict[str, Any]]) -> str:
    """Return the prompt as transformers' own tokenizer renders it."""
    return str(model._engine().tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def has_work(model: VLLMModel) -> int:
    """Return 1 if vLLM's scheduler reports that it has work, else 0."""
    shared = model._engine().shared
    call = shared.llm.engine_core.call_utility_async("has_work")
    return int(asyncio.run_coroutine_threadsafe(call, shared.loop).result(10))


@contextmanager
def vllm_reasoning() -> Iterator[Subject]:
    """`VLLMModel` with a template that makes the model reason first."""
    with vllm_model(chat_template=REASONING_TEMPLATE, max_tokens=100) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject


SUBJECTS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "vllm": lambda folder: vllm_model(),
    "vllm-tools": lambda folder: vllm_model(chat_template=TEMPLATE.read_text()),
    "vllm-thinking": lambda folder: vllm_reasoning(),
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
