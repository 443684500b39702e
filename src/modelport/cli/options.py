"""The options that several commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from modelport.model import Model

F = TypeVar("F", bound=Callable[..., Any])

DEBUG = "modelport.debug"
_SECRET = re.compile(r"api_?key|access_key|secret|password|(^|_)token$", re.IGNORECASE)


def text(value: str) -> str:
    """An argument that can be sent: one that is not UTF-8 reaches Python as lone surrogates.

    Raises:
        click.BadParameter: It is such a one.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8 text") from None
    return value


def setting(pair: str) -> tuple[str, Any]:
    """The key and the value of `key=value`, the value as JSON where it is JSON.

    Raises:
        click.BadParameter: It is no such pair, or holds a secret.
    """
    key, equals, value = pair.partition("=")
    if _SECRET.search(key):  # the value is not repeated, since this may end up in a log
        raise click.BadParameter(
            f"{key}: a key on the command line can be read by every user of this machine; put it into the environment "
            "variable of its service, such as OPENAI_API_KEY"
        )
    if not (equals and key.isidentifier()):
        raise click.BadParameter("write key=value, as --set dialect=llama.cpp")
    try:
        return key, json.loads(value)
    except ValueError:
        if value[:1] in ("{", "[", '"'):
            raise click.BadParameter(f"{key}: the value looks like JSON and is not valid JSON") from None
        return key, text(value)


def _settings(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return dict(pairs)


def _debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG] = value


MODEL = click.option(
    "-m", "--model", type=text, metavar="BACKEND/ID", envvar="MODELPORT_MODEL", default="llamacpp", show_default=True,
    show_envvar=True, help="The model, as openai/gpt-4o; 'modelport models' lists the backends.",
)  # fmt: skip
CONSTRUCTION = (
    click.option("--api-base", type=text, metavar="URL", help="The base URL of the service."),
    click.option(
        "--set", "settings", type=setting, multiple=True, callback=_settings, metavar="KEY=VALUE",
        help="A further setting of the model, as dialect=llama.cpp or timeout=30; JSON where it is JSON. Repeatable. "
        "Keys go into the environment (OPENAI_API_KEY).",
    ),
)  # fmt: skip
CALL = (
    click.option("-s", "--system", type=text, metavar="TEXT", help="What the model is told before everything else."),
    click.option("--stop", type=text, multiple=True, metavar="TEXT", help="End before this text. Repeatable."),
    click.option("-t", "--temperature", type=float, metavar="NUMBER", help="0 for the likeliest answer."),
    click.option("--max-tokens", type=int, metavar="NUMBER", help="The longest answer, in tokens."),
    click.option("--seed", type=int, metavar="NUMBER", help="Makes sampling repeatable."),
)
DEBUGGING = click.option(
    "--debug", is_flag=True, envvar="MODELPORT_DEBUG", show_envvar=True, expose_value=False, callback=_debug,
    help="Show tracebacks.",
)  # fmt: skip


def options(*given: Callable[[F], F]) -> Callable[[F], F]:
    """These options on a command, in this order in its help."""

    def decorate(command: F) -> F:
        for option in reversed(given):
            command = option(command)
        return command

    return decorate


@contextmanager
def opened(spec: str, settings: dict[str, Any], api_base: str | None = None) -> Iterator[Model]:
    """The model that the options name, closed at the end."""
    from modelport.registry import load_model

    model = load_model(spec, **settings, **({"api_base": api_base} if api_base else {}))
    try:
        yield model
    finally:
        model.close()
