"""What is llama.cpp's own: loading, the prompt cache, cancellation, settings. The rest is the contract's."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.llamacpp import model_file

from modelport import (
    InvalidRequest,
    Lark,
    LlamaCppModel,
    ModelError,
    NotFoundError,
    Regex,
    ServerError,
    UnsupportedFeature,
)  # fmt: skip

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppModel]:
    with LlamaCppModel(model_file(), context_length=4096, threads=1) as model:
        yield model


def busy(model: LlamaCppModel) -> int:
    return sum(slot["is_processing"] for slot in model._engine().query("/slots"))


def test_the_capital_of_france(model: LlamaCppModel) -> None:
    message = model("What is the capital of France? Answer in one sentence.", temperature=0)
    assert message.content == "The capital of France is Paris."
    assert message.finish_reason == "stop"


def test_a_conversation_pays_only_for_what_is_new(model: LlamaCppModel) -> None:
    story = "The fox went to the river and drank. " * 40
    messages: list[Any] = [{"role": "user", "content": story + "What did it do?"}]
    first = model(messages, max_tokens=8, temperature=0)
    messages += [first, {"role": "user", "content": "And then?"}]
    usage = model(messages, max_tokens=4, temperature=0).token_usage
    assert usage is not None and usage.input_tokens and usage.cached_input_tokens
    assert usage.input_tokens - usage.cached_input_tokens < 60 < usage.input_tokens


@pytest.mark.parametrize("phase", ["prompt", "answer"])
def test_a_cancelled_call_frees_its_slot(model: LlamaCppModel, phase: str) -> None:
    prompt = f"{time.time()} " + "word " * (2500 if phase == "prompt" else 5)

    async def cancel() -> float:
        async with model.agenerate_stream(prompt + "Write a long story.", max_tokens=500) as stream:
            if phase == "prompt":
                reading = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0.3)
                assert busy(model) == 1
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            else:
                await anext(stream)
            begin = time.monotonic()
        return time.monotonic() - begin

    asyncio.run(cancel())
    end = time.monotonic() + 5  # a token, or one batch of the prompt, on a busy machine
    while busy(model) and time.monotonic() < end:
        time.sleep(0.01)
    assert busy(model) == 0


def test_four_requests_run_at_once(model: LlamaCppModel) -> None:
    """Counted at the engine, not by the clock."""
    most = 0
    streams = [model.generate_stream(f"Write a long story about {n}.", max_tokens=120) for n in range(4)]
    threads = [threading.Thread(target=list, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, busy(model))
        time.sleep(0.01)
    assert most == 4


def test_samplers_are_taken_and_what_is_none_is_refused_by_name(model: LlamaCppModel) -> None:
    assert model("Hello", max_tokens=4, repetition_penalty=1.3, min_p=0.1, mirostat=2, top_k=5).text
    with pytest.raises(
        UnsupportedFeature, match="'typical_q' is not a parameter of this backend; did you mean 'typical_p'"
    ):
        model("Hello", typical_q=0.5)


@pytest.mark.parametrize(
    ("grammar", "kind", "told"),
    [
        ({"type": "object", "not": {"required": ["a"]}}, UnsupportedFeature, "not"),
        (Regex("(?=a)b"), UnsupportedFeature, "look-around"),
        (Lark("start: nonesuch"), InvalidRequest, "nonesuch"),
    ],
)
def test_a_grammar_that_the_engine_would_pass_over_is_refused(
    model: LlamaCppModel, grammar: Any, kind: type[ModelError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        model("Hello", grammar=grammar, max_tokens=4)
    assert busy(model) == 0


def test_a_schema_with_definitions_and_slashes_is_enforced(model: LlamaCppModel) -> None:
    schema = {
        "type": "object",
        "properties": {"path": {"$ref": "#/$defs/path"}, "kind": {"enum": ["a/b", 'c"d']}},
        "required": ["path", "kind"],
        "additionalProperties": False,
        "$defs": {"path": {"type": "string", "pattern": "^/[a-z]{1,5}/[a-z]{1,5}$"}},
    }
    parsed = model("Give a path.", grammar=schema, max_tokens=80).parsed
    assert set(parsed) == {"path", "kind"} and parsed["path"].startswith("/")


def test_context_length_is_what_a_request_may_hold() -> None:
    with LlamaCppModel(model_file(), context_length=256, parallel=2, threads=1) as model:
        with pytest.raises(ModelError, match="256"):
            model("word " * 300)
        message = model("Write a very long story.", max_tokens=1000, ignore_eos=True)
        assert message.finish_reason == "length"


def test_a_chat_template_of_ones_own(model: LlamaCppModel) -> None:
    template = "{% for m in messages %}<|im_start|>user\nSay only the word {{ m['content'] }}.<|im_end|>\n{% endfor %}"
    with LlamaCppModel(model_file(), context_length=512, threads=1, chat_template=template) as own:
        usage = own("hello", max_tokens=2).token_usage
        assert usage is not None and usage.input_tokens == own.count_tokens(
            "<|im_start|>user\nSay only the word hello.<|im_end|>\n"
        )


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        ({"model_id": "/no/such/model.gguf"}, NotFoundError, "/no/such/model.gguf"),
        ({"model_id": __file__}, ModelError, "test_llamacpp"),
        ({"context_length": 0}, InvalidRequest, "context_length=0"),
        ({"engine_params": {"n_nonesuch": 1}}, InvalidRequest, "n_nonesuch"),
        ({"mmproj": "/no/such/mmproj.gguf"}, NotFoundError, "/no/such/mmproj.gguf"),
    ],
)
def test_what_can_not_be_loaded_is_named(arguments: dict[str, Any], kind: type[ModelError], told: str) -> None:
    with pytest.raises(kind, match=told):
        LlamaCppModel(**{"model_id": model_file(), "threads": 1, **arguments})


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ServerError, match=r"noise\.gguf"):
        LlamaCppModel(path)


def test_a_closed_model_says_so() -> None:
    model = LlamaCppModel(model_file(), context_length=256, threads=1)
    model.close()
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model("Hello")


def test_settings_are_saved(model: LlamaCppModel) -> None:
    data = model.to_dict()
    assert data == {"class": "LlamaCppModel", "model_id": str(model_file()), "context_length": 4096, "threads": 1}
    twin = pickle.loads(pickle.dumps(model))
    assert twin.to_dict() == data
    twin.close()


def test_nobody_else_on_the_machine_may_use_the_engines_port(model: LlamaCppModel) -> None:
    import http.client

    host = model._engine()._server.listening_address.partition("//")[2]
    for path in ("/v1/models", "/slots"):
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status == 401
        connection.close()
