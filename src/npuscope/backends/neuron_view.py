"""What AWS's profiler makes of a capture: `view` in both tools, `show-session` in the older. It has not met the hardware.

Our own readers need neither: they read NTFF version 5 themselves. This is for versions that they cannot read.

| format | `neuron-profile` | `neuron-explorer` |
|---|---|---|
| parquet | none: its default, `db`, fills an InfluxDB | `--output-format parquet`, the default |
| json | to `--output-file` | to `--output-file`, up to SDK 2.33 |
| perfetto | a `.pftrace` in the current folder | the same |
| summary-json, summary-text | to standard output | to standard output |

Where documents differ:
- Parquet: "Analyze Profile Output" (2.32) has the tables in the folder of `--output-file`, or below `--data-path` as
  `profiles/global/DISPLAY-NAME@latest`. AWS's nki-library uses the former, AWS's agent skills the latter, which is used here,
  because it is documented down to the name. Without `--ingest-only` the tool serves a page until it is ended.
- Perfetto: the older guide names `ntff.pftrace` for one NEFF and NTFF; Explorer's page names
  `device_profile_model_ID.pftrace`, for a folder. Whichever one appears is taken.
- Summaries: the older guide says that they are printed; a user's note on Explorer says that it refuses `--output-file` for
  them, while another user passes it. It is not passed here.
- `show-session`: in no guide, but public in use with `neuron-profile`. AWS's nki-library calls it through a path that may be
  either tool. No document has it in Explorer, so it is refused there.

Source: AWS Neuron documentation, Neuron Profiler User Guide (2.28.1), Analyze Profile Output (2.32), Viewing Profiles with
Perfetto, the announcement that Explorer's JSON ends with 2.33; the test framework of nki-library.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Final

from npuscope._files import refuse_overwriting
from npuscope.backends.neuron_tools import (
    EXPLORER,
    PROFILE,
    PROFILERS,
    Profiler,
    as_profiler,
    find_profiler,
    move_new,
    run_tool,
)
from npuscope.errors import FormatError, MeasurementError, OutputError, UnavailableError, unknown_name
from npuscope.formats.artifact import KINDS, identify
from npuscope.formats.capture import read_neff_header
from npuscope.formats.perfetto_packets import check_packets
from npuscope.formats.session_table import SessionRow, parse_session_table

VIEW_FORMATS: Final = ("parquet", "json", "perfetto", "summary-json", "summary-text")
VIEW_TIMEOUT_S: Final = 1800.0
"""An NTFF of a gigabyte takes minutes, as users report."""
LAST_JSON_RELEASE: Final = (2, 33)
_SUFFIXES: Final = {"json": ".json", "perfetto": ".pftrace", "summary-json": ".json", "summary-text": ".txt"}
_KINDS: Final = {
    "parquet": "neuron-parquet",
    "json": "neuron-json",
    "perfetto": "perfetto",
    "summary-json": "summary-json",
}
"""How `artifact.identify` names what a format should give."""
_DISPLAY_NAME: Final = "npuscope"
_SESSION_LIMIT: Final = 32 << 20
_HEAD_BYTES: Final = 1 << 16
_TAIL_BYTES: Final = 4096


def view_name(stem: str, output_format: str) -> str:
    """A name for what a format gives: `STEM.pftrace`; a folder `STEM_parquet`."""
    return f"{stem}{_SUFFIXES[output_format]}" if output_format in _SUFFIXES else f"{stem}_{output_format}"


def view_capture(
    neff: Path,
    ntff: Path,
    output: Path,
    *,
    output_format: str,
    tool: Profiler | str | PathLike[str] | None = None,
    timeout_s: float | None = VIEW_TIMEOUT_S,
) -> Path:
    """Have the profiler process a capture; no device is needed.

    Args:
        neff: The compiled graph.
        ntff: Its capture.
        output: Where the result goes: a folder for `parquet`, else a file. Nothing may be there.
        output_format: One of `VIEW_FORMATS`.
        tool: The profiler, or its path; None finds one that has the format.
        timeout_s: Most time; None is any.

    Raises:
        UsageError: An unknown format.
        UnavailableError: No profiler is installed, or none that is has the format.
        FormatError: A file is missing, or the NEFF is none.
        OutputError: Something is at `output`, or it cannot be written.
        MeasurementError: The tool failed, took too long, or wrote nothing of that format.
    """
    if output_format not in VIEW_FORMATS:
        raise unknown_name("view format", output_format, VIEW_FORMATS)
    refuse_overwriting(output, force=False)
    read_neff_header(neff)
    _require_file(ntff)
    profiler = _find_with(output_format) if tool is None else as_profiler(tool)
    _require_format(profiler, output_format)
    words = ["view", "-n", str(neff.absolute()), "-s", str(ntff.absolute()), f"--output-format={output_format}"]
    what = f"view of {ntff} as {output_format}"
    with _scratch(output) as work:
        if output_format in {"summary-json", "summary-text"}:
            made = _printed(profiler, words, work, what, timeout_s)
        else:
            made = _written(profiler, words, work, what, timeout_s, output_format)
        _check_kind(made, output_format, f"{profiler.interface} {what}")
        move_new(made, output.absolute())
    return output


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FormatError(path, expected="a capture (NTFF)", found="a folder" if path.is_dir() else "no such file")


def _find_with(output_format: str) -> Profiler:
    """The newest installed profiler that has a format; if none has, the newest, whose refusal tells why."""
    newest = find_profiler()
    for name in PROFILERS:
        try:
            profiler = newest if name == newest.interface else find_profiler((name,))
            _require_format(profiler, output_format)
        except UnavailableError:
            continue
        return profiler
    return newest


def _require_format(profiler: Profiler, output_format: str) -> None:
    """Refuse what is documented not to be there; where the version is not known, the tool itself may refuse."""
    if profiler.interface == PROFILE and output_format == "parquet":
        raise UnavailableError(
            f"view as {output_format}",
            missing=f"{PROFILE} writes json, perfetto, summary-json and summary-text, or fills a database",
            remedy=f"install {EXPLORER}, or view as json",
        )
    if profiler.interface == EXPLORER and output_format == "json" and (profiler.release or (0, 0)) > LAST_JSON_RELEASE:
        last = ".".join(map(str, LAST_JSON_RELEASE))
        raise UnavailableError(
            f"view as {output_format}",
            missing=f"{profiler.told} has no full profile as JSON, the last with it was {last}",
            remedy="view as parquet, which npuscope reads, too",
        )


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder for all that the tool leaves, beside the result, so that this can be moved; it goes in the end."""
    try:
        work = Path(tempfile.mkdtemp(prefix=".npuscope-view-", dir=output.absolute().parent))
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)  # made by this run alone


def _printed(profiler: Profiler, words: Sequence[str], work: Path, what: str, timeout_s: float | None) -> Path:
    made = work / "printed"
    with made.open("w+b") as file:
        run_tool(profiler, words, what=what, cwd=work, timeout_s=timeout_s, stdout=file)
    return made


def _written(
    profiler: Profiler, words: Sequence[str], work: Path, what: str, timeout_s: float | None, output_format: str
) -> Path:
    """Run the tool in a folder of its own, and find the one result there."""
    wanted = work / f"view{_SUFFIXES.get(output_format, '')}"
    if output_format == "parquet":
        state = work / "state"
        flags = [f"--data-path={state}", f"--display-name={_DISPLAY_NAME}", "--ingest-only"]
        wanted = state / "profiles" / "global" / f"{_DISPLAY_NAME}@latest"
    else:
        flags = [f"--output-file={wanted}"] if output_format == "json" else []
    ended = run_tool(profiler, [*words, *flags], what=what, cwd=work, timeout_s=timeout_s)
    if wanted.exists():
        return wanted.resolve()
    if output_format == "parquet":
        found = sorted({path.parent for path in work.rglob("*.parquet")})
    else:
        found = sorted(
            path for path in work.iterdir() if path.name.endswith(_SUFFIXES[output_format]) and path.is_file()
        )
    if len(found) == 1:
        return found[0]
    count = f"{len(found)} results, which cannot be told apart" if found else "nothing of that format"
    raise MeasurementError(f"{profiler.interface} {what} ended well but wrote {count}: {ended.last_words()}")


def _check_kind(made: Path, output_format: str, name: str) -> None:
    """Refuse what is not of the format, or cut off: nothing of it may pass for a profile."""
    try:
        if output_format == "summary-text":
            _check_text(made)
            return
        kind = identify(made)
        if kind.name != _KINDS[output_format]:
            raise FormatError(made.name, expected=f"a {KINDS[_KINDS[output_format]].words}", found=f"a {kind.words}")
        if output_format == "perfetto":
            check_packets(made)
        for file in sorted(made.rglob("*.parquet")) if made.is_dir() else [made]:
            _check_ends(file, output_format)
    except (FormatError, OSError) as error:
        raise MeasurementError(f"{name} ended well but gave no {output_format}: {error}") from error


def _check_text(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip() or b"\0" in head:
        raise FormatError(path.name, expected="a text", found="binary data" if head.strip() else "nothing")


def _check_ends(path: Path, output_format: str) -> None:
    """Whether a file ends as its format does; what is in between its reader checks."""
    ends = {"parquet": (b"PAR1",), "json": (b"}",), "summary-json": (b"}", b"]")}.get(output_format)
    if ends is None:
        return
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    if size < 2 * len(ends[0]) or not (tail if output_format == "parquet" else tail.rstrip()).endswith(ends):
        raise FormatError(path.name, where=f"byte {size}", expected="its end", found="a file that is cut off")


def show_session(
    ntff: Path, *, tool: Profiler | str | PathLike[str] | None = None, timeout_s: float | None = VIEW_TIMEOUT_S
) -> tuple[SessionRow, ...]:
    """The table that `neuron-profile show-session` prints of a capture: each core's time, by `SessionRow.duration_ns`.

    Args:
        ntff: A capture.
        tool: The profiler, or its path; None finds `neuron-profile`.
        timeout_s: Most time; None is any.

    Raises:
        UnavailableError: The older tool is not installed, or the newer was given.
        FormatError: There is no such capture, or what the tool printed is no such table.
        MeasurementError: The tool failed or took too long.
    """
    _require_file(ntff)
    profiler = find_profiler((PROFILE,)) if tool is None else as_profiler(tool)
    if profiler.interface != PROFILE:
        raise UnavailableError(
            "show-session",
            missing=f"it is a command of {PROFILE}, and no document has it in {profiler.interface}",
            remedy="npuscope analyze tells the same of a capture, or view it as summary-json",
        )
    what = f"show-session of {ntff}"
    with tempfile.TemporaryDirectory(prefix="npuscope-") as folder, tempfile.TemporaryFile() as printed:
        run_tool(
            profiler,
            ["show-session", "-s", str(ntff.absolute())],
            what=what,
            cwd=Path(folder),
            timeout_s=timeout_s,
            stdout=printed,
        )
        printed.seek(0)
        data = printed.read(_SESSION_LIMIT + 1)
    source = f"{PROFILE} {what}"
    if len(data) > _SESSION_LIMIT:
        raise FormatError(source, expected=f"a table of at most {_SESSION_LIMIT} bytes", found="more")
    return tuple(parse_session_table(data.decode("utf-8", "replace"), source=source))
