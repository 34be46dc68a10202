"""Index expressions, masks and views give what NumPy gives for the same subscripts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki.index import Index, Mask, arange, ds
from npuscope.simulate.nki.tensors import Tensor, hbm_tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, Trace, tracing

SHAPE = (3, 5)
_EXPRESSIONS = st.recursive(
    st.sampled_from(["i", "j"]) | st.integers(-3, 7).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, st.sampled_from(["//", "%"]), st.integers(1, 5)).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    ),
    max_leaves=6,
)
_COMPARISONS = st.tuples(_EXPRESSIONS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.integers(-4, 20)).map(
    lambda t: f"({t[0]} {t[1]} {t[2]})"
)
_MASKS = st.recursive(
    _COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("&|"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda text: f"(~{text})"),
    ),
    max_leaves=4,
)


def _evaluate(text: str, *, lazy: bool) -> Any:
    i, j = arange(SHAPE[0])[:, None], arange(SHAPE[1])[None, :]
    names = {"i": i, "j": j} if lazy else {"i": i.array(), "j": j.array()}
    return eval(text, {"__builtins__": {}}, names)


@settings(max_examples=150, deadline=None)
@given(_EXPRESSIONS)
def test_expressions_have_the_values_of_numpy(text: str) -> None:
    found, expected = _evaluate(text, lazy=True), _evaluate(text, lazy=False)

    values = found.array() if isinstance(found, Index) else np.asarray(found)
    assert np.array_equal(np.broadcast_to(values, SHAPE), np.broadcast_to(expected, SHAPE))
    if isinstance(found, Index):
        assert found.extent() == (values.min(), values.max())


@settings(max_examples=150, deadline=None)
@given(_MASKS)
def test_masks_have_the_values_of_numpy_and_nothing_outside_their_box(text: str) -> None:
    if "i" not in text and "j" not in text:
        return
    try:
        found = _evaluate(text, lazy=True)
    except TypeError:
        return  # ~ of a plain truth value is no mask in NumPy either
    expected = np.broadcast_to(np.asarray(_evaluate(text, lazy=False), dtype=np.bool_), SHAPE)
    if not isinstance(found, Mask):
        return
    assert np.array_equal(found.array(SHAPE), expected)
    box = tuple(slice(*bounds) for bounds in found.box(SHAPE))
    outside = expected.copy()
    outside[box] = False
    assert not outside.any()
    if found.fills_box():
        assert expected[box].all()


_SUBSCRIPT = st.one_of(
    st.integers(-4, 3),
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 3)).map(lambda t: slice(*t)),
    st.just(slice(None)),
    st.tuples(st.integers(0, 2), st.integers(1, 2)).map(lambda t: ds(*t)),
    st.none(),
    st.just(...),
)


def _as_numpy(key: Any) -> Any:
    return slice(key[0], key[0] + key[1]) if isinstance(key, tuple) else key


@settings(max_examples=200, deadline=None)
@given(st.lists(_SUBSCRIPT, min_size=1, max_size=4), st.lists(_SUBSCRIPT, min_size=1, max_size=2))
def test_subscripts_select_what_numpy_selects(first: list[Any], second: list[Any]) -> None:
    values = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    expected = values
    tensor: Tensor = hbm_tensor(values, name="x")
    for keys in (first, second):
        if keys.count(...) > 1 or sum(key is not None and key is not ... for key in keys) > expected.ndim:
            return
        try:
            expected = expected[tuple(_as_numpy(key) for key in keys)]
        except IndexError:
            with pytest.raises(KernelError), tracing(Trace()):
                tensor[tuple(keys)]
            return
        if isinstance(expected, np.float32) or 0 in expected.shape:
            return
        with tracing(Trace()):
            tensor = tensor[tuple(keys)]
            if any(bound for bound in tensor.bounds):
                with pytest.raises(KernelError, match="out of bounds"):
                    tensor.boxes()
                return
            assert np.array_equal(tensor.value(), expected)
            _assert_box_is_tight(tensor, expected)


def _assert_box_is_tight(tensor: Tensor, expected: Any) -> None:
    (box,) = tensor.boxes()
    rows, columns = np.divmod(expected.astype(np.int64), 4)
    assert (box.row_start, box.row_stop) == (rows.min(), rows.max() + 1)
    assert (box.byte_start, box.byte_stop) == (columns.min() * 4, columns.max() * 4 + 4)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_contiguous_pieces_are_those_of_the_addresses(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    keys = []
    for size in shape:
        start = data.draw(st.integers(0, size - 1))
        keys.append(slice(start, data.draw(st.integers(start + 1, size)), data.draw(st.integers(1, 2))))
    values = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    with tracing(Trace()):
        view = hbm_tensor(values, name="x")[tuple(keys)]
        count, size_bytes = view.runs()
        rows = view.value().reshape(view.shape[0], -1)
        pieces = [part.size for row in rows for part in np.split(row, np.flatnonzero(np.diff(row) != 1) + 1)]

    assert count * size_bytes == view.size * 4
    # The end of one stretch can lie just before the next by chance; access patterns, whose pieces are of one size, do not join them.
    assert count == len(pieces) if len(set(pieces)) == 1 else count > len(pieces)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 6), st.integers(0, 4))
def test_a_mask_lets_an_access_leave_its_tensor(block: int, rows: int, columns: int, first: int) -> None:
    values = np.arange(60, dtype=np.float32).reshape(10, 6)
    i, j = arange(rows)[:, None], arange(columns)[None, :]
    row, column = block * 4 + i, first + j
    with tracing(Trace()):
        view = hbm_tensor(values, name="x")[row, column]
        found = view.value((row < 10) & (column < 6))
        tile = new_tile((rows, columns), "float32", Space.SBUF)
        tile.assign(found)

    inside = (row.array() < 10) & (column.array() < 6)
    expected = np.where(inside, values[np.minimum(row.array(), 9), np.minimum(column.array(), 5)], 0)
    assert np.array_equal(tile.value(), expected)
