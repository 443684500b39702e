"""The llama.cpp server for tests answers, counts tokens, and takes images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .llamacpp import LlamaServer, llama_server
from .process import request_json
from .raw_client import connect, image_message, request_bytes
from .tiny_mmproj import write_tiny_mmproj

pytestmark = pytest.mark.engine

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    mmproj = write_tiny_mmproj(tmp_path_factory.mktemp("mmproj") / "tiny.gguf")
    with llama_server(mmproj=mmproj) as server:
        yield server


def test_llama_server_answers_and_counts_prompt_tokens(llama: LlamaServer) -> None:
    answer = llama.chat(QUESTION, temperature=0, max_tokens=16)
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["usage"]["prompt_tokens"] == llama.count_prompt_tokens(QUESTION)
    turns = [{"role": "system", "content": "Bref. <|im_end|>"}, *QUESTION, {"role": "assistant", "content": "Oui"}]
    turns.append({"role": "user", "content": "Où ça ?\n\n"})
    assert llama.chat(turns, max_tokens=1)["usage"]["prompt_tokens"] == llama.count_prompt_tokens(turns)


def test_llama_server_refuses_a_wrong_key(llama: LlamaServer) -> None:
    with pytest.raises(RuntimeError, match="answered 401"):
        request_json("GET", f"{llama.url}/v1/models", headers={"Authorization": "Bearer wrong"})


def test_llama_server_frees_its_slot_when_the_client_leaves(llama: LlamaServer) -> None:
    with connect(llama.base_url) as client:
        client.sendall(request_bytes(llama.base_url, QUESTION, stream=True, max_tokens=3000, ignore_eos=True))
        assert client.recv(10)
        assert llama.busy_slots() == 1
    llama.wait_until_idle(5)


def test_llama_server_output_depends_on_the_image(llama: LlamaServer) -> None:
    red, blue, red_again = (first_token_logprobs(llama, colour) for colour in ("red", "blue", "red"))
    assert max(abs(red[token] - blue.get(token, -20.0)) for token in red) > 0.05
    assert red_again == pytest.approx(red, abs=1e-2)
    message = image_message("red")
    usage = llama.chat(message, max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == llama.count_prompt_tokens(message)


def test_projector_file_depends_only_on_its_seed(tmp_path: Path) -> None:
    files = [write_tiny_mmproj(tmp_path / f"{n}.gguf", seed=seed).read_bytes() for n, seed in enumerate((1, 1, 2))]
    assert files[0] == files[1] != files[2]


def first_token_logprobs(llama: LlamaServer, colour: str) -> dict[str, float]:
    """Return the most probable first tokens of a description, with their log probabilities."""
    answer = llama.chat(image_message(colour), temperature=0, max_tokens=1, logprobs=True, top_logprobs=5)
    return {top["token"]: top["logprob"] for top in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
