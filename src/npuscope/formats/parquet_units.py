"""Units of Parquet columns: what `SchemaFields` declares, turned into what the schema here means by the same name."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError, shorten
from npuscope.formats.neuron_units import percent_scale
from npuscope.profile.schema import columns_of

Declared = Mapping[tuple[str, str], tuple[str, float | None]]
"""(table, column) to the unit that `SchemaFields` declares and its maximum."""
HOST_PERCENT = frozenset({("CpuUsage", "util_percent"), ("HostMemUsage", "used_percent")})
"""Documented as used / capacity * 100; the percentages of the device are fractions in real files."""
_FRACTION_UNITS = frozenset({"fraction", "ratio"})
_SCALES: Mapping[str, Mapping[str, Fraction]] = {
    "nanoseconds": {
        "picoseconds": Fraction(1, 1000),
        "microseconds": Fraction(1000),
        "milliseconds": Fraction(10**6),
        "seconds": Fraction(10**9),
    },
    "seconds": {
        "milliseconds": Fraction(1, 10**3),
        "microseconds": Fraction(1, 10**6),
        "nanoseconds": Fraction(1, 10**9),
        "picoseconds": Fraction(1, 10**12),
    },
    "bytes": {
        "bits": Fraction(1, 8),
        "kilobytes": Fraction(10**3),
        "megabytes": Fraction(10**6),
        "kibibytes": Fraction(1 << 10),
        "mebibytes": Fraction(1 << 20),
        "gigabytes": Fraction(10**9),
        "gibibytes": Fraction(1 << 30),
    },
    "gigahertz": {"hertz": Fraction(1, 10**9), "kilohertz": Fraction(1, 10**6), "megahertz": Fraction(1, 10**3)},
    "bytes_per_second": {"megabytes_per_second": Fraction(10**6), "gigabytes_per_second": Fraction(10**9)},
    "flops": {"gigaflops": Fraction(10**9), "teraflops": Fraction(10**12)},
}


def declared_units(fields: pa.Table | None) -> dict[tuple[str, str], tuple[str, float | None]]:
    """What the table `SchemaFields` declares; {} without it."""
    if fields is None or not {"table_name", "field_name"} <= set(fields.column_names):
        return {}
    names = ("table_name", "field_name", "field_unit", "field_maximum")
    rows = fields.select([name for name in names if name in fields.column_names]).to_pylist()
    return {
        (str(row["table_name"]), str(row["field_name"])): (
            str(row.get("field_unit") or "").lower(),
            row.get("field_maximum"),
        )
        for row in rows
    }


def unit_scale(table: str, column: str, declared: Declared, device_percent: Fraction) -> tuple[Fraction, str]:
    """What a column is multiplied by, and a remark where its unit is unknown.

    Args:
        table: The table as the schema names it.
        column: The column.
        declared: See `declared_units`.
        device_percent: 1 or 1/100: what turns a percentage of the device into a fraction in this profile.
    """
    known = columns_of(table).get(column)
    unit, maximum = declared.get((table, column), ("", None))
    wanted = known.unit if known is not None else ""
    wanted = wanted or ("percent" if column.endswith("_percent") else "")
    if wanted == "percent":
        if unit in _FRACTION_UNITS or (maximum is not None and maximum <= 1):
            return Fraction(1), ""
        return (Fraction(1, 100) if (table, column) in HOST_PERCENT else device_percent), ""
    if known is None or not unit or unit == wanted or not wanted:
        return Fraction(1), ""
    scale = _SCALES.get(wanted, {}).get(unit)
    if scale is None:
        return Fraction(1), f"{table}.{column} is declared in {shorten(unit, 20)}, read as {wanted}"
    return scale, ""


def percent_of_device(summary: pa.Table | None) -> Fraction:
    """Whether the percentages of the device run to 1 or to 100 in this profile, by its own summary."""
    rows = summary.slice(0, 16).to_pylist() if summary is not None else []
    scales = [percent_scale({key: value for key, value in row.items() if value is not None}) for row in rows]
    return Fraction(1, 100) if any(scale != 1 for scale in scales) else Fraction(1)


def scaled(
    values: pa.ChunkedArray, scale: Fraction, wanted: pa.DataType, *, source: object, where: str
) -> pa.ChunkedArray:
    """A numeric column times an exact factor, rounded to the nearest where the column is one of integers.

    Raises:
        FormatError: It is no number, or the product does not fit.
    """
    try:
        if pa.types.is_integer(values.type) and scale.denominator == 1 and pa.types.is_integer(wanted):
            return pc.multiply_checked(values.cast(pa.int64()), pa.scalar(scale.numerator, pa.int64()))
        product = pc.multiply(values.cast(pa.float64(), safe=False), float(scale))
        if pa.types.is_integer(values.type) and pa.types.is_integer(wanted):
            half = scale.denominator // 2
            whole = pc.add_checked(pc.multiply_checked(values.cast(pa.int64()), scale.numerator), half)
            return _floor_divided(whole, scale.denominator)
        return pc.round(product) if pa.types.is_integer(wanted) else product
    except pa.ArrowException as error:
        raise FormatError(
            source, where=where, expected=f"numbers that can be multiplied by {scale}", found=str(error)
        ) from error


def _floor_divided(values: pa.ChunkedArray, by: int) -> pa.ChunkedArray:
    quotient: Any = pc.divide(values, by)  # towards zero
    below = pc.and_(pc.less(values, 0), pc.not_equal(pc.multiply(quotient, by), values))
    return pc.subtract(quotient, pc.cast(below, pa.int64()))
