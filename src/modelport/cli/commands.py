"""The commands of the command line."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelport import __version__
from modelport.cli import INTERRUPTED
from modelport.cli.options import CALL, CONSTRUCTION, DEBUG, DEBUGGING, MODEL, opened, options, text
from modelport.cli.terminal import Answer, Failure, OutputClosed, piped_text, remark, report, write_json

if TYPE_CHECKING:
    from modelport.model import Model
    from modelport.types.output_types import Grammar

_PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells have it
#: How alike a mistyped word and a name must be, so that the name is suggested.
_CLOSE = 0.7


class _Command(click.Command):
    """A command that suggests an option only where one is meant; click finds any two words alike."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from difflib import get_close_matches

            close = get_close_matches(error.option_name, error.possibilities or (), cutoff=_CLOSE)
            raise click.NoSuchOption(error.option_name, possibilities=close, ctx=error.ctx) from None


class _Group(click.Group):
    """A group whose first word is a prompt where it names no command; options may stand before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not (args and args[0] in (*self.commands, "-h", "--help", "--version")):
            args = self._with_command(ctx, args)
        return super().parse_args(ctx, args)

    def _with_command(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = [param for param in self.commands["ask"].get_params(ctx) if isinstance(param, click.Option)]
        parser = click.Command(None, params=list(known), add_help_option=False).make_parser(ctx)
        parser.allow_interspersed_args = False
        try:
            words = parser.parse_args(list(args))[1]
        except click.UsageError:  # "ask" will say it, with its own name
            words = []
        place = len(args) - len(words)
        if words and words[0] in self.commands and args[place - 1] != "--":
            return [words[0], *args[:place], *words[1:]]
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
            report(error, ctx.meta.get(DEBUG, False))
            ctx.exit(1)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] [PROMPT]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] ...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        both = (*self.commands["ask"].params, *self.get_params(ctx))
        params = [param for param in both if isinstance(param, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl([record for param in params if (record := param.get_help_record(ctx))])
        self.format_commands(ctx, formatter)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="modelport", message="%(prog)s %(version)s")
def cli() -> None:
    """Ask a language model, in this process or behind an API.

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

    Without -m, a small model answers in this process; its weights (93 MB) are downloaded once. Standard input that is a
    pipe or a file is the prompt, or comes before the prompt that is given. A prompt that is a command's name: modelport
    ask chat.
    """


@cli.command(cls=_Command)
@click.argument("words", metavar="[PROMPT]", nargs=-1, type=text)
@options(
    MODEL,
    *CALL,
    click.option(
        "--image", "images", type=text, multiple=True, metavar="FILE|URL", help="Show it to the model. Repeatable."
    ),
    click.option(
        "--schema", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
        help="Answer in JSON of the JSON schema in this file.",
    ),
    click.option("--regex", type=text, metavar="PATTERN", help="Answer in the form of this regular expression."),
    click.option("--choice", "choices", type=text, multiple=True, metavar="TEXT",
                 help="Answer with one of these. Repeatable."),
    click.option("--json", "as_json", is_flag=True, help="Print the whole message as JSON."),
    click.option("--stream/--no-stream", default=True, help="Print the answer as it comes; by default so."),
    *CONSTRUCTION,
    DEBUGGING,
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
    """Ask once; the word "ask" can be left out.

    The answer comes on standard output, the model's reasoning on standard error.

    \b
    Examples:
      modelport ask -m openai/gpt-4o "Name three rivers."
      modelport ask --choice yes --choice no "Is Rome in Italy?"
      modelport ask --stop $'\\n' -- "-5 + 3 ="
    """
    if len(words) > 1:
        raise click.UsageError(f"The prompt must be one argument: put quotes around it.{_meant(ctx, words[0])}", ctx)
    prompt = _prompt(ctx, words)
    form = _form(schema, regex, choices)
    content = _content(prompt, images)
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": content})
    call = {"stop_sequences": list(stop) or None, "grammar": form, **parameters}
    with Answer() as answer, opened(model, settings, api_base) as port:
        if stream and form is None and not as_json:
            with port.generate_stream(messages, **call) as deltas:
                for delta in deltas:
                    answer.show(delta.content, delta.reasoning)
            message = deltas.message
        else:  # an answer with a form is checked, and asked for again, before anyone sees it
            message = port.generate(messages, **call)
            if as_json:
                write_json(message.to_dict())
                return
            answer.show(str(message), message.reasoning)
        answer.end()
    remark(message, limited=parameters["max_tokens"] is not None)


def _meant(ctx: click.Context, word: str) -> str:
    """A question, where a word looks like a command's name."""
    from difflib import get_close_matches

    group = ctx.parent and ctx.parent.command
    close = get_close_matches(word, group.commands, 1, cutoff=_CLOSE) if isinstance(group, click.Group) else []
    return f" Did you mean the command {close[0]!r}?" if close else ""


def _prompt(ctx: click.Context, words: tuple[str, ...]) -> str:
    prompt = "\n\n".join(filter(None, (piped_text(), *words)))
    if prompt.strip():
        return prompt
    if not words and sys.stdin is not None and sys.stdin.isatty():
        click.echo((ctx.parent or ctx).get_help())
        ctx.exit()
    raise click.UsageError("There is no prompt: give one, or pipe one in.", ctx)


def _form(schema: Path | None, regex: str | None, choices: tuple[str, ...]) -> Grammar | None:
    if sum((schema is not None, regex is not None, bool(choices))) > 1:
        raise click.UsageError("--schema, --regex and --choice are three forms of an answer: give one.")
    if schema is not None:
        return _schema(schema)
    if regex is not None or choices:
        from modelport.types.output_types import Choice, Regex

        return Choice(*choices) if regex is None else Regex(regex)
    return None


def _schema(path: Path) -> Grammar:
    import json

    from modelport.errors import InvalidRequest
    from modelport.inputs.output_types import grammar_from

    try:
        schema = json.loads(path.read_bytes())
        if not isinstance(schema, dict):
            raise Failure(f'--schema {path}: a JSON schema is an object, as {{"type": …}}')
        return grammar_from(schema)
    except OSError as error:
        raise Failure(f"--schema {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Failure(f"--schema {path} holds no JSON: {error}") from error
    except InvalidRequest as error:
        raise Failure(f"--schema {path}: {error}") from error


def _content(prompt: str, images: tuple[str, ...]) -> Any:
    if not images:
        return prompt
    from modelport.inputs.parts import image_from
    from modelport.types.content import Text

    return [*(image_from(image, f"--image {_shown(image)}") for image in images), Text(prompt)]


def _shown(image: str) -> str:
    """A file's name, or the beginning of a URL, whose rest may be a signature."""
    from modelport.secrets import redact_url

    return redact_url(image) if ":" in image and not Path(image).exists() else image


@cli.command(cls=_Command)
@options(MODEL, *CALL, *CONSTRUCTION, DEBUGGING)
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

    Ctrl-C stops an answer, Ctrl-D ends the chat, /help lists its commands. Lines that are piped in are a turn each.

    \b
    Examples:
      modelport chat
      modelport chat -m openai/gpt-4o --system "You are a patient teacher."
    """
    from modelport.cli.chat import Chat

    def connect(spec: str) -> AbstractContextManager[Model]:
        if spec.partition("/")[0] == model.partition("/")[0]:
            return opened(spec, settings, api_base)
        return opened(spec, {})  # what was set for one backend means nothing to another

    call = {"stop_sequences": list(stop) or None, **parameters}
    Chat(model, connect, system, call, ctx.meta[DEBUG]).run()


@cli.command(cls=_Command)
@click.argument("model", type=text)
@options(
    click.option("--row", "rows", type=text, multiple=True, metavar="NAME", help="Only this promise. Repeatable."),
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
    click.option("--report", "as_report", is_flag=True, help="Print a text to paste into a bug report: versions, "
                 "capabilities, what does not work. It holds no key and no setting's value."),
    *CONSTRUCTION,
    DEBUGGING,
)  # fmt: skip
def check(
    model: str,
    rows: tuple[str, ...],
    as_json: bool,
    as_report: bool,
    settings: dict[str, Any],
    api_base: str | None,
) -> None:
    """Find out what MODEL can do, by trying it.

    Holds the model to modelport's contract: what it offers must work, and what it does not offer must be refused. That
    takes about a hundred requests, which a paid service charges for. The exit status is 1 where a promise is broken.

    \b
    Examples:
      modelport check llamacpp
      modelport check openai/gpt-4o --set max_concurrency=2
      modelport check openai/gpt-4o --row "JSON schema" --row "image input"
      modelport check llamacpp --json | jq '.outcomes[] | select(.status == "broken")'
      modelport check openai/gpt-4o --report > report.md
    """
    from modelport.cli.tables import check_model

    if as_json and as_report:
        raise click.UsageError("--json and --report are two forms of the outcome: give one.")
    form = "json" if as_json else "report" if as_report else "table"
    with opened(model, settings, api_base) as port:
        given = [*settings, *(["api_base"] if api_base else [])]
        kept = check_model(port, model, rows, form, given)
    if not kept:
        sys.exit(1)


@cli.command(cls=_Command)
@options(click.option("--json", "as_json", is_flag=True, help="Print the backends as JSON."), DEBUGGING)
def models(as_json: bool) -> None:
    """List the backends, and what each still needs."""
    from modelport.cli.tables import list_backends

    list_backends(as_json)
