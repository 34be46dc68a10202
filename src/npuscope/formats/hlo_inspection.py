"""What `npuscope inspect` says of an XLA program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from npuscope.errors import shorten
from npuscope.formats.hlo import HloModule, Op, Shape
from npuscope.formats.hlo_cost import ProgramCost, opcode_histogram, program_cost
from npuscope.formats.hlo_reader import read_hlo
from npuscope.formats.inspection import Inspection
from npuscope.units import printable

_ROWS_LIMIT: Final = 1_000
_SHAPE_WIDTH: Final = 120
_SHOWN: Final = 4


def inspect_hlo(path: Path | str) -> Inspection:
    """Tell what a serialized HLO module holds.

    Raises:
        FormatError: See `read_hlo` and `program_cost`.
    """
    return inspect_module(read_hlo(Path(path)))


def inspect_module(module: HloModule, *, kind: str = "hlo") -> Inspection:
    """Tell what a module holds that was read.

    Args:
        module: From `read_hlo` or `parse_hlo`.
        kind: What its file was: `hlo`, or `hlo-text` where JAX parsed it.

    Raises:
        FormatError: An op contradicts its operands, or the work is beyond all bounds.
    """
    cost = program_cost(module)
    results = _results(module)
    shown = ", ".join(_shape_text(shape) for shape in results[:_SHOWN])
    more = ", …" if len(results) > _SHOWN else ""
    title = (
        f"XLA program of {module.op_count:,} op(s), {len(cost.loops):,} loop(s),"
        f" {len(module.entry_computation.parameters):,} parameter(s), result {shown or '()'}{more}"
    )
    tables = {
        "parameters": _parameter_rows(module),
        "results": [_shape_row("result", index, shape) for index, shape in enumerate(results)],
        "loops": _loop_rows(module, cost),
        "ops by opcode": [row._asdict() for row in opcode_histogram(module, cost)],
        "custom calls": [{"target": target, "ops": count} for target, count in sorted(_custom_calls(module).items())],
    }
    notes = [
        *_notes(module, cost),
        *(
            f"{name}: {len(rows) - _ROWS_LIMIT:,} more rows are not shown"
            for name, rows in tables.items()
            if len(rows) > _ROWS_LIMIT
        ),
    ]
    kept = {name: rows[:_ROWS_LIMIT] for name, rows in tables.items() if rows}
    return Inspection(kind, module.source, title, _facts(module, cost, results), kept, tuple(notes))


def _facts(module: HloModule, cost: ProgramCost, results: Sequence[Shape]) -> Mapping[str, Any]:
    entry = module.entry_computation
    return {
        "size_bytes": module.size_bytes,
        "module": shorten(module.name, _SHAPE_WIDTH),
        "entry_computation": shorten(entry.name, _SHAPE_WIDTH),
        "has_fusions": has_fusions(module),
        "computations": len(module.computations),
        "ops": module.op_count,
        "executed_ops": sum(
            times * len(computation.ops)
            for times, computation in zip(cost.executions, module.computations, strict=True)
        ),
        "loops": len(cost.loops),
        "loops_of_unknown_trip_count": cost.unknown_loops,
        "parameters_bytes": sum(entry.ops[place].shape.bytes for place in entry.parameters),
        "results_bytes": sum(shape.bytes for shape in results),
        "constants_bytes": sum(
            op.shape.bytes for computation in module.computations for op in computation.ops if op.opcode == "constant"
        ),
        "counted_flops": cost.total.flops,
        "model_flops": cost.total.model_flops,
        "transcendentals": cost.total.transcendentals,
        "accessed_bytes": cost.total.accessed_bytes,
    }


def has_fusions(module: HloModule) -> bool:
    """Whether a compiler has optimised it: nobody else makes fusions; without one it may still have been."""
    return any(op.opcode == "fusion" for computation in module.computations for op in computation.ops)


def _results(module: HloModule) -> tuple[Shape, ...]:
    entry = module.entry_computation
    shape = entry.ops[entry.root].shape
    return shape.parts if shape.element_type == "tuple" else (shape,)


def _shape_text(shape: Shape) -> str:
    return shorten(str(shape), _SHAPE_WIDTH)


def _shape_row(what: str, index: int, shape: Shape) -> dict[str, Any]:
    return {what: index, "shape": _shape_text(shape), "size_bytes": shape.bytes}


def _parameter_rows(module: HloModule) -> list[dict[str, Any]]:
    entry = module.entry_computation
    return [
        {**_shape_row("parameter", index, entry.ops[place].shape), "name": _name(entry.ops[place])}
        for index, place in enumerate(entry.parameters)
    ]


def _loop_rows(module: HloModule, cost: ProgramCost) -> list[dict[str, Any]]:
    rows = []
    for loop in cost.loops:
        computation = module.computations[loop.computation]
        op = computation.ops[loop.op]
        rows.append(
            {
                "loop": _name(op),
                "in": shorten(computation.name, 60),
                "trip_count": loop.trip_count,
                "executed": cost.executions[loop.computation],
                "body_ops": len(module.computations[op.called[0]].ops),
                "flops": loop.body.flops,
                "accessed_bytes": loop.body.accessed_bytes,
                "source": shorten(module.source_line(op), 60),
            }
        )
    return rows


def _custom_calls(module: HloModule) -> Counter[str]:
    return Counter(
        shorten(printable(op.attributes.custom_call_target[:200].decode("utf-8", "replace")), 80) or "(none)"
        for computation in module.computations
        for op in computation.ops
        if op.opcode == "custom-call"
    )


def _name(op: Op) -> str:
    return shorten(printable(op.name[:200]), 60)


def _notes(module: HloModule, cost: ProgramCost) -> list[str]:
    notes = []
    if has_fusions(module):
        notes.append("the program was optimised for one device (it has fusions); FLOPs and bytes are of what that left")
    if cost.unknown_loops:
        notes.append(
            f"{cost.unknown_loops:,} loop(s) do not tell their trip count; they are counted as running once, so that"
            " FLOPs and bytes are a lower bound"
        )
    if cost.uncounted:
        shown = ", ".join(f"{name} ({count:,})" for name, count in sorted(cost.uncounted.items())[:_SHOWN])
        more = ", …" if len(cost.uncounted) > _SHOWN else ""
        notes.append(f"the FLOPs of these ops are not counted: {shown}{more}")
    if any(op.opcode == "conditional" for computation in module.computations for op in computation.ops):
        notes.append(
            "of a conditional, the branch with the most work counts, and executed ops are those of all branches"
        )
    unknown = sorted(
        {op.shape.element_type for c in module.computations for op in c.ops if op.shape.element_type[:8] == "unknown("}
    )
    if unknown:
        notes.append(f"element types that are not known count as 4 bytes: {', '.join(unknown[:_SHOWN])}")
    return notes
