"""Published measurements of XDNA matmuls, as `data/points.toml` lists them, each with its source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from npuscope._toml import tomllib
from npuscope.errors import FormatError
from npuscope.tiling.xdna_design import XdnaDesign

USES = ("tuned", "rate", "stock", "check", "check-rate")
"""What a set is for: fit and leave-one-out of `tuned` or of kernel rates, of `stock`, or only to check one of them."""


@dataclass(frozen=True, slots=True)
class Point:
    """One published figure."""

    set_name: str
    use: str
    """One of `USES`."""
    array: str
    """`npu1` or `npu2`."""
    dtype: str
    out_dtype: str
    multiplication: str
    shape: tuple[int, ...]
    """M, K and N of the dispatch; () where only the kernel was measured."""
    tile: tuple[int, int, int]
    columns: int
    """Of four rows of cores each."""
    buffers_c: int
    b_column_major: bool
    rate: float | None
    """Multiplications per cycle of one core in its kernel, where that was published."""
    measured_us: float | None
    clock_ghz: float | None
    """Where the source measured it; None where it is that of the calibration."""
    source: str

    @property
    def name(self) -> str:
        """What tells it from the others of its set."""
        edges = "x".join(map(str, self.tile))
        kind = f"{self.dtype} to {self.out_dtype}" + (", bfp16" if self.multiplication == "bfp16" else "")
        if not self.shape:
            return f"{kind}, {edges}"
        return f"{'x'.join(map(str, self.shape))} {kind}, {edges} on {self.columns} columns"

    @property
    def design(self) -> XdnaDesign:
        """What ran; sizes are rounded up to whole tiles, as the hosts pad them."""
        rows = 4
        steps = (self.tile[0] * rows, self.tile[1], self.tile[2] * self.columns)
        M, K, N = (-(-size // step) * step for size, step in zip(self.shape, steps, strict=True))
        return XdnaDesign(
            M,
            K,
            N,
            *self.tile,
            rows=rows,
            columns=self.columns,
            dtype=self.dtype,
            out_dtype=self.out_dtype,
            buffers_c=self.buffers_c,
            b_column_major=self.b_column_major,
            multiplication=self.multiplication,
        )


@dataclass(frozen=True, slots=True)
class PointSet:
    """Measurements of one source under one method."""

    name: str
    use: str
    source: str
    note: str
    """Doubts about the figures; "" where there are none."""
    is_other_kernel: bool
    """It is predicted as `stock` for want of a calibration of its own, and counts for none."""
    points: tuple[Point, ...]


@cache
def load_sets() -> tuple[PointSet, ...]:
    """All sets of `data/points.toml`.

    Raises:
        FormatError: A set has an unknown use, or a point has no figure.
    """
    return tuple(_set(entry) for entry in tomllib.loads(_data().decode())["set"])


def points_of(use: str) -> tuple[Point, ...]:
    """All points of the sets with one use."""
    return tuple(point for found in load_sets() if found.use == use for point in found.points)


@cache
def digest() -> str:
    """Stands for the calibrations and the points: a page made from others has another one."""
    calibrations = files("npuscope.tiling").joinpath("data/xdna_calibrations.toml").read_bytes()
    return hashlib.sha256(calibrations + _data()).hexdigest()[:12]


def _data() -> bytes:
    return files("npuscope.simulate.xdna").joinpath("data/points.toml").read_bytes()


def _set(entry: dict[str, Any]) -> PointSet:
    if entry["use"] not in USES:
        raise FormatError("points.toml", where=entry["name"], expected=f"a use of {USES}", found=entry["use"])
    points = tuple(_point(entry, fields) for fields in entry["points"])
    return PointSet(
        entry["name"], entry["use"], entry["source"], entry.get("note", ""), entry.get("other_kernel", False), points
    )


def _point(of: dict[str, Any], fields: dict[str, Any]) -> Point:
    M, K, N = fields.get("shape", (0, 0, 0))
    measured_us = fields.get("us", 2e-6 * M * K * N / fields["tops"] if "tops" in fields else None)
    if measured_us is None and "rate" not in fields:
        raise FormatError("points.toml", where=f"{of['name']}, {fields}", expected="us, tops or rate", found="none")
    m, k, n = fields["tile"]
    return Point(
        set_name=of["name"],
        use=of["use"],
        array=fields["array"],
        dtype=fields.get("dtype", "bfloat16"),
        out_dtype=fields.get("out_dtype", "bfloat16"),
        multiplication=fields.get("multiplication", "native"),
        shape=tuple(fields.get("shape", ())),
        tile=(m, k, n),
        columns=fields.get("columns", 1),
        buffers_c=fields.get("buffers_c", 2),
        b_column_major=fields.get("b_column_major", False),
        rate=fields.get("rate"),
        measured_us=measured_us,
        clock_ghz=fields.get("clock_ghz"),
        source=of["source"],
    )
