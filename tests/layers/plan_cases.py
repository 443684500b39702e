"""Cases for `test_plan.py`: a request, the capabilities of a backend, and what the plan must be.

Whatever a case does not name must be sent as the caller gave it, without warnings.
"""

from __future__ import annotations

from typing import Any

from modelport.types.content import Image, Text
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.tools import NamedToolChoice

from .adapt_backend import DATE, SCHEMA, TIME, WEATHER

USER = ChatMessage("user", "?")
SYSTEM = ChatMessage("system", "Be brief.")
CALL = ChatMessage(
    "assistant", None, tool_calls=[ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Rome"}, "weather"), "c1")]
)
RESULT = ChatMessage("tool", "rain", tool_call_id="c1")
IMAGE = ChatMessage("user", (Text("?"), Image(b"\x89PNG\r\n\x1a\n", "image/png")))
IMAGE_URL = ChatMessage("user", (Text("?"), Image(url="https://example.com/a.png")))

BOTH = (WEATHER, TIME)
PERSON = JSONSchema(SCHEMA, name="person")
NUMBERS = JSONSchema({"type": "array", "items": {"type": "integer"}})
OPEN_OBJECT = JSONSchema({"type": "object", "additionalProperties": {"type": "string"}})
ANY_OBJECT = JSONSchema({"type": "object"})
SHORT_NAME = JSONSchema({"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}}})
NESTED_LISTS = JSONSchema({"type": "array", "items": {"$ref": "#"}})
MOOD = Choice("good", "bad")
LETTERS = Lark('start: "a"+')

NAMED, REQUIRED, AUTO = {"auto", "none", "named"}, {"auto", "none", "required"}, {"auto"}
ENGINE = {"grammars": {JSONSchema, Regex, Choice, Lark}}
#: A service whose schema mode accepts closed objects alone, in which every property is required.
SCHEMA_MODE = {
    "grammars": {JSONSchema},
    "schema_rules": {"all_required": True, "object_root": True, "recursive": True, "any_object": True},
}


def wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with one property."""
    return {
        "type": "object", "properties": {"answer": schema}, "required": ["answer"], "additionalProperties": False,
    }  # fmt: skip


USER_TEXT = ("user", r"^\?$")
TOOLS_IN_PROMPT = [("system", r'"weather".*"time".*To call one, answer with <tool_call>'), USER_TEXT]
PROMPTED = "tools were put into the prompt, because the backend does not support tools"
NOT_ENFORCED = "tool_choice was checked, not enforced"
NO_STOP = "Stop sequences were not sent, because the output comes as a tool call"
MESSAGES = "messages"

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # id: the request, the capabilities, the changes
    # --- tools that the backend supports
    "tools": ({"tools": BOTH}, {"tools": True}, {}),
    "tool_choice required": ({"tools": BOTH, "tool_choice": "required"}, {"tools": True}, {}),
    "tool_choice none": ({"tools": BOTH, "tool_choice": "none"}, {"tools": True}, {}),
    "named tool": ({"tools": BOTH, "tool_choice": NamedToolChoice("time")}, {"tools": True}, {}),
    "tool_choice none, unsupported": (
        {"tools": BOTH, "tool_choice": "none"},
        {"tools": True, "tool_choices": AUTO},
        {"tools": [], "tool_choice": "auto"},
    ),
    "named tool, only required supported": (
        {"tools": BOTH, "tool_choice": NamedToolChoice("time")},
        {"tools": True, "tool_choices": REQUIRED},
        {"tools": ["time"], "tool_choice": "required"},
    ),
    "named tool, only auto supported": (
        {"tools": BOTH, "tool_choice": NamedToolChoice("time")},
        {"tools": True, "tool_choices": AUTO},
        {"tools": ["time"], "tool_choice": "auto", "warnings": [NOT_ENFORCED]},
    ),
    "tool_choice required, only auto supported": (
        {"tools": BOTH, "tool_choice": "required"},
        {"tools": True, "tool_choices": AUTO},
        {"tool_choice": "auto", "warnings": [NOT_ENFORCED]},
    ),
    "one call at most": (
        {"tools": BOTH, "parameters": {"parallel_tool_calls": False}},
        {"tools": True},
        {"keeps_one_call": True},
    ),
    "parallel calls": ({"tools": BOTH, "parameters": {"parallel_tool_calls": True}}, {"tools": True}, {}),
    "tools keep stop sequences": ({"tools": BOTH, "stop_sequences": ("END",)}, {"tools": True}, {}),
    "tool turns": ({MESSAGES: (USER, CALL, RESULT)}, {"tools": True}, {}),
    # --- tools that the backend does not support
    "prompted tools": (
        {"tools": BOTH, "stop_sequences": ("END",)},
        {},
        {"messages": TOOLS_IN_PROMPT, "tools": [], "text_calls": "tagged", "warnings": [PROMPTED]},
    ),
    "prompted tools, required": (
        {"tools": BOTH, "tool_choice": "required", "stop_sequences": ("END",)},
        {},
        {
            "messages": [("system", '"weather".*"time".*Answer with one call of this form, and nothing'), USER_TEXT],
            "tools": [], "tool_choice": "auto", "stop_sequences": (), "text_calls": "bare",
            "warnings": [PROMPTED, NO_STOP],
        },
    ),
    "prompted tools, required and enforced": (
        {"tools": (TIME,), "tool_choice": "required"},
        ENGINE,
        {
            "messages": [("system", '"time".*Answer with one call'), USER_TEXT], "tools": [], "tool_choice": "auto",
            "schema": {
                "type": "object", "properties": {"name": {"const": "time"}, "arguments": TIME.parameters},
                "required": ["name", "arguments"], "additionalProperties": False,
            },
            "text_calls": "bare", "warnings": [PROMPTED],
        },
    ),
    "prompted tools, required, with a schema subset": (
        {"tools": (TIME,), "tool_choice": "required"},
        SCHEMA_MODE,
        {
            "messages": [("system", '"time".*Answer with one call'), USER_TEXT], "tools": [], "tool_choice": "auto",
            "text_calls": "bare", "warnings": [PROMPTED],
        },
    ),
    "prompted tools, named": (
        {"tools": BOTH, "tool_choice": NamedToolChoice("time")},
        {},
        {
            "messages": [("system", '^(?!.*weather).*"time".*Answer with one call'), USER_TEXT],
            "tools": [], "tool_choice": "auto", "text_calls": "bare", "warnings": [PROMPTED],
        },
    ),
    "prompted tools, required, parallel calls": (
        {"tools": BOTH, "tool_choice": "required", "parameters": {"parallel_tool_calls": True}},
        {},
        {
            "messages": [("system", "Answer with a JSON list of calls"), USER_TEXT], "tools": [], "tool_choice": "auto",
            "parameters": {}, "text_calls": "bare", "warnings": [PROMPTED],
        },
    ),
    "prompted tools, one call at most": (
        {"tools": BOTH, "parameters": {"parallel_tool_calls": False}},
        {},
        {
            "messages": TOOLS_IN_PROMPT, "tools": [], "parameters": {}, "text_calls": "tagged", "keeps_one_call": True,
            "warnings": [PROMPTED],
        },
    ),
    "prompted tools, tool_choice none": (
        {"tools": BOTH, "tool_choice": "none"}, {}, {"tools": [], "tool_choice": "auto"},
    ),
    "prompted tools, with a system message": (
        {MESSAGES: (SYSTEM, USER), "tools": BOTH},
        {},
        {
            "messages": [("system", r'^Be brief\.\n.*"weather"'), USER_TEXT], "tools": [], "text_calls": "tagged",
            "warnings": [PROMPTED],
        },
    ),
    "prompted tools, no system role": (
        {"tools": BOTH},
        {"system_role": False},
        {
            "messages": [("user", r'"weather".*\n\?$')], "tools": [], "text_calls": "tagged", "warnings": [PROMPTED],
        },
    ),
    "tool turns without tools": (
        {MESSAGES: (USER, CALL, RESULT)},
        {},
        {
            "messages": [
                USER_TEXT,
                ("assistant", r'^<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>$'),
                ("user", r"^<tool_response>\nrain\n</tool_response>$"),
            ],
        },
    ),
    # --- output types
    "schema, enforced by an engine": ({"grammar": PERSON}, ENGINE, {"enforcement": "enforced"}),
    "array, enforced by an engine": ({"grammar": NUMBERS}, ENGINE, {"enforcement": "enforced"}),
    "any object, enforced by an engine": ({"grammar": ANY_OBJECT}, ENGINE, {"enforcement": "enforced"}),
    "Regex, enforced": ({"grammar": DATE, "strict": True}, ENGINE, {"enforcement": "enforced"}),
    "Choice, enforced": ({"grammar": MOOD, "strict": True}, ENGINE, {"enforcement": "enforced"}),
    "Lark, enforced": ({"grammar": LETTERS, "strict": True}, ENGINE, {"enforcement": "enforced"}),
    "enforced output types keep stop sequences": (
        {"grammar": PERSON, "stop_sequences": ("END",)}, ENGINE, {"enforcement": "enforced"},
    ),
    "schema, rewritten to the subset": (
        {"grammar": PERSON, "strict": True},
        SCHEMA_MODE,
        {
            "schema": {**SCHEMA, "additionalProperties": False}, "enforcement": "enforced", "nulls_for_optional": True,
        },
    ),
    "optional property becomes nullable": (
        {"grammar": JSONSchema({"type": "object", "properties": {"age": {"type": "integer"}}})},
        SCHEMA_MODE,
        {
            "schema": {
                "type": "object", "properties": {"age": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
                "required": ["age"], "additionalProperties": False,
            },
            "enforcement": "enforced", "nulls_for_optional": True,
        },
    ),
    "keyword outside the subset": (
        {"grammar": SHORT_NAME},
        {"grammars": {JSONSchema}, "schema_rules": {}},
        {
            "schema": {
                "type": "object", "properties": {"name": {"type": "string", "description": '{"maxLength": 4}'}},
                "required": [], "additionalProperties": False,
            },
            "enforcement": "enforced", "warnings": ["schema's maxLength is checked, not enforced"],
        },
    ),
    "keyword inside the subset": (
        {"grammar": SHORT_NAME, "strict": True},
        {"grammars": {JSONSchema}, "schema_rules": {"keywords": {"maxLength"}}},
        {
            "schema": {**SHORT_NAME.schema, "required": [], "additionalProperties": False}, "enforcement": "enforced",
        },
    ),
    "array, wrapped": (
        {"grammar": NUMBERS, "strict": True},
        SCHEMA_MODE,
        {
            "schema": wrapped(NUMBERS.schema), "enforcement": "enforced", "is_wrapped": True,
            "nulls_for_optional": True,
        },
    ),
    "array, not wrapped if any root is accepted": (
        {"grammar": NUMBERS}, {"grammars": {JSONSchema}, "schema_rules": {}}, {"enforcement": "enforced"},
    ),
    "Choice, wrapped": (
        {"grammar": MOOD, "strict": True},
        SCHEMA_MODE,
        {
            "schema": wrapped({"enum": ["good", "bad"], "type": "string"}),
            "enforcement": "enforced", "is_wrapped": True, "nulls_for_optional": True,
        },
    ),
    "any object, with a JSON mode": (
        {"grammar": ANY_OBJECT},
        SCHEMA_MODE,
        {
            "messages": [USER_TEXT, ("user", r"^Answer with a JSON object\.$")],
            "enforcement": "enforced", "nulls_for_optional": True, "warnings": ["requires that they mention JSON"],
        },
    ),
    "any object, with a JSON mode and a message that mentions JSON": (
        {MESSAGES: (ChatMessage("user", "Some json, please."),), "grammar": ANY_OBJECT},
        SCHEMA_MODE,
        {"enforcement": "enforced", "nulls_for_optional": True},
    ),
    "schema, forced tool by name": (
        {"grammar": PERSON},
        {"tools": True, "tool_choices": NAMED},
        {
            "tools": ["person"], "tool_choice": NamedToolChoice("person"), "schema": None,
            "enforcement": "forced_tool", "forced_tool": "person",
        },
    ),
    "schema, forced tool by required": (
        {"grammar": PERSON},
        {"tools": True, "tool_choices": REQUIRED},
        {
            "tools": ["person"], "tool_choice": "required", "schema": None,
            "enforcement": "forced_tool", "forced_tool": "person",
        },
    ),
    "schema outside the subset, forced tool": (
        {"grammar": OPEN_OBJECT},
        {**SCHEMA_MODE, "tools": True},
        {
            "tools": ["answer"], "tool_choice": NamedToolChoice("answer"), "schema": None,
            "enforcement": "forced_tool", "forced_tool": "answer",
        },
    ),
    "forced tool with stop sequences": (
        {"grammar": PERSON, "stop_sequences": ("}",)},
        {"tools": True},
        {
            "tools": ["person"], "tool_choice": NamedToolChoice("person"), "schema": None, "stop_sequences": (),
            "enforcement": "forced_tool", "forced_tool": "person", "warnings": [NO_STOP],
        },
    ),
    "array, wrapped in a forced tool": (
        {"grammar": NUMBERS},
        {"tools": True},
        {
            "tools": ["answer"], "tool_choice": NamedToolChoice("answer"), "schema": None,
            "enforcement": "forced_tool", "forced_tool": "answer", "is_wrapped": True,
        },
    ),
    "Choice, wrapped in a forced tool": (
        {"grammar": MOOD},
        {"tools": True},
        {
            "tools": ["answer"], "tool_choice": NamedToolChoice("answer"), "schema": None,
            "enforcement": "forced_tool", "forced_tool": "answer", "is_wrapped": True,
        },
    ),
    "schema, validated if no tool can be forced": (
        {"grammar": PERSON},
        {"tools": True, "tool_choices": AUTO},
        {"messages": [USER_TEXT, ("user", "^Answer with JSON.*age")], "schema": None, "enforcement": "validated"},
    ),
    "array that refers to itself, validated because it cannot be wrapped": (
        {"grammar": NESTED_LISTS},
        {"tools": True},
        {"messages": [USER_TEXT, ("user", "^Answer with JSON")], "schema": None, "enforcement": "validated"},
    ),
    "Regex, validated": (
        {"grammar": DATE},
        {**SCHEMA_MODE, "tools": True},
        {"messages": [USER_TEXT, ("user", r"^Answer with .*: \\d\{4\}-")], "schema": None, "enforcement": "validated"},
    ),
    "Choice, validated": (
        {"grammar": MOOD, "stop_sequences": ("END",)},
        {},
        {"messages": [USER_TEXT, ("user", '^Answer with .*"good"')], "schema": None, "enforcement": "validated"},
    ),
    "validated, roles alternate": (
        {"grammar": MOOD},
        {"consecutive_roles": False},
        {"messages": [("user", r"^\?\nAnswer with ")], "schema": None, "enforcement": "validated"},
    ),
    # --- an output type and tools
    "grammar and tools in one request": (
        {"grammar": PERSON, "tools": BOTH},
        {**ENGINE, "tools": True, "grammar_with_tools": True},
        {"enforcement": "enforced"},
    ),
    "Choice, wrapped, and tools in one request": (
        {"grammar": MOOD, "tools": BOTH},
        {**SCHEMA_MODE, "tools": True, "grammar_with_tools": True},
        {
            "schema": wrapped({"enum": ["good", "bad"], "type": "string"}),
            "enforcement": "enforced", "is_wrapped": True, "nulls_for_optional": True,
        },
    ),
    "grammar and tools in two requests": (
        {"grammar": PERSON, "tools": BOTH, "strict": True},
        {**ENGINE, "tools": True},
        {"schema": None, "second": {"enforcement": "enforced"}},
    ),
    "forced tool and tools in two requests": (
        {"grammar": PERSON, "tools": BOTH},
        {"tools": True},
        {
            "schema": None,
            "second": {
                "schema": None, "tools": ["person"], "tool_choice": NamedToolChoice("person"),
                "enforcement": "forced_tool", "forced_tool": "person",
            },
        },
    ),
    "forced tool and tools in two requests, though grammars and tools are accepted together": (
        {"grammar": OPEN_OBJECT, "tools": BOTH},
        {**SCHEMA_MODE, "tools": True, "grammar_with_tools": True},
        {
            "schema": None,
            "second": {
                "schema": None, "tools": ["answer"], "tool_choice": NamedToolChoice("answer"),
                "enforcement": "forced_tool", "forced_tool": "answer",
            },
        },
    ),
    "validated grammar and tools in one request": (
        {"grammar": DATE, "tools": BOTH},
        {"tools": True},
        {
            "messages": [USER_TEXT, ("user", "^Call a tool, or answer with ")], "schema": None,
            "enforcement": "validated",
        },
    ),
    "enforced grammar and prompted tools in two requests": (
        {"grammar": DATE, "tools": BOTH},
        ENGINE,
        {
            "messages": TOOLS_IN_PROMPT, "tools": [], "schema": None, "text_calls": "tagged", "warnings": [PROMPTED],
            "second": {"messages": [USER_TEXT], "enforcement": "enforced"},
        },
    ),
    "validated grammar and prompted tools in one request": (
        {"grammar": DATE, "tools": BOTH},
        {},
        {
            "messages": [*TOOLS_IN_PROMPT, ("user", "^Call a tool, or answer with ")], "tools": [], "schema": None,
            "enforcement": "validated", "text_calls": "tagged", "warnings": [PROMPTED],
        },
    ),
    "grammar and tools that must not be called": (
        {"grammar": PERSON, "tools": BOTH, "tool_choice": "none"},
        {**ENGINE, "tools": True},
        {"tools": [], "tool_choice": "auto", "enforcement": "enforced"},
    ),
    "grammar and tools that must not be called, accepted together": (
        {"grammar": PERSON, "tools": BOTH, "tool_choice": "none"},
        {**ENGINE, "tools": True, "grammar_with_tools": True},
        {"enforcement": "enforced"},
    ),
    "validated grammar and tools that must not be called": (
        {"grammar": DATE, "tools": BOTH, "tool_choice": "none"},
        {"tools": True},
        {
            "messages": [USER_TEXT, ("user", "^Answer with ")], "tools": [], "tool_choice": "auto", "schema": None,
            "enforcement": "validated",
        },
    ),
    # --- roles, parameters, images
    "no system role": (
        {MESSAGES: (SYSTEM, USER)}, {"system_role": False}, {"messages": [("user", r"^Be brief\.\n\?$")]},
    ),
    "roles must alternate": (
        {MESSAGES: (USER, USER)}, {"consecutive_roles": False}, {"messages": [("user", r"^\?\n\?$")]},
    ),
    "reasoning effort": (
        {"parameters": {"reasoning_effort": "low"}},
        {"reasoning_efforts": {"low", "high"}, "reasoning_budget": True},
        {},
    ),
    "reasoning effort as a budget": (
        {"parameters": {"reasoning_effort": "medium", "top_k": 3}},
        {"reasoning_budget": True},
        {"parameters": {"reasoning_budget": 8192, "top_k": 3}},
    ),
    "reasoning effort of none without reasoning": (
        {"parameters": {"reasoning_effort": "none"}}, {}, {"parameters": {}},
    ),
    "reasoning budget": ({"parameters": {"reasoning_budget": 500}}, {"reasoning_budget": True}, {}),
    "logprobs of False": ({"parameters": {"logprobs": False}}, {}, {}),
    "unknown parameter": ({"parameters": {"mirostat": 1}}, {}, {}),
    "image": ({MESSAGES: (IMAGE,)}, {"inputs": {"text", "image"}}, {}),
    "image by URL, fetched by the backend": (
        {MESSAGES: (IMAGE_URL,)}, {"inputs": {"text", "image"}, "image_urls": True}, {},
    ),
    "image by URL, fetched by modelport": (
        {MESSAGES: (IMAGE_URL,)}, {"inputs": {"text", "image"}}, {"fetches_images": True},
    ),
}  # fmt: skip


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # id: the request, the capabilities, the error
    "grammar and required tool": (
        {"grammar": PERSON, "tools": BOTH, "tool_choice": "required"},
        {**ENGINE, "tools": True, "grammar_with_tools": True},
        "grammar and tool_choice='required' together",
    ),
    "grammar and named tool": (
        {"grammar": DATE, "tools": BOTH, "tool_choice": NamedToolChoice("time")}, {"tools": True}, "together",
    ),
    "grammar and required prompted tool": (
        {"grammar": DATE, "tools": BOTH, "tool_choice": "required"}, {}, "together",
    ),
    "strict, forced tool": ({"grammar": PERSON, "strict": True}, {"tools": True}, "does not enforce this JSONSchema"),
    "strict, validated": ({"grammar": DATE, "strict": True}, {}, "does not enforce this Regex"),
    "strict, keyword outside the subset": (
        {"grammar": SHORT_NAME, "strict": True},
        {"grammars": {JSONSchema}, "schema_rules": {}},
        "does not enforce maxLength of the schema",
    ),
    "strict, schema outside the subset": (
        {"grammar": OPEN_OBJECT, "strict": True},
        {**SCHEMA_MODE, "tools": True},
        r"does not enforce this JSONSchema \(an object may have properties",
    ),
    "strict, with tools": ({"grammar": DATE, "tools": BOTH, "strict": True}, {"tools": True}, "does not enforce"),
    "Lark": ({"grammar": LETTERS}, {**SCHEMA_MODE, "tools": True}, "Lark"),
    "Lark and tools": ({"grammar": LETTERS, "tools": BOTH}, {"tools": True}, "Lark"),
    "reasoning effort": (
        {"parameters": {"reasoning_effort": "max"}}, {"reasoning_efforts": {"low", "high"}}, "it accepts low, high",
    ),
    "reasoning effort of none": (
        {"parameters": {"reasoning_effort": "none"}}, {"reasoning": True, "reasoning_budget": True}, "cannot be set",
    ),
    "reasoning budget": (
        {"parameters": {"reasoning_budget": 5}}, {"reasoning_efforts": {"low"}}, "it accepts reasoning_effort: low",
    ),
    "seed": ({"parameters": {"seed": 1}}, {}, "'seed'"),
    "logprobs": ({"parameters": {"logprobs": True}}, {}, "'logprobs'"),
    "top_logprobs": ({"parameters": {"top_logprobs": 2}}, {}, "'top_logprobs'"),
    "refused parameter": ({"parameters": {"temperature": 1}}, {"refused": {"temperature"}}, "'temperature'"),
    "image": ({MESSAGES: (SYSTEM, IMAGE)}, {}, r"messages\[1\]\['content'\]\[1\]: this model accepts text, not image"),
    "image by URL": ({MESSAGES: (IMAGE_URL,)}, {}, "not image"),
    "image by URL with an unsupported output type": (
        {MESSAGES: (IMAGE_URL,), "grammar": LETTERS}, {"inputs": {"text", "image"}}, "Lark",
    ),
}  # fmt: skip
