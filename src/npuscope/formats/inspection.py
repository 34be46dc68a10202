"""What `npuscope inspect` says of one artifact: facts and tables that any reader fills and any renderer shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Inspection:
    """One artifact, told."""

    kind: str
    """What it is: `ntff`, `neff`, `neuron-json`, `summary-json`, `show-session`, `neuron-parquet`, `profile`,
    `compile-cache`, `compiler-workdir`, `torch-neuronx-workdir`, `neuron-log`, `perfetto`, `chrome-trace`, `hlo`,
    `hlo-text`, `kernel-build`, `xclbin`."""
    path: str
    title: str
    """One sentence: what it is and what is in it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Name to value, with the unit in the name: `size_bytes`, `ntff_version`, `uuid`."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Title to rows, all rows of one table with the same keys."""
    notes: tuple[str, ...] = ()
    """What is odd, missing or could not be read."""
