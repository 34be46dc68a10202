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
    """Rows of A of one multiplication instruction; every tile is made of whole ones (twice as many by the stock kernel)."""
    bf16_block_k: int
    bf16_block_n: int
    bf16_macs_per_cycle: int
    """Peak of one core for bfloat16 operands, by the fastest way that keeps bfloat16 operands."""
    int8_block_m: int
    int8_block_k: int
    int8_block_n: int
    int16_block_m: int
    int16_block_k: int
    int16_block_n: int
    int16_macs_per_cycle: int
    core_stack_bytes: int
    """Of the core's data memory, by the stock designs."""
    core_bank_bytes: int
    """One logical bank of the core's data memory, as the compiler allocates them."""
    memory_tile_bank_bytes: int
    """No buffer may be larger under bank-aware allocation."""
    memory_tiles: int
    shim_descriptors: int
    """DMA buffer descriptors of one shim tile: what a dispatch's transfers are queued with."""
    descriptor_words: int
    """Largest size of an inner dimension of a shim descriptor, in 32-bit words."""
    descriptor_stride_words: int
    """Largest stride of a shim descriptor, in 32-bit words."""
    descriptor_repeats: int
    """Most iterations of a shim descriptor's outermost dimension."""
    task_queue_depth: int
    stream_bytes_per_cycle: int
    """Of one DMA channel of a core."""
    run_list_commands: int
    """Most commands that XRT chains into one submission."""
    job_timeout_ms: int
    """A command that runs longer is taken for hung, and its context is reset."""
    autosuspend_ms: int
    """Idle time after which the driver suspends the device."""
    idle_wake_ms: float
    """What the first command after such a suspension takes longer."""
    context_ms: float
    """Opening a device, loading an xclbin and creating a hardware context."""
    reconfigure_ms: float
    """Loading another design into the whole array: the first command of a context."""
    dispatch_us: float
    """Start and wait of a kernel that does next to nothing."""
    clocks_ghz: tuple[float, ...]
    """Of the array, by the driver's table of performance levels, slowest first."""
    balanced_clock_ghz: float
    """In power mode `balanced`; the other modes take the first or the last of `clocks_ghz`."""
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


XDNA_ARRAYS = MappingProxyType({"npu1": "xdna1", "npu2": "xdna2"})
"""Hardware key of each XDNA array, by mlir-aie's name."""


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


def load_xdna(array_name: str) -> XdnaArray:
    """The facts of an XDNA array by the name that mlir-aie gives it: `npu1` or `npu2`.

    Raises:
        UsageError: No such array.
    """
    facts = load_hardware(XDNA_ARRAYS[array_name]) if array_name in XDNA_ARRAYS else None
    if not isinstance(facts, XdnaArray):
        raise unknown_name("XDNA array", array_name, XDNA_ARRAYS)
    return facts


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
        value = entry["value"]
        values[key] = tuple(value) if isinstance(value, list) else value
        cited[key] = citations[entry["source"]]
    return kind(**values, sources=MappingProxyType(cited))
