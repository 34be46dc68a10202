"""Any bytes end in a Profile or in one FormatError with the file and the place."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.ntff_profile import profile_of_bytes
from npuscope.profile.tables import Profile
from tests.writers.ntff import small_capture

VALID = small_capture().data()


def attempt(data: bytes) -> None:
    try:
        assert isinstance(profile_of_bytes(data, source="fuzz.ntff"), Profile)
    except FormatError as error:
        assert "fuzz.ntff" in str(error)  # noqa: PT017  the other outcome is as good


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_random_bytes(data):
    attempt(data)
    attempt(b"\x05" + data)


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, len(VALID)),
)
@settings(max_examples=150, deadline=None)
def test_mutated_and_truncated_captures(changes, length):
    data = bytearray(VALID)
    for at, value in changes:
        data[at] = value
    attempt(bytes(data))
    attempt(bytes(data[:length]))


@pytest.mark.parametrize("bit", [0, 3, 6])
def test_flipped_bits_of_the_metadata(bit):
    end = 128 + int.from_bytes(VALID[1:9], "little")
    for at in range(bit, end, 7):
        data = bytearray(VALID)
        data[at] ^= 1 << bit
        attempt(bytes(data))


@given(st.binary(min_size=64, max_size=64))
@settings(max_examples=150, deadline=None)
def test_any_instruction_word_is_decoded(word):
    capture = small_capture()
    capture.images[0][1] = word
    capture.images[4][1] = word
    with suppress(FormatError):
        assert profile_of_bytes(capture.data(), source="x").rows("Instruction")
