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


class Text(click.ParamType):
    """Text that can be sent: an argument that is not UTF-8 reaches Python as lone surrogates."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value itself."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("it is not UTF-8 text", param, ctx)
        return str(value)


class Setting(click.ParamType):
    """`key=value`, the value as JSON where it is JSON."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The key and the value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not (equals and key.isidentifier()):
            self.fail("write key=value, as --set dialect=llama.cpp", param, ctx)
        if _SECRET.search(key):  # the value is not repeated, since this may end up in a log
            self.fail(
                f"{key}: a key on the command line can be read by every user of this machine; put it into the "
                "environment variable of its service, such as OPENAI_API_KEY",
                param,
                ctx,
            )
        try:
            return key, json.loads(text)
        except ValueError:
            if text[:1] in ("{", "[", '"'):
                self.fail(f"{key}: the value looks like JSON and is not valid JSON", param, ctx)
            return key, text


TEXT = Text()


def _settings(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return dict(pairs)


def _debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG] = value


MODEL = click.option(
    "-m", "--model", type=TEXT, metavar="BACKEND/ID", envvar="MODELPORT_MODEL", default="llamacpp", show_default=True,
    show_envvar=True, help="The model, as openai/gpt-4o; 'modelport models' lists the backends.",
)  # fmt: skip
CONSTRUCTION = (
    click.option("--api-base", type=TEXT, metavar="URL", help="The base URL of the service."),
    click.option(
        "--set", "settings", type=Setting(), multiple=True, callback=_settings, metavar="KEY=VALUE",
        help="A further setting of the model, as dialect=llama.cpp or timeout=30; JSON where it is JSON. Repeatable. "
        "Keys go into the environment (OPENAI_API_KEY).",
    ),
)  # fmt: skip
CALL = (
    click.option("-s", "--system", type=TEXT, metavar="TEXT", help="What the model is told before everything else."),
    click.option("--stop", type=TEXT, multiple=True, metavar="TEXT", help="End before this text. Repeatable."),
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
