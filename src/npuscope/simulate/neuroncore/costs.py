"""What one instruction costs: engine time, and the wait until its result can be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npuscope.errors import UsageError
from npuscope.simulate.neuroncore.devices import Rule, SimDevice
from npuscope.simulate.neuroncore.program import ENGINE_NAMES, Engine, Space, Transfer, Work

_HALF = frozenset({"bfloat16", "float16"})
_FLOAT32_PASSES = 4  # nc_matmul of float32 takes four passes (NKI isa reference of SDK 2.26)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one instruction on one engine; times in nanoseconds."""

    occupancy_ns: float
    """The engine takes the next instruction after this time."""
    latency_ns: float
    """From there until the result can be read: pipeline drain, access bubbles."""
    source: str
    """Where the formula comes from."""


def engine_clock_ghz(device: SimDevice, engine: Engine) -> float:
    """Clock of one engine; the Sync engine is given the ScalarE's clock."""
    core = device.core
    clocks = (core.tensor_clock_ghz, core.vector_clock_ghz, core.scalar_clock_ghz, core.gpsimd_clock_ghz)
    return clocks[engine] if engine < len(clocks) else core.scalar_clock_ghz


def cost_of(work: Work, engine: Engine, device: SimDevice, *, limited: bool = True) -> Cost:
    """Cost of `work` on `engine`, by the first rule of `data/costs.toml` that fits.

    The elements' cycles and the bubble of the memory access before them, or else the initiation interval.

    Args:
        work: The instruction.
        engine: Where it runs.
        device: The device.
        limited: TensorE is held to the share of its rate that the power limiter allows for good (v2).

    Raises:
        UsageError: No rule fits: the engine cannot run the instruction.
    """
    names = _names(work, device)
    rule = _first_rule(work.opcode, engine, device, names)
    clock = engine_clock_ghz(device, engine)
    name = ENGINE_NAMES[engine].lower()
    bubble = device.constants.get(f"{name}_bubble", 0.0)
    cycles = float(rule.cycles(names))
    if bubble and cycles > device.constants["min_ii"]:
        cycles += bubble  # short instructions follow each other at the initiation interval, which hides it
    if engine is Engine.TENSOR and limited:
        cycles /= device.constants["tensor_rate_limit"]
    return Cost(
        occupancy_ns=cycles / clock,
        latency_ns=device.constants.get(f"{name}_latency", 0.0) / clock,
        source=rule.source,
    )


def stationary_columns(work: Work) -> int:
    """Columns of the tile that a matmul or a transpose on TensorE loads as weights; 0 for other instructions."""
    return work.elements if work.opcode == "nc_transpose" else work.columns


def weight_load_ns(work: Work, device: SimDevice) -> float:
    """Time to load the stationary tile of a matmul; normally hidden behind the matmul before it."""
    cycles = stationary_columns(work) * device.constants["weight_load_fraction"]
    return cycles / device.core.tensor_clock_ghz


def run_ns(transfer: Transfer, device: SimDevice) -> float:
    """Time of one DMA engine for one contiguous run: its descriptor, and its bytes at the practical rate.

    A generation may have a floor instead of a cost per descriptor. From HBM to HBM every byte takes the memory's bandwidth
    twice, and all engines together have as much of it as one core has of its chip's.
    """
    streaming_ns = transfer.run_bytes / device.core.dma_engine_practical_gb_s
    if transfer.source is transfer.destination is Space.HBM:
        streaming_ns *= 2
    return max(device.constants["dma_run_floor_ns"], device.constants["dma_run_ns"] + streaming_ns)


def _first_rule(opcode: str, engine: Engine, device: SimDevice, names: dict[str, Any]) -> Rule:
    engine_name = ENGINE_NAMES[engine]
    for rule in device.rules:
        fits = (opcode in rule.opcodes or "any" in rule.opcodes) and rule.engine in (engine_name, "any")
        if fits and (rule.when is None or rule.when(names)):
            return rule
    raise UsageError(f"no cost is known for {opcode} on {engine_name}; add a rule to costs.toml")


def _names(work: Work, device: SimDevice) -> dict[str, Any]:
    psum_inputs = sum(space is Space.PSUM for space in work.sources)
    types = {work.dtype, work.out_dtype}
    return {
        **device.constants,
        "n": work.elements,
        "p": work.partitions,
        "columns": work.columns,
        "passes": _FLOAT32_PASSES if work.dtype == "float32" else 1,
        "gen": device.nc_version,
        "inputs": len(work.sources),
        "psum_inputs": psum_inputs,
        "sbuf_inputs": len(work.sources) - psum_inputs,
        "to_psum": work.destination is Space.PSUM,
        "half": types <= _HALF,
        "bf16": types == {"bfloat16"},
        "fp32": work.dtype == "float32",
        "itemsize": itemsize_of(work.dtype),
        "contiguous": work.contiguous,
        "transpose": work.is_transpose,
        "fn": work.function,
    }


def itemsize_of(dtype: str) -> int:
    """Bytes of one element of a type by its name."""
    if dtype.startswith(("float8", "int8", "uint8", "bool")):
        return 1
    return 2 if dtype.endswith("16") else 4
