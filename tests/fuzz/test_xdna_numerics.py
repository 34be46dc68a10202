"""Any shape, type and rounding: kernels within their bound, integers exact, roundings as exact arithmetic has them, tiles back again."""

from __future__ import annotations

import contextlib
import tempfile
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from npuscope.backends.xdna.numerics import multiply
from npuscope.backends.xdna.packing import pack_tiles, unpack_tiles
from npuscope.backends.xdna.rounding import from_bfloat16, round_in_place, to_bfloat16, to_bfp16
from npuscope.errors import FormatError
from npuscope.formats.xdna_manifest import manifest_text, read_manifest
from npuscope.measure.xdna_bound import check_design_result
from npuscope.tiling.xdna_design import OUT_TYPES, ROUNDINGS, XdnaDesign
from tests.strategies import mutations

fuzz = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.integers(0, (1 << 32) - 1) | st.builds(
    lambda upper, lower: upper << 16 | lower,
    st.integers(0, (1 << 16) - 1),
    st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]),
)
UPPER = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
FINITE = np.sort(UPPER[np.isfinite(UPPER)].astype(np.float64))
VALID = manifest_text(XdnaDesign(3072, 512, 512, 64, 64, 64, 4, 4), "a.xclbin", "b.bin", array="npu1").encode()


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def rounded(value, mode):
    """The bfloat16 value that a mode gives for a finite float32, by looking at its neighbours in exact numbers."""
    at = int(np.searchsorted(FINITE, value))
    if at < len(FINITE) and FINITE[at] == value:
        return value
    below = FINITE[at - 1] if at else -np.inf
    above = FINITE[at] if at < len(FINITE) else np.inf
    if mode == "floor":
        return below
    if mode == "truncate":
        return below if value > 0 else above
    step = Fraction(2) ** 120  # beyond the largest, to nearest goes on as if there were a next value
    low = Fraction(below) if np.isfinite(below) else Fraction(above) - step
    high = Fraction(above) if np.isfinite(above) else Fraction(below) + step
    to_low, to_high = Fraction(value) - low, high - Fraction(value)
    if to_low != to_high:
        return below if to_low < to_high else above
    bits = to_bits(below)
    return below if bits % 2 == 0 else above


def to_bits(value):
    return int(np.array([value], np.float32).view(np.uint32)[0]) >> 16


@fuzz
@given(word=words, mode=st.sampled_from(ROUNDINGS))
def test_a_value_rounds_to_the_neighbour_that_exact_arithmetic_names(word, mode):
    value = np.array([word], np.uint32).view(np.float32)
    assume(np.isfinite(value[0]))
    found = to_bfloat16(value, mode)
    assert float(found[0]) == rounded(float(value[0]), mode)
    if value[0] == 0:
        assert np.signbit(found[0]) == np.signbit(value[0])
    in_place = value.copy()
    round_in_place(in_place, mode, np.empty(1, np.uint32))
    assert in_place[0] == from_bfloat16(found)[0]


@fuzz
@given(values=st.lists(words, min_size=1, max_size=40), mode=st.sampled_from(ROUNDINGS))
def test_blocks_keep_what_is_finite_within_a_step_and_the_rest_nan(values, mode):
    source = np.array(values, np.uint32).view(np.float32)
    found = to_bfp16(source, 0, mode).astype(np.float64)
    for first in range(0, len(source), 8):
        with np.errstate(invalid="ignore"):  # widening a signalling NaN
            block, kept = source[first : first + 8].astype(np.float64), found[first : first + 8]
        if not np.isfinite(block).all():
            assert np.isnan(kept).all()
            continue
        step = 2.0 ** (max(np.frexp(np.abs(block).max())[1] - 1, -126) - 6)
        assert (np.abs(kept - block) <= step).all()
        assert (kept / step == np.round(kept / step)).all()
        assert (np.abs(kept) <= 128 * step).all()


@st.composite
def problems(draw):
    """A design with odd sizes, but whole blocks of bfp16 in a k tile; and the seed of its data."""
    dtype = draw(st.sampled_from(list(OUT_TYPES)))
    multiplication = draw(st.sampled_from(["native", "bfp16"])) if dtype == "bfloat16" else "native"
    k = 8 * draw(st.integers(1, 5)) if multiplication == "bfp16" else draw(st.integers(1, 40))
    design = XdnaDesign(
        draw(st.integers(1, 40)),
        k * draw(st.integers(1, 6)),
        draw(st.integers(1, 40)),
        1,
        k,
        1,
        dtype=dtype,
        out_dtype=draw(st.sampled_from(OUT_TYPES[dtype])),
        rounding=draw(st.sampled_from(ROUNDINGS)),
        multiplication=multiplication,
    )
    return design, draw(st.integers(0, 1 << 32))


@fuzz
@given(problem=problems(), partials=st.integers(1, 3), scale=st.integers(-40, 40), positive=st.booleans())
def test_a_kernel_of_any_shape_is_within_its_bound_and_integers_are_exact(problem, partials, scale, positive):
    design, seed = problem
    rng = np.random.default_rng(seed)
    K = partials * design.K
    if design.dtype == "bfloat16":
        a = (2.0**scale * rng.standard_normal((design.M, K))).astype(np.float32)
        b = rng.standard_normal((K, design.N)).astype(np.float32)
        a, b = (np.abs(a), np.abs(b)) if positive else (a, b)
        used_a, used_b = to_bfloat16(a, "even"), to_bfloat16(b, "even")
        total = np.zeros((design.M, design.N), np.float32)
    else:
        limits = np.iinfo(design.dtype)
        a = used_a = rng.integers(limits.min, limits.max + 1, (design.M, K)).astype(design.dtype)
        b = used_b = rng.integers(limits.min, limits.max + 1, (K, design.N)).astype(design.dtype)
        total = np.zeros((design.M, design.N), design.out_dtype)
    for first in range(0, K, design.K):
        part = slice(first, first + design.K)
        total += multiply(used_a[None, :, part], used_b[None, part], design)[0].astype(total.dtype)
    found = check_design_result(total, a, b, design)
    assert found.within_bound or not found.can_tell
    if design.dtype != "bfloat16":
        assert found.within_bound
        wrapped = a.astype(object) @ b.astype(object) % (1 << 8 * total.itemsize)
        assert (total.astype(object) % (1 << 8 * total.itemsize) == wrapped).all()


@fuzz
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    m=st.integers(1, 40),
    k=st.integers(1, 40),
    dtype=st.sampled_from(["bfloat16", "float32", "int8"]),
    seed=st.integers(0, 1 << 32),
)
def test_packed_and_unpacked_any_matrix_is_itself(shape, m, k, dtype, seed):
    held = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    source = np.random.default_rng(seed).integers(-100, 100, shape).astype(held)
    tiles = np.full((-(-shape[0] // m) * -(-shape[1] // k), m, k), 99, held)
    pack_tiles(tiles, source)
    assert np.count_nonzero(tiles) == np.count_nonzero(source)
    found = np.full(shape, 3, np.float32 if dtype == "bfloat16" else held)
    unpack_tiles(found, tiles)
    assert np.array_equal(found, source.astype(found.dtype))


def read_or_refuse(folder, data):
    path = folder / "kernel.toml"
    path.write_bytes(data)
    with contextlib.suppress(FormatError):
        manifest = read_manifest(path)
        for file in (manifest.xclbin_path, manifest.instructions_path):
            assert file.resolve().is_relative_to(folder.resolve())


@fuzz
@given(data=mutations(VALID))
def test_a_changed_manifest_is_read_or_refused(folder, data):
    read_or_refuse(folder, data)


@fuzz
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(folder, data):
    read_or_refuse(folder, data)


@fuzz
@given(
    key=st.sampled_from(
        ["name", "array", "xclbin", "kernel_name", "dtype", "rounding", "instruction_count", "M", "k", "batch", "rows"]
    ),
    value=st.text(max_size=20).map(repr)
    | st.sampled_from(
        ["0", "-1", "1e300", "nan", "true", "[]", "{}", "1979-05-27", "0x10", "9223372036854775808", '"../x"']
    )
    | st.integers().map(str),
)
def test_any_value_of_a_key_is_taken_or_refused(folder, key, value):
    lines = VALID.decode().splitlines()
    assert any(line.startswith(f"{key} = ") for line in lines)
    changed = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines]
    read_or_refuse(folder, "\n".join(changed).encode("utf-8", "surrogatepass"))
