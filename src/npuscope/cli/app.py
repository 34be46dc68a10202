"""The commands, and how wrong use is told."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from npuscope._version import __version__
from npuscope.cli.analyze import analyze
from npuscope.cli.buckets import buckets
from npuscope.cli.cache import cache
from npuscope.cli.capture import capture
from npuscope.cli.compare import compare
from npuscope.cli.doctor import doctor
from npuscope.cli.export import export
from npuscope.cli.ingest import ingest
from npuscope.cli.inspect import inspect
from npuscope.cli.kernels import kernels
from npuscope.cli.matmul import matmul
from npuscope.cli.mlp import mlp
from npuscope.cli.output import say
from npuscope.cli.patterns import patterns
from npuscope.cli.query import query
from npuscope.cli.simulate import simulate
from npuscope.cli.tiling import tiling
from npuscope.cli.xdna import xdna
from npuscope.errors import UsageError

app = typer.Typer(
    name="npuscope",
    help="Measures, predicts and explains how fast a computation runs on a neural processing unit.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
_COMMANDS = (
    doctor,
    matmul,
    tiling,
    buckets,
    inspect,
    ingest,
    analyze,
    compare,
    query,
    export,
    simulate,
    patterns,
    capture,
)
for _command in _COMMANDS:
    # The words of a command to run are its own: what follows the first of them is no option of ours.
    app.command(context_settings={"allow_interspersed_args": False} if _command is capture else None)(_command)
_GROUPS = (mlp, kernels, xdna, cache)
"""Commands with commands below them: a `typer.Typer` each, with its name."""
for _group in _GROUPS:
    app.add_typer(_group)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"npuscope {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command; --debug, anywhere, shows tracebacks."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        UsageError: An unknown command or option, or a value that an option does not take.
    """
    # SQL that begins with a comment is no option: a line break before it says so to the parser. What follows `--` is another
    # command's, and is not touched.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words = [f"\n{word}" if at < end and re.match(r"--\s", word) else word for at, word in enumerate(arguments)]
    try:
        is_group = words in [[], *([group.info.name] for group in _GROUPS)]  # nothing to run: told what there is
        result: Any = app(args=[*words, "--help"] if is_group else words, standalone_mode=False, prog_name="npuscope")
    except typer.TyperException as error:
        raise UsageError(_one_line(error.format_message(), arguments)) from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit:  # how typer leaves when the reader of its output has gone
        raise BrokenPipeError from None
    return int(result or 0)


def _one_line(message: str, arguments: Sequence[str]) -> str:
    """The parser's message with the nearest command where an unknown one was given."""
    text = " ".join(message.split()).rstrip(".")
    path, below = _followed(arguments)
    unknown = re.match(r"No such command '(.*?)'", text)
    if unknown:
        near = difflib.get_close_matches(unknown.group(1), below, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(below)}"
        return f"unknown command {' '.join([*path, unknown.group(1)])!r}; {hint}"
    return f"{text}; see {' '.join(['npuscope', *path, '--help'])}"


def _followed(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The commands that the arguments begin with, from the outermost, and the names of those below the last."""
    command: Any = typer.main.get_command(app)
    path: list[str] = []
    for word in arguments:
        below = getattr(command, "commands", {})
        if word not in below:
            break
        command = below[word]
        path.append(word)
    return path, list(getattr(command, "commands", {}))
