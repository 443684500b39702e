"""What only `LlamaCppModel` does: loading, the prompt cache, cancellation, settings.

Conformance checks test the rest.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.loop_hold import large_schema, longest_hold
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

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("llamacpp")]


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppModel]:
    with LlamaCppModel(model_file(), context_length=4096, threads=1) as model:
        yield model


def slots(model: LlamaCppModel) -> list[dict[str, Any]]:
    """Return what the engine reports about its slots."""
    result: list[dict[str, Any]] = model._engine().query("/slots")
    return result


def newest_slot(model: LlamaCppModel) -> dict[str, Any]:
    """Return the slot of the last request. Its `n_prompt_tokens` are those that are computed or cached by now."""
    return max(slots(model), key=lambda slot: slot.get("id_task", -1))


def busy_slots(model: LlamaCppModel) -> int:
    return sum(slot["is_processing"] for slot in slots(model))


def test_default_model_answers_correctly(model: LlamaCppModel) -> None:
    message = model("What is the capital of France? Answer in one sentence.", temperature=0)
    assert message.content == "The capital of France is Paris."
    assert message.finish_reason == "stop"


def test_next_turn_computes_only_new_tokens(model: LlamaCppModel) -> None:
    story = "The fox went to the river and drank. " * 20
    messages: list[Any] = [{"role": "user", "content": story + "What did it do?"}]
    first = model(messages, max_tokens=8, temperature=0)
    messages += [first, {"role": "user", "content": "And then?"}]
    usage = model(messages, max_tokens=4, temperature=0).token_usage
    assert usage is not None and usage.input_tokens and usage.cached_input_tokens
    assert usage.input_tokens - usage.cached_input_tokens < 60 < usage.input_tokens


@pytest.mark.parametrize("phase", ["prompt", "output"])
def test_cancelled_call_stops_the_engine(model: LlamaCppModel, phase: str) -> None:
    """The engine stops after at most one more batch of the prompt, or one more token."""
    prompt = f"{time.time()} " + "word " * (3500 if phase == "prompt" else 5)
    computed = 0

    async def cancel() -> None:
        nonlocal computed
        async with model.agenerate_stream(prompt + "Write a long story.", max_tokens=500) as stream:
            if phase == "prompt":
                reading = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0.3)
                assert busy_slots(model) == 1
                computed = newest_slot(model)["n_prompt_tokens"]
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            else:
                await anext(stream)

    asyncio.run(cancel())
    end = time.monotonic() + 60
    while busy_slots(model) and time.monotonic() < end:
        time.sleep(0.01)
    assert busy_slots(model) == 0
    slot = newest_slot(model)
    assert slot["n_prompt_tokens"] <= computed + 2 * 512
    assert slot["next_token"][0]["n_decoded"] <= 100


def test_four_requests_run_at_once(model: LlamaCppModel) -> None:
    """The engine's busy slots are counted, and no time is measured."""
    most = 0
    streams = [model.generate_stream(f"Write a long story about {n}.", max_tokens=60) for n in range(4)]
    threads = [threading.Thread(target=list, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    while most < 4 and any(thread.is_alive() for thread in threads):
        most = max(most, busy_slots(model))
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert most == 4


async def deltas_of(model: LlamaCppModel, stops: list[str] | None = None, **options: Any) -> list[Any]:
    stream = options.pop("stream")
    request = model._prepare("Count to twenty.", stops, {"temperature": 0, **options}, stream=stream)
    return [d async for d in model.deltas(request.replace(capabilities=model.capabilities))]


async def test_deltas_of_non_streaming_call_contain_four_tokens_each(model: LlamaCppModel) -> None:
    options: dict[str, Any] = {"max_tokens": 10, "ignore_eos": True, "logprobs": True}
    *streamed, _ = await deltas_of(model, stream=True, **options)
    *joined, closing = await deltas_of(model, stream=False, **options)
    assert (len(streamed), len(joined)) == (10, 3)
    assert "".join(d.content or "" for d in joined) == "".join(d.content or "" for d in streamed)
    assert [len(d.logprobs) for d in joined] == [4, 4, 2]
    assert [d.token_usage.output_tokens for d in joined] == [4, 8, 10]
    assert closing.finish_reason == "length"
    # A stop sequence, and a time limit between tokens, need to see each token.
    for watched in ({"stops": ["\n"]}, {"idle_timeout": 60}):
        *single, _ = await deltas_of(model, stream=False, max_tokens=6, ignore_eos=True, **watched)
        assert len(single) == 6


@pytest.mark.parametrize("field", [{"api_keys": []}, {"hostnames": ["0.0.0.0"]}, {"cors_origins": "*"}], ids=str)
def test_key_and_address_of_the_engines_own_server_cannot_be_changed(field: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="can't be set: the engine's own server listens on the loopback address"):
        LlamaCppModel(model_file(), engine_params=field)


def test_engine_field_of_the_wrong_type_raises_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match=r"engine_params: n_batch='x': "):
        LlamaCppModel(model_file(), engine_params={"n_batch": "x"})


@pytest.mark.parametrize(
    "options",
    [{"seed": 2**64}, {"logit_bias": {str(10**30): 1}}, {"logit_bias": {"5": 1e400}}, {"samplers": [5]},
     {"chat_template_kwargs": {"a": {1, 2}}}, {"dry_sequence_breakers": [5]}, {"mirostat": 2**70}],
    ids=str,
)  # fmt: skip
def test_value_that_the_engine_cannot_read_raises_model_error(model: LlamaCppModel, options: dict[str, Any]) -> None:
    try:
        assert model("Hello", max_tokens=2, **options).text is not None
    except ModelError as error:
        assert type(error) is not ModelError and not isinstance(error, ServerError), error


async def test_large_schema_does_not_hold_the_event_loop(model: LlamaCppModel) -> None:
    """Its grammar is compiled in a thread."""
    # The output is truncated, or the engine does not enforce so large a grammar.
    result, held = await longest_hold(model.agenerate("Hello", grammar=large_schema("a"), max_tokens=1))
    assert isinstance(result, ModelError) and held < 0.1


def test_sampling_parameters_are_accepted_and_unknown_ones_refused(model: LlamaCppModel) -> None:
    assert model("Hello", max_tokens=4, repetition_penalty=1.3, min_p=0.1, mirostat=2, top_k=5).text
    with pytest.raises(UnsupportedFeature, match="'colour' is not a parameter of this backend"):
        model("Hello", colour=0.5)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match=r"'typical_q' is no option: did you mean 'typical_p'\?"):
        model("Hello", typical_q=0.5)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("grammar", "kind", "text"),
    [
        ({"type": "object", "not": {"required": ["a"]}}, UnsupportedFeature, "not"),
        (Regex("(?=a)b"), UnsupportedFeature, "look-around"),
        (Lark("start: nonesuch"), InvalidRequest, "nonesuch"),
    ],
    ids=["schema", "regex", "lark"],
)
def test_grammar_that_engine_would_ignore_is_refused(
    model: LlamaCppModel, grammar: Any, kind: type[ModelError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        model("Hello", grammar=grammar, max_tokens=4)
    assert busy_slots(model) == 0


def test_schema_with_definitions_and_slashes_is_enforced(model: LlamaCppModel) -> None:
    schema = {
        "type": "object",
        "properties": {"path": {"$ref": "#/$defs/path"}, "kind": {"enum": ["a/b", 'c"d']}},
        "required": ["path", "kind"],
        "additionalProperties": False,
        "$defs": {"path": {"type": "string", "pattern": "^/[a-z]{1,5}/[a-z]{1,5}$"}},
    }
    parsed = model("Give a path.", grammar=schema, max_tokens=80).parsed
    assert set(parsed) == {"path", "kind"} and parsed["path"].startswith("/")


def test_context_length_limits_one_request() -> None:
    with LlamaCppModel(model_file(), context_length=256, parallel=2, threads=1) as model:
        with pytest.raises(ModelError, match="256"):
            model("word " * 300)
        message = model("Write a very long story.", max_tokens=1000, ignore_eos=True)
        assert message.finish_reason == "length"


def test_own_chat_template_is_used() -> None:
    template = "{% for m in messages %}<|im_start|>user\nSay only the word {{ m['content'] }}.<|im_end|>\n{% endfor %}"
    with LlamaCppModel(model_file(), context_length=512, threads=1, chat_template=template) as own:
        usage = own("hello", max_tokens=2).token_usage
        assert usage is not None and usage.input_tokens == own.count_tokens(
            "<|im_start|>user\nSay only the word hello.<|im_end|>\n"
        )


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"model_id": "/no/such/model.gguf"}, NotFoundError, "/no/such/model.gguf"),
        ({"model_id": __file__}, ModelError, "test_llamacpp"),
        ({"context_length": 0}, InvalidRequest, "context_length=0"),
        ({"engine_params": {"n_nonesuch": 1}}, InvalidRequest, "n_nonesuch"),
        ({"mmproj": "/no/such/mmproj.gguf"}, NotFoundError, "/no/such/mmproj.gguf"),
    ],
    ids=["missing file", "other file", "context_length", "engine_params", "mmproj"],
)
def test_constructor_wrong_setting_raises_and_names_it(
    arguments: dict[str, Any], kind: type[ModelError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        LlamaCppModel(**{"model_id": model_file(), "threads": 1, **arguments})


def test_load_broken_gguf_raises_invalid_request(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(InvalidRequest, match=r"noise\.gguf"):
        LlamaCppModel(path)


def test_closed_model_raises() -> None:
    model = LlamaCppModel(model_file(), context_length=256, threads=1)
    model.close()
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model("Hello")


def test_settings_survive_dict_and_pickle(model: LlamaCppModel) -> None:
    data = model.to_dict()
    assert data == {"class": "LlamaCppModel", "model_id": str(model_file()), "context_length": 4096, "threads": 1}
    twin = pickle.loads(pickle.dumps(model))
    assert twin.to_dict() == data
    twin.close()


def test_engine_port_requires_key(model: LlamaCppModel) -> None:
    """Other users of the machine can connect to the port."""
    import http.client

    host = model._engine()._server.listening_address.partition("//")[2]
    for path in ("/v1/models", "/slots"):
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status == 401
        connection.close()
