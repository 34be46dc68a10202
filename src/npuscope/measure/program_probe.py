"""Compiles one program and says how it went by its exit status: the child process of `probe_compile`."""

from __future__ import annotations

import sys
from typing import Final

from npuscope.backends.programs import open_program_device
from npuscope.errors import NpuscopeError, UnavailableError
from npuscope.workloads.patterns import PatternConfig

REFUSED: Final = 3
"""Exit status after an error of npuscope's own, told in the last line; Python itself and compilers end with others."""
UNAVAILABLE: Final = 4
"""Exit status where the device cannot be had, which no program is to blame for: the last two lines tell what it lacks, and how
to get that."""


def main(arguments: list[str]) -> int:
    """0 where the device's compiler gets through; REFUSED or UNAVAILABLE, after the message on standard error, where not."""
    device, pattern, iterations, batch, features, dtype, as_published = arguments
    config = PatternConfig(pattern, int(iterations), int(batch), int(features), dtype, as_published=as_published == "1")
    try:
        open_program_device(device).compile_program(config)
    except UnavailableError as error:
        sys.stderr.write(f"{error.missing}\n{error.remedy}\n")
        return UNAVAILABLE
    except NpuscopeError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
