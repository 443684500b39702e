"""Numbers and lists that make an engine allocate or compute too much are refused by every engine, before it loads."""

from __future__ import annotations

from typing import Any

import pytest
from tests.schema_corpus.tiny import tiny_folder

from modelport import (
    ContextWindowExceeded,
    InvalidRequest,
    LlamaCppModel,
    MLXModel,
    Model,
    TransformersModel,
    VLLMModel,
)
from modelport.local.bounds import check_bounds, check_prompt_size

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

#: Settings of constructors. No model is loaded: the folder does not exist.
SETTINGS: list[tuple[type[Model], dict[str, Any]]] = [
    (LlamaCppModel, {"context_length": 2**40}),
    (LlamaCppModel, {"parallel": 10**6}),
    (LlamaCppModel, {"threads": 10**6}),
    (LlamaCppModel, {"engine_params": {"n_ctx": 2**31 - 1}}),
    (LlamaCppModel, {"engine_params": {"n_batch": 0}}),
    (LlamaCppModel, {"dry_penalty_last_n": 2**31 - 1}),
    (TransformersModel, {"no_repeat_ngram_size": 2**31}),
    (TransformersModel, {"eos_token_id": [1] * 2**11}),
    (TransformersModel, {"context_length": 2**40}),
    (MLXModel, {"context_length": 2**40}),
    (MLXModel, {"top_k": 2**40}),
    (VLLMModel, {"model_kwargs": {"max_num_seqs": 2**40}}),
    (VLLMModel, {"model_kwargs": {"max_model_len": 2**40}}),
    (VLLMModel, {"stop_token_ids": [1] * 2**11}),
]


@pytest.mark.parametrize(
    ("cls", "settings"), SETTINGS, ids=[f"{cls.__name__} {' '.join(settings)}" for cls, settings in SETTINGS]
)
def test_setting_out_of_bounds_is_refused_from_code_and_from_saved_data(
    cls: type[Model], settings: dict[str, Any]
) -> None:
    ((name, value),) = settings.items()
    name = next(iter(value)) if name.endswith(("_params", "_kwargs")) else name
    make: Any = cls
    with pytest.raises(InvalidRequest, match=name):
        make("/no/such/model", **settings)
    with pytest.raises(InvalidRequest, match=name):
        Model.from_dict({"class": cls.__name__, "model_id": "/no/such/model", **settings})


@pytest.mark.parametrize("cls", [TransformersModel, MLXModel])
def test_parameter_of_a_call_out_of_bounds_is_refused(cls: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    with cls(tiny_folder(tmp_path_factory.mktemp("tiny"))) as model:
        for parameters in ({"logit_bias": dict.fromkeys(map(str, range(2**19)), 1.0)}, {"top_k": 2**40}):
            with pytest.raises(InvalidRequest, match=next(iter(parameters))):
                model("Hello", max_tokens=2, **parameters)
        with pytest.raises(ContextWindowExceeded, match="5000000 characters"):
            model("word " * 10**6, max_tokens=2)


@pytest.mark.parametrize("parameters", [{"top_k": -1}, {"dry_penalty_last_n": -1}, {"n_probs": 20}, {"colour": 10**9}])
def test_usual_value_is_accepted(parameters: dict[str, Any]) -> None:
    check_bounds(parameters)


@pytest.mark.parametrize(("characters", "longest_token"), [(10**6, 1), (10**7, 10_000), (10**9, 0)])
def test_prompt_that_may_fit_is_encoded(characters: int, longest_token: int) -> None:
    check_prompt_size(characters, 1024, longest_token)
