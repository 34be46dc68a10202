"""Tensors of a kernel: tiles, views, boxes, and what an assignment records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from npuscope.simulate.neuroncore.program import ACCUMULATES, Box, Engine, Space, Work
from npuscope.simulate.nki import operators, tensors
from npuscope.simulate.nki.index import arange, ds, mgrid
from npuscope.simulate.nki.tensors import Tensor, hbm_tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, Trace, current, tracing

P = arange(128)[:, None]
F = arange(512)[None, :]
GEMM = Work("nc_matmul", 512, 128, "bfloat16", "float32", destination=Space.PSUM)
ADD = Work("tensor_tensor", 512, 128, "float32", "float32")


@pytest.fixture
def trace() -> Iterator[Trace]:
    with tracing(Trace()) as running:
        yield running


def fresh(work: Work, space: Space, value: float, shape: tuple[int, ...] = (128, 512)) -> Tensor:
    """A tile as an instruction leaves it."""
    tile = new_tile(shape, "float32", space)
    tile.assign(value)
    tile.writer = current().builder.instruction(work, (Engine.TENSOR,), (), tile.boxes(), "kernel.py:1")
    return tile


def written(trace: Trace, number: int) -> Box:
    program = trace.builder.build()
    return Box(*program.access[program.access_start[number + 1] - 1][:5].tolist())


def test_each_block_is_a_tile_of_its_own_from_its_first_use_on(trace: Trace) -> None:
    tile = new_tile((4, 128, 512), "bfloat16", Space.SBUF, par=1)

    (box,) = tile[2, P, F].boxes()

    assert box == Box(0, 0, 128, 0, 1024)
    assert len(trace.builder.build().tiles) == 1
    assert {found.tile for found in tile.boxes()} == {0, 1, 2, 3}


def test_a_view_of_two_block_dimensions_spans_their_product(trace: Trace) -> None:
    tile = new_tile((2, 3, 64, 16), "float32", Space.SBUF, par=2)

    found = tile[0:2, 1].boxes()

    assert len(found) == 2
    assert all(box[1:] == (0, 64, 0, 64) for box in found)
    assert tile[0:2, 1].partitions == 64
    assert tile[0:2, 1].elements == 16


def test_partitions_come_first_where_the_first_dimension_holds_them(trace: Trace) -> None:
    tile = new_tile((128, 4, 512), "float32", Space.SBUF)

    view = tile[P, 3, F]

    assert view.boxes() == (Box(0, 0, 128, 3 * 2048, 4 * 2048),)
    assert (view.partitions, view.elements) == (128, 512)


def test_rows_of_an_hbm_tensor_are_those_of_its_last_dimension(trace: Trace) -> None:
    tensor = hbm_tensor((4, 256, 1024), "bfloat16", "x")

    assert tensor[1, 128:256, 512:].boxes() == (Box(0, 384, 512, 1024, 2048),)


def test_a_view_of_a_view_adds_up(trace: Trace) -> None:
    values = np.arange(4096, dtype=np.float32).reshape(64, 64)

    view = hbm_tensor(values)[8:40][::4][:, 16:][ds(2, 3), None, 1:9:2]

    assert np.array_equal(view.value(), values[8:40][::4][:, 16:][2:5, None, 1:9:2])


def test_transposing_index_expressions_read_columns_as_rows(trace: Trace) -> None:
    values = np.arange(4096, dtype=np.float32).reshape(64, 64)
    i, j = arange(64)[:, None], arange(32)[None, :]

    view = hbm_tensor(values)[j, i]

    assert np.array_equal(view.value(), values.T[:, :32])
    assert view.runs() == (64 * 32, 4)
    assert not view.contiguous


def test_steps_back_through_memory_are_allowed(trace: Trace) -> None:
    values = np.arange(256, dtype=np.float32).reshape(16, 16)
    i = arange(16)[:, None]

    view = hbm_tensor(values)[15 - i, 2 + arange(4)[None, :]]

    assert np.array_equal(view.value(), values[::-1, 2:6])
    assert view.boxes() == (Box(0, 0, 16, 8, 24),)


def test_pieces_are_no_longer_than_a_row_of_the_other_side(trace: Trace) -> None:
    tensor = hbm_tensor((256, 512), "float32")

    assert tensor[0:128].runs() == (128, 2048)
    assert tensor.reshape(128, 1024).runs() == (128, 4096)
    assert tensor[0:128].runs(1024) == (256, 1024)
    assert tensor[0:128, 0:256].runs(4096) == (128, 1024)


def test_integer_arrays_gather(trace: Trace) -> None:
    values = np.arange(512, dtype=np.float32).reshape(16, 32)
    i = arange(8)[:, None]

    view = hbm_tensor(values)[(i * 3) // 2 + 1, arange(32)[None, :]]

    assert np.array_equal(view.value(), values[(np.arange(8) * 3) // 2 + 1])
    assert view.boxes() == (Box(0, 1, 12, 0, 128),)
    assert view.runs() == (8, 128)


def test_a_tile_of_indices_gathers_rows_that_only_the_run_knows(trace: Trace) -> None:
    values = np.arange(512, dtype=np.float32).reshape(16, 32)
    rows = new_tile((4, 1), "int32", Space.SBUF)
    rows.assign([[3], [0], [15], [3]])

    view = hbm_tensor(values)[rows, arange(32)[None, :]]

    assert view.is_indirect
    assert view.indices == (rows,)
    assert np.array_equal(view.value(), values[[3, 0, 15, 3]])
    assert view.boxes() == (Box(0, 0, 16, 0, 128),)


def test_a_tile_of_indices_out_of_range_is_an_error(trace: Trace) -> None:
    rows = new_tile((2, 1), "int32", Space.SBUF)
    rows.assign([[3], [16]])

    with pytest.raises(KernelError, match="indirect index 16 is out of range for an axis of size 16"):
        hbm_tensor((16, 32), "float32")[rows, arange(32)[None, :]].value()


def test_values_are_scattered_through_a_tile_of_indices(trace: Trace) -> None:
    tensor = hbm_tensor((8, 4), "float32")
    rows = new_tile((2, 1), "int32", Space.SBUF)
    rows.assign([[5], [1]])

    tensor[rows, arange(4)[None, :]].assign([[1.0], [2.0]])

    assert np.array_equal(tensor.value().sum(axis=1), [0, 8, 0, 0, 0, 4, 0, 0])


@pytest.mark.parametrize("key", [(slice(0, 200),), (P + 100,), (0, 0, 0), (P, F + 1), (-129,), (128,)])
def test_leaving_a_tensor_without_a_mask_is_an_error_at_the_line_of_the_kernel(trace: Trace, key: Any) -> None:
    tensor = hbm_tensor((128, 512), "float32", "x")

    with pytest.raises(KernelError, match=r"^test_nki_tensors\.py:\d+: (access out of bounds|index|3 subscripts)"):
        tensor[key].boxes()


def test_a_mask_that_lets_an_access_leave_its_tensor_is_an_error(trace: Trace) -> None:
    view = hbm_tensor((100, 512), "float32", "x")[P, F]

    assert view.masked(P < 100).shape == (100, 512)
    with pytest.raises(KernelError, match="indexed up to 100; a mask must keep"):
        view.masked(P < 101)


def test_a_mask_over_a_flat_tensor_reads_what_is_there(trace: Trace) -> None:
    values = np.arange(1000, dtype=np.float32)
    position = P * 8 + arange(8)[None, :]

    found = hbm_tensor(values)[position].value(position < 1000)

    assert np.array_equal(found.reshape(-1)[:1000], values)
    assert not found.reshape(-1)[1000:].any()


def test_a_masked_assignment_leaves_the_rest_alone(trace: Trace) -> None:
    tile = new_tile((128, 512), "float32", Space.SBUF)

    tile.assign(np.full((128, 512), 2.0), P * 512 + F < 700)

    assert tile.value().sum() == 1400


def test_values_are_cast_to_the_type_of_the_tensor(trace: Trace) -> None:
    tile = new_tile((1, 2), "bfloat16", Space.SBUF)
    tile.assign([[1.001, 3.0]])

    assert tile.value().dtype == ml_dtypes.bfloat16
    assert tile.value().tolist() == [[1.0, 3.0]]


def test_reshape_keeps_the_order_of_elements(trace: Trace) -> None:
    values = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    tensor = hbm_tensor(values)

    assert np.array_equal(tensor.reshape((4, -1)).value(), values.reshape(4, -1))
    assert np.array_equal(tensor[:, 2:4].reshape(4, 2, 2, 4).value(), values[:, 2:4].reshape(4, 2, 2, 4))
    assert np.array_equal(tensor.reshape(24, 8)[7].value(), values.reshape(24, 8)[7])


@pytest.mark.parametrize(("view", "shape"), [(slice(0, 5), (7, 6)), (slice(0, 4), (4, 5))])
def test_reshape_to_other_sizes_is_an_error(trace: Trace, view: slice, shape: tuple[int, ...]) -> None:
    with pytest.raises(KernelError, match="reshape"):
        hbm_tensor((8, 8), "float32")[:, view].reshape(shape)


def test_a_broadcast_view_reads_one_box(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "operations", {})
    tile = new_tile((1, 512), "float32", Space.SBUF)
    tile.assign(np.arange(512))

    wide = tile.broadcast_to((128, 512))

    assert wide.boxes() == (Box(0, 0, 1, 0, 2048),)
    assert np.array_equal(wide.value()[77], np.arange(512))
    with pytest.raises(KernelError, match="broadcast_to"):
        tile.broadcast_to((128, 256))


def test_bytes_can_be_seen_as_another_type(trace: Trace) -> None:
    tile = new_tile((2, 4), "float32", Space.SBUF)
    tile.assign([[1.0, 2.0, 3.0, 4.0]] * 2)

    halves = tile.view("bfloat16")

    assert halves.shape == (2, 8)
    assert halves.boxes() == tile.boxes()
    assert halves.value()[0, 1::2].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_storing_a_fresh_result_costs_no_copy(trace: Trace) -> None:
    target = new_tile((128, 1024), "bfloat16", Space.SBUF)
    result = fresh(ADD, Space.SBUF, 2.0)
    number = result.writer

    target[:, 512:] = result

    assert len(trace.builder) == 1
    assert written(trace, number) == target[:, 512:].boxes()[0]
    assert trace.builder.build().signatures[-1].out_dtype == "bfloat16"  # type: ignore[union-attr]
    assert target.value().sum(dtype=np.float64) == 128 * 512 * 2


def test_a_result_that_was_stored_is_read_where_it_went(trace: Trace) -> None:
    target = new_tile((128, 512), "float32", Space.SBUF)
    result = fresh(ADD, Space.SBUF, 2.0)

    target[...] = result

    assert result.boxes() == target.boxes()


def test_a_result_that_was_read_is_copied(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Any] = []
    monkeypatch.setitem(tensors.operations, "copy", lambda target, value: copies.append((target, value)))
    target, result = new_tile((128, 512), "float32", Space.SBUF), fresh(ADD, Space.SBUF, 2.0)

    result.boxes()
    target[...] = result
    target[...] = fresh(GEMM, Space.PSUM, 2.0)

    assert [value is result for _, value in copies] == [True, False]


def test_products_are_summed_in_psum_and_the_first_simply_writes(trace: Trace) -> None:
    total = new_tile((128, 512), "float32", Space.PSUM, is_zeroed=True)

    for value in (1.0, 2.0, 4.0):
        total += fresh(GEMM, Space.PSUM, value)

    program = trace.builder.build()
    assert (program.flags & ACCUMULATES).tolist() == [0, 1, 1]
    assert {written(trace, number) for number in range(3)} == set(total.boxes())
    assert (total.value() == 7.0).all()


def test_views_of_psum_are_summed_one_by_one(trace: Trace) -> None:
    total = new_tile((128, 2, 512), "float32", Space.PSUM, is_zeroed=True)

    for half in (0, 1, 0):
        total[:, half] += fresh(GEMM, Space.PSUM, 1.0)

    assert (trace.builder.build().flags & ACCUMULATES).tolist() == [0, 0, 1]
    assert total.value()[0, :, 0].tolist() == [2.0, 1.0]


def test_an_operator_that_no_dialect_has_is_an_error(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "operations", {})

    with pytest.raises(KernelError, match="operator multiply on a tensor is not supported"):
        new_tile((128, 1), "float32", Space.SBUF) * 2  # type: ignore[operator]


def test_nothing_is_allocated_where_nothing_is_computed() -> None:
    with tracing(Trace(compute=False)):
        target = new_tile((128, 1 << 40), "float32", Space.SBUF)
        target[:, 0:512] = _uncomputed()

        assert target.storage.data is None


def _uncomputed() -> Tensor:
    tile = new_tile((128, 512), "float32", Space.SBUF)
    tile.writer = current().builder.instruction(ADD, (Engine.VECTOR,), (), tile.boxes(), "kernel.py:1")
    return tile


def test_a_tensor_of_one_element_decides_a_branch(trace: Trace) -> None:
    tile = new_tile((1, 1), "float32", Space.SBUF)
    tile.assign(1.0)

    assert tile
    with pytest.raises(KernelError, match="no truth value"):
        bool(new_tile((2, 1), "float32", Space.SBUF))


def test_a_branch_on_a_value_that_is_not_computed_is_an_error() -> None:
    with tracing(Trace(compute=False)), pytest.raises(KernelError, match="no values are computed"):
        bool(new_tile((1, 1), "float32", Space.SBUF))


def test_an_nki_call_outside_a_kernel_is_an_error() -> None:
    with pytest.raises(KernelError, match="only inside a kernel"):
        current()


@pytest.mark.usefixtures("trace")
def test_a_whole_mesh_grid_is_a_subscript_and_so_is_one_slice() -> None:
    tile = new_tile((8, 6), np.float32, Space.SBUF)
    tile.assign(np.arange(48).reshape(8, 6))
    assert np.array_equal(tile[mgrid[0:4, 0:3]].value(), tile.value()[:4, :3])
    assert np.array_equal(tile[ds(2, 3)].value(), tile.value()[2:5])
