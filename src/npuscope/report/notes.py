"""Which notes of a reader change what the figures mean, and which stand under every artifact of their kind.

The latter are told by `inspect` and `ingest`, and every `--json` has them; elsewhere they only hide the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_ROUTINE: Final = (
    re.compile(
        r"\d+ (?:instructions|DMA packets) before the begin marker are left out\b.*"
    ),  # set-up, in every capture
    re.compile(r"1 trace records were left over: starts of Tensor instructions without an end"),  # in 28 of 28 captures
)


def telling(notes: Iterable[str]) -> list[str]:
    """The notes without those that hold for every artifact of their kind, each once."""
    return [note for note in dict.fromkeys(notes) if not any(routine.fullmatch(note) for routine in _ROUTINE)]
