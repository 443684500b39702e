"""Tool loops through LiteLLM on services that refuse a conversation unless they get back what they returned."""

from __future__ import annotations

import pytest

from tests.remote.litellm.helpers import model_on
from tests.remote.test_provider_data import QUESTION, as_it_is, call, options_for, run_loop, through_json
from tests.servers.faults import FaultServer
from tests.servers.strict import FINAL_TEXT, StrictService

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:.* in earlier messages:UserWarning")]


@pytest.mark.parametrize("name", ["gemini", "openrouter", "deepseek", "proxy", "mistral", "databricks"])
@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_tool_loop_sends_back_what_the_service_returned(server: FaultServer, name: str, way: str) -> None:
    server.script(then=(service := StrictService(name)))
    model = model_on(server, allowed_openai_params=["reasoning_effort"])
    copied = through_json if way == "sync" else as_it_is
    responses, history = run_loop([model] * 3, way, copied, **options_for(name))
    assert service.refusals == []
    assert responses[2].content == FINAL_TEXT
    assert call(model, way, [*history, QUESTION], **options_for(name)).tool_calls
    assert service.refusals == []
    model.release()
