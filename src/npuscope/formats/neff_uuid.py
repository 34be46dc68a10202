"""Does a capture belong to a compiled graph? An NTFF carries the UUID of its NEFF, but only as a C string.

The copy stops at the first zero byte of the UUID, and up to six bytes of junk may follow. An exact comparison of 16 bytes
therefore fails for true pairs; tests/golden pairs 28 captures with 28 NEFF headers by what comes before the zero byte.
"""

from __future__ import annotations

from typing import Final, Literal

UUID_BYTES: Final = 16
DECIDABLE_BYTES: Final = 4
"""Fewer equal bytes prove nothing: among 1,000 NEFFs and 1,000 captures, 3 bytes agree by chance in 6 % of the folders,
4 bytes in 0.02 %. About 1.6 % of random UUIDs have a zero byte among the first 4."""

Verdict = Literal["match", "mismatch", "undecidable"]


def match_uuid(neff_uuid: bytes, ntff_uuid: bytes) -> Verdict:
    """Compare the UUID of a NEFF with the copy in an NTFF, up to the first zero byte of the NEFF's.

    Args:
        neff_uuid: 16 bytes from the header of the NEFF.
        ntff_uuid: The copy as the NTFF holds it, junk included; or cut at its first zero byte.

    Returns:
        `match`: at least `DECIDABLE_BYTES` bytes had to be equal and are.
        `mismatch`: a byte differs, or the copy is shorter than it would be.
        `undecidable`: too few bytes to compare, or one side has none.
    """
    known = neff_uuid[:UUID_BYTES].split(b"\0", 1)[0]
    if not known or not ntff_uuid:
        return "undecidable"
    if not ntff_uuid.startswith(known):
        return "mismatch"
    return "match" if len(known) >= DECIDABLE_BYTES else "undecidable"
