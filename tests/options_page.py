"""Makes docs/options.md, the page of the options of a call, from the tables of parameters.

`python -m tests.options_page` writes the page. `test_options_page` checks that it is current.
"""

from __future__ import annotations

from pathlib import Path

from modelport import CallOptions
from modelport.inputs.parameters import PARAMETERS, Parameter
from modelport.inputs.vendor_parameters import SERVICES, services_by_parameter
from modelport.registry import backend_class
from modelport.types.capabilities import Capabilities

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
#: The name of a backend -> how the page names it. The names of Azure and of the Router would add nothing.
TITLES = {
    "llamacpp": "llama.cpp", "transformers": "transformers", "mlx": "MLX", "vllm": "vLLM",
    "openai": "OpenAI-compatible", "huggingface": "Hugging Face", "litellm": "LiteLLM", "bedrock": "Bedrock",
}  # fmt: skip
#: The services and engines that `TITLES` has under another name.
ENGINES = {"mlx-lm", "Amazon Bedrock"}
#: The types that the annotations don't show well.
TYPES = {
    "stop_sequences": "str | Sequence[str]",
    "grammar": "a type, `JSONSchema`, `Choice`, `Regex`, `Lark`, or a JSON schema as a dict",
    "tool_choice": "str",
}
INTRODUCTION = """# Options of a call

<!-- This page is made by `python -m tests.options_page`. Edit the tables in src/modelport/inputs instead. -->

Each option can be passed to every call (`model(…)`, `generate`, `generate_stream` and their asynchronous twins) and to
the constructor, as the default of every call. An option of the call overrides the same option of the constructor.
`None` means "not given".

A type checker knows all of these names: `model("Hi", tempratur=0)` is an error in mypy and pyright. At run time, a
misspelt name is refused with `InvalidRequest` ("did you mean"). A name is misspelt if one edit turns an option of five
letters or more into it, or two edits an option of ten letters or more. A setting of the constructor under its name in
another package, such as `base_url` or `max_retries`, is refused too.

Any other unknown name is refused by a local engine. A remote service gets it, and `message.warnings` says so, because
modelport can't know whether the service reads it. Write `extra_body={"name": …}` to send a field without a warning. A
dict of options that you pass on (`model("Hi", **options)`) needs a type: `CallOptions`, or `dict[str, Any]`.

"""
SERVICES_HEADING = """
## Parameters of services and engines

These names are accepted as options too. Where a service documents the parameter, it is sent without a warning. Another
service gets it with a warning; an engine that lacks it refuses it. modelport recognises a service by its address, and a
server of your own by `dialect="vllm"` or `dialect="llama.cpp"`.

| Service or engine | Parameters | Source |
| --- | --- | --- |
"""


def accepts(parameter: Parameter, capabilities: Capabilities) -> bool:
    """Return whether a backend with these capabilities accepts a parameter."""
    if parameter.name in capabilities.refused:
        return False
    if parameter.destination == "backend":
        return parameter.name in (capabilities.extra_parameters or ())
    if parameter.name == "reasoning_effort":
        return bool(capabilities.reasoning_efforts) or capabilities.reasoning_budget or capabilities.reasoning
    if parameter.name == "reasoning_budget":
        return capabilities.reasoning_budget
    return parameter.capability is None or bool(getattr(capabilities, parameter.capability))


def accepted_by(parameter: Parameter) -> str:
    """Return the names of the backends that accept a parameter."""
    found = [
        title for backend, title in TITLES.items() if accepts(parameter, backend_class(backend).declared_capabilities)
    ]
    services = [name for name in services_by_parameter().get(parameter.name, ()) if name not in (*found, *ENGINES)]
    if len(found) == len(TITLES):
        return "every backend"
    return ", ".join([*found, *services]) or "models that support it"


def type_of(name: str) -> str:
    """Return the type of an option."""
    if name in TYPES:
        return TYPES[name] if "`" in TYPES[name] else f"`{TYPES[name]}`"
    kind = str(CallOptions.__annotations__[name].__forward_arg__).removesuffix(" | None")
    return f"`{kind}`"


def entry(parameter: Parameter) -> str:
    """Return the section of one option."""
    lines = [f"### `{parameter.name}`", "", parameter.description, "", f"- Type: {type_of(parameter.name)}"]
    if parameter.other_names:
        lines.append(f"- Other names: {', '.join(f'`{name}`' for name in parameter.other_names)}")
    if parameter.default:
        lines.append(f"- Default: {parameter.default}")
    if parameter.excludes:
        lines.append(f"- Not together with: `{parameter.excludes}`")
    lines.append(f"- Accepted by: {accepted_by(parameter)}")
    if parameter.elsewhere:
        lines.append(f"- Where a backend lacks it: {parameter.elsewhere}")
    if parameter.source:
        lines.append(f"- Source: <{parameter.source}>")
    return "\n".join([*lines, ""])


def page() -> str:
    """Return the text of the page."""
    rows = [
        f"| {service.title} | {', '.join(f'`{name}`' for name in sorted(service.parameters))} | <{service.source}> |"
        for service in SERVICES.values()
        if service.parameters
    ]
    entries = "\n".join(map(entry, PARAMETERS.values()))
    return INTRODUCTION + "## Options\n\n" + entries + SERVICES_HEADING + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
