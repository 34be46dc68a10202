"""Matrices into padded buffers and tiles and back, against slicing by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from npuscope.backends.xdna.packing import crop, pack_tiles, pad_into, unpack_tiles
from npuscope.backends.xdna.rounding import to_bfloat16

RNG = np.random.default_rng(3)
SHAPES = [(64, 64), (128, 192), (130, 70), (1, 1), (63, 200), (65, 64), (3001, 500)]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def count(shape, m, k):
    return -(-shape[0] // m) * -(-shape[1] // k)


def cut(source, m, k):
    """Tiles by hand."""
    tiles = []
    for row in range(0, source.shape[0], m):
        for column in range(0, source.shape[1], k):
            tile = np.zeros((m, k), source.dtype)
            part = source[row : row + m, column : column + k]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(tile)
    return np.array(tiles)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.int8, np.int16, np.float32])
def test_tiles_follow_one_another_row_by_row_of_the_grid_and_edges_are_zero(shape, dtype):
    source = RNG.integers(-100, 100, shape).astype(dtype)
    buffer = np.full((count(shape, 64, 32), 64, 32), 77, dtype)
    pack_tiles(buffer, source)
    assert np.array_equal(buffer, cut(source, 64, 32))


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_rounded_to_nearest_even_on_the_way(shape):
    source = RNG.standard_normal(shape, np.float32)
    buffer = np.full((count(shape, 64, 64), 64, 64), 77, BFLOAT16)
    pack_tiles(buffer, source)
    assert np.array_equal(buffer, cut(to_bfloat16(source, "even"), 64, 64))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("held", "out"), [(BFLOAT16, np.float32), (np.float32, np.float32), (np.int32, np.int32), (np.int8, np.int8)]
)
def test_unpacking_gives_the_matrix_back_and_adds_where_asked(shape, held, out):
    source = RNG.integers(-50, 50, shape).astype(held)
    tiles = cut(source, 64, 32)
    found = np.full(shape, 5, out)
    unpack_tiles(found, tiles)
    assert np.array_equal(found, source.astype(out))
    unpack_tiles(found, tiles, add=True)
    assert np.array_equal(found, 2 * source.astype(out))


def test_a_part_of_a_larger_matrix_is_packed_and_unpacked_where_it_is():
    whole = RNG.standard_normal((300, 300), np.float32)
    part = whole[100:230, 7:77]
    tiles = np.empty((count(part.shape, 64, 64), 64, 64), np.float32)
    pack_tiles(tiles, part)
    target = np.zeros_like(whole)
    unpack_tiles(target[100:230, 7:77], tiles)
    assert np.array_equal(target[100:230, 7:77], part)
    target[100:230, 7:77] = 0
    assert not target.any()


def test_as_many_tiles_as_cover_the_matrix_are_needed():
    for tiles in (3, 5):
        with pytest.raises(ValueError, match="takes 4"):
            pack_tiles(np.empty((tiles, 64, 64), np.float32), np.zeros((100, 100), np.float32))


@pytest.mark.parametrize(("rows", "columns"), [(3001, 512), (3072, 500), (3001, 500), (3072, 512)])
def test_a_padded_matrix_has_zeros_beyond_it_whatever_was_there(rows, columns):
    source = RNG.standard_normal((rows, columns), np.float32)
    for dtype in (np.float32, BFLOAT16):
        buffer = np.full((3072, 512), 9, dtype)
        pad_into(buffer, source)
        assert np.array_equal(buffer[:rows, :columns], source.astype(dtype))
        assert not buffer[rows:].any()
        assert not buffer[:, columns:].any()
        assert crop(buffer, rows, columns).flags.c_contiguous


def test_what_is_not_a_rounding_of_float32_must_lose_nothing():
    for held, given in ((np.int8, np.int32), (np.int8, np.float32), (BFLOAT16, np.float64), (np.float32, np.float64)):
        with pytest.raises(TypeError):
            pad_into(np.zeros((8, 8), held), np.ones((4, 4), given))


@pytest.mark.parametrize(("shape", "out"), [((64, 64), (64, 64)), ((1, 1), (64, 64)), ((63, 64), (64, 64))])
def test_padding_reads_a_transposed_part_and_writes_only_its_place(shape, out):
    whole = RNG.integers(-9, 9, (200, 200)).astype(BFLOAT16)
    part = whole[10 : 10 + shape[1], 20 : 20 + shape[0]].T
    buffer = np.full((3, *out), 7, BFLOAT16)
    pad_into(buffer[1], part)
    assert np.array_equal(buffer[1, : shape[0], : shape[1]], part)
    assert np.count_nonzero(buffer[1]) == np.count_nonzero(part)
    assert (buffer[[0, 2]] == 7).all()


def test_a_source_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="broadcast"):
        pad_into(np.zeros((4, 4), np.float32), np.ones((5, 4), np.float32))
