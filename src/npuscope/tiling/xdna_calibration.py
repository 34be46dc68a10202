"""How fast the kernels and the memory of an XDNA array are: named sets of calibrated numbers, each with its source.

`tuned` stands for hand-optimised kernels (arXiv:2512.13282), `stock` for those of mlir-aie and IRON, compiled with Peano.
The numbers lie in `data/xdna_calibrations.toml`; `npuscope.simulate.xdna` fits them and says how wrong they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from npuscope._toml import tomllib
from npuscope.errors import FormatError, unknown_name
from npuscope.tiling.xdna_design import OUT_TYPES

_FILE = "xdna_calibrations.toml"
KERNEL_SETS = ("stock", "tuned")
ARRAYS = ("npu1", "npu2")


@dataclass(frozen=True, slots=True)
class Kernel:
    """Cycles of one call of a kernel on a tile: `per_mac * m*k*n + per_element * m*n + per_call`.

    So the rate is 1 / (per_mac + per_element / k): what a call loads and stores of C is spread over k.
    """

    per_mac: float
    """Cycles for each multiplication where k is long."""
    per_element: float
    """Cycles for each element of C: its load and its store."""
    per_call: float
    """Cycles to enter and leave."""
    points: int
    """Published measurements that it was fitted to; 0 where it is taken from a relative."""
    source: str

    def macs_per_cycle(self, m: int, k: int, n: int) -> float:
        """Multiplications per cycle of one core on a tile."""
        macs = m * k * n
        return macs / (self.per_mac * macs + self.per_element * m * n + self.per_call)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One set of kernels on one generation of the array."""

    name: str
    """`tuned` or `stock`."""
    array: str
    """`npu1` or `npu2`."""
    overlapped: bool
    """Data moves while cores compute: the longer of both counts, not their sum."""
    clock_ghz: float
    """At which the measurements were made that this was fitted to."""
    dram_gb_s: float
    """Of the whole array at `clock_ghz`; a design has the share of its columns, and it follows the clock."""
    full_run_bytes: int
    """Shorter contiguous runs in DRAM are slower in proportion; 0 where the designs move long ones."""
    dispatch_us: float
    """Of a command that is sent alone, its wait included."""
    command_us: float
    """Of a command within a run list."""
    error_mean: float
    """Mean relative error on published measurements of whole designs, each left out of the fit that predicts it."""
    error_max: float
    points: int
    """Measurements behind `error_mean` and `error_max`."""
    kernels: MappingProxyType[str, Kernel]
    """By operand and result type: `int8-int32`; `bfp16-bfloat16` for products in blocks that share an exponent."""
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    """What the evidence does not show."""

    def kernel(self, dtype: str, out_dtype: str, multiplication: str = "native") -> Kernel:
        """The kernel of some types.

        Raises:
            UsageError: No such kernel.
        """
        key = f"{'bfp16' if multiplication == 'bfp16' else dtype}-{out_dtype}"
        if key not in self.kernels:
            raise unknown_name(f"kernel of {self.name} on {self.array}", key, self.kernels)
        return self.kernels[key]


@cache
def _calibrations() -> MappingProxyType[tuple[str, str], Calibration]:
    text = files("npuscope.tiling").joinpath("data").joinpath(_FILE).read_text(encoding="utf-8")
    return MappingProxyType(
        {(found.array, found.name): found for found in map(_parse, tomllib.loads(text)["calibration"])}
    )


def calibration_for(array: str, name: str = "stock") -> Calibration:
    """One calibration.

    Args:
        array: `npu1` or `npu2`.
        name: `stock` or `tuned`.

    Raises:
        UsageError: One of the names is unknown.
    """
    if array not in ARRAYS:
        raise unknown_name("XDNA array", array, ARRAYS)
    if name not in KERNEL_SETS:
        raise unknown_name("kernel set", name, KERNEL_SETS)
    return _calibrations()[array, name]


def _parse(entry: dict[str, Any]) -> Calibration:
    values = dict(entry)
    kernels = {key: Kernel(**fields) for key, fields in values.pop("kernels").items()}
    where = f"{values['array']} {values['name']}"
    missing = [f"{dtype}-{out}" for dtype, outs in OUT_TYPES.items() for out in outs if f"{dtype}-{out}" not in kernels]
    if missing:
        raise FormatError(_FILE, where=where, expected="a kernel of every type", found=f"no {missing}")
    values["sources"], values["notes"] = tuple(values["sources"]), tuple(values["notes"])
    return Calibration(**values, kernels=MappingProxyType(kernels))
