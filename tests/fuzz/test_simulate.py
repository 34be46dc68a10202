"""Whatever an `--arg` or a .npy file holds, it is taken or refused by an error of npuscope; nothing else comes out."""

import contextlib
import io

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npuscope.errors import NpuscopeError, UsageError
from npuscope.simulate.arguments import TENSOR_TYPES, Argument, RandomTensor, make_values, parse_argument, read_npy
from tests.strategies import mutations, numbers

fuzz = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
shapes = st.lists(numbers, max_size=4).map(lambda parts: f"[{','.join(parts)}]")
words = st.sampled_from(["", "eps=", "a=b=", "float32", "bf16", "x.npz", "(", "[", "'", "None", "--"])
arguments = st.one_of(
    st.text(max_size=30),
    st.tuples(words, st.sampled_from(TENSOR_TYPES), shapes).map("".join),
    st.lists(st.one_of(words, numbers), max_size=4).map("".join),
)


@fuzz
@given(arguments)
@example("9" * 5000)
@example("float32[" + "9" * 5000 + "]")
@example("[" * 900)
@example("{" * 50)
@example("(1," * 200)
@example("'\\")
@example("\x00=1")
@example("'\x00'")
def test_any_argument_is_parsed_or_refused_in_one_line(text):
    parsed, told = None, ""
    try:
        parsed = parse_argument(text)
    except UsageError as error:
        told = str(error)
    assert told.isprintable()
    if parsed is None:
        return
    assert isinstance(parsed, Argument)
    if isinstance(parsed.value, RandomTensor):
        assert all(size > 0 for size in parsed.value.shape)
    positional, named = make_values([parsed], compute=False) if not hasattr(parsed.value, "suffix") else ((0,), {})
    assert len(positional) + len(named) == 1


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(24, dtype=np.float32).reshape(4, 6))
    return file.getvalue()


@fuzz
@given(data=mutations(_npy()))
def test_any_bytes_of_a_npy_file_are_an_array_or_an_error(data, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with contextlib.suppress(NpuscopeError):
        assert read_npy(path).dtype.kind in "fiub"
