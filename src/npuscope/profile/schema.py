"""The tables of a Profile and their columns: the vendor's profile schema 7.4.0 and what npuscope adds.

`data/schema.csv` holds one column a row: table, column, type, unit, whether the vendor always writes it, and origin
(`7.4.0` or `npuscope`). Source of 7.4.0: aws-neuron/aws-neuron-sdk @81ce03ae,
tools/neuron-explorer/profile-schema-reference.rst. Times are nanoseconds from the start of the profile, sizes bytes,
rates bytes per second; a `*_percent` column holds a fraction from 0 to 1, as real captures do.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import pyarrow as pa

SCHEMA_VERSION = "7.4.0"
ENGINES = ("Tensor", "Vector", "Scalar", "GpSimd", "Sync")
"""The engines of a NeuronCore as `Instruction.engine` names them."""
OPEN_TABLES = frozenset({"Summary", "VendorSummary", "LayerSummary"})
"""Tables of named figures: a column that the schema does not know keeps its type and is no remark."""
_TYPES = MappingProxyType(
    {
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "list<int64>": pa.list_(pa.int64()),
        "list<string>": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of one table."""

    name: str
    type: pa.DataType
    unit: str
    """As the vendor writes it: nanoseconds, bytes, percent (a fraction), gigahertz, or nothing."""
    required: bool
    """The vendor writes it whenever it writes the table."""
    origin: str
    """`7.4.0`, or `npuscope` for a column of ours."""


@cache
def tables() -> Mapping[str, tuple[Column, ...]]:
    """Every table by name, with its columns in the order of the schema."""
    text = files("npuscope.profile").joinpath("data").joinpath("schema.csv").read_text(encoding="utf-8")
    found: dict[str, list[Column]] = {}
    for row in csv.DictReader(text.splitlines()):
        column = Column(row["column"], _TYPES[row["type"]], row["unit"], row["required"] == "yes", row["origin"])
        found.setdefault(row["table"], []).append(column)
    found["VendorSummary"] = [
        Column(c.name, c.type, c.unit, required=False, origin="npuscope") for c in found["Summary"]
    ]
    return MappingProxyType({name: tuple(columns) for name, columns in found.items()})


@cache
def columns_of(table: str) -> Mapping[str, Column]:
    """The columns of a table by name; empty for a table that the schema does not know."""
    return MappingProxyType({column.name: column for column in tables().get(table, ())})


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table with all of its columns."""
    return pa.schema([(column.name, column.type) for column in tables().get(table, ())])
