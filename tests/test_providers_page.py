"""docs/providers.md is made from the tables in src, and must be current."""

from __future__ import annotations

import pytest

from modelport.inputs.vendor_parameters import SERVICES
from modelport.protocols import error_phrases, parameter_phrases
from modelport.remote.schema_enforcement import ENFORCING
from modelport.remote.services import _HOSTS
from tests.providers_page import PAGE, PHRASES, fields_sent_back, model_of, page
from tests.providers_table import GROUPS, Provider

PROVIDERS = [provider for providers in GROUPS.values() for provider in providers]
BUILT = [provider for provider in PROVIDERS if provider.is_built]


def test_providers_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.providers_page"


def test_every_service_that_is_recognized_by_its_address_is_on_the_page() -> None:
    shown = {getattr(model_of(provider), "_service", None) for provider in BUILT}
    assert shown >= {*_HOSTS.values(), *ENFORCING}
    assert shown - {None} <= SERVICES.keys()


def test_every_service_in_the_tables_of_phrases_is_on_the_page() -> None:
    shown = {name for provider in PROVIDERS for name in provider.names}
    named: set[str] = set()
    for table in PHRASES:
        phrases = getattr(error_phrases, table, None) or getattr(parameter_phrases, table)
        named.update(name for phrase in phrases for name in phrase.services.split(", "))
    assert named - shown == {"GitHub Copilot", "servers that validate with JSON Schema"}
    assert shown <= named


@pytest.mark.parametrize("provider", [provider for provider in BUILT if provider.returns], ids=lambda p: p.title)
def test_all_data_in_the_example_of_a_service_goes_back(provider: Provider) -> None:
    model = model_of(provider)
    assert model is not None
    shown = " ".join(fields_sent_back(provider, getattr(model, "_provider", None)))
    for message in provider.returns:
        fields = {*message} - {"content", "tool_calls"} | {
            key for call in message.get("tool_calls", ()) for key in call
        }
        assert all(f"`{name}`" in shown for name in fields), shown
        assert "content" not in message or "parts of the content" in shown
