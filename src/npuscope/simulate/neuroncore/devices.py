"""The NeuronCores that can be simulated: hardware facts, and the constants of the timing model with a source each."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from npuscope._toml import tomllib
from npuscope.errors import FormatError, unknown_name
from npuscope.hardware.model import NeuronChip, NeuronCore, load_hardware, neuron_core_of
from npuscope.simulate.neuroncore.expressions import Formula

SIMULATED_CHIPS = ("inf2", "trn1", "trn2", "trn3")
_GENERATIONS = {"neuroncore-v2": 2, "neuroncore-v3": 3, "neuroncore-v4": 4}
MODEL_NAME = "neuroncore-1"
"""Names the model's structure and constants; changes when either does, so that predictions can be told apart."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of instruction costs on one engine."""

    opcodes: frozenset[str]
    """`any` fits every opcode."""
    engine: str
    when: Formula | None
    cycles: Formula
    source: str


@dataclass(frozen=True, slots=True)
class SimDevice:
    """A device of which one logical core is simulated."""

    name: str
    """`sim:trn1`."""
    chip: NeuronChip
    core: NeuronCore
    nc_version: int
    """2, 3 or 4."""
    rules: tuple[Rule, ...]
    constants: MappingProxyType[str, float]
    """Model constants of the generation, by name; `data/costs.toml` says unit and source."""
    constant_sources: MappingProxyType[str, str]
    overrides: tuple[tuple[str, float], ...] = field(default=())
    """Constants that differ from the shipped ones: a study of the model, not a prediction."""

    @property
    def sbuf_usable_bytes(self) -> int:
        """Bytes per partition that a kernel may allocate by itself, as `nl.tile_size` says it."""
        return int(self.constants["sbuf_usable_bytes"])

    @property
    def sbuf_partition_bytes(self) -> int:
        """Bytes of one SBUF partition: what the compiler may give to tiles."""
        return self.core.sbuf_bytes // self.core.partitions

    @property
    def psum_bank_bytes(self) -> int:
        """Bytes per partition of one PSUM bank."""
        return self.core.psum_bytes // self.core.partitions // self.core.psum_banks


def load_device(name: str) -> SimDevice:
    """The device of a name such as `sim:trn1` or `trn1`.

    Raises:
        UsageError: There is no model of such a device.
    """
    chip_name = name.removeprefix("sim:")
    if chip_name not in SIMULATED_CHIPS:
        raise unknown_name("simulated device", name, [f"sim:{chip}" for chip in SIMULATED_CHIPS])
    return _load(chip_name)


@cache
def _load(chip_name: str) -> SimDevice:
    chip = load_hardware(chip_name)
    if not isinstance(chip, NeuronChip):
        raise unknown_name("simulated device", chip_name, SIMULATED_CHIPS)
    version = _GENERATIONS[chip.core]
    document = tomllib.loads(files("npuscope.simulate.neuroncore").joinpath("data/costs.toml").read_text("utf-8"))
    citations = document["sources"]
    constants = document["generation"][str(version)]
    return SimDevice(
        name=f"sim:{chip_name}",
        chip=chip,
        core=neuron_core_of(chip_name),
        nc_version=version,
        rules=tuple(_rule(entry, citations) for entry in document["rule"]),
        constants=MappingProxyType({key: float(entry["value"]) for key, entry in constants.items()}),
        constant_sources=MappingProxyType({key: citations[entry["source"]] for key, entry in constants.items()}),
    )


def _rule(entry: dict[str, Any], citations: dict[str, str]) -> Rule:
    if entry["source"] not in citations:
        raise FormatError("costs.toml", where=str(entry["opcode"]), expected="a listed source", found=entry["source"])
    opcodes = entry["opcode"] if isinstance(entry["opcode"], list) else [entry["opcode"]]
    when = Formula(entry["when"], source="costs.toml") if "when" in entry else None
    return Rule(
        opcodes=frozenset(opcodes),
        engine=entry["engine"],
        when=when,
        cycles=Formula(entry["cycles"], source="costs.toml"),
        source=citations[entry["source"]],
    )
