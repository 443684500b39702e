"""What only `VLLMModel` does: sampling parameters, a shared engine, cancellation, errors.

Conformance checks test the rest.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.vllm_subjects import has_work
from tests.servers.vllm_env import ENGINE

from modelport import (
    ContextWindowExceeded,
    InvalidRequest,
    Lark,
    ModelError,
    NotFoundError,
    Regex,
    ServerError,
    UnsupportedFeature,
    VLLMModel,
)
from modelport.inputs.vendor_parameters import parameters_of
from modelport.local.token_engine import EngineRequest, Prompt
from modelport.local.vllm.model import RESERVED_PARAMETERS
from modelport.local.vllm.processes import needs_caller_script
from modelport.local.vllm.shared_engine import engine_error

pytestmark = pytest.mark.engine
CAPITAL = "What is the capital of France? Answer in one sentence."


def token_id(model: VLLMModel, text: str) -> int:
    """Return the id of a text that is one token."""
    (token,) = model._engine().encode_prompt(text, []).tokens
    return token


def becomes_idle(model: VLLMModel, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while has_work(model) and time.monotonic() < end:
        time.sleep(0.02)
    return not has_work(model)


def wait_until_busy(model: VLLMModel) -> None:
    while not has_work(model):
        time.sleep(0.01)


# --- sampling parameters ----------------------------------------------------------------------------------------------


def test_every_sampling_parameter_reaches_vllm(model: VLLMModel) -> None:
    given: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.05, "seed": 5, "presence_penalty": 0.1,
        "frequency_penalty": 0.2, "repetition_penalty": 1.1, "min_tokens": 3, "ignore_eos": True,
        "logit_bias": {"5": 1.5}, "bad_words": ["cat"], "stop_token_ids": [9], "allowed_token_ids": [1, 5, 9],
        "stream_interval": 2, "thinking_token_budget": 4, "extra_args": {"a": 1}, "skip_reading_prefix_cache": True,
    }  # fmt: skip
    params = model._engine()._sampling_params(
        EngineRequest(Prompt([1]), 11, {**given, "logprobs": True, "top_logprobs": 2}, None)
    )
    for name, value in {**given, "logit_bias": {5: 1.5}, "max_tokens": 11, "logprobs": 2}.items():
        assert getattr(params, name) == value, name
    # No other test passes these parameters. A new parameter of a newer vLLM makes this assertion fail.
    untested = model.capabilities.extra_parameters - given.keys() - {"apply_chat_template_kwargs"}
    assert untested == {"watermarking", "trace_decode_token_ids", "repetition_detection"}


def test_call_parameter_takes_precedence_over_constructor(model: VLLMModel) -> None:
    paris = token_id(model, " Paris")
    with VLLMModel(model.model_id or "", **ENGINE, logit_bias={paris: -100}, temperature=0) as biased:
        assert "Paris" not in biased(CAPITAL, max_tokens=20).text
        assert biased(CAPITAL, logit_bias={paris: 0}).content == "The capital of France is Paris."
    assert "Paris" not in model(CAPITAL, temperature=0, bad_words=["Paris"], max_tokens=20).text
    whole = model(CAPITAL, temperature=0, min_tokens=12, max_tokens=12)
    assert whole.finish_reason == "length" and whole.token_usage and whole.token_usage.output_tokens == 12
    assert model(CAPITAL, temperature=0, stop_token_ids=[token_id(model, " is")]).text == "The capital of France is"


def test_table_of_parameters_has_names_of_the_installed_version(model: VLLMModel) -> None:
    """The table is for the constructor, which does not import vLLM; calls accept all names of the installed version."""
    from vllm import SamplingParams

    installed = {*SamplingParams.__struct_fields__} | {"apply_chat_template_kwargs"}
    assert parameters_of("vllm-engine") <= installed - RESERVED_PARAMETERS
    assert (model.capabilities.extra_parameters or set()) >= parameters_of("vllm-engine")


@pytest.mark.parametrize("name", ["prompt_logprobs", "include_stop_str_in_output", "output_kind", "detokenize"])
def test_reserved_parameter_is_refused(model: VLLMModel, name: str) -> None:
    with pytest.raises(UnsupportedFeature, match=name):
        model("Hello", **{name: 1})  # type: ignore[call-overload]


def test_unknown_parameter_is_refused_by_name(model: VLLMModel) -> None:
    with pytest.raises(InvalidRequest, match=r"'min_token' is no option: did you mean 'min_tokens'\?"):
        model("Hello", min_token=5)  # type: ignore[call-overload]
    wrong = VLLMModel(model.model_id or "", **ENGINE, do_sample=True)
    with wrong, pytest.raises(UnsupportedFeature, match="do_sample"):
        wrong("Hello")


@pytest.mark.parametrize(
    ("name", "value"),
    [("stop_token_ids", "x"), ("min_tokens", -1), ("temperature", 3), ("logit_bias", {"a": 1}), ("ignore_eos", 5)],
)
def test_wrong_parameter_value_raises_and_names_it(model: VLLMModel, name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        model("Hello", **{name: value})
    assert model(CAPITAL, max_tokens=2).text


@pytest.mark.parametrize("seed", [-1, 0, 2**64 - 1])
def test_seed_gives_same_output_twice(model: VLLMModel, seed: int) -> None:
    """-1 too, which vLLM itself takes as no seed."""
    first, second = (model("Tell a story.", temperature=1.5, seed=seed, max_tokens=12).text for _ in range(2))
    assert first == second


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_output_equals_that_of_transformers(model: VLLMModel) -> None:
    """Both are greedy, in f32, with the same weights. Later tokens could differ where two logits are almost equal."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model.model_id, dtype=torch.float32)
    engine = model._engine()
    for question in (CAPITAL, "Name three colours.", "Write a short poem about the sea.", "How do fish breathe?"):
        text = engine.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        tokens = torch.tensor([engine.encode_prompt(text, []).tokens])
        ids = plain.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=32)
        expected = engine.tokenizer.decode(ids[0, tokens.shape[1] :], skip_special_tokens=True)
        assert model(question, temperature=0, max_tokens=32).text == expected


def test_next_turn_computes_only_new_tokens(model: VLLMModel) -> None:
    story = "The fox went to the river and drank. " * 60
    messages: list[Any] = [{"role": "user", "content": story + "What did it do?"}]
    first = model(messages, max_tokens=8, temperature=0)
    messages += [first, {"role": "user", "content": "And then?"}]
    usage = model(messages, max_tokens=4, temperature=0).token_usage
    assert usage is not None and usage.input_tokens and usage.cached_input_tokens
    # vLLM caches whole blocks, of 128 tokens on a CPU.
    assert usage.input_tokens - usage.cached_input_tokens < 128 + 30 < usage.input_tokens


def test_json_output_has_single_spaces(model: VLLMModel) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 9},
            "tags": {"type": "array", "items": {"enum": ["a"]}, "minItems": 2, "maxItems": 3},
        },
        "required": ["name", "tags"],
        "additionalProperties": False,
    }
    text = model("Make up a person as JSON.", grammar=schema, temperature=0, max_tokens=60).text
    assert re.fullmatch(r'\{"name": "[^"]*", "tags": \["a"(, "a"){1,2}\]\}', text)


@pytest.mark.parametrize("phase", ["prompt", "output"])
def test_cancelled_call_stops_the_engine(model: VLLMModel, phase: str) -> None:
    prompt = f"{time.time()} " + "word " * (1500 if phase == "prompt" else 5)

    async def cancel() -> None:
        async with model.agenerate_stream(prompt + "Write a long story.", max_tokens=400, ignore_eos=True) as stream:
            if phase == "output":
                await anext(stream)
                return
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.to_thread(wait_until_busy, model)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    asyncio.run(cancel())
    assert becomes_idle(model)
    assert not model._engine().shared._tasks


def test_call_cancelled_at_any_moment_leaves_no_request(model: VLLMModel) -> None:
    async def cancel() -> None:
        for pause in range(12):
            task = asyncio.ensure_future(model.agenerate("Write a long story.", max_tokens=500, ignore_eos=True))
            await asyncio.sleep(pause * 0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert becomes_idle(model)
    assert model._engine().shared.llm.output_processor.get_num_unfinished_requests() == 0


def test_call_cancelled_before_its_start_returns_at_once(model: VLLMModel) -> None:
    """Its start and its cancellation reach the engine's loop in the same iteration."""

    async def leave() -> float:
        model._engine().shared.loop.call_soon_threadsafe(time.sleep, 1.0)
        task = asyncio.ensure_future(model.agenerate("Write a long story.", max_tokens=500, ignore_eos=True))
        await asyncio.sleep(0.5)
        task.cancel()
        begin = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - begin

    assert asyncio.run(leave()) < 5  # A call that waited for an end that never comes would take ten seconds.
    assert becomes_idle(model)


# --- one engine for several models ------------------------------------------------------------------------------------


def test_models_with_equal_settings_share_an_engine(model: VLLMModel) -> None:
    shared = model._engine().shared
    users = shared.users
    other = VLLMModel(Path(model.model_id or ""), temperature=0, **ENGINE)
    assert other._engine().shared is shared and shared.users == users + 1
    other.close()
    other.close()
    assert shared.users == users
    with pytest.raises(ModelError, match="closed"):
        other("Hello")
    assert model(CAPITAL, temperature=0).content == "The capital of France is Paris."


def test_deleted_model_releases_shared_engine(model: VLLMModel) -> None:
    shared = model._engine().shared
    users = shared.users
    other = VLLMModel(model.model_id or "", **ENGINE)
    assert shared.users == users + 1
    del other
    end = time.monotonic() + 5
    while shared.users > users and time.monotonic() < end:
        time.sleep(0.01)
    assert shared.users == users


def test_settings_survive_dict_and_pickle(model: VLLMModel) -> None:
    data = model.to_dict()
    assert data == {"class": "VLLMModel", "model_id": model.model_id, **ENGINE}
    twin = pickle.loads(pickle.dumps(model))
    assert twin.to_dict() == data and twin._engine().shared is model._engine().shared
    twin.close()


# --- failures --------------------------------------------------------------------------------------------------------


def test_prompt_longer_than_context_raises_with_both_lengths(model: VLLMModel) -> None:
    with pytest.raises(ContextWindowExceeded, match=r"the prompt has 30\d\d tokens, .* holds 2048"):
        model("word " * 3000)
    assert model(CAPITAL, max_tokens=2000).token_usage


@pytest.mark.parametrize(
    ("grammar", "kind", "text"),
    [
        ({"type": "object", "not": {"required": ["a"]}}, UnsupportedFeature, "not"),
        (Regex("(?=a)b"), UnsupportedFeature, "look-around"),
        (Lark("start: nonesuch"), InvalidRequest, "nonesuch"),
        (Lark(""), InvalidRequest, "grammar"),
    ],
    ids=["schema", "regex", "lark", "empty"],
)
def test_grammar_that_cannot_be_enforced_raises_and_model_still_works(
    model: VLLMModel, grammar: Any, kind: type[ModelError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        model("Hello", grammar=grammar, max_tokens=4)
    assert model("Say yes or no.", grammar=Regex("yes|no"), max_tokens=4).text in ("yes", "no")


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"model_id": "/no/such/folder"}, NotFoundError, "/no/such/folder"),
        ({"model_id": "nobody/nonesuch"}, NotFoundError, "nobody/nonesuch"),
        ({"context_length": 0}, InvalidRequest, "context_length=0"),
        ({"context_length": 10**6}, InvalidRequest, "1000000"),
        ({"model_kwargs": {"dtype": "float99"}}, InvalidRequest, "float99"),
        ({"model_kwargs": {"tensor_paralel_size": 2}}, InvalidRequest, "did you mean 'tensor_parallel_size'"),
        ({"model_kwargs": {"max_model_len": 4}}, InvalidRequest, "'max_model_len' is set twice"),
        ({"model_kwargs": ["dtype"]}, InvalidRequest, "model_kwargs must be a dict"),
        ({"model_kwargs": {"structured_outputs_config": {"backend": "outlines"}}}, InvalidRequest, "'guidance'"),
    ],
    ids=[
        "folder",
        "name",
        "context_length zero",
        "context_length too large",
        "dtype",
        "misspelt",
        "twice",
        "list",
        "backend",
    ],
)
def test_constructor_wrong_setting_raises_and_names_it(
    model: VLLMModel, settings: dict[str, Any], kind: type[ModelError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        VLLMModel(**{"model_id": model.model_id, **ENGINE, **settings})


def test_load_incomplete_folder_raises_and_names_what_is_missing(model: VLLMModel, tmp_path: Path) -> None:
    whole = Path(model.model_id or "")

    def folder(name: str, *without: str) -> Path:
        made = tmp_path / name
        made.mkdir()
        for file in whole.iterdir():
            if file.name not in without:
                (made / file.name).symlink_to(file)
        return made

    with pytest.raises(NotFoundError, match="contains no weights"):
        VLLMModel(folder("bare", "model.safetensors"), **ENGINE)
    with pytest.raises(NotFoundError, match="no tokenizer"):
        VLLMModel(folder("mute", "tokenizer.json", "tokenizer_config.json"), **ENGINE)
    with pytest.raises(InvalidRequest, match="has no chat template"):
        VLLMModel(folder("plain", "chat_template.jinja"), **ENGINE)


def test_too_little_memory_raises_server_error(model: VLLMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    with pytest.raises(ServerError, match=r"less than requested memory for kv \(100000") as raised:
        VLLMModel(model.model_id or "", **{**ENGINE, "context_length": 1024})
    assert not raised.value.retryable
    assert model(CAPITAL, temperature=0).content == "The capital of France is Paris."


def test_class_of_script_in_settings_needs_caller_script(model: VLLMModel) -> None:
    import __main__

    class Mine:
        pass

    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    __main__.Mine = Mine  # type: ignore[attr-defined]
    try:
        assert not needs_caller_script({"dtype": "float32", "logits_processors": None})
        assert needs_caller_script({"logits_processors": [Mine]})
    finally:
        del __main__.Mine  # type: ignore[attr-defined]


def test_exceptions_of_vllm_become_modelport_errors() -> None:
    from vllm.exceptions import QueueOverflowError
    from vllm.v1.engine.exceptions import EngineGenerateError

    failed = EngineGenerateError()
    failed.__cause__ = RuntimeError("out of tea")
    error = engine_error(failed)
    assert isinstance(error, ServerError) and "out of tea" in str(error)
    assert type(engine_error(QueueOverflowError())).__name__ == "RateLimited"


def test_environment_variables_are_restored(model: VLLMModel) -> None:
    assert not {"PYTHONWARNINGS", "TORCH_LOGS", "MODELPORT_VLLM_REPORT"} & os.environ.keys()
