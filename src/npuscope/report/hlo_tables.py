"""What `npuscope simulate` shows a person of an XLA program: the prediction, its ops, what was not lowered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from npuscope.report.grid import Grid, table
from npuscope.report.simulation_tables import lines_table
from npuscope.units import format_bytes, format_ns, format_percent

if TYPE_CHECKING:
    from npuscope.analysis.analyze import Analysis
    from npuscope.simulate.hlo.simulation import HloSimulation

_MAX_ROWS = 12


def headline(simulation: HloSimulation, analysis: Analysis) -> str:
    """The prediction in one line: time, device, that no device ran it, and what holds it back."""
    bound = analysis.bound
    held = f"; {bound.kind} bound ({format_percent(bound.share, 0)} of the time)" if bound.share else ""
    what = "study, not predicted," if simulation.options.disabled else "predicted"
    return (
        f"{simulation.program} on {simulation.device}: {what} {format_ns(simulation.total_time_ns)}{held};"
        f" {simulation.instruction_count:,} instructions; SIMULATED by {simulation.model}, no device ran it"
    )


def program_lines(simulation: HloSimulation) -> list[str]:
    """How far the prediction may be trusted, and what the program is: ops, size, loops."""
    lines = [
        *(f"  {note}" for note in caveats(simulation)),
        f"{simulation.op_count:,} ops of HLO ({format_bytes(simulation.hlo_bytes)}); {simulation.executed_op_count:,} executed,"
        " with those of loops and calls each time",
    ]
    for loop in simulation.loops[:_MAX_ROWS]:
        known = "" if loop.is_known else " ASSUMED, the program does not tell (--trip-count)"
        times = "iteration" if loop.trip_count == 1 else "iterations"
        lines.append(f"device loop {loop.op}: {loop.trip_count:,} {times}{known} of {loop.body_ops} ops")
    if simulation.unlowered:
        lines.append(
            f"{len(simulation.unlowered)} ops have no lowering and stand for {format_percent(simulation.unlowered_share)} of"
            " the time at a conservative cost: see below"
        )
    return lines


def caveats(simulation: HloSimulation) -> list[str]:
    """Of the notes, those that every figure is to be read with."""
    from npuscope.simulate.hlo.simulation import LOWERING_CAVEAT, OPTIMISED

    return [note for note in simulation.notes if note in (LOWERING_CAVEAT, OPTIMISED)]


def ops_table(simulation: HloSimulation, bounding: str) -> Grid | None:
    """The program's ops by the time of the engine that holds it back."""
    named = [
        replace(use, line=f"{use.line}  {simulation.source_lines[use.line]}")
        if use.line in simulation.source_lines
        else use
        for use in simulation.ops
    ]
    return lines_table(named, bounding, what="ops of the program")


def unlowered_table(simulation: HloSimulation) -> Grid | None:
    """Ops whose cost is a conservative guess."""
    if not simulation.unlowered:
        return None
    rows = [
        [item.op, item.opcode, item.source_line, format_ns(item.busy_ns), format_percent(item.share_of_time)]
        for item in simulation.unlowered[:_MAX_ROWS]
    ]
    left = len(simulation.unlowered) - len(rows)
    title = "no lowering: GpSimd stands for them, conservatively" + f"; {left} more with --json" * (left > 0)
    return table(["<op", "<opcode", "<line", "busy", "of the time"], rows, title)
