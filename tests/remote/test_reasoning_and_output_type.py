"""Structured output after unconstrained reasoning, on llama.cpp's server."""

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

pytestmark = pytest.mark.engine

SENTENCE = Regex("[A-Z][a-z ]{3,40}[.]")
QUESTION = "What is the capital of France?"
SHORT: dict[str, Any] = {"reasoning_budget": 5, "max_tokens": 100, "temperature": 0}


@pytest.fixture(scope="module")
def reasoning_server() -> Iterator[LlamaServer]:
    with llama_server(chat_template=REASONING_TEMPLATE) as server:
        yield server


@pytest.fixture(scope="module")
def plain_server() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


def http_model(server: LlamaServer) -> Model:
    return OpenAIServerModel("m", server.base_url, server.api_key, dialect="llama.cpp")


def sdk_model(server: LlamaServer) -> Model:
    return OpenAIServerModel("m", server.base_url, server.api_key, dialect="llama.cpp", client_kwargs={"timeout": 60})


def huggingface_model(server: LlamaServer) -> Model:
    return InferenceClientModel(base_url=server.base_url, api_key=server.api_key, dialect="llama.cpp")


def check_reasoning_and_output(model: Model) -> None:
    """Check that the reasoning is unconstrained and the output matches, streamed and not; LiteLLM's tests do so too."""
    message = model.generate(QUESTION, grammar=SENTENCE, **SHORT)
    stream = model.generate_stream(QUESTION, grammar=SENTENCE, **SHORT)
    assert sum(bool(delta.reasoning) for delta in stream) > 1
    for response in (message, stream.message):
        assert response.reasoning
        assert not re.fullmatch(SENTENCE.pattern, response.reasoning.strip())
        assert re.fullmatch(SENTENCE.pattern, response.text), response
        assert response.enforcement == "enforced"
    schema = JSONSchema({"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                         "required": ["city"], "additionalProperties": False})  # fmt: skip
    assert set(model.generate(QUESTION, grammar=schema, **SHORT).parsed) == {"city"}


@pytest.mark.engine
@pytest.mark.timeout(120)
@pytest.mark.parametrize("make", [http_model, sdk_model, huggingface_model])
def test_reasoning_is_unconstrained_and_output_matches(
    make: Callable[..., Model], reasoning_server: LlamaServer
) -> None:
    with make(reasoning_server) as model:
        check_reasoning_and_output(model)


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_output_without_reasoning_is_constrained_from_first_token(plain_server: LlamaServer) -> None:
    with http_model(plain_server) as model:
        message = model.generate(QUESTION, grammar=SENTENCE, temperature=0, max_tokens=100)
        assert re.fullmatch(SENTENCE.pattern, message.text)
        assert not message.reasoning


def test_server_without_render_path_gets_plain_grammar() -> None:
    """A gateway may not offer the path that renders a prompt."""
    with FaultServer() as server:
        server.script(then=Fault.ok("Paris is large."))
        with OpenAIServerModel("m", server.base_url, "key", dialect="llama.cpp", retry=False) as model:
            assert model.generate(QUESTION, grammar=SENTENCE).text == "Paris is large."
            (request,) = server.requests
            assert request.json["grammar"] == llama_grammar(as_lark(SENTENCE, old_llguidance=True))
            # If the caller requests reasoning, the grammar allows for it.
            model.generate(QUESTION, grammar=SENTENCE, reasoning_budget=50)
            assert '"<think>" reasoning_ output_ | output_' in server.requests[-1].json["grammar"]


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_real_server_says_its_kind_and_gets_tools_in_the_prompt(plain_server: LlamaServer) -> None:
    """The chat template of SmolLM2 has no tools, so the server would drop them."""
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
    with OpenAIServerModel("m", plain_server.base_url, plain_server.api_key, temperature=0, max_tokens=4) as model:
        message = model.generate(QUESTION, tools=[tool])
        assert [warning.feature for warning in message.warnings] == ["tools"]
        assert model.generate(QUESTION, grammar=Regex("yes|no")).enforcement == "enforced"
        assert not model.capabilities.tools
