"""Messages split all at once say what the protobuf runtime reads in each of them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.formats.hlo_schema import field_numbers, message_class
from npuscope.formats.wire_columns import DamagedMessageError, split_messages

NAME, ID, OPERANDS, SHAPE, DIMENSIONS = field_numbers("Instruction", "name", "id", "operand_ids", "shape", "dimensions")
fuzz = settings(deadline=None, max_examples=200)
int64 = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 300)
instructions = st.builds(
    lambda name, identity, operands, shape, dimensions, contracting: message_class("Instruction")(
        name=name,
        id=identity,
        operand_ids=operands,
        shape=shape,
        dimensions=dimensions,
        dot={"lhs_contracting": contracting},
    ),
    st.binary(max_size=8) | st.text("abc.\n", max_size=200).map(str.encode),
    int64,
    st.lists(int64, max_size=5),
    st.binary(max_size=200),
    st.lists(int64, max_size=3),
    st.lists(int64, max_size=2),
)


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value >= 0x80 else bytes([value])


def strange_fields() -> st.SearchStrategy[bytes]:
    """Fields that nobody knows, that come twice, that are not packed, or that are encoded as another type."""
    numbers = st.sampled_from([NAME, ID, OPERANDS, SHAPE, DIMENSIONS, 99, 3000, (1 << 29) - 1])
    value = st.one_of(
        st.tuples(st.just(0), st.integers(0, (1 << 64) - 1).map(varint)),
        st.tuples(st.just(1), st.binary(min_size=8, max_size=8)),
        st.tuples(st.just(5), st.binary(min_size=4, max_size=4)),
        st.tuples(st.just(2), st.lists(st.integers(0, 1000).map(varint), max_size=4).map(b"".join).map(lambda one: varint(len(one)) + one)),
    )  # fmt: skip
    return st.tuples(numbers, value).map(lambda field: varint(field[0] << 3 | field[1][0]) + field[1][1])


@st.composite
def messages(draw) -> bytes:
    encoded = draw(instructions).SerializeToString()
    return b"".join(draw(st.permutations([encoded, *draw(st.lists(strange_fields(), max_size=3))])))


@fuzz
@given(encoded=st.lists(messages(), max_size=6))
def test_split_messages_agree_with_the_runtime(encoded):
    kind = message_class("Instruction")
    decoded = [kind.FromString(message) for message in encoded]
    fields = split_messages(encoded)
    assert fields.texts(NAME) == [message.name.decode("utf-8", "replace") for message in decoded]
    assert fields.integers(ID).tolist() == [message.id for message in decoded]
    values, counts = fields.repeated_integers(OPERANDS)
    assert counts.tolist() == [len(message.operand_ids) for message in decoded]
    assert values.tolist() == [one for message in decoded for one in message.operand_ids]
    for message, rest in zip(decoded, fields.without(frozenset({NAME, ID, OPERANDS})), strict=True):
        for name in ("name", "id", "operand_ids"):
            message.ClearField(name)
        found = kind.FromString(rest)
        for one in (found, message):
            one.DiscardUnknownFields()  # those that are encoded as another type
        assert found == message


@fuzz
@given(encoded=st.lists(messages() | st.binary(max_size=40), min_size=1, max_size=4))
def test_what_is_split_is_all_of_it(encoded):
    """Whether the runtime takes a message or not, its fields are the bytes that it consists of."""
    with contextlib.suppress(DamagedMessageError):
        assert split_messages(encoded).without(frozenset()) == encoded


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",  # a length is missing
        b"\x0a\x05abc",  # cut off
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a negative length
        b"\x98\x02",  # a number is missing
        b"\x98\x02" + b"\xff" * 10,  # too long a number
        b"\x03",  # field 0
        b"\x0b",  # a group
        b"\x0f",  # a wire type that does not exist
        b"\x09abc",  # 8 bytes, cut off
        b"\xff\xff\xff\xff\xff\x01",  # a tag of six bytes
    ],
)
def test_damaged_messages_are_refused_by_number(message):
    sound = message_class("Instruction")(name=b"a", id=1).SerializeToString()
    with pytest.raises(DamagedMessageError) as caught:
        split_messages([sound, message, sound])
    assert caught.value.args[0] == 1


def test_names_are_those_of_their_messages():
    """As many names as messages, but one message has two, and one has none."""
    twice, none = b"\x0a\x01a\x0a\x01b", b"\x98\x02\x01"
    assert split_messages([twice, none]).texts(NAME) == ["b", ""]
    assert split_messages([none, twice]).texts(NAME) == ["", "b"]


def test_a_message_of_too_many_fields_is_refused_at_once():
    """All others wait for the longest one."""
    with pytest.raises(DamagedMessageError) as caught:
        split_messages([b"\x98\x02\x01", b"\x98\x02\x01" * 1_000_000])
    assert caught.value.args == (1, "more than 10,000 fields")


def test_a_packed_field_that_ends_within_a_number_is_refused():
    fields = split_messages([b"\xa2\x02\x02\x01\x80"])
    with pytest.raises(DamagedMessageError):
        fields.repeated_integers(OPERANDS)
