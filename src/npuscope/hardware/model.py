"""Device facts as frozen dataclasses, loaded from TOML in which every number names its source."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from npuscope._toml import tomllib
from npuscope.errors import FormatError, unknown_name


@dataclass(frozen=True, slots=True)
class NeuronCore:
    """One NeuronCore generation; clocks in GHz, capacities in bytes, all per core."""

    name: str
    pe_rows: int
    pe_columns: int
    stationary_max_rows: int
    """Contraction rows (partitions) of one stationary operand."""
    stationary_max_columns: int
    """Columns of one stationary operand; they become rows of the result."""
    moving_max_columns: int
    """Columns of one moving operand: one PSUM bank of float32."""
    tensor_clock_ghz: float
    vector_clock_ghz: float
    scalar_clock_ghz: float
    gpsimd_clock_ghz: float
    peak_bf16_tflops: float
    peak_fp8_tflops: float
    peak_fp32_tflops: float
    sbuf_bytes: int
    psum_bytes: int
    psum_banks: int
    partitions: int
    dma_engines: int
    dma_engine_gb_s: float
    """Theoretical rate of one DMA engine, 1e9 bytes per second."""
    dma_engine_practical_gb_s: float
    sources: MappingProxyType[str, str]
    """Field name to citation; every number has one."""


@dataclass(frozen=True, slots=True)
class NeuronChip:
    """One chip of an instance family."""

    name: str
    core: str
    """Key of its `NeuronCore`: `neuroncore-v2` and so on."""
    cores_per_chip: int
    hbm_bytes_per_chip: int
    hbm_gb_s_per_chip: float
    sources: MappingProxyType[str, str]


@dataclass(frozen=True, slots=True)
class XdnaArray:
    """One XDNA generation: the usable core array and one core of it."""

    name: str
    core_rows: int
    core_columns: int
    core_memory_bytes: int
    core_program_bytes: int
    memory_tile_bytes: int
    clock_ghz: float
    int8_macs_per_cycle: int
    """Peak of one core."""
    int8_kernel_macs_per_cycle: float
    """What the best published single-core kernel reaches."""
    bf16_kernel_macs_per_cycle: float
    hardware_contexts: int
    dram_gemm_gb_s: float
    """Effective DRAM bandwidth seen by GEMM."""
    bf16_block_m: int
    bf16_block_k: int
    bf16_block_n: int
    sources: MappingProxyType[str, str]


_KINDS: dict[str, type[NeuronCore] | type[NeuronChip] | type[XdnaArray]] = {
    "neuroncore-v2": NeuronCore,
    "neuroncore-v3": NeuronCore,
    "neuroncore-v4": NeuronCore,
    "inf2": NeuronChip,
    "trn1": NeuronChip,
    "trn2": NeuronChip,
    "trn3": NeuronChip,
    "xdna1": XdnaArray,
    "xdna2": XdnaArray,
}


def hardware_names() -> list[str]:
    """Every key that `load_hardware` knows."""
    return list(_KINDS)


@cache
def load_hardware(name: str) -> NeuronCore | NeuronChip | XdnaArray:
    """The facts of one device.

    Args:
        name: A key such as `neuroncore-v3`, `trn2` or `xdna1`.

    Raises:
        UsageError: `name` is unknown.
        FormatError: The data file contradicts its dataclass, or a number has no source.
    """
    if name not in _KINDS:
        raise unknown_name("hardware", name, _KINDS)
    text = files("npuscope.hardware").joinpath("data").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    kind: type[Any] = _KINDS[name]
    facts: NeuronCore | NeuronChip | XdnaArray = parse_facts(kind, tomllib.loads(text), source=f"{name}.toml")
    return facts


def neuron_core_of(chip_name: str) -> NeuronCore:
    """The core of a chip: `neuron_core_of("trn2")` is NeuronCore-v3."""
    chip = load_hardware(chip_name)
    core = load_hardware(chip.core) if isinstance(chip, NeuronChip) else None
    if not isinstance(core, NeuronCore):
        raise unknown_name("Neuron chip", chip_name, [key for key, kind in _KINDS.items() if kind is NeuronChip])
    return core


def parse_facts(kind: type[Any], document: dict[str, Any], *, source: str) -> Any:
    """Build `kind` from a parsed TOML document whose entries are `{ value, source }`."""
    citations = document.get("sources", {})
    wanted = [field.name for field in fields(kind) if field.name not in {"name", "sources"}]
    unexpected = sorted(set(document) - {"name", "sources", *wanted})
    missing = [key for key in wanted if key not in document]
    if unexpected or missing:
        found = f"unknown {unexpected}" if unexpected else f"no {missing}"
        raise FormatError(source, expected=f"the fields of {kind.__name__}", found=found)
    values: dict[str, Any] = {"name": document["name"]}
    cited: dict[str, str] = {}
    for key in wanted:
        entry = document[key]
        if not isinstance(entry, dict) or entry.get("source") not in citations:
            raise FormatError(source, where=key, expected="a value and a source listed in [sources]", found=str(entry))
        values[key] = entry["value"]
        cited[key] = citations[entry["source"]]
    return kind(**values, sources=MappingProxyType(cited))
