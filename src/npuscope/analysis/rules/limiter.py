"""Rules about the resource that the kernel's time goes to: what loads it, and whether that can be less."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.analysis.constants import is_v2
from npuscope.analysis.findings import Evidence, Facts, Rule
from npuscope.analysis.rules.compute import fp32_matmul, partial_tiles, transposes
from npuscope.analysis.timeline import DMA, spans
from npuscope.units import format_bytes, format_ns, format_percent, format_rate

_LINES: Final = 3
_FULL_RATE_BYTES: Final = 2048
_SHORT_ROW: Final = 128
"""Elements per partition below which the fixed cost of an instruction of Vector or Scalar weighs as much as its work."""
_FAIR: Final = 0.25
"""Of an engine's time: what takes less is not worth a change of its own."""
_ELEMENTWISE: Final = frozenset({"TENSOR_TENSOR", "TENSOR_SCALAR", "TENSOR_SCALAR_PTR"})
_ENGINES: Final = ("Vector", "Scalar", "GpSimd")


def reloaded_inputs(facts: Facts) -> Evidence | None:
    """DMA limits, and reads the inputs several times over."""
    dma, known = facts.dma, facts.profile.summary
    if dma is None or not _limits(facts, DMA):
        return None
    kinds, sizes = facts.profile.texts("TensorInfo", "type"), facts.profile.numbers("TensorInfo", "size")
    inputs = known.get("inputs_and_weights_size_bytes") or int(sizes[np.isin(kinds, ("IN", "WEIGHT"))].sum())
    read = (known.get("hbm_read_bytes") or 0) - (known.get("spill_reload_bytes") or 0)
    if not inputs or read / inputs < facts.thresholds.reload_factor:
        return None
    moved = read + (known.get("hbm_write_bytes") or 0) + (known.get("spill_reload_bytes") or 0)
    lines = _top(facts, facts.profile.numbers("Instruction", "hbm_read_bytes").astype(float))
    where = f", most in {' and '.join(list(lines)[:2])}" if lines else ""
    return Evidence(
        numbers={
            "hbm_read_bytes": read,
            "inputs_and_weights_size_bytes": inputs,
            "times_read": read / inputs,
            "hbm_read_bytes_by_line": {line: int(size) for line, size in lines.items()},
            "dma_active_ns": dma.active_in_kernel_ns,
        },
        cause=f"DMA limits and reads {format_bytes(read)} from HBM, {read / inputs:.1f} times the inputs of "
        f"{format_bytes(inputs)}{where}",
        action="keep tiles in SBUF over the loop that reads them again: hoist the load out of that loop, and block the loops so "
        "that a loaded tile serves several results",
        gain_ns=dma.active_in_kernel_ns * (read - inputs) / moved,
        gain_basis="DMA active time in the window for the bytes that are read again",
    )


def short_dma_runs(facts: Facts) -> Evidence | None:
    """DMA limits, below the rate it can reach, and moves short contiguous pieces; simulations tell the pieces."""
    dma = facts.dma
    if dma is None or dma.throughput_share is None or not facts.profile.is_simulation or not _limits(facts, DMA):
        return None
    found = _runs(facts)
    if found is None or dma.throughput_share >= facts.thresholds.attained_rate:
        return None
    runs, size = found
    mean = float((runs * size).sum() / runs.sum())
    short = size < _FULL_RATE_BYTES
    share = float(runs[short].sum() / runs.sum())
    if mean >= _FULL_RATE_BYTES:
        return None
    lines = _top(facts, runs.astype(float))
    where = f"; most in {' and '.join(list(lines)[:2])}" if lines else ""
    return Evidence(
        numbers={
            "runs": int(runs.sum()),
            "mean_run_bytes": mean,
            "runs_below_2_kib_share": share,
            "runs_by_line": {line: int(count) for line, count in lines.items()},
            "throughput_share": dma.throughput_share,
            "dma_active_ns": dma.active_in_kernel_ns,
        },
        cause=f"DMA limits and moves contiguous pieces of {format_bytes(mean)} on average{where}: it reaches "
        f"{format_percent(dma.throughput_share, 0)} of {format_rate(dma.peak_bytes_per_s or 0.0, 'B/s')}",
        action="load longer rows: 2 KiB or more contiguous in HBM per partition, so several tiles' columns in one DMA",
        gain_ns=dma.active_in_kernel_ns * (1 - dma.throughput_share),
        gain_basis="DMA active time in the window, if the same bytes moved at the rate that DMA can reach",
    )


def engine_bound(facts: Facts) -> Evidence | None:
    """Vector, Scalar or GpSimd limits."""
    use = facts.limiter
    if use is None or use.name not in _ENGINES or not _limits(facts, use.name):
        return None
    mine = facts.profile.equals("Instruction", "engine", use.name)
    start, end = spans(facts.profile, "Instruction")
    spent = np.where(mine, end - start, 0).astype(float)
    total = float(spent.sum())
    if total <= 0:
        return None
    opcodes = _top(facts, spent, "opcode")
    lines = _top(facts, spent)
    where = f", most of it in {' and '.join(list(lines)[:2])}" if lines else ""
    named = ", ".join(f"{opcode} {format_percent(took / total, 0)}" for opcode, took in opcodes.items())
    action, share = _remedy(facts, use.name, spent / total)
    return Evidence(
        numbers={
            "engine": use.name,
            "active_ns": use.active_in_kernel_ns,
            "share_of_window": use.share_of_kernel,
            "share_by_opcode": {opcode: took / total for opcode, took in opcodes.items()},
            "share_by_line": {line: took / total for line, took in lines.items()},
        },
        cause=f"{use.name} limits, active {format_percent(use.share_of_kernel, 0)} of the window: {named}{where}",
        action=action,
        gain_ns=share * use.active_in_kernel_ns,
        gain_basis=f"{format_percent(share, 0)} of {use.name}'s active time, which this concerns",
        resource=use.name,
    )


def _remedy(facts: Facts, engine: str, weight: npt.NDArray[np.float64]) -> tuple[str, float]:
    """What helps most by the instructions themselves, and the share of the engine's time that it can save.

    Args:
        facts: Of the profile.
        engine: Which engine limits.
        weight: float64 [instructions], share of the engine's time of each; sums to 1.
    """
    codes, names = facts.profile.codes("Instruction", "opcode")
    by_opcode = dict(zip(names, np.bincount(codes, weights=weight, minlength=len(names)).tolist(), strict=True))
    copies = by_opcode.get("TENSOR_COPY", 0.0)
    simple = sum(by_opcode.get(name, 0.0) for name in _ELEMENTWISE)
    elements, wide = _shapes(facts)
    short = float((weight * np.maximum(0, 1 - elements / _SHORT_ROW))[elements > 0].sum())
    faster = [names.index(name) for name in _faster_in_bf16(facts) if name in names]
    fp32 = float(weight[wide & np.isin(codes, faster)].sum())
    other = "Scalar" if engine == "Vector" else "Vector"
    choices = [
        (
            short,
            f"give each instruction more elements per partition ({_SHORT_ROW} or more): its fixed cost weighs less",
        ),
        (copies * _free_share(facts, other), f"move copies to {other}, which has time left"),
    ]
    if engine == "Vector":
        choices += [
            (
                0.5 * simple,
                "fuse pairs of element-wise instructions: scalar_tensor_tensor does two in one pass, and activation on "
                "Scalar takes a scale and a bias",
            ),
            (
                0.5 * fp32,
                "keep intermediate tiles in bfloat16: copies and element-wise instructions have faster modes",
            ),
        ]
    gain, action = max(choices)
    if gain < _FAIR * 0.5:
        free = max(("Vector", "Scalar", "GpSimd"), key=lambda name: _free_share(facts, name) * (name != engine))
        return f"do in fewer or larger instructions what these lines do, or move a part of it to {free}", _FAIR * 0.5
    return action, gain


def _faster_in_bf16(facts: Facts) -> tuple[str, ...]:
    """What Vector runs faster on 16-bit types: on NeuronCore-v2 only tensor_tensor, by the vendor's cost formulas."""
    return ("TENSOR_TENSOR",) if is_v2(facts.profile.metadata) else ("TENSOR_TENSOR", "TENSOR_SCALAR", "TENSOR_COPY")


def _free_share(facts: Facts, engine: str) -> float:
    use = facts.use(engine)
    return 1.0 if use is None else max(0.0, 1 - use.share_of_kernel)


def _shapes(facts: Facts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Elements per partition of every instruction, 0 where not told, and which are fp32; simulations tell both."""
    import pyarrow.compute as pc

    count = facts.profile.rows("Instruction")
    if not facts.profile.is_simulation or not facts.profile.has("Instruction", "operands"):
        return np.zeros(count, np.int64), np.zeros(count, np.bool_)
    texts = pc.fill_null(facts.profile.tables["Instruction"].column("operands"), "")
    found = pc.extract_regex(texts, r"^\d+x(?P<elements>\d{1,9}) ")
    elements = pc.fill_null(pc.struct_field(found, "elements"), "0").cast("int64").to_numpy()
    return np.asarray(elements), np.asarray(pc.match_substring_regex(texts, r"^\d+x\d+ float32 ").to_numpy())


def _runs(facts: Facts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Contiguous pieces and bytes per piece of every DMA of a simulation, from `512 x 256 B HBM -> SBUF`."""
    import pyarrow.compute as pc

    if not facts.profile.has("Instruction", "operands"):
        return None
    texts = facts.profile.tables["Instruction"].column("operands")
    found = pc.extract_regex(pc.fill_null(texts, ""), r"^(?P<runs>\d{1,15}) x (?P<size>\d{1,15}) B ")
    runs, size = (
        np.asarray(pc.fill_null(pc.struct_field(found, name), "0").cast("int64").to_numpy())
        for name in ("runs", "size")
    )
    return (runs, size) if runs.any() else None


def at_limit(facts: Facts) -> Evidence | None:
    """The busiest resource is busy all the time and does nothing in vain."""
    use = facts.limiter
    if use is None or use.share_of_kernel < facts.thresholds.at_limit_busy:
        return None
    if use.name == DMA:
        dma = facts.dma
        share = dma.throughput_share if dma is not None else None
        if share is None or share < facts.thresholds.attained_rate or reloaded_inputs(facts) is not None:
            return None
        told = f"moves every byte once, at {format_percent(share, 0)} of the rate it can reach"
        action = (
            "move fewer bytes: narrower element types, or fuse with the operation before or after; make each DMA larger, "
            "so that its fixed time weighs less"
        )
    elif use.name == "Tensor":
        if any(rule(facts) is not None for rule in (partial_tiles, fp32_matmul, transposes)):
            return None
        told = "runs full tiles of a fast element type"
        action = "do fewer FLOPs, or use a narrower element type where the device multiplies it faster"
    else:
        return None
    return Evidence(
        numbers={"resource": use.name, "active_ns": use.active_in_kernel_ns, "share_of_window": use.share_of_kernel},
        cause=f"the kernel is at the limit of {use.name}: active {format_percent(use.share_of_kernel)} of the window, and it {told}",
        action=action,
        gain_ns=None,
        gain_basis=f"at most {format_ns(max(0.0, facts.kernel.window_ns - use.active_in_kernel_ns))} without less work for {use.name}",
        severity="low",
        resource=use.name,
    )


def _limits(facts: Facts, name: str) -> bool:
    """Whether a resource is the busiest, and busy enough that the kernel's time goes to it."""
    use = facts.limiter
    return use is not None and use.name == name and use.share_of_kernel >= facts.thresholds.limiter_busy


def _top(facts: Facts, amount: npt.NDArray[Any], column: str = "") -> dict[str, float]:
    """The values of a column of `Instruction` with the largest sums of an amount, most first; {} without the column.

    Without a column, it is what the instructions come from.
    """
    column = column or facts.origin_column
    if not facts.profile.has("Instruction", column) or amount.size == 0:
        return {}
    codes, names = facts.profile.codes("Instruction", column)
    sums = np.bincount(codes, weights=amount, minlength=len(names))
    ranked = sorted(zip(names, sums.tolist(), strict=True), key=lambda item: -item[1])
    return {name: value for name, value in ranked[:_LINES] if value > 0 and name}


RULES: Final = (
    Rule(
        "reloaded-inputs",
        "high",
        "DMA limits, and bytes read from HBM over the size of inputs and weights",
        ("limiter_busy", "reload_factor"),
        reloaded_inputs,
        resource=DMA,
    ),
    Rule(
        "short-dma-runs",
        "high",
        "a simulation in which DMA limits, contiguous pieces average below 2 KiB, and the rate is below the attainable",
        ("limiter_busy", "attained_rate"),
        short_dma_runs,
        resource=DMA,
    ),
    Rule("engine-bound", "high", "Vector, Scalar or GpSimd limits", ("limiter_busy",), engine_bound),
    Rule(
        "at-limit",
        "low",
        "TensorE or DMA is busy nearly all the time and none of its work is in vain",
        ("at_limit_busy", "attained_rate"),
        at_limit,
    ),
)
