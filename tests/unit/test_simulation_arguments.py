"""Arguments of a kernel as the command line gives them, and whether a result is right."""

import io
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from npuscope.errors import FormatError, UsageError
from npuscope.simulate import arguments as module
from npuscope.simulate.arguments import RandomTensor, make_values, parse_argument, read_npy
from npuscope.simulate.checking import check_outputs, is_floating, tolerance_of
from npuscope.simulate.nki.loader import TensorSpec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("float32[4096,1024]", RandomTensor("float32", (4096, 1024))),
        ("bf16[128x512]", RandomTensor("bfloat16", (128, 512))),
        (" Float16[ 7 , ] ", RandomTensor("float16", (7,))),
        ("uint8[2,3,4,5]", RandomTensor("uint8", (2, 3, 4, 5))),
        ("1e-6", 1e-6),
        ("-3", -3),
        ("True", True),
        ("none", None),
        ("gelu", "gelu"),
        ("'1.5'", "1.5"),
        ("(2, 3)", (2, 3)),
        ("[1]", [1]),
        ("data/x.npy", Path("data/x.npy")),
    ],
)
def test_an_argument_is_what_it_looks_like(text, value):
    parsed = parse_argument(text)
    assert (parsed.name, parsed.value, type(parsed.value)) == ("", value, type(value))


def test_an_argument_may_be_given_by_name():
    parsed = parse_argument("weights=bfloat16[128,64]")
    assert (parsed.name, parsed.value) == ("weights", RandomTensor("bfloat16", (128, 64)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float31[4]", "did you mean 'float32'?"),
        ("float32[]", "a shape is positive whole numbers, as in float32[128,512]"),
        ("float32[0,4]", "a shape is positive whole numbers"),
        ("float32[-1]", "a shape is positive whole numbers"),
        ("float32[1e3]", "a shape is positive whole numbers"),
        ("float32[²]", "a shape is positive whole numbers"),
        ("float32[1,,2]", "a shape is positive whole numbers"),
        (f"float32[{'1,' * 9}]", "at most 8 axes"),
        ("float32[99999999,99999999]", "too large"),
        ("weights.npz", "is an archive; give one .npy file per argument, or --inputs"),
        ("", "is no argument"),
        ("a b", "is no argument"),
        ("(1,", "is no argument"),
        ("(" * 500, "is no argument"),
        ("__import__('os')", "is no argument"),
    ],
)
def test_what_is_no_argument_is_refused_with_a_remedy(text, message):
    with pytest.raises(UsageError) as error:
        parse_argument(text)
    assert message in str(error.value)


def values(*texts, **options):
    return make_values([parse_argument(text) for text in texts], **options)


def test_random_tensors_are_seeded_and_differ_from_one_another():
    (first, second), _ = values("float32[64,32]", "float32[64,32]")
    (again, _), _ = values("float32[64,32]", "float32[64,32]")
    (other, _), _ = values("float32[64,32]", "float32[64,32]", seed=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_random_values_stay_far_below_the_range_of_float16():
    (a, b), _ = values("float16[128,4096]", "float16[4096,64]")
    product = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(product).max() < 0.01 * np.finfo(np.float16).max


@pytest.mark.parametrize("kind", module.TENSOR_TYPES)
def test_every_type_can_be_made_and_is_not_all_zeros(kind):
    (array,), _ = values(f"{kind}[16,16]")
    assert array.dtype.name == kind
    assert np.any(array.astype(np.float64))
    assert np.abs(array.astype(np.float64)).max() <= 8


def test_without_results_a_tensor_of_terabytes_costs_nothing():
    (made,), _ = values("float32[1000000,1000000]", compute=False)
    assert made == TensorSpec((1_000_000, 1_000_000), np.dtype(np.float32))


def test_a_tensor_beyond_memory_is_refused_before_it_is_made():
    with pytest.raises(UsageError, match=r"3\.6 TiB.* give smaller tensors, or --no-compute"):
        values("float32[1000000,500000]")


def test_names_come_last_and_once():
    positional, named = values("1", "eps=2", "x=3")
    assert (positional, named) == ((1,), {"eps": 2, "x": 3})
    with pytest.raises(UsageError, match="eps is given twice"):
        values("eps=1", "eps=2")
    with pytest.raises(UsageError, match="'5' has no name and follows one that has"):
        values("eps=1", "5")


def test_an_array_comes_from_a_npy_file_as_it_is(tmp_path):
    wanted = np.arange(12, dtype=np.float16).reshape(3, 4)
    np.save(tmp_path / "x.npy", wanted)
    (array,), _ = values(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(array, wanted)
    assert array.dtype == wanted.dtype
    array[0, 0] = 7  # a kernel may write to its argument; the file stays
    assert np.load(tmp_path / "x.npy")[0, 0] == 0


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array at all",
        npy_bytes(np.zeros((4, 4)))[:-8],
        npy_bytes(np.array([{}, None], dtype=object)),
        npy_bytes(np.array(["text"])),
        npy_bytes(np.zeros(3, complex)),
        npy_bytes(np.zeros(3, ml_dtypes.bfloat16)),
        npy_bytes(np.zeros((4, 4))).replace(b"(4, 4)", b"(4, 9999999999)"),
    ],
)
def test_a_file_that_is_no_array_of_numbers_is_named_and_refused(tmp_path, data):
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"x\.npy"):
        read_npy(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        read_npy(tmp_path / "none.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FormatError, match="found no file"):
        read_npy(tmp_path / "folder.npy")


# checking


def check(output, reference, *, inputs=(), tolerance=None):
    (found,) = check_outputs([output], [reference], inputs=inputs, source="ref", tolerance=tolerance)
    return found


def test_the_coarsest_type_decides_what_is_allowed():
    float32, bfloat16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
    assert tolerance_of([float32]) == 1e-5
    assert tolerance_of([float32, bfloat16]) == pytest.approx(8 * 2**-8)
    assert tolerance_of([np.dtype(np.int32)]) == 0


def test_types_of_ml_dtypes_are_floating_and_integers_are_not():
    kinds = [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, np.float64]
    assert all(is_floating(np.dtype(kind)) for kind in kinds)
    assert not any(is_floating(np.dtype(kind)) for kind in (np.int8, np.bool_, np.uint32, "U3"))


def test_rounding_passes_and_a_wrong_element_does_not():
    right = np.random.default_rng(0).standard_normal((64, 64))
    good = check(right.astype(np.float32), right)
    assert good.passed
    assert 0 < good.max_abs_error < 1e-6
    bad = right.astype(np.float32)
    bad[3, 5] += 1e-3
    found = check(bad, right)
    assert (found.passed, found.wrong_elements) == (False, 1)
    assert found.max_abs_error == pytest.approx(1e-3, rel=1e-3)


def test_an_element_near_zero_may_be_off_by_the_rounding_of_the_others():
    right = np.array([1000.0, 1e-9])
    assert check(np.array([1000.0, 1e-4], np.float32), right).passed
    assert not check(np.array([1000.0, 1.0], np.float32), right).passed


def test_integers_must_be_equal():
    right = np.array([1, 2, 3], np.int32)
    assert check(right.copy(), right).passed
    found = check(np.array([1, 2, 4], np.int32), right)
    assert (found.passed, found.max_abs_error) == (False, 1)


def test_nan_and_infinity_are_right_only_where_the_reference_has_them():
    right = np.array([np.nan, np.inf, 1.0])
    assert check(right.astype(np.float32), right).passed
    for wrong in ([0.0, np.inf, 1.0], [np.nan, -np.inf, 1.0], [np.nan, np.inf, np.nan]):
        found = check(np.array(wrong, np.float32), right)
        assert (found.passed, found.max_abs_error) == (False, np.inf)


def test_a_tolerance_of_ones_own_takes_the_place_of_the_types():
    right = np.ones(4)
    assert not check(np.full(4, 1.1, np.float32), right).passed
    assert check(np.full(4, 1.1, np.float32), right, tolerance=0.06).passed


def test_another_shape_or_number_of_outputs_is_told():
    array = np.zeros((2, 3), np.float32)
    with pytest.raises(FormatError, match=r"ref, output 0: expected shape \[2, 3\], found shape \[3, 2\]"):
        check(array, array.T)
    with pytest.raises(FormatError, match="ref: expected 1 array, found 2 arrays"):
        check_outputs([array], [array, array], inputs=(), source="ref")
