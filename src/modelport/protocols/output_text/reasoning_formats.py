"""The marks that open models write around their reasoning.

Each line was seen in the chat templates of the named models, which llama.cpp collects:
https://github.com/ggml-org/llama.cpp/tree/master/models/templates
"""

from __future__ import annotations

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.protocols.output_text.reasoning import ReasoningFormat

#: The marks of most models.
THINK = ReasoningFormat(THINK_OPEN, THINK_CLOSE)

#: By name. Where the source of a template contains the marks of several formats, the first counts.
REASONING_FORMATS: dict[str, ReasoningFormat] = {
    # gpt-oss: https://developers.openai.com/cookbook/articles/openai-harmony
    "harmony": ReasoningFormat(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        between="<|start|>assistant",
        before_content="<|channel|>final<|message|>",
        other_ends=("<|return|>",),
        dropped=(
            "<|channel|>final <|constrain|>json<|message|>",
            "<|channel|>final<|constrain|>json<|message|>",
            "<|channel|>final json<|message|>",
            "<|channel|>commentary<|message|>",
            "<|channel|>commentary <|constrain|>json<|message|>",
            "<|channel|>commentary<|constrain|>json<|message|>",
            "<|end|>",
            "<|return|>",
            "<|call|>",
        ),
        kept=("<|start|>assistant to=",),
        repeats=True,
    ),
    "Muse": ReasoningFormat(
        "<|start|>assistant to=self<|message|>",
        "<|eom|>",
        before_content="<|start|>assistant to=user<|message|>",
        dropped=("<|eom|>", "<|eot|>"),
        kept=("<|start|>assistant to=",),
        repeats=True,
    ),
    # Gemma 4
    "Gemma 4": ReasoningFormat("<|channel>thought", "<channel|>", repeats=True),
    # Solar Open
    "Solar": ReasoningFormat(
        "<|think|>",
        "<|end|>",
        between="<|begin|>assistant",
        before_content="<|content|>",
        dropped=("<|end|>",),
        repeats=True,
    ),
    # Kimi K3
    "Kimi K3": ReasoningFormat(
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        before_content="<|open|>response<|sep|>",
        dropped=("<|close|>response<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>"),
        repeats=True,
    ),
    # Command R7B, Command A
    "Cohere": ReasoningFormat(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    # Apriel 1.5 and 1.6
    "Apriel": ReasoningFormat(
        "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", dropped=("[END FINAL RESPONSE]",)
    ),
    # Magistral, Ministral 3
    "Mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "Seed": ReasoningFormat("<seed:think>", "</seed:think>"),
    "MiniMax M3": ReasoningFormat("<mm:think>", "</mm:think>"),
    "Hunyuan": ReasoningFormat("<think:opensource>", "</think:opensource>"),
    "Apertus": ReasoningFormat("<|inner_prefix|>", "<|inner_suffix|>"),
    # Functionary 3.2 does not reason, but names the recipient of each message.
    "Functionary 3.2": ReasoningFormat("", "", before_content=">>>all\n", kept=(">>>",)),
    "think": THINK,
}
