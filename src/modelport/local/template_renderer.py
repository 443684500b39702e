"""Renders the chat templates of models within a budget, in the place of the libraries that load the models.

`renderer_for` replaces `apply_chat_template` of a tokenizer of the transformers library. `check_template` is for
llama.cpp, whose own C++ code renders templates: it renders the same conversation first, and raises the error that
llama.cpp would need for ever to find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelport.errors import InvalidRequest, MissingDependency, ModelError
from modelport.local.chat_template import PROBES


def renderer_for(renderer: Any) -> Callable[..., str]:
    """Return a function with the arguments of `apply_chat_template`, which renders within a budget.

    Args:
        renderer: A tokenizer or a processor of the transformers library. If its class has an `apply_chat_template` of
            its own, that method is returned: it is the caller's code, and may not use a template.
    """
    from transformers import ProcessorMixin
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    is_processor = isinstance(renderer, ProcessorMixin)
    library_class = ProcessorMixin if is_processor else PreTrainedTokenizerBase
    if getattr(type(renderer), "apply_chat_template", None) is not library_class.apply_chat_template:
        return renderer.apply_chat_template  # type: ignore[no-any-return]
    tokenizer = renderer.tokenizer if is_processor else renderer
    # Newer versions of the library give the reasoning of a message several names.
    alias = getattr(chat_template_utils, "_alias_reasoning_fields", list)

    def apply(
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **variables: Any,
    ) -> str:
        if is_processor:
            source = _processor_template(renderer, chat_template)
        else:
            source = tokenizer.get_chat_template(chat_template, tools)
        plain = [{name: value for name, value in message.items() if value is not None} for message in messages]
        values = {
            "messages": [_with_reasoning(message) for message in alias(plain_data(plain))],
            "tools": plain_data(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **tokenizer.special_tokens_map,
            **plain_data(variables),
        }
        return rendered(source, values)

    return apply


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message that also has its reasoning under the name that the template of Solar Open reads."""
    return {"reasoning": message["reasoning_content"], **message} if "reasoning_content" in message else message


def _processor_template(processor: Any, given: str | None) -> str:
    templates = processor.chat_template
    if isinstance(templates, dict):
        return str(templates.get(given or "default", given or next(iter(templates.values()))))
    return given or str(templates)


def rendered(source: str, variables: Mapping[str, Any]) -> str:
    """Render a template within a budget.

    Raises:
        InvalidRequest: The template computes or produces too much, or its source can't be read.
        Exception: The template raises an error of any kind.
    """
    from modelport.local.bounded_jinja import render
    from modelport.local.template_budget import TemplateLimit

    try:
        return render(source, variables, _size(variables.get("messages"), variables.get("tools")))
    except TemplateLimit as error:
        raise InvalidRequest(f"the model's chat template was ended: {error}") from None


def check_template(sources: Sequence[str], messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> None:
    """Render templates that llama.cpp is going to render.

    Errors that a template raises itself are left to llama.cpp, which raises its own.

    Args:
        sources: The model's templates; llama.cpp chooses one of them.
        messages: The conversation in OpenAI's format.
        variables: The other variables.

    Raises:
        InvalidRequest: A template computes or produces too much, or its source can't be read.
        MissingDependency: jinja2 is not installed.
    """
    _require_jinja2()
    from modelport.local.template_budget import shared_time

    # llama.cpp leaves `tools` undefined if there are none.
    values = {"bos_token": "", "eos_token": "", "add_generation_prompt": True, "enable_thinking": True}
    values |= {name: value for name, value in plain_data(variables).items() if name != "tools" or value}
    with shared_time():
        for source in sources:
            try:
                rendered(source, {**values, "messages": plain_data(messages)})
            except ModelError:
                raise
            except Exception:
                pass


def _require_jinja2() -> None:
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise MissingDependency("jinja2", "llamacpp") from None


def probe_template(sources: Sequence[str], name: str) -> None:
    """Render short conversations with templates that llama.cpp is going to load.

    llama.cpp renders such conversations itself when it loads a model, to find what the template supports.

    Args:
        sources: The templates.
        name: The setting or the file with the templates, for errors.

    Raises:
        InvalidRequest: A template computes or produces too much, or its source can't be read.
        MissingDependency: jinja2 is not installed.
    """
    _require_jinja2()
    from modelport.local.template_budget import shared_time

    with shared_time():
        for messages, tools in PROBES:
            for variables in ({}, {"enable_thinking": False, "add_generation_prompt": False}):
                try:
                    check_template(sources, messages, {"tools": tools, **variables})
                except InvalidRequest as error:
                    raise InvalidRequest(f"{name}: {error.message}") from None


def plain_data(value: Any) -> Any:
    """Return a copy that consists of Python's own types only, whose methods the sandbox knows."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {plain_data(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_data(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain_data(item) for item in value)
    return f"<{type(value).__name__}>"


def _size(*values: Any) -> int:
    """Return how many characters the texts in the values have."""
    size, stack = 0, list(values)
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, Mapping):
            stack += item.values()
        elif isinstance(item, list | tuple):
            stack += item
    return size
