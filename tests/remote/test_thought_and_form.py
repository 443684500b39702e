"""A form after a thought, through llama.cpp's server, whose mask by itself would hold the thought too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelport import InferenceClientModel, JSONSchema, Model, OpenAIServerModel, Regex
from modelport.constrained.lark import as_lark
from modelport.protocols.chat_completions.dialects import llama_grammar
from tests.conformance.subjects import REASONING_TEMPLATE
from tests.servers.faults import Fault, FaultServer
from tests.servers.llamacpp import LlamaServer, llama_server

pytestmark = pytest.mark.timeout(120)
FORM = Regex("[A-Z][a-z ]{3,40}[.]")
QUESTION = "What is the capital of France?"
SHORT: dict[str, Any] = {"reasoning_budget": 5, "max_tokens": 100, "temperature": 0}


@pytest.fixture(scope="module")
def thinks() -> Iterator[LlamaServer]:
    with llama_server(chat_template=REASONING_TEMPLATE) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


def of_the_port(server: LlamaServer) -> Model:
    return OpenAIServerModel("m", server.base_url, server.api_key, dialect="llama.cpp")


def of_the_sdk(server: LlamaServer) -> Model:
    return OpenAIServerModel("m", server.base_url, server.api_key, dialect="llama.cpp", client_kwargs={"timeout": 60})


def of_the_hub(server: LlamaServer) -> Model:
    return InferenceClientModel(base_url=server.base_url, api_key=server.api_key, dialect="llama.cpp")


def hold_to_the_form(model: Model) -> None:
    """The thought is free, and the answer has its form, in both ways."""
    message = model.generate(QUESTION, grammar=FORM, **SHORT)
    stream = model.generate_stream(QUESTION, grammar=FORM, **SHORT)
    assert sum(bool(delta.reasoning) for delta in stream) > 1
    for answer in (message, stream.message):
        assert answer.reasoning
        assert not re.fullmatch(FORM.pattern, answer.reasoning.strip())
        assert re.fullmatch(FORM.pattern, answer.text), answer
        assert answer.enforcement == "enforced"
    schema = JSONSchema({"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                         "required": ["city"], "additionalProperties": False})  # fmt: skip
    assert set(model.generate(QUESTION, grammar=schema, **SHORT).parsed) == {"city"}


@pytest.mark.parametrize("make", [of_the_port, of_the_sdk, of_the_hub])
def test_the_thought_is_free_and_the_answer_has_its_form(make: Callable[..., Model], thinks: LlamaServer) -> None:
    with make(thinks) as model:
        hold_to_the_form(model)


def test_a_model_that_does_not_think_is_masked_from_the_first_token(plain: LlamaServer) -> None:
    with of_the_port(plain) as model:
        message = model.generate(QUESTION, grammar=FORM, temperature=0, max_tokens=100)
        assert re.fullmatch(FORM.pattern, message.text)
        assert not message.reasoning


def test_a_server_without_the_path_is_asked_as_before() -> None:
    """Behind a gateway a server has other paths."""
    with FaultServer() as server:
        server.script(then=Fault.ok("Paris is large."))
        with OpenAIServerModel("m", server.base_url, "key", dialect="llama.cpp", retry=False) as model:
            assert model.generate(QUESTION, grammar=FORM).text == "Paris is large."
            (request,) = server.requests
            assert request.json["grammar"] == llama_grammar(as_lark(FORM, old_llguidance=True))
            # Who asks for a thought gives it room, if the model has one.
            model.generate(QUESTION, grammar=FORM, reasoning_budget=50)
            assert '("<think>" reasoning_)?' in server.requests[-1].json["grammar"]
