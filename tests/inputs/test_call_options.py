"""The types of the options equal the tables that are used at run time."""

from __future__ import annotations

from typing import get_args

from modelport import CallOptions
from modelport.inputs.call_options import TypedCallOptions
from modelport.inputs.parameters import BY_ANY_NAME, PARAMETERS, REASONING_EFFORTS, ReasoningEffort
from modelport.inputs.vendor_options import VendorOptions


def test_call_options_have_every_name_of_the_tables() -> None:
    """`stop_sequences` is a parameter of the methods themselves."""
    expected = (BY_ANY_NAME.keys() - {"stop_sequences"}) | VendorOptions.__optional_keys__
    assert CallOptions.__optional_keys__ == expected == TypedCallOptions.__optional_keys__
    assert not CallOptions.__required_keys__


def test_options_that_are_not_types_accept_none() -> None:
    kinds = {name: kind.__forward_arg__ for name, kind in CallOptions.__annotations__.items()}
    assert [name for name, kind in kinds.items() if " | None" not in kind and kind != "StopInput"] == []


def test_reasoning_efforts_equal_their_type() -> None:
    assert get_args(ReasoningEffort) == REASONING_EFFORTS


def test_every_option_is_described_for_the_reference() -> None:
    assert [name for name, parameter in PARAMETERS.items() if not parameter.description.endswith(".")] == []
