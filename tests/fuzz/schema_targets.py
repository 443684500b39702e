"""Targets: schemas of callers and of strangers' tools, with outputs that fit them and outputs that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from hypothesis import strategies as st

from modelport import ChatMessage, JSONSchema
from modelport.testing import ScriptedModel
from tests.fuzz.chat_targets import RESPONSES, play_response
from tests.fuzz.junk import encode
from tests.fuzz.schema_inputs import Schema, outputs, schemas
from tests.fuzz.target import OpenTarget, Target
from tests.remote.matrix_runner import model_for, server_for
from tests.servers.bedrock import ConverseFault


def _tools(schema: Schema) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}]


def _play_output(value: Any) -> Any:
    """Play an output that an engine is said to have enforced."""
    schema, text, streamed = value
    model = ScriptedModel(text, retry=False)
    if not streamed:
        return model.generate("hello", grammar=JSONSchema(schema))
    with model.generate_stream("hello", grammar=JSONSchema(schema)) as stream:
        for _ in stream:
            pass
        return stream.message


def _play_tool_calls(value: Any) -> Any:
    """Play tool calls, all of whose arguments are checked against the schema."""
    schema, text, number = value
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    answer = ChatMessage.from_dict(
        {"role": "assistant", "tool_calls": [{**call, "id": f"c{n}"} for n in range(number)]}
    )
    return ScriptedModel(answer, retry=False).generate("hello", tools=_tools(schema))


def _play_service(value: Any) -> Any:
    """Play a schema that is rewritten for a service, and an output that the service did not enforce."""
    schema, text, as_tool = value
    body = json.loads(json.dumps(RESPONSES[0]))
    body["choices"][0]["message"]["content"] = text
    options = {"tools": _tools(schema), "tool_choice": "auto"} if as_tool else {"grammar": JSONSchema(schema)}
    return play_response([encode(body)], options, False)


@contextmanager
def _open_bedrock(as_tool: bool) -> Iterator[Target]:
    """Open Bedrock's fault server, and yield a target that sends schemas to it."""

    def play(value: Any) -> Any:
        schema, text = value
        server.clear()
        server.script(then=ConverseFault.ok(text))
        options = {"tools": _tools(schema)} if as_tool else {"grammar": JSONSchema(schema)}
        return model.generate("hello", **options)

    with server_for("bedrock") as server, model_for(server, "bedrock", retry=False, timeout=20.0) as model:
        yield Target(st.tuples(schemas, outputs), play)


SCHEMAS = {
    "schemas: structured output": Target(st.tuples(schemas, outputs, st.booleans()), _play_output),
    "schemas: arguments of tool calls": Target(
        st.tuples(schemas, outputs, st.sampled_from((1, 1, 20))), _play_tool_calls
    ),
    "schemas: rewritten for a service": Target(st.tuples(schemas, outputs, st.booleans()), _play_service),
}
SCHEMA_SOCKETS: dict[str, OpenTarget] = {
    "bedrock, over a socket: schemas": partial(_open_bedrock, False),
    "bedrock, over a socket: schemas of tools": partial(_open_bedrock, True),
}
