"""Where compile caches are, as compilers and frameworks look for them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import UsageError, shorten

NEURON_DEFAULT: Final = "/var/tmp/neuron-compile-cache"  # noqa: S108 - the vendor's default
_REMOTE: Final = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CachePlace:
    """A cache folder, and what named it."""

    folder: Path
    named_by: str
    """`--cache_dir of NEURON_CC_FLAGS`, `NEURON_COMPILE_CACHE_URL`, `default`, ..."""


def default_cache(environment: Mapping[str, str]) -> CachePlace:
    """The cache that a Neuron compilation would use here; JAX's, where only that one is set.

    `--cache_dir` in `NEURON_CC_FLAGS` comes before `NEURON_COMPILE_CACHE_URL`, and that before the default (AWS Neuron
    documentation, Neuron Persistent Cache).

    Args:
        environment: Variables by name.

    Raises:
        UsageError: The cache is not on this machine.
    """
    flags = environment.get("NEURON_CC_FLAGS", "")
    named = _cache_dir(flags)
    if named:
        return CachePlace(local_folder(named, "--cache_dir of NEURON_CC_FLAGS"), "--cache_dir of NEURON_CC_FLAGS")
    for name in ("NEURON_COMPILE_CACHE_URL", "JAX_COMPILATION_CACHE_DIR"):
        if environment.get(name):
            return CachePlace(local_folder(environment[name], name), name)
    return CachePlace(Path(NEURON_DEFAULT), "the default of the Neuron compiler")


def local_folder(text: str, what: str) -> Path:
    """A folder from a path or a `file://` URL.

    Raises:
        UsageError: It is a URL of somewhere else.
    """
    if _REMOTE.match(text):
        raise UsageError(
            f"{what} is {shorten(text, 120)}: only folders of this machine are read; copy it first (aws s3 sync) and name the copy"
        )
    return Path(text.removeprefix("file://")).expanduser()


def _cache_dir(flags: str) -> str:
    """The value of `--cache_dir`, given with `=` or after a space."""
    try:
        words = shlex.split(flags)
    except ValueError:
        words = flags.split()
    for at, word in enumerate(words):
        if word.startswith("--cache_dir="):
            return word.partition("=")[2]
        if word == "--cache_dir" and at + 1 < len(words):
            return words[at + 1]
    return ""
