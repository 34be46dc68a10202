"""Ops that read or write at places that the program computes: dynamic slices, gathers, updates, scatters.

The array lies in HBM, and a DMA with a dynamic address goes there; one that lies on the chip is stored first.
"""

from __future__ import annotations

from npuscope.formats.hlo import Op
from npuscope.simulate.hlo.movement import reshape, run_of_part, sources_of
from npuscope.simulate.hlo.recorder import DMA, VECTOR_GPSIMD, Recorder
from npuscope.simulate.hlo.values import HbmView, Value
from npuscope.simulate.neuroncore.program import Box, Space


def to_hbm(rec: Recorder, value: Value, name: str) -> Value:
    """The value in HBM; stored there if it lies on the chip."""
    value = rec.ready(value)
    if value.hbm is not None:
        return value
    if value.stored is None:
        value.stored = rec.hbm(value.shape, name)
        rec.store(value, value.stored)
        rec.flush()
    return value.stored


def _registers(rec: Recorder, values: list[Value]) -> list[Box]:
    return [rec.box(rec.ready(value), 0, 1) for value in values if not value.is_uniform]


def dynamic_slice(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """A part whose place is computed: DMAs with a dynamic address, of a parameter as it is needed, such as a layer's weights."""
    value = operands[0]
    if value.is_uniform:
        return reshape(rec, op.shape, value)
    source = to_hbm(rec, value, "sliced")
    assert source.hbm is not None  # noqa: S101
    addresses = _registers(rec, operands[1:])
    run_elements = run_of_part(source, op.shape.dimensions)
    if source.hbm.is_input:
        part = rec.new(op.shape)
        part.hbm = HbmView(source.hbm.tile, run_elements, is_input=True)
        part.addresses = (*source.addresses, *addresses)
        return part
    result = rec.on_chip(op.shape)
    rec.flush()
    _gathered(rec, result, source, addresses, run_elements)
    return result


def _gathered(rec: Recorder, result: Value, source: Value, addresses: list[Box], run_elements: int) -> None:
    grid = result.grid
    count = max(1, grid.chunks * grid.pieces)
    share = max(1, -(-len(addresses) // count))  # each DMA waits for its own part of many indices
    for at, (start, stop, piece) in enumerate(grid.parts()):
        write = rec.write_box(result, start, stop, piece)
        width = write.byte_stop - write.byte_start
        place = min(at * share, max(0, len(addresses) - share))
        own = addresses[place : place + share]
        run = max(1, min(run_elements * result.itemsize, width))
        transfer = rec.transfer(-(-write.row_stop * width // run), run, Space.HBM, Space.SBUF, is_indirect=True)
        rec.emit(transfer, DMA, [rec.hbm_box(source), *source.addresses, *own], [write])


def dynamic_update_slice(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """A part whose place is computed, overwritten: in place where nobody else needs the array as it was, else a copy."""
    value, update = operands[0], operands[1]
    target = _own_array(rec, op, value, "updated")
    assert target.hbm is not None  # noqa: S101
    rec.flush()
    addresses = _registers(rec, operands[2:])
    run = run_of_part(target, update.shape.dimensions)
    rec.store(update, target, is_indirect=True, run_elements=run, addresses=addresses)
    result = rec.new(op.shape)
    result.hbm = target.hbm
    return result


def _own_array(rec: Recorder, op: Op, value: Value, name: str) -> Value:
    """An array in HBM with the contents of `value` that may be overwritten: itself if nobody else needs it."""
    if value.hbm is not None and not value.hbm.is_input and not value.is_shared and value.tiles is None:
        return value
    target = rec.hbm(op.shape, name)
    rec.store(value, target)
    return target


def gather(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """Slices at computed places: a DMA with one descriptor per slice."""
    value, indices = operands
    if value.is_uniform:
        return reshape(rec, op.shape, value)
    source = to_hbm(rec, value, "table")
    result = rec.on_chip(op.shape)
    addresses = [] if indices.is_uniform else sources_of(rec, rec.ready(indices))
    rec.flush()
    sizes = tuple(op.attributes.gather_slice_sizes)
    run = run_of_part(source, sizes) if len(sizes) == len(source.shape.dimensions) else 1
    _gathered(rec, result, source, addresses, run)
    return result


def scatter(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """Updates at computed places: the old slices are gathered, combined, and written back."""
    count = (len(operands) - 1) // 2
    value, indices, update = operands[0], operands[count], operands[-1]
    target = _own_array(rec, op, value, "scattered")
    assert target.hbm is not None  # noqa: S101
    ready = rec.natural(update)
    addresses = [] if indices.is_uniform else sources_of(rec, rec.ready(indices))
    rec.flush()
    old = rec.on_chip(update.shape)
    run = max(1, min(update.grid.columns, target.hbm.run_elements))
    _gathered(rec, old, target, addresses, run)
    grid = old.grid
    for start, stop, piece in grid.parts():
        box = rec.box(old, start, stop, piece)
        elements = (box.byte_stop - box.byte_start) // old.itemsize
        sources = (Space.SBUF, Space.SBUF)
        work = rec.work("tensor_tensor", elements, box.row_stop, old.dtype, old.dtype, sources, function="add")
        reads = [box] if ready.is_uniform else [box, rec.box(ready, start, stop, piece)]
        rec.emit(work, VECTOR_GPSIMD, reads, [box])
    rec.store(old, target, is_indirect=True, run_elements=run, addresses=addresses)
    result = rec.new(op.shape)
    result.hbm = target.hbm
    return result
