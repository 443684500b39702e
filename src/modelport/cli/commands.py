"""The commands of the command line: `ask`, `chat`, `check` and `models`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelport import __version__
from modelport.cli import INTERRUPTED
from modelport.cli.options import (
    CALL_OPTIONS,
    DEBUG_KEY,
    DEBUG_OPTION,
    MODEL_OPTION,
    MODEL_OPTIONS,
    add_options,
    open_model,
    utf8_text,
)
from modelport.cli.terminal import (
    CommandError,
    MessagePrinter,
    OutputClosed,
    print_error,
    print_json,
    print_warnings,
    read_piped_input,
)
from modelport.inputs.spelling import did_you_mean, similar_names

if TYPE_CHECKING:
    from modelport.model import Model
    from modelport.types.output_types import Grammar

#: The exit status if the reader of standard output has closed it: 128 + SIGPIPE, by the convention of shells.
_PIPE_CLOSED = 141
#: How similar to a mistyped word a name must be to be suggested, from 0 to 1.
_SIMILARITY = 0.7


class _Command(click.Command):
    """A command that suggests similar names for an unknown option. click itself suggests almost any name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from difflib import get_close_matches

            close = get_close_matches(error.option_name, error.possibilities or (), cutoff=_SIMILARITY)
            raise click.NoSuchOption(error.option_name, possibilities=close, ctx=error.ctx) from None


class _Group(click.Group):
    """A group of commands that runs "ask" if the first word after the options is not the name of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not (args and args[0] in (*self.commands, "-h", "--help", "--version")):
            args = self._with_command(ctx, args)
        return super().parse_args(ctx, args)

    def _with_command(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the arguments with the name of a command at the beginning, where click expects it.

        If the first word after the options is the name of a command, it is moved to the beginning. Otherwise "ask" is
        inserted.

        Raises:
            click.UsageError: The word is probably a misspelt command. As a prompt, it would be answered at length.
        """
        options = [param for param in self.commands["ask"].get_params(ctx) if isinstance(param, click.Option)]
        parser = click.Command(None, params=list(options), add_help_option=False).make_parser(ctx)
        parser.allow_interspersed_args = False
        try:
            words = parser.parse_args(list(args))[1]
        except click.UsageError:  # "ask" parses the arguments again, and reports the error.
            words = []
        index = len(args) - len(words)
        # After "--", a word is the prompt, even if it is the name of a command.
        if words and args[index - 1] != "--":
            if words[0] in self.commands:
                return [words[0], *args[:index], *words[1:]]
            if len(words) == 1 and (similar := similar_names(words[0], self.commands)):
                raise click.UsageError(
                    f"{words[0]!r} is no command: {did_you_mean(similar)} To send it as a prompt, write "
                    f"'{ctx.command_path} ask {words[0]}'.", ctx
                )  # fmt: skip
        return ["ask", *args]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except OutputClosed:
            ctx.exit(_PIPE_CLOSED)
        except Exception as error:
            print_error(error, ctx.meta.get(DEBUG_KEY, False))
            ctx.exit(1)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] [PROMPT]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] ...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = (*self.commands["ask"].params, *self.get_params(ctx))
        options = [param for param in params if isinstance(param, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])
        self.format_commands(ctx, formatter)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
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

    Without -m, a small local model is used; its weights (93 MB) are downloaded once. Input from a pipe or a
    file is the prompt, or is put before the prompt in the arguments. To send a prompt that is the name of a command,
    write the command ask before it: modelport ask chat.
    """


@cli.command(cls=_Command)
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
    """
    if len(words) > 1:
        suggestion = _suggest_command(ctx, words[0])
        raise click.UsageError(f"The prompt must be one argument: put quotes around it.{suggestion}", ctx)
    prompt = _read_prompt(ctx, words)
    grammar = _parse_output_type(schema, regex, choices)
    content = _build_content(prompt, images)
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": content})
    options = {"stop_sequences": list(stop) or None, "grammar": grammar, **parameters}
    with MessagePrinter() as printer, open_model(model, settings, api_base) as loaded:
        if stream and grammar is None and not as_json:
            with loaded.generate_stream(messages, **options) as deltas:
                for delta in deltas:
                    printer.print(delta.content, delta.reasoning)
            message = deltas.message
        else:
            # Structured output is not streamed, so that invalid output can be requested again before it is printed.
            message = loaded.generate(messages, **options)
            if as_json:
                print_json(message.to_dict())
                return
            printer.print(str(message), message.reasoning)
        printer.end_line()
    print_warnings(message, report_truncation=parameters["max_tokens"] is None)


def _suggest_command(ctx: click.Context, word: str) -> str:
    """Return " Did you mean …?" if a word is similar to the name of a command; otherwise an empty text."""
    from difflib import get_close_matches

    group = ctx.parent and ctx.parent.command
    close = get_close_matches(word, group.commands, 1, cutoff=_SIMILARITY) if isinstance(group, click.Group) else []
    return f" Did you mean the command {close[0]!r}?" if close else ""


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


@cli.command(cls=_Command)
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

    options = {"stop_sequences": list(stop) or None, **parameters}
    Chat(model, open_by_name, system, options, ctx.meta[DEBUG_KEY]).run()


@cli.command(cls=_Command)
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


@cli.command(cls=_Command)
@add_options(click.option("--json", "as_json", is_flag=True, help="Print the backends as JSON."), DEBUG_OPTION)
def models(as_json: bool) -> None:
    """List the backends, and what must be installed or set to use each."""
    from modelport.cli.tables import print_backends

    print_backends(as_json)
