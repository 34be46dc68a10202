"""Notes of real captures: those that all of them have do not stand under every command."""

from npuscope.formats.ntff_profile import read_ntff
from npuscope.report.notes import telling


def test_what_every_capture_has_is_no_note_to_tell(samples):
    captures = sorted((samples / "inf2-matmul").glob("*.ntff"))[:6]
    assert captures
    for path in captures:
        notes = read_ntff(path).notes
        assert notes
        assert telling(notes) == []
