"""The classes of the commands: what they do beyond click's own, for words that are not commands and unknown options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from modelport.cli import INTERRUPTED
from modelport.cli.options import DEBUG_KEY
from modelport.cli.terminal import OutputClosed, print_error

#: The exit status if the reader of standard output has closed it: 128 + SIGPIPE, by the convention of shells.
_PIPE_CLOSED = 141
#: How similar to a mistyped word a name must be to be suggested, from 0 to 1.
_SIMILARITY = 0.7
#: Words that are commands of other programs -> what they mean here.
_MEANINGS = {"help": "--help", "version": "--version", "list": "models", "ls": "models", "pull": "download"}


def similar_names(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that are similar to a word, the most similar one first."""
    from difflib import get_close_matches

    return get_close_matches(word, list(names), cutoff=_SIMILARITY)


class Command(click.Command):
    """A command that suggests similar names for an unknown option. click itself suggests almost any name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            close = similar_names(error.option_name, error.possibilities or ())
            raise click.NoSuchOption(error.option_name, possibilities=close, ctx=error.ctx) from None


class CommandGroup(click.Group):
    """A group of commands that runs "ask" if the first word after the options is not the name of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with the name of a command at their beginning."""
        if not (args and args[0] in (*self.commands, "-h", "--help", "--version")):
            args = self._with_command(ctx, args)
        return super().parse_args(ctx, args)

    def _with_command(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the arguments with the name of a command at the beginning, where click expects it.

        If the first word after the options is the name of a command, it is moved to the beginning. Otherwise "ask" is
        inserted.

        Raises:
            click.UsageError: The word is probably a misspelt command.
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
            self._refuse_misspelling(ctx, words)
        return ["ask", *args]

    def _refuse_misspelling(self, ctx: click.Context, words: list[str]) -> None:
        """Refuse a first word that is probably meant as a command. Otherwise it would be sent to a model, as a prompt.

        Raises:
            click.UsageError: The word is similar to the name of a command, or it is a command of other programs and
                stands alone or before options.
        """
        # Few misspellings change the first letter, but many prompts begin with "What", which resembles "chat".
        word = words[0].lower()
        close = similar_names(word, (name for name in self.commands if name[:1] == word[:1]))
        if word in _MEANINGS and all(one.startswith("-") for one in words[1:]):
            close = [_MEANINGS[word]]
        if not close or len(word.split()) != 1:
            return
        as_prompt = f"To send the word to a model: {ctx.command_path} ask {words[0]}"
        if len(words) > 1:
            as_prompt = "Put quotes around a prompt of several words."
        raise click.UsageError(
            f"There is no command {words[0]!r}. Did you mean '{ctx.command_path} {close[0]}'? {as_prompt}", ctx
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. An error is printed in one line, and ends it with status 1."""
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
        """Write the usage without and with the name of a command."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] [PROMPT]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] ...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of "ask", and then the commands."""
        params = (*self.commands["ask"].params, *self.get_params(ctx))
        options = [param for param in params if isinstance(param, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])
        self.format_commands(ctx, formatter)
