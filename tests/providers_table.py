# ruff: noqa: E501
# Each text is one line or a few, whatever its length.
"""What docs/providers.md says about services beyond the tables in src. See `providers_page`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelport.providers import PROVIDERS


@dataclass(frozen=True)
class Provider:
    """What the page says about a service or a server.

    Args:
        title: The heading.
        code: The expression that makes a model.
        text: What the reader should know first.
        facts: Further lines, after those that the tables give.
        limits: What can't be done.
        returns: Messages as the service returns them. What modelport sends back of them is on the page.
        names: The service's names in the tables of phrases.
        is_built: Whether the tests make the model. LiteLLM is not installed in their environment.
    """

    title: str
    code: str
    text: str
    facts: tuple[str, ...] = ()
    limits: str = ""
    returns: tuple[Mapping[str, Any], ...] = ()
    names: tuple[str, ...] = ()
    is_built: bool = True


_REASONING = {"reasoning_content": ""}
_DETAILS = {"reasoning_details": [{"type": "reasoning.text", "text": "So.", "index": 0}]}
_SIGNATURE = {"extra_content": {"google": {"thought_signature": "s"}}}


def _named(name: str) -> str:
    """Return the expression for a provider that `load_model` knows."""
    return f'load_model("{name}/{PROVIDERS[name].example}")'


def _compatible(model: str, url: str, variable: str) -> str:
    return f'OpenAIServerModel(\n    "{model}",\n    "{url}",\n    api_key=os.environ["{variable}"],\n)'


INTRODUCTION = """# Providers

<!-- This page is made by `python -m tests.providers_page`. Edit the tables in src and tests/providers_table.py. -->

Find your service, and read what modelport maps for it and what can't be done. Most facts on this page come from the
tables that the code uses, and a test makes each model as the page shows it (with `import os` and
`from modelport import *` before it). [Models](models.md) describes the classes.

A name such as `groq` in `load_model("groq/openai/gpt-oss-120b")` only stands for the settings of a model of an existing
class: the address, the environment variable of the key, and what else the page says. Your own settings override them,
for example `load_model("ollama/qwen3", api_base="http://gpu:11434/v1")`. A saved model has the settings, and not the
name. LiteLLM's model strings with the names on this page lead to the same models; for its other providers, put
`litellm/` before the string. `modelport models` lists the names, and `modelport models groq` the models of a service.

What holds for every service is not repeated:

- Up to four stop sequences are sent. modelport applies the others itself, and all of them where a service refuses them.
- A parameter that the service does not document is sent with a warning. If the service refuses a parameter, modelport
  sends the request again without it, or with a substitute, and remembers that for the lifetime of the model object.
- `reasoning_effort` is sent as it is. A refusal is remembered too.
- Errors have the same [classes](errors.md) everywhere. The line *Errors* names those that modelport recognises by the
  service's text, because the status says too little: a prompt that is too long raises `ContextWindowExceeded`.
- A call without an ID gets one. [Provider data](how-to/reasoning.md#tool-loops-with-reasoning) goes back only to the
  service that returned it.
- The address tells modelport which service it talks to. Behind a proxy with another address, a service counts as
  unknown: its output schemas are sent, and the output is validated.
"""

_OPENAI_FACTS = (
    '**Reasoning** is hidden by OpenAI. `reasoning={"summary": "auto"}` requests summaries, which are in `reasoning`. '
    "On the Responses API, the encrypted reasoning items go back, and nothing is stored (`store: false`).",
)
_OPENAI_LIMITS = (
    "stop sequences of the service on the Responses API; modelport applies them there. "
    '`api="chat"` or `api="responses"` fixes the API.'
)

_CLOSED = [
    Provider(
        "OpenAI",
        'OpenAIServerModel("gpt-5.6")',
        "The key comes from `OPENAI_API_KEY`. Chat completions and the Responses API are used, as the model needs.",
        _OPENAI_FACTS,
        _OPENAI_LIMITS,
        names=("OpenAI",),
    ),
    Provider(
        "Azure OpenAI",
        'AzureOpenAIServerModel(\n    "gpt-5.6",\n    "https://RESOURCE.openai.azure.com",\n    azure_deployment="my-deployment",\n)',
        "The key comes from `AZURE_OPENAI_API_KEY`; tokens of Entra ID work too. Without `api_version` requests go to the v1 "
        "API. The profile of the model needs the model's own name: pass it as `model_id`, and the deployment's name as "
        "`azure_deployment`.",
        _OPENAI_FACTS,
        "the same as on OpenAI. Azure enforces fewer keywords of JSON Schema.",
        names=("Azure",),
    ),
    Provider(
        "Amazon Bedrock",
        'AmazonBedrockServerModel(\n    "us.anthropic.claude-sonnet-4-5-20250929-v1:0",\n    region_name="us-east-1",\n)',
        "boto3 finds credentials and region; `AWS_BEARER_TOKEN_BEDROCK` is a key. Requests use the Converse API. What a "
        "model can do depends on its name: see the [table](#models-on-bedrock).",
        (
            "**Goes back** in later requests: signed and encrypted reasoning blocks.",
            "**IDs of tool calls** are rewritten to what Converse accepts. Messages are merged to alternating turns.",
            "**Streams**: a model that does not stream with tools is called without streaming, with a warning.",
        ),
        "to know what the model behind an ARN can do that does not name it, except that of an application inference "
        "profile, which is looked up if AWS allows it. Pass `base_model=`.",
        names=("Bedrock",),
    ),
    Provider(
        "Anthropic through LiteLLM",
        _named("anthropic"),
        "The key comes from `ANTHROPIC_API_KEY`. This is the way to Claude's reasoning with tools, beside Bedrock.",
        (
            "**Goes back** in later requests: `thinking_blocks` with their signatures.",
            "**Reasoning**: `reasoning_effort` goes to LiteLLM as it is, and `reasoning_budget` as `thinking`.",
            "**Calls of another model** have no signed reasoning. After one refusal, such a turn is sent without reasoning.",
            "**Output schemas**, stop sequences and parameters are those that LiteLLM's table has for the model.",
        ),
        names=("Anthropic", "LiteLLM"),
        is_built=False,
    ),
    Provider(
        "Any service of LiteLLM",
        'LiteLLMModel("provider/model")',
        "LiteLLM's table says what a model can do. `LiteLLMRouterModel` chooses among several deployments.",
        (
            "**Goes back** in later requests: what LiteLLM returns. LiteLLM itself drops the reasoning of Mistral and Databricks.",
        ),
        "to notice some faults of a stream that LiteLLM hides; see [LiteLLMModel](models.md#modelport.LiteLLMModel).",
        names=("LiteLLM",),
        is_built=False,
    ),
    Provider(
        "Anthropic's OpenAI endpoint",
        _compatible("claude-sonnet-4-5", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        "Anthropic offers this endpoint to compare models. It ignores many fields of OpenAI's API, and modelport refuses those.",
        limits="Claude's reasoning text and its signatures, which this endpoint does not return. Use LiteLLM or Bedrock.",
        names=("Anthropic",),
    ),
    Provider(
        "Gemini",
        _named("gemini"),
        "This is Gemini's OpenAI endpoint. Vertex AI's addresses are known too.",
        (
            "**Errors** come as lists; their `retryDelay` is obeyed, and a wrong key with status 400 is an "
            "`AuthenticationError`.",
        ),
        "reasoning text, which the endpoint does not return by default.",
        ({"tool_calls": [_SIGNATURE]}, _SIGNATURE),
        ("Gemini",),
    ),
    Provider(
        "Mistral",
        _named("mistral"),
        "Mistral names a seed `random_seed`: pass it under this name.",
        ("**Images** in tool results stay there; other services get them in a user message.",),
        returns=({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "So."}]}]},),
        names=("Mistral",),
    ),
    Provider(
        "Cohere",
        _named("cohere"),
        "This is Cohere's Compatibility API. It has none of the parameters of Cohere's own API.",
        names=("Cohere",),
    ),
    Provider(
        "xAI",
        _named("xai"),
        "Errors of xAI are plain strings, and name parameters in camelCase; both are read. A wrong key, which xAI answers "
        "with status 400, raises `AuthenticationError`.",
        (),
        "to read the reasoning of `grok-4`, which xAI hides.",
        names=("xAI",),
    ),
    Provider(
        "Perplexity",
        _named("perplexity"),
        "A chunk of a stream may have the whole message so far beside an empty delta; no text is doubled.",
        ('**Tools**: if the model has none, `capabilities={"tools": False}` describes them in the prompt.',),
    ),
]

_OPEN = [
    Provider(
        "DeepSeek",
        _named("deepseek"),
        "`deepseek-reasoner` has profiles of its own; see the [table](#models-by-name).",
        ("**Messages of another model** get a blank `reasoning_content` after one refusal.",),
        returns=(_REASONING,),
        names=("DeepSeek",),
    ),
    Provider(
        "Kimi (Moonshot AI)",
        _named("moonshot"),
        "A parameter that may have one value only (`only 1 is allowed`) is left out after one refusal.",
        ("**Token usage** of a stream is read from the first choice, where Kimi puts it.",),
        returns=(_REASONING,),
        names=("Kimi",),
    ),
    Provider(
        "GLM (Z.AI, Zhipu)",
        _named("zai"),
        "The addresses `api.z.ai` and `open.bigmodel.cn` are known. Error codes 1261 (prompt too long) and 1301 (content) "
        "are known too.",
        limits="output schemas: Z.AI documents JSON mode alone. modelport sends the schema, and validates the output.",
        returns=(_REASONING,),
        names=("GLM",),
    ),
    Provider(
        "MiniMax",
        _named("minimax"),
        "With `reasoning_split=True`, which the name sets, MiniMax returns the reasoning in fields of its own. Without it, the reasoning is in the "
        "text too, between `<think>` tags. modelport removes it there, and so returns it once.",
        returns=({**_REASONING, **_DETAILS},),
        names=("MiniMax",),
    ),
    Provider(
        "Qwen (Alibaba Cloud Model Studio, DashScope)",
        _named("dashscope"),
        "`enable_thinking=True` switches reasoning on. A key belongs to one region: for another one, pass its address as "
        "`api_base`.",
        limits="output schemas while the model reasons: where DashScope refuses that, modelport validates the output. Some "
        "models reason only in streams, and refuse other calls with `enable_thinking=True`.",
        returns=(_REASONING,),
        names=("DashScope",),
    ),
]

_HOSTS = [
    Provider(
        "OpenRouter",
        _named("openrouter"),
        "The error of the service behind OpenRouter is read from `error.metadata.raw`, and decides the class of the error.",
        (
            "**Moderation** (status 403) raises `ContentFiltered`, so `FallbackModel` does not send the prompt on.",
            "**Tool call IDs** of OpenAI's and Mistral's models are replaced as on these services.",
        ),
        returns=(_DETAILS,),
        names=("OpenRouter",),
    ),
    Provider(
        "Groq",
        _named("groq"),
        "Groq refuses reasoning in earlier messages; modelport sends it none.",
        (
            "**Output that Groq could not use** is in the error: `InvalidToolCall` or `InvalidOutput`, whose `text` is "
            "Groq's `failed_generation`.",
            "**Status 498** (no capacity) is retried. Token usage in `x_groq` counts.",
        ),
        names=("Groq",),
    ),
    Provider(
        "Together AI",
        _named("together"),
        "Open models on their own names; the profiles below match the part after the last slash.",
        names=("Together",),
    ),
    Provider(
        "Fireworks AI",
        _named("fireworks"),
        "Models have long names; the profiles below match the part after the last slash.",
        names=("Fireworks",),
    ),
    Provider(
        "Cerebras",
        _named("cerebras"),
        "Requests go to chat completions.",
        names=("Cerebras",),
    ),
    Provider(
        "SambaNova",
        _named("sambanova"),
        "Requests go to chat completions.",
        names=("SambaNova",),
    ),
    Provider(
        "Hyperbolic",
        _named("hyperbolic"),
        "Open models on their own names; the profiles below match the part after the last slash.",
    ),
    Provider(
        "NVIDIA NIM",
        _named("nvidia"),
        'A NIM of version 2 on a machine of your own runs vLLM\'s server: use `load_model("hosted_vllm/…")` there.',
    ),
    Provider(
        "Databricks",
        _compatible(
            "databricks-claude-sonnet-4-5",
            "https://WORKSPACE.cloud.databricks.com/serving-endpoints",
            "DATABRICKS_TOKEN",
        ),
        "The error of the model behind an endpoint is read from the JSON text in Databricks' own error.",
        returns=({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]}]},),
        names=("Databricks",),
    ),
    Provider(
        "Hugging Face",
        'InferenceClientModel(\n    "openai/gpt-oss-20b",\n    provider="auto",\n)',
        "The key comes from `HF_TOKEN`. `provider=` names one provider, such as `groq` or `together`, whose parameters are "
        "then known. `auto` may choose another provider for each request.",
        (
            "**Dedicated endpoints** and servers of your own: `InferenceClientModel(base_url=…)`, with a `dialect` for "
            "`tgi`, `vllm` or `llama.cpp`.",
        ),
        "the Responses API.",
    ),
    Provider(
        "GitHub Models",
        _named("github"),
        "The limits are low, such as 8,000 tokens for `gpt-4o`. A longer prompt raises `ContextWindowExceeded`.",
        names=("GitHub Models",),
    ),
    Provider(
        "A LiteLLM proxy",
        _compatible("claude", "http://localhost:4000/v1", "LITELLM_KEY"),
        "The proxy passes on what the service behind it returned.",
        ("**Parameters of LiteLLM**, such as `drop_params`, go into `extra_body`.",),
        "to know by the address which service answers.",
        (
            {
                "thinking_blocks": [{"type": "thinking", "thinking": "So.", "signature": "s"}],
                "provider_specific_fields": {"thought_signatures": ["s"]},
                "tool_calls": [{"provider_specific_fields": {"thought_signature": "s"}}],
            },
        ),
        ("LiteLLM",),
    ),
]

_SERVERS = [
    Provider(
        "vLLM",
        _named("hosted_vllm"),
        'With `dialect="vllm"`, which the name sets, requests use what vLLM accepts beyond OpenAI\'s API. `vllm/…` loads '
        "a model in this process instead. Start the server with "
        "`--enable-auto-tool-choice` and a `--tool-call-parser` for tools.",
        ("**Reasoning** without a `--reasoning-parser` is separated from the text by its `<think>` tags.",),
        names=("vLLM",),
    ),
    Provider(
        "llama.cpp's server",
        'OpenAIServerModel(\n    "model",\n    "http://localhost:8080/v1",\n    api_key="none",\n    dialect="llama.cpp",\n)',
        'With `dialect="llama.cpp"`, requests use what the server accepts beyond OpenAI\'s API. Its responses are always '
        "streamed, so that a call that ends early stops the server.",
        ("**Tools**: if the model's chat template has none, they are described in the prompt.",),
        "a named tool, and tools together with an output schema in one request. modelport uses two requests.",
        names=("llama.cpp",),
    ),
    Provider(
        "Text Generation Inference",
        'InferenceClientModel(\n    base_url="http://localhost:8080",\n    dialect="tgi",\n)',
        'With `dialect="tgi"`, requests use TGI\'s own output formats.',
        limits="Lark grammars, and tools together with an output schema in one request.",
        names=("TGI",),
    ),
    Provider(
        "SGLang",
        'OpenAIServerModel(\n    "model",\n    "http://localhost:30000/v1",\n    api_key="none",\n)',
        "Pass SGLang's own parameters, such as `regex`, in `extra_body`.",
    ),
    Provider(
        "Ollama",
        _named("ollama"),
        "`accept_missing_finish=True`, which the name sets, accepts streams without a finish reason, which some versions "
        "send. For a server on another machine, pass its address as `api_base`.",
        ("**Reasoning** in `<think>` tags is separated from the text.",),
    ),
    Provider(
        "LM Studio",
        _named("lmstudio"),
        "Reasoning in `<think>` tags is separated from the text.",
        names=("LM Studio",),
    ),
    Provider(
        "transformers serve and mlx_lm.server",
        'OpenAIServerModel(\n    "model",\n    "http://localhost:8000/v1",\n    api_key="none",\n)',
        "These servers ignore `response_format` without an error. The output is validated; after the first one that does "
        "not fit, schemas become the arguments of a forced tool call, or the output is requested again with the error.",
        limits="`logprobs` and a forced tool where the server ignores them. Load such models in the process instead: "
        "[TransformersModel](models.md#modelport.TransformersModel), [MLXModel](models.md#modelport.MLXModel).",
    ),
]  # fmt: skip

#: Heading -> the services in it, in their order on the page.
GROUPS: Mapping[str, list[Provider]] = {
    "Services with their own models": _CLOSED,
    "Services with open models of their own": _OPEN,
    "Services for many models": _HOSTS,
    "Servers of your own": _SERVERS,
}

AFTER_SERVICES = """
## Models by name

Some capabilities depend on the model, on whichever service it runs. A pattern matches the part of the name after the
last slash. If several patterns match, the later ones override the earlier ones. `capabilities=` overrides them all.

{PROFILES}

### Models that need the Responses API

This holds on OpenAI's and Azure's own addresses. The last pattern that matches counts. Elsewhere, the Responses API is
used after a refusal that names it.

{NEEDS}

### Models on Bedrock

{BEDROCK}

## Finish reasons

A service says with one word why its response ended. This is what `finish_reason` is then, or which error is raised. A
word that is not in the table counts as `stop`, and a warning names it.

{FINISH}
"""
