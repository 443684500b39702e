"""The subjects of the contract: every backend on a real engine, or through its real client on a server of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
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
from tests.servers.aimock import aimock
from tests.servers.faults import Fault, FaultServer
from tests.servers.front import azure
from tests.servers.llamacpp import llama_server, model_file
from tests.servers.smollm2 import smollm2_folder
from tests.servers.tiny_mmproj import write_tiny_mmproj
from tests.servers.vllm import vllm_server

KEY = "sk-contract-key-0123456789"
TOO_LONG = "word " * 6000
FIXTURES = Path(__file__).parents[1] / "servers" / "fixtures"

#: One thread each: with two, llama.cpp is up to a hundred times slower beside another busy process on two cores.
ENGINE: dict[str, Any] = {"context_length": 4096, "threads": 1}


@contextmanager
def embedded(**settings: Any) -> Iterator[Subject]:
    """llama.cpp in this process, on real weights."""
    with LlamaCppModel(model_file(), **ENGINE, **settings) as model:
        engine = model._engine
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(
                engine().ask("/apply-template", {"messages": messages})["prompt"]
            ),
            busy=lambda: sum(slot["is_processing"] for slot in engine().ask("/slots")),
        )


@contextmanager
def seeing(folder: Path) -> Iterator[Subject]:
    """llama.cpp with a tiny random projector: what it sees means nothing to it, but it sees."""
    with embedded(mmproj=write_projector(folder)) as subject:
        yield subject


def write_projector(folder: Path) -> Path:
    """A vision projector that fits the embedded model."""
    path = folder / "tiny-mmproj.gguf"
    write_tiny_mmproj(path)
    return path


#: SmolLM2 does not think by itself: a template that opens a thought; a budget makes the model close it.
THINKING_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
TOOLS_TEMPLATE = (FIXTURES / "smollm2_tools.jinja").read_text()


@contextmanager
def thinking() -> Iterator[Subject]:
    """llama.cpp with a template that makes it think first, freely, and a grammar for the answer alone."""
    settings = {"grammar": Regex("[A-Z][a-z ]{3,40}[.]"), "max_tokens": 100, "reasoning_budget": 5}
    with embedded(chat_template=THINKING_TEMPLATE, **settings) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject


@contextmanager
def faulty(make: Callable[..., Model]) -> Iterator[Mapping[str, Callable[[], Model]]]:
    """Models that meet one fault each; `make` takes the base URL and further settings."""
    with ExitStack() as stack:

        def serving(fault: Fault) -> str:
            server = stack.enter_context(FaultServer())
            server.script(then=fault)
            return server.base_url

        statuses = {str(status): serving(Fault.status(status)) for status in (401, 404, 500)}
        statuses["429"] = serving(Fault.rate_limit(0))
        refused = stack.enter_context(FaultServer())
        refused.stop_listening()
        yield {
            **{name: partial(make, url, retry=False) for name, url in statuses.items()},
            "timeout": partial(make, serving(Fault.silence()), timeout=0.2),
            "refused": partial(make, refused.base_url, retry=False),
        }


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Where a model that was saved finds its key again."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def openai(base_url: str, **settings: Any) -> Model:
    """By a server's base URL."""
    return OpenAIServerModel("smollm2", api_base=base_url, api_key=KEY, **settings)


def azure_openai(base_url: str, **settings: Any) -> Model:
    """Likewise; the endpoint is what `/v1` would follow."""
    return AzureOpenAIServerModel("smollm2", base_url.removesuffix("/v1"), KEY, "2024-10-21", **settings)


def huggingface(base_url: str, **settings: Any) -> Model:
    """Likewise."""
    return InferenceClientModel("smollm2", base_url=base_url, token=KEY, **settings)


#: How a model is made, and where it finds its key when it was saved.
KEYS = {openai: "OPENAI_API_KEY", azure_openai: "AZURE_OPENAI_API_KEY", huggingface: "HF_TOKEN"}


@contextmanager
def served(folder: Path, make: Callable[..., Model] = openai, **settings: Any) -> Iterator[Subject]:
    """A model on llama.cpp's own HTTP server with the same weights, and a projector."""
    make = partial(make, **settings)
    with ExitStack() as stack:
        server = stack.enter_context(llama_server(api_key=KEY, mmproj=write_projector(folder)))
        url = server.base_url
        if make.func is azure_openai:
            url = stack.enter_context(azure(server.url, KEY, deployment="smollm2", api_key=KEY)).url
        faults = stack.enter_context(faulty(make))
        stack.enter_context(environment(KEYS[make.func], KEY))
        # The embedded model's template has no tools, so the port puts them into the prompt.
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
    """A model of models: what answers is the second, since the first is never there."""
    with FaultServer() as absent, served(folder) as subject:
        absent.stop_listening()
        first = openai(absent.base_url, retry=False)
        model = FallbackModel([first, subject.make()], cooldown=0)
        faults = {name: partial(lambda make: FallbackModel([make()]), make) for name, make in subject.faults.items()}
        yield replace(subject, make=lambda: model, faults=faults)


@contextmanager
def vllm() -> Iterator[Subject]:
    """`OpenAIServerModel` on `vllm serve` with the same weights, and a template that has tools."""
    with (
        vllm_server(api_key=KEY) as server,
        environment("OPENAI_API_KEY", KEY),
        OpenAIServerModel(
            server.model, api_base=server.base_url, api_key=KEY, dialect="vllm",
            capabilities={"inputs": ["text"], "reasoning": False},
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
def mocked(make: Callable[..., Model] = openai) -> Iterator[Subject]:
    """A model on a server of fixed answers: real tool calls, parallel and in pieces, images, reasoning."""
    with (
        aimock(FIXTURES / "contract.json", api_key=KEY) as server,
        make(server.base_url, capabilities={"logprobs": False}) as model,
    ):
        yield Subject(
            make=lambda: model,
            prompts={"reasoning": "What is six times seven? Think first.", "too long": "This is too much."},
            secrets=(KEY,),
        )


@contextmanager
def transformers_model(**settings: Any) -> Iterator[Subject]:
    """`TransformersModel` in this process, on the same weights in f32."""
    with TransformersModel(smollm2_folder(), context_length=4096, retry=False, **settings) as model:
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(render(model, messages)),
            busy=lambda: model._engine().busy,
        )


def render(model: Any, messages: list[dict[str, Any]]) -> str:
    """The prompt of a conversation, by the model's own template."""
    return str(model._engine().tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


class ClosesThought:
    """A logits processor that makes SmolLM2, which does not think by itself, end its thought after some tokens."""

    def __init__(self, tokenizer: Any, after: int = 8) -> None:
        self._tokenizer, self._after = tokenizer, after
        self._close = tokenizer.encode("</think>")

    def forced(self, written: list[int]) -> int | None:
        """The token that must come next; `None` where any may."""
        thought = self._tokenizer.decode(written).rpartition("<think>")[2]
        if "</think>" in thought or len(self._tokenizer.encode(thought)) < self._after:
            return None
        done = next(n for n in range(len(self._close) - 1, -1, -1) if written[len(written) - n :] == self._close[:n])
        return int(self._close[done])

    def __call__(self, ids: Any, scores: Any) -> Any:
        """For transformers."""
        if (token := self.forced(ids[0].tolist())) is not None:
            scores[:, [other for other in range(scores.shape[1]) if other != token]] = float("-inf")
        return scores

    def for_mlx(self, ids: Any, scores: Any) -> Any:
        """For mlx-lm, whose arrays are its own."""
        import mlx.core as mx

        if (token := self.forced(ids.tolist())) is not None:
            scores = mx.where(mx.arange(scores.shape[1]) == token, scores, -mx.inf)
        return scores


@contextmanager
def transformers_thinking() -> Iterator[Subject]:
    """`TransformersModel` with a template that makes it think first, freely, and a grammar for the answer alone."""
    from transformers import AutoTokenizer

    closes = ClosesThought(AutoTokenizer.from_pretrained(smollm2_folder()))
    settings = {"grammar": Regex("[A-Z][a-z ]{3,40}[.]"), "max_tokens": 100, "logits_processor": [closes]}
    with transformers_model(chat_template=THINKING_TEMPLATE, **settings) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject


@contextmanager
def mlx_model(**settings: Any) -> Iterator[Subject]:
    """`MLXModel` in this process, on the same weights in f32."""
    with MLXModel(smollm2_folder(), context_length=4096, retry=False, **settings) as model:
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=lambda messages: model.count_tokens(render(model, messages)),
            busy=lambda: model._engine().busy,
        )


@contextmanager
def mlx_thinking() -> Iterator[Subject]:
    """`MLXModel` with a template that makes it think first, freely, and a grammar for the answer alone."""
    from transformers import AutoTokenizer

    closes = ClosesThought(AutoTokenizer.from_pretrained(smollm2_folder()))
    settings = {"grammar": Regex("[A-Z][a-z ]{3,40}[.]"), "max_tokens": 100, "logits_processors": [closes.for_mlx]}
    with mlx_model(chat_template=THINKING_TEMPLATE, **settings) as subject:
        subject.prompts = {"reasoning": "What is the capital of France?"}
        yield subject
