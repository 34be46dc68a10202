"""Subscripts by kind: two that differ in their starting points alone select views of the same geometry.

`a[k * 128 : (k + 1) * 128, 0:512]` selects [128, 512] at some offset, whatever `k` is. A plan remembers the geometry by
the sizes of slices and the shapes and coefficients of index expressions, so that a repeated subscript costs one look-up
and the sum of its offsets.
"""

from __future__ import annotations

from typing import Any

from npuscope.simulate.nki.geometry import Geometry
from npuscope.simulate.nki.index import Index, Slice

_MOST = 4096
"""Plans of one geometry before they start anew."""
_INTEGER = -1
"""Stands for an integer; a slice of n positions is n, `ds` of n positions is -1 - n, a full slice is None."""


class Plan:
    """What is known about the subscripts of one kind."""

    __slots__ = ("example", "geometry", "reaches")

    def __init__(self, example: tuple[Any, ...], reaches: tuple[tuple[int, int, int], ...]) -> None:
        self.example = example
        """A subscript of this kind that starts as low as it can."""
        self.reaches = reaches
        """Per index expression, its axis and how far it goes below and above its constant."""
        self.geometry: Geometry | None = None
        """What it selects; None until the first time."""


def plan_of(geometry: Geometry, key: tuple[Any, ...]) -> tuple[Plan, int] | None:
    """The plan of a subscript, and the offset that it adds; None where there is none for its kind.

    Args:
        geometry: Of the tensor that is subscripted.
        key: Integers, slices, `ds` and index expressions, one per axis from the first on; all have to stay inside.
    """
    shape, strides = geometry.shape, geometry.strides
    if len(key) > len(shape):
        return None
    kinds: list[Any] = []
    offset = 0
    for axis, item in enumerate(key):
        kind = type(item)
        if kind is slice:
            start, stop = item.start, item.stop
            if type(start) is int and type(stop) is int and item.step is None and 0 <= start < stop <= shape[axis]:
                kinds.append(stop - start)
                offset += start * strides[axis]
            elif start is None and stop is None and item.step is None:
                kinds.append(None)
            else:
                return None
        elif kind is int:
            if item < 0 or item >= shape[axis]:
                return None
            kinds.append(_INTEGER)
            offset += item * strides[axis]
        elif kind is Index:
            kinds.append(item.shape)
            kinds.append(item.coefficients)
            offset += item.const * strides[axis]
        elif kind is Slice:
            start, size = item
            if type(start) is not int or type(size) is not int or start < 0 or size < 1 or start + size > shape[axis]:
                return None
            kinds.append(_INTEGER - size)
            offset += start * strides[axis]
        else:
            return None
    plan = geometry.plans.get(tuple(kinds))
    if plan is None:
        plan = _new_plan(geometry, tuple(kinds), key)
    for axis, low, high in plan.reaches:
        const = key[axis].const
        if const + low < 0 or const + high >= shape[axis]:
            return None
    return plan, offset


def _new_plan(geometry: Geometry, kinds: tuple[Any, ...], key: tuple[Any, ...]) -> Plan:
    """The plan of subscripts like `key`, from now on known to `geometry`."""
    example: list[Any] = []
    reaches = []
    for axis, item in enumerate(key):
        if type(item) is Index:
            low, high = Index(item.shape, 0, item.coefficients).extent()
            # An empty expression has no plan: its reach is one that fits nowhere.
            reaches.append((axis, low, high) if 0 not in item.shape else (axis, 0, 1 << 62))
            example.append(Index(item.shape, -low, item.coefficients))
        elif type(item) is slice:
            example.append(item if item.stop is None else slice(0, item.stop - item.start))
        else:
            example.append(0 if type(item) is int else Slice(0, item.size))
    plan = Plan(tuple(example), tuple(reaches))
    if len(geometry.plans) >= _MOST:
        geometry.plans.clear()
    geometry.plans[kinds] = plan
    return plan
