"""The subjects of the conformance checks, one for each backend under test.

Each function opens a subject as a context manager: a model on a real engine, or a model whose real client talks to a
server that others wrote. The subjects of LiteLLM, vLLM and Bedrock have modules of their own.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from modelport import (
    AzureOpenAIServerModel,
    FallbackModel,
    InferenceClientModel,
    LlamaCppModel,
    MLXModel,
    Model,
    OpenAIServerModel,
    Regex,
    TransformersModel,
)
from modelport.testing import Subject
from tests.fast_products import use_fast_products
from tests.servers.aimock import aimock
from tests.servers.faults import Fault, FaultServer
from tests.servers.front import azure
from tests.servers.llamacpp import llama_server, model_file
from tests.servers.smollm2 import smollm2_folder
from tests.servers.tiny_mmproj import write_tiny_mmproj
from tests.servers.vllm import VllmServer, vllm_server

KEY = "sk-conformance-key-0123456789"
TOO_LONG = "word " * 6000
FIXTURES = Path(__file__).parents[1] / "servers" / "fixtures"

#: One thread, because with two llama.cpp is up to a hundred times slower beside another busy process on two cores.
ENGINE: dict[str, Any] = {"context_length": 4096, "threads": 1}


@contextmanager
def local_llamacpp(**settings: Any) -> Iterator[Subject]:
    """`LlamaCppModel` on real weights."""
    with LlamaCppModel(model_file(), **ENGINE, **settings) as model:
        engine = model._engine
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(
                engine().query("/apply-template", {"messages": messages})["prompt"]
            ),
            busy=lambda: sum(slot["is_processing"] for slot in engine().query("/slots")),
        )


@contextmanager
def llamacpp_with_images(folder: Path) -> Iterator[Subject]:
    """`LlamaCppModel` with a tiny random projector: images change its output, although not in a meaningful way."""
    with local_llamacpp(mmproj=write_projector(folder)) as subject:
        yield subject


def write_projector(folder: Path) -> Path:
    """Write a vision projector for the default model, and return its path."""
    path = folder / "tiny-mmproj.gguf"
    write_tiny_mmproj(path)
    return path


#: SmolLM2 does not reason by itself. This template begins the reasoning; a reasoning budget makes the model end it.
REASONING_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
TOOLS_TEMPLATE = (FIXTURES / "smollm2_tools.jinja").read_text()


@contextmanager
def llamacpp_with_reasoning() -> Iterator[Subject]:
    """`LlamaCppModel` that reasons first, with a grammar for the text after the reasoning."""
    settings = {"grammar": Regex("[A-Z][a-z ]{3,40}[.]"), "max_tokens": 100, "reasoning_budget": 5}
    with local_llamacpp(chat_template=REASONING_TEMPLATE, **settings) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject


@contextmanager
def models_with_faults(make: Callable[..., Model]) -> Iterator[Mapping[str, Callable[[], Model]]]:
    """Yield functions that make a model which meets one fault.

    Args:
        make: Makes a model from a base URL and further settings.
    """
    with ExitStack() as stack:

        def serve_fault(fault: Fault) -> str:
            server = stack.enter_context(FaultServer())
            server.script(then=fault)
            return server.base_url

        statuses = {str(status): serve_fault(Fault.status(status)) for status in (401, 404, 500)}
        statuses["429"] = serve_fault(Fault.rate_limit(None))
        statuses["retry_after"] = serve_fault(Fault.rate_limit(7))
        statuses["truncated"] = serve_fault(Fault.cut("finish"))
        refused = stack.enter_context(FaultServer())
        refused.stop_listening()
        yield {
            **{name: partial(make, url, retry=False) for name, url in statuses.items()},
            "timeout": partial(make, serve_fault(Fault.silence()), timeout=0.2),
            "refused": partial(make, refused.base_url, retry=False),
        }


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, where a restored model finds its key."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def openai_model(base_url: str, **settings: Any) -> Model:
    """Make an `OpenAIServerModel` for the base URL of a server."""
    return OpenAIServerModel("smollm2", api_base=base_url, api_key=KEY, **settings)


def azure_model(base_url: str, **settings: Any) -> Model:
    """Make an `AzureOpenAIServerModel` for the base URL of a server; its endpoint lacks the `/v1`."""
    return AzureOpenAIServerModel("smollm2", base_url.removesuffix("/v1"), KEY, "2024-10-21", **settings)


def huggingface_model(base_url: str, **settings: Any) -> Model:
    """Make an `InferenceClientModel` for the base URL of a server."""
    return InferenceClientModel("smollm2", base_url=base_url, token=KEY, **settings)


#: The environment variable in which a restored model finds its key.
KEY_VARIABLES = {
    openai_model: "OPENAI_API_KEY", azure_model: "AZURE_OPENAI_API_KEY", huggingface_model: "HF_TOKEN",
}  # fmt: skip


@contextmanager
def on_llamacpp_server(folder: Path, make: Callable[..., Model] = openai_model, **settings: Any) -> Iterator[Subject]:
    """A remote model on llama.cpp's own HTTP server, with the same weights and a projector."""
    make = partial(make, **settings)
    with ExitStack() as stack:
        server = stack.enter_context(llama_server(api_key=KEY, mmproj=write_projector(folder), slots=1))
        url = server.base_url
        if make.func is azure_model:
            url = stack.enter_context(azure(server.url, KEY, deployment="smollm2", api_key=KEY)).url
        faults = stack.enter_context(models_with_faults(make))
        stack.enter_context(environment_variable(KEY_VARIABLES[make.func], KEY))
        # The default model's chat template has no tools, so modelport puts them into the prompt.
        model = make(url, dialect="llama.cpp", capabilities={"tools": False, "inputs": ["text", "image"]})
        stack.enter_context(model)
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=server.count_prompt_tokens,
            busy=server.busy_slots,
            faults=faults,
            secrets=(KEY,),
        )


@contextmanager
def fallback(folder: Path) -> Iterator[Subject]:
    """A `FallbackModel` whose first model can't be reached, so that the second one responds."""
    with FaultServer() as unreachable, on_llamacpp_server(folder) as subject:
        unreachable.stop_listening()
        first = openai_model(unreachable.base_url, retry=False)
        model = FallbackModel([first, subject.make()], cooldown=0)
        faults = {name: partial(lambda make: FallbackModel([make()]), make) for name, make in subject.faults.items()}
        yield replace(subject, make=lambda: model, faults=faults)


@cache
def shared_vllm_server() -> VllmServer:
    """Start `vllm serve`, which takes a minute, once for all backends. It ends with this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(vllm_server(api_key=KEY))


@contextmanager
def on_vllm_server(**settings: Any) -> Iterator[Subject]:
    """`OpenAIServerModel` on `vllm serve`, with the same weights and a chat template that has tools."""
    server = shared_vllm_server()
    with (
        environment_variable("OPENAI_API_KEY", KEY),
        OpenAIServerModel(
            server.model, api_base=server.base_url, api_key=KEY, dialect="vllm",
            capabilities={"inputs": ["text"], "reasoning": False}, **settings,
        ) as model,
    ):  # fmt: skip
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: len(server.prompt_tokens(messages)),
            busy=server.running,
            secrets=(KEY,),
        )


@contextmanager
def on_mock_server(make: Callable[..., Model] = openai_model) -> Iterator[Subject]:
    """A remote model on a server of fixed responses: tool calls, parallel and in fragments, images, reasoning."""
    with (
        aimock(FIXTURES / "conformance.json", api_key=KEY) as server,
        make(server.base_url, capabilities={"logprobs": False, "enforces_grammars": True}) as model,
    ):
        yield Subject(
            make=lambda: model,
            prompts={"reasoning": "What is six times seven? Think first.", "too long": "This is too much."},
            secrets=(KEY,),
        )


@contextmanager
def local_transformers(**settings: Any) -> Iterator[Subject]:
    """`TransformersModel` on the same weights in f32."""
    with TransformersModel(smollm2_folder(), context_length=4096, retry=False, **settings) as model:
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(render_prompt(model, messages)),
            busy=lambda: model._engine().busy,
        )


def render_prompt(model: Any, messages: list[dict[str, Any]]) -> str:
    """Return the prompt of a conversation, rendered with the model's own chat template."""
    return str(model._engine().tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


class EndsReasoning:
    """A logits processor that makes SmolLM2, which does not reason by itself, end its reasoning after some tokens.

    Args:
        tokenizer: The model's tokenizer.
        after: The number of reasoning tokens.
    """

    def __init__(self, tokenizer: Any, after: int = 8) -> None:
        self._tokenizer, self._after = tokenizer, after
        self._end = tokenizer.encode("</think>")

    def forced_token(self, tokens: list[int]) -> int | None:
        """Return the token that must follow these tokens; `None` where any token may."""
        reasoning = self._tokenizer.decode(tokens).rpartition("<think>")[2]
        if "</think>" in reasoning or len(self._tokenizer.encode(reasoning)) < self._after:
            return None
        written = next(n for n in range(len(self._end) - 1, -1, -1) if tokens[len(tokens) - n :] == self._end[:n])
        return int(self._end[written])

    def __call__(self, ids: Any, scores: Any) -> Any:
        """Process logits for transformers."""
        if (token := self.forced_token(ids[0].tolist())) is not None:
            scores[:, [other for other in range(scores.shape[1]) if other != token]] = float("-inf")
        return scores

    def for_mlx(self, ids: Any, scores: Any) -> Any:
        """Process logits for mlx-lm, which has arrays of its own."""
        import mlx.core as mx

        if (token := self.forced_token(ids.tolist())) is not None:
            scores = mx.where(mx.arange(scores.shape[1]) == token, scores, -mx.inf)
        return scores


@contextmanager
def transformers_with_reasoning() -> Iterator[Subject]:
    """`TransformersModel` that reasons first, with a grammar for the text after the reasoning."""
    from transformers import AutoTokenizer

    processor = EndsReasoning(AutoTokenizer.from_pretrained(smollm2_folder()))
    settings = {"grammar": Regex("[A-Z][a-z ]{3,40}[.]"), "max_tokens": 100, "logits_processor": [processor]}
    with local_transformers(chat_template=REASONING_TEMPLATE, **settings) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject


@contextmanager
def local_mlx(**settings: Any) -> Iterator[Subject]:
    """`MLXModel` on the same weights in f32."""
    use_fast_products()
    with MLXModel(smollm2_folder(), context_length=4096, retry=False, **settings) as model:
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(render_prompt(model, messages)),
            busy=lambda: model._engine().busy,
        )


@contextmanager
def mlx_with_reasoning() -> Iterator[Subject]:
    """`MLXModel` that reasons first, with a grammar for the text after the reasoning."""
    from transformers import AutoTokenizer

    processor = EndsReasoning(AutoTokenizer.from_pretrained(smollm2_folder()))
    settings = {"grammar": Regex("[A-Z][a-z ]{3,40}[.]"), "max_tokens": 100, "logits_processors": [processor.for_mlx]}
    with local_mlx(chat_template=REASONING_TEMPLATE, **settings) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject
