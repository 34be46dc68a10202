"""A capture carries the UUID of its NEFF only up to the first zero byte."""

import pytest

from npuscope.formats.neff_uuid import DECIDABLE_BYTES, match_uuid

WHOLE = bytes(range(1, 17))


def test_equal_uuids_match():
    assert match_uuid(WHOLE, WHOLE) == "match"


def test_a_copy_with_junk_behind_it_matches():
    assert match_uuid(WHOLE, WHOLE + b"\x7fjunk") == "match"


@pytest.mark.parametrize("k", range(DECIDABLE_BYTES, 16))
def test_a_copy_that_stops_at_the_first_zero_byte_matches(k):
    neff = WHOLE[:k] + b"\0" + WHOLE[k + 1 :]
    assert match_uuid(neff, neff[:k]) == "match"
    assert match_uuid(neff, neff[:k] + b"\xaa\xbb") == "match"


@pytest.mark.parametrize("k", range(1, DECIDABLE_BYTES))
def test_too_few_equal_bytes_decide_nothing_but_a_differing_one_does(k):
    neff = WHOLE[:k] + bytes(16 - k)
    assert match_uuid(neff, neff[:k]) == "undecidable"
    assert match_uuid(neff, b"\xee" + neff[1:k]) == "mismatch"


@pytest.mark.parametrize("at", range(16))
def test_one_differing_byte_is_a_mismatch(at):
    other = bytearray(WHOLE)
    other[at] ^= 0x80
    assert match_uuid(WHOLE, bytes(other)) == "mismatch"


def test_a_copy_shorter_than_the_uuid_up_to_its_zero_byte_is_a_mismatch():
    assert match_uuid(WHOLE, WHOLE[:10]) == "mismatch"


def test_no_uuid_on_one_side_decides_nothing():
    assert match_uuid(bytes(16), WHOLE) == "undecidable"
    assert match_uuid(WHOLE, b"") == "undecidable"
    assert match_uuid(b"", b"") == "undecidable"
