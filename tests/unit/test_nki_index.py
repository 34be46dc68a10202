"""Index expressions and masks of a kernel."""

from __future__ import annotations

import numpy as np
import pytest

from npuscope.simulate.nki.index import Index, Mask, arange, ds, mgrid

ROWS = arange(4)[:, None]
COLUMNS = arange(6)[None, :]


def test_a_sum_of_axes_keeps_one_coefficient_per_axis() -> None:
    index = 3 * 128 + ROWS * 8 + 2 * COLUMNS - 1

    assert (index.shape, index.const, index.coefficients) == ((4, 6), 383, (8, 2))


def test_arange_takes_the_arguments_of_range() -> None:
    assert arange(2, 11, 3).array().tolist() == [2, 5, 8]


def test_arange_can_be_subscripted_like_an_array() -> None:
    index = arange(10)

    assert index[None, :, None].shape == (1, 10, 1)
    assert index[2:8:3].array().tolist() == [2, 5]
    assert index[..., None].shape == (10, 1)


def test_mgrid_names_its_axes_and_unpacks() -> None:
    grid = mgrid[0:4, 2:6:2, 0:3]
    p, x, y = grid

    assert grid.p is p
    assert grid.x is x
    assert grid.y is y
    assert (x.array() == np.mgrid[0:4, 2:6:2, 0:3][1]).all()


def test_mgrid_has_no_axis_beyond_its_slices() -> None:
    with pytest.raises(AttributeError, match="2 axes has no axis 'y'"):
        mgrid[0:4, 0:4].y  # noqa: B018


def test_extent_follows_the_sign_of_each_coefficient() -> None:
    assert (100 + 2 * ROWS - COLUMNS).extent() == (95, 106)


@pytest.mark.parametrize(
    ("lazy", "dense"),
    [
        (lambda i, j: i // 2 + j, lambda i, j: i // 2 + j),
        (lambda i, j: (i * 6 + j) % 5, lambda i, j: (i * 6 + j) % 5),
        (lambda i, j: i * j, lambda i, j: i * j),
        (lambda i, j: 7 - (i % 2), lambda i, j: 7 - (i % 2)),
        (lambda i, j: 13 // (i + 1) + j, lambda i, j: 13 // (i + 1) + j),
    ],
)
def test_what_is_not_affine_becomes_an_array_of_integers(lazy: object, dense: object) -> None:
    found = lazy(ROWS, COLUMNS)  # type: ignore[operator]

    values = found.array() if isinstance(found, Index) else found
    assert (values == dense(ROWS.array(), COLUMNS.array())).all()  # type: ignore[operator]


def test_a_mask_shrinks_each_axis_to_what_takes_part() -> None:
    mask = (128 + ROWS < 130) & (COLUMNS >= 3)

    assert mask.box((4, 6)) == ((0, 2), (3, 6))
    assert mask.fills_box()


def test_a_mask_over_two_axes_has_the_smallest_box_but_does_not_fill_it() -> None:
    mask = ROWS * 6 + COLUMNS < 9

    assert mask.box((4, 6)) == ((0, 2), (0, 6))
    assert not mask.fills_box()


def test_a_mask_that_nothing_meets_has_an_empty_box() -> None:
    assert (ROWS > 100).box((4, 6)) == ((0, 0), (0, 0))


@pytest.mark.parametrize("mask", [(ROWS < 2) & False, Mask((), dense=np.array(False))])
def test_a_mask_that_is_false_has_an_empty_box(mask: Mask) -> None:
    assert mask.box((4, 6)) == ((0, 0), (0, 0))


def test_an_axis_of_one_position_is_broadcast() -> None:
    mask = arange(1)[None, :] * 3 + ROWS < 2

    assert mask.box((4, 6)) == ((0, 2), (0, 6))


def test_the_complement_of_one_comparison_stays_a_comparison() -> None:
    mask = ~(ROWS < 2)

    assert mask.dense is None
    assert mask.box((4, 6)) == ((2, 4), (0, 6))


def test_masks_join_with_plain_truth_values() -> None:
    assert (ROWS < 2) & True is not None
    assert not ((ROWS < 2) & False).array().any()
    assert ((ROWS < 2) | True).array().all()


def test_a_mask_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match="join masks with"):
        bool(ROWS < 2)


def test_equality_is_a_mask_of_one_position() -> None:
    assert (COLUMNS == 4).box((4, 6)) == ((0, 4), (4, 5))
    assert (COLUMNS != 4).array().sum() == 5


def test_ds_keeps_start_and_size() -> None:
    assert ds(64, 32) == (64, 32)
