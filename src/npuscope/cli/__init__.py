"""The command line: `npuscope COMMAND`. Parse, call one function, render its value."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; every foreseen failure is one line on standard error.

    Returns:
        0 done; 1 a row failed; 2 wrong use; 3 a bad input file; 4 a device or tool is missing; 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments  # the rest is another command's
    debug = "--debug" in own
    if debug:
        arguments.remove("--debug")
    from npuscope.cli.app import run
    from npuscope.errors import NpuscopeError, shorten

    if sys.stdout is None or sys.stderr is None:
        return 2  # closed by the caller: there is nowhere to write a result or a reason
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; so does the output
        return 141
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except NpuscopeError as error:
        if debug:
            traceback.print_exc()
        else:
            _complain(f"error: {error}")
        return error.exit_code
    except (OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        else:
            _complain(f"error: {shorten(str(error), 300) or type(error).__name__}")
        return 2
    return code


def _complain(text: str) -> None:
    from npuscope.units import printable

    sys.stderr.write(f"npuscope: {printable(' '.join(text.split()))}\n")
