"""`npuscope cache`: the group of commands on compile caches."""

from __future__ import annotations

import typer

from npuscope.cli.cache_doctor import ProgramCommand, doctor
from npuscope.cli.cache_folders import du, ls, prune

cache = typer.Typer(
    name="cache",
    help="Whether and why programs are compiled again; what is in a compile cache, and what of it can go.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
cache.command(cls=ProgramCommand)(doctor)
for _command in (ls, du, prune):
    cache.command()(_command)
