"""What the commands of :mod:`prunelib.cli` are made of: their help, their options, how they say what went wrong."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import click

from prunelib.errors import nearest
from prunelib.runs.options import RunOptions
from prunelib.runs.progress import Screen


class Command(click.Command):
    """A command whose epilog is printed as it is written."""

    def format_epilog(self, ctx, formatter) -> None:
        text = self.epilog or ""
        if "{usage}" in text:  # the methods are imported where they are to be listed
            from prunelib.methods.base import usage

            text = text.format(usage="\n".join(f"  {line}" for line in usage()))
        if text:
            formatter.write(f"\n{text}")


class Group(Command, click.Group):
    """The commands; an unknown one is told with the nearest."""

    command_class = Command

    def invoke(self, ctx):
        """Whoever reads the output may have seen enough, as in ``| head -1``: click would end in an error then."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def resolve_command(self, ctx, args):
        name = args[0]
        if self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            raise click.UsageError(
                f"unknown command '{name}'{nearest(name, known)}; use one of {', '.join(known)}", ctx
            )
        return super().resolve_command(ctx, args)


def options(*names: str):
    """The options of a run that a command takes, as :class:`~prunelib.runs.options.RunOptions` describes them."""

    def decorate(function):
        for one in reversed([one for one in fields(RunOptions) if one.name in names]):
            about = one.metadata
            name = f"--{one.name}"
            function = click.option(
                name, default=str(one.default), metavar=about["metavar"] or None, help=about["about"]
            )(function)
        return function

    return decorate


def folder(flag: str, default: Path | None, text: str):
    return click.option(
        flag,
        "folder",
        type=Path,
        default=default,
        required=default is None,
        metavar="DIR",
        help=text + (f" (default {default})" if default else ""),
    )


def calibration(sequences: int, length: int):
    """The options of what a method is calibrated on, with their defaults."""
    told = "self (default: sampled from the model), answers (its own to questions on passages), a file, or hub:DATASET"

    def decorate(function):
        for name, default, metavar, about in (
            ("--length", str(length), "N", f"tokens of each (default {length})"),
            ("--sequences", str(sequences), "N", f"calibration sequences (default {sequences})"),
            ("--calibration", "self", "TEXT", told),
        ):
            function = click.option(name, default=default, metavar=metavar, help=about)(function)
        return function

    return decorate


@contextmanager
def progress(nothing: str = "") -> Iterator[Callable[[str], None]]:
    """Progress of a command, which goes away at its end; an interruption is one line, with ``nothing`` behind it."""
    screen = Screen()
    try:
        yield screen.status
    except KeyboardInterrupt as error:
        screen.line(f"prunelib: interrupted{nothing}")
        raise click.exceptions.Exit(130) from error
    finally:
        screen.status("")


def in_one_line(error: click.ClickException) -> str:
    """What click found wrong with the arguments, as this program says such things."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        known = [name for one in context.command.params for name in one.opts] if context else []
        message = f"unknown argument {error.option_name}{nearest(error.option_name, known)}"
    else:
        message = " ".join(error.format_message().split()).rstrip(".")
        message = message[:1].lower() + message[1:]
    return message + (f" (see `{context.command_path} --help`)" if context else "")
