"""float32 to bfloat16 beside a loop over elements, and packing and unpacking tiles beside copying the same bytes.

Run as `python -m benchmarks.xdna_numerics [--repeats N]`. The loop packs and unpacks each float, as scripts do that know bfloat16 as
the upper half of a float32; it truncates, so that it is compared with `truncate`, bit for bit, and timed beside every rounding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from benchmarks.common import Figure, at_least, run_with_repeats, spread_text
from npuscope.backends.xdna.packing import crop, pack_tiles, pad_into, unpack_tiles
from npuscope.backends.xdna.rounding import from_bfloat16, to_bfloat16

CONVERSION_TARGET = 1000
BANDWIDTH_TARGET = 0.5
SHAPE = (3008, 512)
ROWS = 3001
EDGE = 64
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CALLS = 5  # of what takes less than a millisecond, per sample
Array = npt.NDArray[Any]


def by_element(values: Array) -> Array:
    """bfloat16 bits of a matrix, one float at a time."""
    rows, columns = values.shape
    out = np.empty((rows, columns), np.uint16)
    for row in range(rows):
        for column in range(columns):
            word = struct.unpack("<I", struct.pack("<f", values[row, column]))[0]
            out[row, column] = word >> 16
    return out


def seconds(call: Callable[[], object], calls: int = _CALLS) -> float:
    """Of one call, the mean of a few."""
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls


def in_turn(repeats: int, *calls: Callable[[], object]) -> list[list[float]]:
    """Seconds of each, taken alternately, after one call that is not counted."""
    for call in calls:
        call()
    return [list(taken) for taken in zip(*([seconds(call) for call in calls] for _ in range(repeats)), strict=True)]


def measure_conversion(repeats: int) -> list[Figure]:
    """How many times faster than the loop: a whole matrix, and one tile."""
    values = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    figures = []
    for name, source, judged in (
        (f"{SHAPE[0]}x{SHAPE[1]}", values, True),
        (f"one {EDGE}x{EDGE} tile", np.ascontiguousarray(values[:EDGE, :EDGE]), False),
    ):
        out = np.empty(source.shape, _BFLOAT16)
        loops = [seconds(lambda source=source: by_element(source), 1) for _ in range(min(repeats, 3))]
        loop = median(loops)
        if not np.array_equal(by_element(source), to_bfloat16(source, "truncate").view(np.uint16)):
            raise RuntimeError("the loop and to_bfloat16 disagree")
        figures.append(Figure(f"float32 to bfloat16, {name}: loop over elements", 1e3 * loop, "ms", spread="truncate"))
        for mode in ("even", "floor", "truncate"):
            [taken] = in_turn(repeats, lambda source=source, mode=mode, out=out: to_bfloat16(source, mode, out))
            figures.append(Figure(f"float32 to bfloat16, {name}: {mode}", 1e3 * median(taken), "ms"))
            ratios = [loop / one for one in taken]
            title = f"  {mode}: faster than the loop"
            if judged:
                figures.append(at_least(title, median(ratios), CONVERSION_TARGET, "times", spread_text(ratios)))
            else:
                figures.append(Figure(title, median(ratios), "times", spread=spread_text(ratios)))
        if judged:
            wide = np.empty_like(source)
            [taken] = in_turn(repeats, lambda source=source, wide=wide: np.copyto(wide, source))
            figures.append(Figure("np.copyto of the float32 alone, unconverted", 1e3 * median(taken), "ms"))
    return figures


def measure_packing(repeats: int) -> list[Figure]:
    """Bandwidth of packing and unpacking over that of np.copyto of the same bytes into memory of the same size."""
    rng = np.random.default_rng(0)
    source = rng.standard_normal((ROWS, SHAPE[1]), np.float32).astype(_BFLOAT16)
    single = rng.standard_normal((ROWS, SHAPE[1]), np.float32)
    padded, whole = np.empty(SHAPE, _BFLOAT16), np.zeros(SHAPE, _BFLOAT16)
    whole[:ROWS] = source
    tiles = np.empty((SHAPE[0] // EDGE * SHAPE[1] // EDGE, EDGE, EDGE), _BFLOAT16)
    single_tiles = np.zeros(tiles.shape, np.float32)
    pack_tiles(single_tiles, single)
    wide, wide_whole = np.empty((ROWS, SHAPE[1]), np.float32), np.zeros((SHAPE[0], SHAPE[1] + EDGE), np.float32)

    def by_calls() -> None:
        """As dispatches of one tile are packed: tile after tile, each padded by itself."""
        for row in range(SHAPE[0] // EDGE):
            for column in range(SHAPE[1] // EDGE):
                place = tiles[row * (SHAPE[1] // EDGE) + column]
                pad_into(place, source[row * EDGE : (row + 1) * EDGE, column * EDGE : (column + 1) * EDGE])

    pack_tiles(tiles, source)
    by_calls_of = tiles.copy()
    by_calls()
    if not np.array_equal(tiles, by_calls_of):
        raise RuntimeError("tiles packed one by one differ from those packed together")

    size = f"{ROWS}x{SHAPE[1]}"
    cases: list[tuple[str, Callable[[], object], Callable[[], object], bool]] = [
        (f"pad {size} bfloat16", lambda: pad_into(padded, source), lambda: np.copyto(padded, whole), True),
        (f"pack tiles of {size} bfloat16", lambda: pack_tiles(tiles, source), lambda: np.copyto(padded, whole), True),
        (f"pack {size} tile by tile, as dispatches of one tile are", by_calls, lambda: np.copyto(padded, whole), True),
        (
            f"unpack tiles of {size} float32",
            lambda: unpack_tiles(wide, single_tiles),
            lambda: np.copyto(wide, single),
            True,
        ),
        # Columns are cropped too: rows alone are a view, and move nothing.
        (f"crop {size} float32", lambda: crop(wide_whole, ROWS, SHAPE[1]), single.copy, True),
        # These read and write unequal sizes: beside NumPy's own conversion there is no copy of the same bytes.
        (
            f"pack tiles of {size} from float32",
            lambda: pack_tiles(tiles, single),
            lambda: to_bfloat16(single, "even", padded[:ROWS]),
            False,
        ),
        (
            f"unpack tiles of {size} bfloat16",
            lambda: unpack_tiles(wide, tiles),
            lambda: np.copyto(wide, from_bfloat16(source)),
            False,
        ),
    ]
    figures = []
    for name, ours, plain, judged in cases:
        taken, copied = in_turn(repeats, ours, plain)
        figures.append(Figure(f"{name}", 1e3 * median(taken), "ms", spread=spread_text([1e3 * one for one in taken])))
        ratios = [copy / one for one, copy in zip(taken, copied, strict=True)]
        title = "  of the bandwidth of copying" if judged else "  beside converting alone"
        if judged:
            figures.append(at_least(title, median(ratios), BANDWIDTH_TARGET, "", spread_text(ratios)))
        else:
            figures.append(Figure(title, median(ratios), "", spread=spread_text(ratios)))
    return figures


def measure(repeats: int = 30) -> list[Figure]:
    """Conversion, then packing."""
    return [*measure_conversion(repeats), *measure_packing(repeats)]


if __name__ == "__main__":
    run_with_repeats("XDNA numerics and packing", measure, __doc__, repeats=30)
