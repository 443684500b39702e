"""The table of the vendors' own parameters, and the types of their options."""

from __future__ import annotations

import pytest

from modelport.inputs.parameters import BY_ANY_NAME, PARAMETERS
from modelport.inputs.vendor_options import VendorOptions
from modelport.inputs.vendor_parameters import (
    SERVICES,
    parameters_of,
    services_by_parameter,
)
from modelport.local.vllm.model import RESERVED_PARAMETERS
from modelport.protocols.converse.fields import SERVICE_FIELDS

#: The parameters that are in modelport's own table too, because only some services have them.
SAMPLING_PARAMETERS = {"top_k", "min_p", "repetition_penalty"}


def test_vendor_options_keys_equal_names_of_the_table() -> None:
    assert VendorOptions.__optional_keys__ == services_by_parameter().keys() - PARAMETERS.keys()
    assert not VendorOptions.__required_keys__


def test_vendor_options_are_sorted_and_allow_none() -> None:
    own = VendorOptions.__annotations__
    assert list(own) == sorted(own)
    assert [name for name, kind in own.items() if not kind.__forward_arg__.endswith(" | None")] == []


def test_table_repeats_only_three_of_modelports_parameters() -> None:
    assert services_by_parameter().keys() & BY_ANY_NAME.keys() == SAMPLING_PARAMETERS


def test_every_service_has_an_https_source_and_a_title_of_its_own() -> None:
    assert [service.title for service in SERVICES.values() if not service.source.startswith("https://")] == []
    assert len({service.title for service in SERVICES.values()}) == len(SERVICES)


def test_parameter_names_are_identifiers() -> None:
    assert [name for name in services_by_parameter() if not name.isidentifier()] == []


@pytest.mark.parametrize("service", [None, "", "unknown"])
def test_parameters_of_unknown_service_is_empty(service: str | None) -> None:
    assert parameters_of(service) == frozenset()


def test_parameters_of_known_service_has_its_parameters() -> None:
    assert {"provider", "top_k"} <= parameters_of("openrouter")
    assert "top_k" not in parameters_of("openai")


def test_services_by_parameter_lists_titles_in_order_of_services() -> None:
    assert services_by_parameter()["enable_thinking"] == ("Alibaba Cloud Model Studio", "llama.cpp")
    titles = [service.title for service in SERVICES.values() if "logit_bias" in service.parameters]
    assert list(services_by_parameter()["logit_bias"]) == titles


def test_vllm_engine_parameters_exclude_reserved_ones() -> None:
    """vLLM's parameters are known only after vLLM is loaded, so only modelport's side of them is checked here."""
    assert parameters_of("vllm-engine") >= SAMPLING_PARAMETERS
    assert not parameters_of("vllm-engine") & RESERVED_PARAMETERS


def test_converse_parameters_equal_the_service_fields_in_both_spellings() -> None:
    snake_case = {"".join(f"_{char.lower()}" if char.isupper() else char for char in name) for name in SERVICE_FIELDS}
    assert parameters_of("bedrock") == SERVICE_FIELDS | snake_case | {"top_k"}
