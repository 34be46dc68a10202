"""Rules about the TensorEngine's work: transposes, tiles, element types, useful FLOPs, and who wrote the instructions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.analysis.bounds import flops_are_estimated
from npuscope.analysis.findings import Evidence, Facts, Rule
from npuscope.analysis.timeline import spans, to_ns
from npuscope.profile.intervals import union_length
from npuscope.units import format_ns, format_percent

_MATMUL: Final = "MATMUL"
_MOVING_COLUMNS: Final = 512
_MIN_COLUMNS: Final = 64
"""A moving tile of fewer columns takes as long as one of 64: the vendor's instruction cost formulas."""
_NKI_ENGINES: Final = ("Tensor", "Vector", "Scalar")


def transposes(facts: Facts) -> Evidence | None:
    """A fair part of the TensorEngine's FLOPs only turn data."""
    known = facts.profile.summary
    hardware, turned = known.get("hardware_flops") or 0, known.get("transpose_flops") or 0
    if not hardware or turned / hardware <= facts.thresholds.transpose_share:
        return None
    start, end = spans(facts.profile, "Instruction")
    mine = facts.profile.equals("Instruction", "tensor_instruction_type", "TRANSPOSE")
    took_ns = to_ns(union_length(start[mine], end[mine]))
    estimated = flops_are_estimated(facts.profile)
    told = "; which matmuls are transposes is estimated, not recorded" if estimated else ""
    return Evidence(
        numbers={
            "transpose_flops": turned,
            "hardware_flops": hardware,
            "transpose_share": turned / hardware,
            "transpose_instructions": int(mine.sum()),
            "transpose_time_ns": took_ns,
            "is_estimate": estimated,
        },
        cause=f"{format_percent(turned / hardware)} of the hardware FLOPs turn an operand that lies the wrong way{told}",
        action="store or load the stationary operand already transposed (pass A as [K, M], or transpose in the DMA), so that "
        "the contraction dimension is on the partitions",
        gain_ns=took_ns if mine.any() else None,
        gain_basis="time of the transpose instructions; what waits for them may gain more",
    )


def matmuls(facts: Facts) -> dict[str, npt.NDArray[Any]] | None:
    """The matmul instructions that are no transposes: duration in ps, rows, columns and moving columns of each.

    Rows and columns of the PE array stand at the end of the operands (`... 128*128`), in simulations rows and moving
    columns at their start (`128x512 bfloat16 ...`); rows x columns x moving columns is `tensor_elements`.
    """
    import pyarrow.compute as pc

    table = facts.profile.tables.get("Instruction")
    if table is None or not facts.profile.has("Instruction", "operands"):
        return None
    chosen = facts.profile.equals("Instruction", "opcode", _MATMUL)
    chosen &= ~facts.profile.equals("Instruction", "tensor_instruction_type", "TRANSPOSE")
    if not chosen.any():
        return None
    start, end = spans(facts.profile, "Instruction")
    texts = table.column("operands")
    is_simulated = facts.profile.is_simulation
    pattern = (
        r"^(?P<rows>\d{1,4})x(?P<other>\d{1,9}) " if is_simulated else r" (?P<rows>\d{1,4})\*(?P<other>\d{1,4})\s*$"
    )
    found = pc.extract_regex(texts.filter(chosen), pattern)
    rows, other = (
        np.asarray(pc.fill_null(pc.struct_field(found, name), "0").cast("int64").to_numpy())
        for name in ("rows", "other")
    )
    elements = facts.profile.numbers("Instruction", "tensor_elements")[chosen]
    rest = np.where(rows * other > 0, elements // np.maximum(rows * other, 1), 0)
    columns, moving = (rest, other) if is_simulated else (other, rest)
    kept = (rows > 0) & (columns > 0) & (moving > 0)
    duration = (end - start)[chosen]
    return (
        {"duration": duration[kept], "rows": rows[kept], "columns": columns[kept], "moving": moving[kept]}
        if kept.any()
        else None
    )


def partial_tiles(facts: Facts) -> Evidence | None:
    """Matmuls use a part of the PE array, or move few columns at a time."""
    found = matmuls(facts)
    if found is None:
        return None
    known = facts.profile.metadata
    array = (known.get("tensor_engine_num_rows") or 128) * (known.get("tensor_engine_num_cols") or 128)
    weight = np.maximum(found["duration"], 1).astype(float)
    used = found["rows"] * found["columns"] / array
    fill = float(np.average(used, weights=weight))
    moving = float(np.average(np.minimum(found["moving"] / _MOVING_COLUMNS, 1.0), weights=weight))
    limits = facts.thresholds
    if fill >= limits.tile_fill and moving >= limits.moving_fill:
        return None
    short = np.minimum(found["moving"] / _MIN_COLUMNS, 1.0)
    lost_ns = to_ns((found["duration"] * (1 - used * short)).sum())
    if lost_ns < 1:  # full arrays, and moving tiles of 64 columns or more, which cost nothing
        return None
    return Evidence(
        numbers={
            "matmul_instructions": int(weight.size),
            "array_fill": fill,
            "moving_fill": moving,
            "mean_rows": float(np.average(found["rows"], weights=weight)),
            "mean_columns": float(np.average(found["columns"], weights=weight)),
            "mean_moving_columns": float(np.average(found["moving"], weights=weight)),
            "full_tile": "128x128x512",
        },
        cause=f"matmuls fill {format_percent(fill)} of the PE array and {format_percent(moving)} of a moving tile of "
        f"{_MOVING_COLUMNS} columns",
        action="make K and M multiples of 128 (pad or merge batches), and move up to 512 columns per instruction",
        gain_ns=lost_ns,
        gain_basis="matmul time on unused rows and columns; a short moving tile costs only what lies below 64 columns",
        severity="medium" if fill < limits.tile_fill else "low",
    )


def fp32_matmul(facts: Facts) -> Evidence | None:
    """fp32 operands, which take the array four passes."""
    import pyarrow.compute as pc

    table = facts.profile.tables.get("Instruction")
    chosen = facts.profile.equals("Instruction", "opcode", _MATMUL)
    if table is None or not chosen.any():
        return None
    texts = pc.fill_null(table.column("operands").filter(chosen), "")
    wide = np.asarray(pc.match_substring_regex(texts, r"\bsrc=(fp32|float32)@|^\d+x\d+ float32 ").to_numpy())
    start, end = spans(facts.profile, "Instruction")
    duration = (end - start)[chosen]
    total_ns, mine_ns = to_ns(duration.sum()), to_ns(duration[wide].sum())
    if not total_ns or mine_ns / total_ns <= facts.thresholds.fp32_share:
        return None
    return Evidence(
        numbers={
            "fp32_matmul_instructions": int(wide.sum()),
            "matmul_instructions": int(wide.size),
            "fp32_matmul_time_ns": mine_ns,
            "fp32_share_of_matmul_time": mine_ns / total_ns,
        },
        cause="the PE array multiplies fp32 in four passes: a quarter of the bf16 rate",
        action="cast the operands to bf16 or fp16 (PSUM accumulates in fp32 all the same), or pass --auto-cast matmult to the "
        "compiler",
        gain_ns=0.75 * mine_ns,
        gain_basis="three quarters of the fp32 matmul time",
    )


def useful_flops(facts: Facts) -> Evidence | None:
    """While active, the TensorEngine does less than half of what it could for the model."""
    tensor, peak = facts.use("Tensor"), facts.constants.tensor_flops_per_s
    model = facts.profile.summary.get("model_flops")
    if tensor is None or not tensor.active_ns or not peak or not model:
        return None
    share = model / (peak * tensor.active_ns / 1e9)
    if share >= facts.thresholds.model_to_active_flops:
        return None
    return Evidence(
        numbers={
            "model_flops": model,
            "active_flops": peak * tensor.active_ns / 1e9,
            "model_to_active_flops": share,
            "tensor_active_ns": tensor.active_ns,
        },
        cause=f"the TensorEngine is active {format_ns(tensor.active_ns)} and does {format_percent(share)} of what it could for the "
        "model in that time: small or partial tiles, transposes, fp32, or instructions that are not pipelined",
        action="issue matmuls back to back on full 128x128x512 tiles, with the stationary operand loaded ahead",
        gain_ns=max(0.0, tensor.active_in_kernel_ns - 1e9 * model / peak),
        gain_basis="TensorEngine active time in the window beyond model FLOPs at peak",
        severity="medium" if facts.bound.kind == "tensor" else "low",
    )


def nki_coverage(facts: Facts) -> Evidence | None:
    """Of a profile with NKI source locations, an engine runs mostly the compiler's own instructions."""
    if not facts.profile.has("Instruction", "nki_source_location"):
        return None
    located = ~facts.profile.equals("Instruction", "nki_source_location", "")
    located &= np.asarray(facts.profile.tables["Instruction"].column("nki_source_location").is_valid().to_numpy())
    if not located.any():
        return None
    codes, names = facts.profile.codes("Instruction", "engine")
    coverage = {}
    for name in _NKI_ENGINES:
        mine = codes == names.index(name) if name in names else np.zeros(0, bool)
        if mine.any():
            coverage[name] = float(located[mine].mean())
    low = {name: share for name, share in coverage.items() if share < facts.thresholds.nki_coverage}
    if not low:
        return None
    return Evidence(
        numbers={f"{name.lower()}_coverage": share for name, share in coverage.items()},
        cause=f"instructions that the compiler made on its own dominate {', '.join(low)}",
        action="write the operations around the kernel in NKI, too, where they matter for time",
        gain_ns=None,
        gain_basis="no estimate: what the compiler's instructions could be replaced by is not in the profile",
    )


RULES: Final = (
    Rule(
        "transposes",
        "medium",
        "transpose FLOPs of hardware FLOPs",
        ("transpose_share",),
        transposes,
        vendor=True,
        resource="Tensor",
    ),
    Rule(
        "partial-tiles",
        "medium",
        "matmul tiles against 128x128x512, by time",
        ("tile_fill", "moving_fill"),
        partial_tiles,
        resource="Tensor",
    ),
    Rule(
        "fp32-matmul",
        "medium",
        "fp32 operands, of the time of matmuls",
        ("fp32_share",),
        fp32_matmul,
        resource="Tensor",
    ),
    Rule(
        "low-model-flops",
        "low",
        "model FLOPs of what the TensorEngine could do while active",
        ("model_to_active_flops",),
        useful_flops,
        vendor=True,
        resource="Tensor",
    ),
    Rule(
        "nki-coverage",
        "low",
        "instructions of an engine with an NKI source location, where any has one",
        ("nki_coverage",),
        nki_coverage,
        vendor=True,
    ),
)
