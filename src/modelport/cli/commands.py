"""The commands of the command line: `ask`, `chat`, `check`, `models` and `download`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelport import __version__
from modelport.cli.group import Command, CommandGroup
from modelport.cli.options import (
    CALL_OPTIONS,
    DEBUG_KEY,
    DEBUG_OPTION,
    DEFAULT_MAX_TOKENS,
    DEFAULT_MODEL,
    MODEL_OPTION,
    MODEL_OPTIONS,
    add_options,
    limit_default_model,
    open_model,
    utf8_text,
)
from modelport.cli.terminal import (
    CommandError,
    MessagePrinter,
    print_json,
    print_note,
    print_output,
    print_warnings,
    read_piped_input,
)
from modelport.cli.usage import Stopwatch, format_usage

if TYPE_CHECKING:
    from modelport.model import Model
    from modelport.types.output_types import Grammar


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="modelport", message="%(prog)s %(version)s")
def cli() -> None:
    """Ask a language model, local or remote.

    \b
    Examples:
      modelport "What is the capital of France? Answer in one sentence."
      modelport -m openai/gpt-4o --system "Be brief." "Why is the sky blue?"
      modelport -m openai/gpt-4o --image cat.png "What is in this picture?"
      git diff --staged | modelport -m openai/gpt-4o "Write a commit message."
      modelport --schema person.json "Ada Lovelace was born in 1815."
      modelport --json "Name a colour." | jq .token_usage
      OPENAI_API_KEY=none modelport -m openai/qwen3 --api-base http://localhost:8000/v1 "Hello"
      modelport chat -m openai/gpt-4o
      modelport check llamacpp
      modelport models groq

    Without -m, a small local model is used; its weights (93 MB) are downloaded once. Input from a pipe or a
    file is the prompt, or is put before the prompt in the arguments. To send a prompt that is the name of a command,
    write the command ask before it: modelport ask chat.
    """


@cli.command(cls=Command)
@click.argument("words", metavar="[PROMPT]", nargs=-1, type=utf8_text)
@add_options(
    MODEL_OPTION,
    *CALL_OPTIONS,
    click.option(
        "--image", "images", type=utf8_text, multiple=True, metavar="FILE|URL",
        help="An image for the model. Repeatable.",
    ),
    click.option(
        "--schema", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
        help="Structured output: the JSON schema in this file.",
    ),
    click.option("--regex", type=utf8_text, metavar="PATTERN",
                 help="Structured output: text that matches this regular expression."),
    click.option("--choice", "choices", type=utf8_text, multiple=True, metavar="TEXT",
                 help="Structured output: one of these texts. Repeatable."),
    click.option("--json", "as_json", is_flag=True, help="Print the whole message as JSON."),
    click.option("--stream/--no-stream", default=True, help="Print the response while it arrives (default)."),
    *MODEL_OPTIONS,
    DEBUG_OPTION,
)  # fmt: skip
@click.pass_context
def ask(
    ctx: click.Context,
    /,
    words: tuple[str, ...],
    model: str,
    settings: dict[str, Any],
    api_base: str | None,
    system: str | None,
    images: tuple[str, ...],
    schema: Path | None,
    regex: str | None,
    choices: tuple[str, ...],
    stop: tuple[str, ...],
    usage: bool,
    as_json: bool,
    stream: bool,
    **parameters: Any,
) -> None:
    """Send one prompt; the word "ask" can be left out.

    The model's text goes to standard output, its reasoning to standard error.

    \b
    Examples:
      modelport ask -m openai/gpt-4o "Name three rivers."
      modelport ask --choice yes --choice no "Is Rome in Italy?"
      modelport ask --stop $'\\n' -- "-5 + 3 ="
      modelport ask -u -m ollama/qwen3 "Name a colour."
    """
    if len(words) > 1:
        raise click.UsageError("The prompt must be one argument: put quotes around it.", ctx)
    prompt = _read_prompt(ctx, words)
    grammar = _parse_output_type(schema, regex, choices)
    content = _build_content(prompt, images)
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": content})
    report_truncation = parameters["max_tokens"] is None
    limit_default_model(model, settings, parameters)
    options = {"stop_sequences": list(stop) or None, "grammar": grammar, **parameters}
    clock = Stopwatch()
    with MessagePrinter() as printer, open_model(model, settings, api_base) as loaded:
        clock.start()
        if stream and grammar is None and not as_json:
            with loaded.generate_stream(messages, **options) as deltas:
                for delta in deltas:
                    clock.see(delta)
                    printer.print(delta.content, delta.reasoning)
            message = deltas.message
        else:
            # Structured output is not streamed, so that invalid output can be requested again before it is printed.
            message = loaded.generate(messages, **options)
        clock.stop()
        if as_json:
            print_json(message.to_dict())
        elif not stream or grammar is not None:
            printer.print(str(message), message.reasoning)
        printer.end_line()
    if not as_json:
        print_warnings(message, report_truncation=report_truncation, default_limit=parameters["max_tokens"])
    if usage:
        print_note(format_usage(message, clock.seconds, clock.first_output))


def _read_prompt(ctx: click.Context, words: tuple[str, ...]) -> str:
    prompt = "\n\n".join(filter(None, (read_piped_input(), *words)))
    if prompt.strip():
        return prompt
    if not words and sys.stdin is not None and sys.stdin.isatty():
        click.echo((ctx.parent or ctx).get_help())
        ctx.exit()
    raise click.UsageError("There is no prompt: give one, or pipe one in.", ctx)


def _parse_output_type(schema: Path | None, regex: str | None, choices: tuple[str, ...]) -> Grammar | None:
    if sum((schema is not None, regex is not None, bool(choices))) > 1:
        raise click.UsageError("--schema, --regex and --choice each define the structured output: give one.")
    if schema is not None:
        return _read_schema(schema)
    if regex is not None or choices:
        from modelport.types.output_types import Choice, Regex

        return Choice(*choices) if regex is None else Regex(regex)
    return None


def _read_schema(path: Path) -> Grammar | None:
    import json

    from modelport.errors import InvalidRequest
    from modelport.inputs.output_types import grammar_from

    try:
        schema = json.loads(path.read_bytes())
        if not isinstance(schema, dict):
            raise CommandError(f'--schema {path}: a JSON schema is an object, for example {{"type": …}}')
        return grammar_from(schema)
    except OSError as error:
        raise CommandError(f"--schema {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--schema {path} is not JSON: {error}") from error
    except InvalidRequest as error:
        raise CommandError(f"--schema {path}: {error}") from error


def _build_content(prompt: str, images: tuple[str, ...]) -> Any:
    if not images:
        return prompt
    from modelport.inputs.parts import image_from
    from modelport.types.content import Text

    return [*(image_from(image, f"--image {_describe_image(image)}") for image in images), Text(prompt)]


def _describe_image(image: str) -> str:
    """Return a file's name, or the scheme and the host of a URL. The rest of a URL may contain a secret signature."""
    from modelport.secrets import redact_url

    return redact_url(image) if ":" in image and not Path(image).exists() else image


@cli.command(cls=Command)
@add_options(MODEL_OPTION, *CALL_OPTIONS, *MODEL_OPTIONS, DEBUG_OPTION)
@click.pass_context
def chat(
    ctx: click.Context,
    /,
    model: str,
    settings: dict[str, Any],
    api_base: str | None,
    system: str | None,
    stop: tuple[str, ...],
    usage: bool,
    **parameters: Any,
) -> None:
    """Talk with a model, line by line.

    Ctrl-C stops a response, Ctrl-D ends the chat, /help lists its commands. Each line of piped input is a message.

    \b
    Examples:
      modelport chat
      modelport chat -m openai/gpt-4o --system "You are a patient teacher."
    """
    from modelport.cli.chat import Chat

    def open_by_name(spec: str) -> AbstractContextManager[Model]:
        if spec.partition("/")[0] == model.partition("/")[0]:
            return open_model(spec, settings, api_base)
        return open_model(spec, {})  # The settings on the command line are for the backend of the first model.

    default_limit = DEFAULT_MAX_TOKENS if parameters["max_tokens"] is None and "max_tokens" not in settings else None
    options = {"stop_sequences": list(stop) or None, **parameters}
    Chat(model, open_by_name, system, options, ctx.meta[DEBUG_KEY], usage, default_limit).run()


@cli.command(cls=Command)
@click.argument("model", type=utf8_text)
@add_options(
    click.option("--only", "names", type=utf8_text, multiple=True, metavar="NAME",
                 help="Run only this check. Repeatable."),
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
    click.option("--report", "as_report", is_flag=True, help="Print a text to paste into a bug report: versions, "
                 "capabilities, what does not work. It contains no API key, and only the names of the settings."),
    *MODEL_OPTIONS,
    DEBUG_OPTION,
)  # fmt: skip
def check(
    model: str,
    names: tuple[str, ...],
    as_json: bool,
    as_report: bool,
    settings: dict[str, Any],
    api_base: str | None,
) -> None:
    """Run modelport's conformance checks on MODEL.

    A feature that the model supports must work; a feature that it does not support must be refused. The checks send
    about a hundred requests, which a paid service charges for. The exit status is 1 if a check fails.

    \b
    Examples:
      modelport check llamacpp
      modelport check openai/gpt-4o --set max_concurrency=2
      modelport check openai/gpt-4o --only "JSON schema" --only "image input"
      modelport check llamacpp --json | jq '.outcomes[] | select(.status == "failed")'
      modelport check openai/gpt-4o --report > report.md
    """
    from modelport.cli.tables import check_model

    if as_json and as_report:
        raise click.UsageError("--json and --report are two formats of the output: give one.")
    output_format = "json" if as_json else "report" if as_report else "table"
    with open_model(model, settings, api_base) as loaded:
        setting_names = [*settings, *(["api_base"] if api_base else [])]
        passed = check_model(loaded, model, names, output_format, setting_names)
    if not passed:
        sys.exit(1)


@cli.command(cls=Command)
@click.argument("backend", required=False, type=utf8_text)
@add_options(
    click.option("--json", "as_json", is_flag=True, help="Print the list as JSON."),
    *MODEL_OPTIONS,
    DEBUG_OPTION,
)
def models(backend: str | None, as_json: bool, settings: dict[str, Any], api_base: str | None) -> None:
    """List the backends and providers, and what must be installed or set to use each; with BACKEND, its models.

    Services with OpenAI's API, Hugging Face and Amazon Bedrock list their models.

    \b
    Examples:
      modelport models
      modelport models openai
      modelport models groq --json | jq -r '.[].id'
      modelport models ollama --api-base http://gpu:11434/v1
      OPENAI_API_KEY=none modelport models openai --api-base http://localhost:8080/v1
    """
    if backend is not None:
        from modelport.cli.service_models import print_service_models

        print_service_models(backend, settings, api_base, as_json)
        return
    if settings or api_base:
        raise click.UsageError("--set and --api-base are for the list of a service's models: name a BACKEND.")
    from modelport.cli.tables import print_backends

    print_backends(as_json)


@cli.command(cls=Command)
@click.argument("model", default=DEFAULT_MODEL, type=utf8_text)
@add_options(
    click.option("--revision", type=utf8_text, metavar="NAME", help="A branch, tag or commit on the Hugging Face Hub."),
    DEBUG_OPTION,
)
def download(model: str, revision: str | None) -> None:
    """Download the weights of MODEL ahead, for example while a Docker image is built; by default the local model's.

    Prints the path of the weights. A later start needs no network: set HF_HUB_OFFLINE=1 to make sure of it. Weights
    that are in the cache are not downloaded again. A token for gated models is read from HF_TOKEN.

    \b
    Examples:
      modelport download
      modelport download llamacpp/Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf
      modelport download transformers/HuggingFaceTB/SmolLM2-135M-Instruct
    """
    from modelport.cli.download import download_weights

    print_output(f"{download_weights(model, revision)}\n")
