"""Which Profiles a list of paths stands for: captures matched with NEFFs, everything else by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from npuscope.formats.artifact import identify, read_profile
from npuscope.formats.capture import captures_below, read_capture
from npuscope.profile.tables import Profile


@dataclass(frozen=True, slots=True)
class Source:
    """One artifact to read."""

    path: Path
    neffs: tuple[Path, ...] | None
    """Candidates for the NEFF of a capture; None where none was named, and those beside it are looked at."""

    def read(self) -> Profile:
        """The Profile, see `artifact.read_profile` for the errors."""
        return read_profile(self.path) if self.neffs is None else read_capture(self.path, self.neffs)


def plan_ingest(paths: Sequence[Path]) -> list[Source]:
    """What to read, in the order of the paths; artifacts without a profile (logs, caches) are left out.

    Raises:
        FormatError: A path is missing, or nothing that any reader knows.
    """
    kinds = [(path, identify(path).name) for path in paths]
    neffs: list[Path] = []
    ntffs: list[Path] = []
    others: list[Path] = []
    for path, kind in kinds:
        if kind == "captures":
            below, graphs = captures_below(path)
            ntffs += below
            neffs += graphs
        elif kind == "neff":
            neffs.append(path)
        elif kind in {"compiler-workdir", "compile-cache"}:
            neffs += captures_below(path)[1]
        elif kind == "ntff":
            ntffs.append(path)
        elif kind not in {"neuron-log", "results"}:
            others.append(path)
    given = tuple(dict.fromkeys(neffs))
    captures = dict.fromkeys(ntffs)
    return [Source(path, given if given else None) for path in captures] + [Source(path, None) for path in others]
