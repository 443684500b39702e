"""The formats in which open models write tool calls.

Each line was seen in the chat templates of the named models, which llama.cpp collects:
https://github.com/ggml-org/llama.cpp/tree/master/models/templates
"""

from __future__ import annotations

from modelport.protocols.output_text.calls import CallFormat, CallReader, first_of
from modelport.protocols.output_text.json_calls import named_json, read_json_calls, read_keyed_calls, write_json_calls
from modelport.protocols.output_text.literal_calls import braced_calls, read_python_calls, write_python_calls
from modelport.protocols.output_text.parameter_calls import nested_elements, parameter_calls

#: The format of tools in the prompt, and of most models: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
TAGGED_JSON = CallFormat(("<tool_call>",), "</tool_call>", read_json_calls)

#: vLLM too accepts a missing `</parameter>` before the next parameter:
#: https://github.com/vllm-project/vllm/blob/main/vllm/tool_parsers/qwen3coder_tool_parser.py
_FUNCTION_TAGS = parameter_calls(
    r"<function=(?P<name>[^>\n]{1,256})>",
    r"<parameter=(?P<key>[^>\n]{1,256})>\n?",
    r"\n?</parameter>",
    r"</function>",
    open_argument=r"\n<parameter=(?P<key>[^>\n]{1,256})>\n",
)
_KEYS_AND_VALUES = parameter_calls(
    r"(?P<name>[^\s<>{}]{1,256})(?:\s*+<tool_sep(?::\w+)?>)?",
    r"<arg_key(?::\w+)?>(?P<key>[^<]{0,256})</arg_key(?::\w+)?>\s*+<arg_value(?::\w+)?>",
    r"</arg_value(?::\w+)?>",
    r"(?=</tool_call(?::\w+)?>)",
)


def _invocations(prefix: str, before: str = "", after: str = "") -> CallReader:
    return parameter_calls(
        rf'{before}<{prefix}invoke name="(?P<name>[^"\n]{{1,256}})">',
        rf'<{prefix}parameter name="(?P<key>[^"\n]{{1,256}})"(?: string="(?P<type>\w+)")?>',
        rf"</{prefix}parameter>",
        rf"</{prefix}invoke>{after}",
    )


#: By name. The first format that reads back what a chat template has written is used.
CALL_FORMATS: dict[str, CallFormat] = {
    # Hermes 2 and 3, Qwen 2.5 and 3, QwQ, Granite 4, MiMo, Bielik, Reka
    "tagged JSON": TAGGED_JSON,
    # Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5
    "Qwen3-Coder": CallFormat(("<tool_call>",), "</tool_call>", _FUNCTION_TAGS),
    # GLM 4.5 to 4.7, Ling 3, Laguna, Spark 2.5
    "GLM": CallFormat(("<tool_call>",), "</tool_call>", _KEYS_AND_VALUES),
    # Hy3
    "Hunyuan": CallFormat(
        ("<tool_calls:opensource>",),
        "</tool_calls:opensource>",
        parameter_calls(
            r"<tool_call:opensource>\s*+(?P<name>[^\s<>{}]{1,256})\s*+<tool_sep:opensource>",
            r"<arg_key:opensource>(?P<key>[^<]{0,256})</arg_key:opensource>\s*+<arg_value:opensource>",
            r"</arg_value:opensource>",
            r"</tool_call:opensource>",
        ),
        names="<tool_call:opensource> </tool_call:opensource> <tool_sep:opensource> <arg_key:opensource> "
        "</arg_key:opensource> <arg_value:opensource> </arg_value:opensource>",
    ),
    # Seed-OSS
    "Seed": CallFormat(("<seed:tool_call>",), "</seed:tool_call>", _FUNCTION_TAGS),
    # Mistral Nemo to Magistral, Ministral 3, Devstral: first a list in JSON, later a name before each call's arguments
    "Mistral": CallFormat(
        ("[TOOL_CALLS]",),
        "",
        first_of(
            read_json_calls, named_json(r"(?P<name>[^\s\[{]{1,256})(?:\[CALL_ID\][^\[{]{0,256})?(?:\[ARGS\]|(?=\{))")
        ),
        names="[CALL_ID] [ARGS]",
    ),
    # Llama 3.1 to 3.3
    "Llama": CallFormat(("<|python_tag|>",), "", read_json_calls, is_whole_output=True),
    # Apriel 1.5 and 1.6, MiniMax M1
    "list of calls": CallFormat(("<tool_calls>",), "</tool_calls>", read_json_calls),
    # Nemotron Nano 2
    "Nemotron": CallFormat(("<TOOLCALL>",), "</TOOLCALL>", read_json_calls),
    # Granite 3
    "Granite": CallFormat(
        ("<|tool_call|>",),
        "",
        read_json_calls,
        write=lambda calls: f"<|tool_call|>{write_json_calls(calls)}",
        hints=("respond only with <|tool_call|>",),
    ),
    # Command R7B, Command A
    "Cohere": CallFormat(("<|START_ACTION|>",), "<|END_ACTION|>", read_json_calls),
    "Apertus": CallFormat(("<|tools_prefix|>",), "<|tools_suffix|>", read_keyed_calls),
    # GigaChat 3 and 3.1
    "GigaChat": CallFormat(
        ("<|message_sep|>\n\nfunction call<|role_sep|>\n", "<|function_call|>"), "<|message_sep|>", read_json_calls
    ),
    # Functionary 3.1
    "Functionary 3.1": CallFormat(
        ("<function=",), "</function>", named_json(r"<function=(?P<name>[^>\n]{1,256})>"), includes_begin=True
    ),
    # Functionary 3.2
    "Functionary 3.2": CallFormat(
        (">>>",),
        "",
        named_json(r">>>(?P<name>[\w.-]{1,256})\n"),
        includes_begin=True,
        behind_begin=r"[\w.-]{1,256}\n",
        another=r"\{|>>>[\w.-]{1,256}\Z",
    ),
    # Kimi K2
    "Kimi K2": CallFormat(
        ("<|tool_calls_section_begin|>",),
        "<|tool_calls_section_end|>",
        named_json(
            r"<\|tool_call_begin\|>\s*+(?:functions\.)?(?P<name>[^\s<:]{1,256})(?::\d+)?\s*+<\|tool_call_argument_begin\|>",
            r"\s*+<\|tool_call_end\|>",
        ),
        names="<|tool_call_begin|> <|tool_call_argument_begin|> <|tool_call_end|>",
    ),
    # Kimi K3
    "Kimi K3": CallFormat(
        ("<|open|>tools<|sep|>",),
        "<|close|>tools<|sep|>",
        parameter_calls(
            r'<\|open\|>call tool="(?P<name>[^"\n]{1,256})"[^<]{0,256}<\|sep\|>',
            r'<\|open\|>argument key="(?P<key>[^"\n]{1,256})"(?: type="(?P<type>\w+)")?<\|sep\|>',
            r"<\|close\|>argument<\|sep\|>",
            r"<\|close\|>call<\|sep\|>",
        ),
    ),
    # DeepSeek R1, V3 and V3.1
    "DeepSeek": CallFormat(
        ("<｜tool▁calls▁begin｜>",),
        "<｜tool▁calls▁end｜>",
        named_json(
            r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?(?P<name>[^<\s]{1,256})(?:<｜tool▁sep｜>|\s*+```json)",
            r"(?:\s*+```)?\s*+<｜tool▁call▁end｜>",
        ),
        names="<｜tool▁call▁begin｜> <｜tool▁sep｜> <｜tool▁call▁end｜>",
    ),
    # DeepSeek V3.2 and V4
    "DeepSeek markup": CallFormat(
        ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
        "",
        _invocations("｜DSML｜", after=r"(?:\s*+</｜DSML｜(?:function|tool)_calls>)?+"),
        another="<｜DSML｜",
        names="｜DSML｜ </｜DSML｜function_calls> </｜DSML｜tool_calls>",
    ),
    # MiniMax M2
    "MiniMax M2": CallFormat(("<minimax:tool_call>",), "</minimax:tool_call>", _invocations("")),
    # MiniMax M3
    "MiniMax M3": CallFormat(
        ("]<]minimax[>[<tool_call>",),
        "]<]minimax[>[</tool_call>",
        nested_elements(
            "]<]minimax[>[",
            r'\]<\]minimax\[>\[<invoke name="(?P<name>[^"\n]{1,256})">',
            r"\]<\]minimax\[>\[</invoke>",
        ),
        names="]<]minimax[>[",
    ),
    # MiniCPM 5
    "MiniCPM": CallFormat(
        ("<function name=",),
        "",
        parameter_calls(
            r'<function name="(?P<name>[^"\n]{1,256})">',
            r'<param name="(?P<key>[^"\n]{1,256})">',
            r"</param>",
            r"</function>",
            has_cdata=True,
        ),
        includes_begin=True,
    ),
    # LFM 2 and 2.5
    "LFM": CallFormat(
        ("<|tool_call_start|>",),
        "<|tool_call_end|>",
        read_python_calls,
        write=lambda calls: f"<|tool_call_start|>{write_python_calls(calls)}<|tool_call_end|>",
        hints=("List of tools: <|tool_list_start|>", "List of tools: ["),
    ),
    "Gemma 4": CallFormat(
        ("<|tool_call>",), "<tool_call|>", braced_calls(r"call:(?P<name>[\w.-]{1,256})", '<|"|>'), names='<|"|>'
    ),
    "FunctionGemma": CallFormat(
        ("<start_function_call>",),
        "<end_function_call>",
        braced_calls(r"call:(?P<name>[\w.-]{1,256})", "<escape>"),
        names="<escape>",
    ),
    # gpt-oss: a call is a message to a function in the channel `commentary`
    "harmony": CallFormat(
        ("<|start|>assistant to=", "<|channel|>commentary to=", "<|channel|>analysis to="),
        "",
        named_json(
            r"(?:functions\.)?(?P<name>[^\s<{]{1,256}+)\s*+(?:<\|channel\|>\w++)?\s*+(?:<\|constrain\|>)?\s*+\w*+\s*+<\|message\|>",
            r"(?:<\|call\|>|<\|end\|>)",
        ),
        names="<|start|> <|channel|> <|constrain|> <|message|> <|call|> <|end|>",
    ),
    # Muse: a call is a message to a tool
    "Muse": CallFormat(
        ("<|start|>assistant to=",),
        "",
        _invocations(
            "atem:",
            before=r"[^\s<]{1,256}+<\|message\|>\s*+<atem:function_calls>\s*+",
            after=r"\s*+</atem:function_calls>(?:<\|eom\|>|<\|eot\|>)?+",
        ),
        another="</?atem:",
        names="<|start|> <|message|> <|eom|> <|eot|> atem: </atem:function_calls>",
    ),
    # Solar Open
    "Solar": CallFormat(
        ("<|tool_calls|>",),
        "<|calls|>",
        named_json(
            r"<\|tool_call:begin\|>[^<]{0,256}<\|tool_call:name\|>(?P<name>[^<]{1,256})<\|tool_call:args\|>",
            r"<\|tool_call:end\|>",
        ),
        names="<|tool_call:begin|> <|tool_call:name|> <|tool_call:args|> <|tool_call:end|>",
    ),
}
