"""The options that several commands share, and `open_model`, which loads the model that they describe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelport.cli.terminal import CommandError

if TYPE_CHECKING:
    from modelport.model import Model

F = TypeVar("F", bound=Callable[..., Any])

#: The key in click's `Context.meta` for the value of `--debug`.
DEBUG_KEY = "modelport.debug"


def utf8_text(value: str) -> str:
    """Return an argument of the command line if it is UTF-8 text.

    Python represents each byte that is not UTF-8 as a lone surrogate, which can't be encoded.

    Raises:
        click.BadParameter: The argument is not UTF-8.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8 text") from None
    return value


def parse_setting(pair: str) -> tuple[str, Any]:
    """Return the name and the value of a setting that is written as `name=value`. A value that is JSON is parsed.

    Raises:
        click.BadParameter: The argument is not such a pair, or its name is that of a secret.
    """
    from modelport.secrets import names_secret

    name, equals, value = pair.partition("=")
    if names_secret(name):  # The message does not repeat the value, because the message may be logged.
        raise click.BadParameter(
            f"{name}: a secret on the command line can be read by every user of this machine; put it into the "
            "environment variable of its service, such as OPENAI_API_KEY"
        )
    if not (equals and name.isidentifier()):
        raise click.BadParameter("write key=value, for example --set dialect=llama.cpp")
    try:
        return name, json.loads(value)
    except ValueError:
        if value[:1] in ("{", "[", '"'):
            raise click.BadParameter(f"{name}: the value looks like JSON and is not valid JSON") from None
        return name, utf8_text(value)


def _collect_settings(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return dict(pairs)


def _store_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG_KEY] = value


#: The default local model, and the most tokens of its responses if the user sets no limit. Such a small model may
#: repeat itself until its context is full; this many tokens take it about ten seconds.
DEFAULT_MODEL, DEFAULT_MAX_TOKENS = "llamacpp", 1024
MODEL_OPTION = click.option(
    "-m", "--model", type=utf8_text, metavar="BACKEND/ID", envvar="MODELPORT_MODEL", default=DEFAULT_MODEL,
    show_default=True, show_envvar=True,
    help="The model, for example openai/gpt-4o; 'modelport models' lists the names.",
)  # fmt: skip
MODEL_OPTIONS = (
    click.option("--api-base", type=utf8_text, metavar="URL", help="The base URL of the service."),
    click.option(
        "--set", "settings", type=parse_setting, multiple=True, callback=_collect_settings, metavar="KEY=VALUE",
        help="A further setting of the model, for example dialect=llama.cpp or timeout=30; a value may be JSON. "
        "Repeatable. API keys are read from the environment (OPENAI_API_KEY).",
    ),
)  # fmt: skip
CALL_OPTIONS = (
    click.option("-s", "--system", type=utf8_text, metavar="TEXT", help="The system message."),
    click.option("--stop", type=utf8_text, multiple=True, metavar="TEXT", help="A stop sequence. Repeatable."),
    click.option("-t", "--temperature", type=float, metavar="NUMBER", help="Sampling temperature; 0 is greedy."),
    click.option("--max-tokens", type=int, metavar="NUMBER",
                 help="The most tokens to generate; without -m, at most 1,024 are."),
    click.option("--seed", type=int, metavar="NUMBER", help="Makes sampling repeatable."),
    click.option("-u", "--usage", is_flag=True, help="Show the tokens and the time of a response on standard error."),
)  # fmt: skip
DEBUG_OPTION = click.option(
    "--debug", is_flag=True, envvar="MODELPORT_DEBUG", show_envvar=True, expose_value=False, callback=_store_debug,
    help="Show tracebacks.",
)  # fmt: skip


def add_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that adds these options to a command, in this order in its help."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def limit_default_model(spec: str, settings: Mapping[str, Any], parameters: dict[str, Any]) -> None:
    """Set `max_tokens` in the parameters of calls of the default local model, unless the user has set it."""
    if spec == DEFAULT_MODEL and parameters["max_tokens"] is None and "max_tokens" not in settings:
        parameters["max_tokens"] = DEFAULT_MAX_TOKENS


@contextmanager
def open_model(spec: str, settings: dict[str, Any], api_base: str | None = None) -> Iterator[Model]:
    """Load the model that the options describe, and close it at the end.

    Args:
        spec: The name of the model, as `backend/id`.
        settings: Arguments for the model's constructor.
        api_base: The base URL of the service; `None` for the backend's default.

    Yields:
        The model.

    Raises:
        CommandError: The class of the model has no setting `api_base`.
    """
    from modelport.registry import load_model

    if api_base:
        _check_has_api_base(spec)
    model = load_model(spec, **settings, **({"api_base": api_base} if api_base else {}))
    try:
        yield model
    finally:
        model.close()


def _check_has_api_base(spec: str) -> None:
    """Raise `CommandError` if the class of the model has no setting `api_base`, as that of a local engine."""
    from modelport.registry import model_class
    from modelport.saving import constructor_parameters

    cls = model_class(spec.partition("/")[0], spec)
    address = getattr(cls, "address_setting", "api_base")
    if address == "api_base" and address in constructor_parameters(cls):
        return
    advice = "it calls no service at an address" if address == "api_base" else f"pass --set {address}=URL"
    raise CommandError(f"--api-base: {cls.__name__} has no such setting; {advice}")
