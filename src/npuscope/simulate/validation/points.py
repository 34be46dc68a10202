"""Published measurements, as data: what was measured, where it is published, and whether the model may be fitted to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from npuscope._toml import tomllib
from npuscope.errors import FormatError

BUCKETS = ("pe-bound", "dma-bound", "vector-bound", "latency-bound", "counts", "instruction")
FIT, CHECK = "fit", "check"
RULE = (
    "Points by which the model's structure was chosen, after a look at their errors, count as fitted, however few constants"
    " that took: the tutorial matmuls, most of the selective scans, pooling and resizing, the DMA curve, the matmuls of 8,192"
    " rows, the single PSUM bank. Of each other family one point is used for fitting: the"
    " middle one in the order of publication, the earlier of two. All others are only checked. Families whose structure"
    " we inferred, or that are exact by counting, are only checked."
)


@dataclass(frozen=True, slots=True)
class Point:
    """One published figure, and how to predict it."""

    family: str
    """One kernel structure, or one sweep, measured by one source."""
    name: str
    """The case within the family."""
    device: str
    bucket: str
    """What should limit it, one of `BUCKETS`."""
    quantity: str
    """Key of `measures.MEASURES`, which says the unit."""
    low: float
    high: float
    """The published value, or the ends of a published range."""
    role: str
    """`fit` or `check`."""
    source: str
    note: str
    """Doubts about the figure or about our kernel; "" where there are none."""
    kernel: str
    """`FILE.py:NAME`; "" for the program that the compiler would make of `shape`."""
    arguments: tuple[str, ...]
    """As those of `npuscope simulate --arg`."""
    shape: tuple[int, ...]
    """M, K, N of a compiled matmul."""
    grid: tuple[int, ...]
    lnc: int
    relative_to: tuple[str, ...]
    """Arguments of the case whose value is 1; () where the value is absolute."""

    def error(self, predicted: float) -> float:
        """Signed relative error against the nearer end of the published range; 0 within it."""
        nearest = min(max(predicted, self.low), self.high)
        return predicted / nearest - 1


def role_of(index: int, count: int, *, check_only: bool, chose_structure: bool = False) -> str:
    """The role of the `index`-th of `count` points of a family, by `RULE`."""
    if chose_structure:
        return FIT
    return FIT if not check_only and index == (count - 1) // 2 else CHECK


@cache
def load_points() -> tuple[Point, ...]:
    """All points of `data/points.toml`.

    Raises:
        FormatError: The file lacks a field.
    """
    families = tomllib.loads(_data("points.toml").decode())["family"]
    return tuple(_point(family, index) for family in families for index in range(len(family["points"])))


@cache
def digest() -> str:
    """Stands for the constants of the model and the points: a report made from others has another one."""
    costs = files("npuscope.simulate.neuroncore").joinpath("data/costs.toml").read_bytes()
    return hashlib.sha256(costs + _data("points.toml")).hexdigest()[:12]


def _data(name: str) -> bytes:
    return files("npuscope.simulate.validation").joinpath(f"data/{name}").read_bytes()


def _point(family: Mapping[str, Any], index: int) -> Point:
    entry = {**family, **family["points"][index]}
    low, high = (entry.get(end, entry.get("published")) for end in ("low", "high"))
    if low is None or high is None or entry["bucket"] not in BUCKETS:
        raise FormatError("points.toml", where=f"{family['name']}, {entry['name']}", expected="a value", found="none")
    return Point(
        family=family["name"],
        name=entry["name"],
        device=entry["device"],
        bucket=entry["bucket"],
        quantity=entry["quantity"],
        low=float(low),
        high=float(high),
        role=role_of(
            index,
            len(family["points"]),
            check_only=family.get("check_only", False),
            chose_structure=entry.get("chose_structure", False),
        ),
        source=entry["source"],
        note=entry.get("note", ""),
        kernel="" if entry.get("compiled") else entry["kernel"],
        arguments=tuple(entry.get("arguments", ())),
        shape=tuple(entry.get("shape", ())),
        grid=tuple(entry.get("grid", ())),
        lnc=entry.get("lnc", 1),
        relative_to=tuple(entry.get("relative_to", ())),
    )
