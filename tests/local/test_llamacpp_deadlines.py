"""Calls of `LlamaCppModel` end at their deadline, whatever the prompt, the template or the parameters are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.servers.llamacpp import model_file

from modelport import ContextWindowExceeded, DeadlineExceeded, InvalidRequest, LlamaCppModel, RateLimited
from modelport.local import template_budget
from modelport.local.llamacpp import model as llamacpp_model

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("llamacpp"), pytest.mark.timeout(120)]
#: Loops if the caller's message says so, for minutes in llama.cpp.
LOOPING_TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['content'] == 'loop' %}"
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppModel]:
    with LlamaCppModel(
        model_file(), context_length=512, threads=1, chat_template=LOOPING_TEMPLATE, retry=False
    ) as model:
        yield model


def busy_slots(model: LlamaCppModel) -> int:
    return sum(slot["is_processing"] for slot in model._engine().query("/slots"))


def test_prompt_that_cannot_fit_is_refused_before_it_is_encoded(
    model: LlamaCppModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding 50 MB takes llama.cpp 10 s, and nothing can stop it."""
    monkeypatch.setattr(type(model._engine()), "chat", lambda *args, **kwargs: pytest.fail("the prompt was encoded"))
    with pytest.raises(ContextWindowExceeded, match=r"the prompt has 50000000 characters.* holds 512 tokens"):
        model("word " * 10**7, timeout=60)


def test_template_that_loops_for_one_conversation_raises_invalid_request(
    model: LlamaCppModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.2)
    with pytest.raises(InvalidRequest, match="the model's chat template was ended: it computes for more than"):
        model("loop", max_tokens=2)
    assert busy_slots(model) == 0
    assert model("Hello", max_tokens=2).text


def test_template_that_loops_ends_at_the_deadline(model: LlamaCppModel) -> None:
    with pytest.raises((DeadlineExceeded, InvalidRequest)):
        model("loop", max_tokens=2, timeout=0.2)
    assert model("Hello", max_tokens=2).text


def test_calls_are_refused_while_too_many_ended_ones_occupy_the_engine(
    model: LlamaCppModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp_model, "MAX_ABANDONED_JOBS", 2)
    engine = model._engine()
    jobs = [llamacpp_model._Job(), llamacpp_model._Job()]
    engine._jobs.update(jobs)
    try:
        assert model("Hello", max_tokens=2).text  # These are still running, so they do not count.
        for job in jobs:
            job.abandoned = True
        with pytest.raises(RateLimited, match="2 calls that were cancelled or ran out of time still occupy llama"):
            model("Hello", max_tokens=2)
    finally:
        engine._jobs.difference_update(jobs)
    assert model("Hello", max_tokens=2).text
    assert not engine._jobs


#: Each makes llama.cpp allocate as much as the number says, or compute as long.
ALLOCATING: list[dict[str, Any]] = [
    {"dry_penalty_last_n": 2**31 - 1}, {"repeat_last_n": 2**31 - 1},
    {"dry_sequence_breakers": ["x" * 10**6]}, {"samplers": ["top_k"] * 10**4},
]  # fmt: skip


@pytest.mark.parametrize("parameter", ALLOCATING, ids=lambda parameter: next(iter(parameter)))
def test_parameter_that_allocates_is_refused_in_calls_constructors_and_saved_data(
    model: LlamaCppModel, parameter: dict[str, Any]
) -> None:
    (name,) = parameter
    with pytest.raises(InvalidRequest, match=name):
        model("Hello", max_tokens=2, **parameter)
    with pytest.raises(InvalidRequest, match=name):
        LlamaCppModel(model_file(), **parameter)
    with pytest.raises(InvalidRequest, match=name):
        LlamaCppModel.from_dict({"class": "LlamaCppModel", "model_id": str(model_file()), **parameter})
