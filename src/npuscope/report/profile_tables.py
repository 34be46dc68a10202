"""What `npuscope analyze` shows a person: the device and the capture's worth first, then time, engines, DMA, findings."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from npuscope.report.grid import Grid, table
from npuscope.report.quantities import bar, label, quantity
from npuscope.units import format_bytes, format_ns, format_percent, format_rate

if TYPE_CHECKING:
    from npuscope.analysis.analyze import Analysis
    from npuscope.analysis.findings import Finding, Rule, Thresholds

_MAX_QUEUES = 8
_SHOWN_EVIDENCE = 7
_FIRST = 3
_MAX_OVERLAPS = 8
_LONG_NAME = 12


def heading_lines(analysis: Analysis) -> list[str]:
    """Device, whether it was measured, and what the capture is worth."""
    how = "SIMULATED" if analysis.is_simulated else "a trace without NPU engines" if analysis.is_trace else "measured"
    lines = [
        f"{analysis.device}, {how}: {analysis.source}" + (f" ({analysis.source_format})" * bool(analysis.source_format))
    ]
    kernel = analysis.kernel_time
    if kernel is None:
        lines.append("no events, so nothing to explain" + "; what the artifact itself says:" * bool(analysis.summary))
        width = max((len(label(name)) for name in analysis.summary), default=0)
        told = sorted((label(name), quantity(name, value)) for name, value in analysis.summary.items())
        return lines + [f"  {name:<{width}}  {text}" for name, text in told]
    if kernel.is_cold:
        lines.append(
            f"COLD CAPTURE: {format_ns(kernel.startup_ns)} of total_time {format_ns(kernel.total_ns)} "
            f"({format_percent(kernel.startup_ns / kernel.total_ns)}) is the start-up of a first execution, not the kernel"
        )
    lines.append(f"{'trace' if analysis.is_trace else 'kernel'} time {format_ns(kernel.ns)} ({kernel.basis})")
    parts = " and ".join(f"{begin / 1e3:,.3f}-{end / 1e3:,.3f} µs" for begin, end in kernel.segments[:3])
    own = "; from the first to the last of the kernel's own instructions and DMA" if kernel.program_instructions else ""
    lines.append(
        f"window {format_ns(kernel.window_ns)}: {parts}{own if not kernel.is_cold else ''}; "
        f"anything active in the whole {_run_name(analysis)}: {format_ns(kernel.active_ns)}"
    )
    return lines


def advice_lines(analysis: Analysis) -> list[str]:
    """What to do first: the findings on the busiest resource with the largest gains, then the others with one."""
    gaining = [
        finding
        for finding in analysis.findings
        if finding.gain.ns and (finding.is_on_limiter or finding.severity != "low")
    ]
    ranked = sorted(gaining, key=lambda finding: (not finding.is_on_limiter, -(finding.gain.ns or 0.0)))[:_FIRST]
    lines = [finding.cause for finding in analysis.findings if finding.rule == "at-limit"]
    for number, finding in enumerate(ranked):
        place = 1 + analysis.findings.index(finding)
        lead = "do first" if number == 0 else "then"
        lines.append(f"{lead}: {finding.action} (finding {place}, up to {format_ns(finding.gain.ns or 0.0)})")
    return lines


def bound_lines(analysis: Analysis) -> list[str]:
    """What limits the kernel, and what ended the time with nothing active."""
    bound = analysis.bound
    if not bound.shares:
        return []
    ranked = sorted(bound.shares.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {format_percent(share, 0)}" for name, share in ranked if share >= 0.005)
    kernel = analysis.kernel_time
    whole = "window" if kernel is None or kernel.ns == kernel.window_ns else "total_time"
    lines = [f"{bound.statement}; of the {whole}, each instant once: {shown}"]
    if bound.dependency_ns:
        causes = "; ".join(f"{format_ns(spent)} {cause}" for cause, spent in list(bound.dependency_ns.items())[:3])
        lines.append(f"  nothing active: {causes}")
    return lines


def mix_lines(analysis: Analysis) -> list[str]:
    """What the older rule says that counts names of instructions."""
    mix = analysis.instruction_mix
    if mix is None or mix.memory_bound_score is None:
        return []
    return [
        f"  instruction mix (the older 70 % rule): {mix.verdict}, {mix.memory_operations} memory to "
        f"{mix.compute_operations} compute names; it counts names, not time"
    ]


def roofline_lines(analysis: Analysis) -> list[str]:
    """Utilisation over the kernel's time, in two lines."""
    roof = analysis.roofline
    has_matmuls = bool(roof.achieved_flops_per_s)
    shown = [*([("MFU", roof.mfu), ("HFU", roof.hfu)] if has_matmuls else []), ("MBU", roof.mbu)]
    known = ", ".join(f"{name} {format_percent(value)}" for name, value in shown if value is not None)
    if not known:
        return []
    over = "active window" if analysis.kernel_time and analysis.kernel_time.is_cold else "total_time"
    estimate = "; transposes are estimated" if roof.is_estimated else ""
    lines = [f"utilisation over the {over}: {known}{estimate}"]
    intensity, ridge = roof.arithmetic_intensity_flop_per_byte, roof.ridge_flop_per_byte
    if intensity is not None and ridge is not None and roof.achieved_flops_per_s:
        lines.append(
            f"roofline: {intensity:.4g} FLOP/B, {roof.side} side of the ridge at {ridge:.4g}; "
            f"{format_rate(roof.achieved_flops_per_s, 'FLOP/s')} of {format_rate(roof.attainable_flops_per_s or 0.0, 'FLOP/s')} "
            f"attainable ({format_percent(roof.position or 0.0)})"
        )
    return lines


def engine_table(analysis: Analysis) -> Grid:
    """Engines, DMA or tracks: shares of the kernel's window as bars."""
    rows = [
        [
            use.name,
            format_ns(use.active_in_kernel_ns),
            bar(use.share_of_kernel),
            format_percent(use.share_of_kernel),
            format_ns(use.wait_in_kernel_ns) if use.kind == "engine" else "-",
            format_ns(use.idle_in_kernel_ns),
            f"{use.instruction_count:,}",
            format_ns(use.active_ns),
        ]
        for use in analysis.engines
    ]
    headings = ["<", "active", "<", "of window", "waits", "idle", "count", f"in {_run_name(analysis)}"]
    has_matmuls = analysis.is_simulated and any(use.name == "Tensor" for use in analysis.engines)
    title = "active in the window; what runs at once counts for each"
    title += "; of a matmul, its weight load counts too" * has_matmuls
    return table(headings, rows, title)


def overlap_table(analysis: Analysis) -> Grid | None:
    """The matrix: both active, of the kernel's window; on the diagonal, active."""
    overlap = analysis.overlap
    active = {use.name: use.active_in_kernel_ns for use in analysis.engines if use.name in overlap.resources}
    names = [name for name, spent in active.items() if spent]
    if len(names) < 2:
        return None
    left_out = len(names) - _MAX_OVERLAPS
    if left_out > 0:
        busiest = sorted(names, key=lambda name: -active[name])[:_MAX_OVERLAPS]
        names = [name for name in names if name in busiest]
    both = {(pair.first, pair.second): pair.overlap_ns for pair in overlap.pairs}

    def cell(row: str, column: str) -> str:
        spent = active[row] if row == column else both.get((row, column), both.get((column, row), 0))
        share = spent / overlap.window_ns if overlap.window_ns else 0.0
        return f"{100 * share:.1f}" if spent else "."

    numbered = max(map(len, names)) > _LONG_NAME
    shown = [f"{index} {name}" if numbered else name for index, name in enumerate(names, 1)]
    heads = [str(index) for index in range(1, len(names) + 1)] if numbered else names
    rows = [
        [shown[index], *(cell(name, other) for other in names[: index + 1]), *[""] * (len(names) - index - 1)]
        for index, name in enumerate(names)
    ]
    title = f"the {_MAX_OVERLAPS} busiest; {left_out} more with --json" if left_out > 0 else None
    return table(["<both active, % of window", *heads], rows, title)


def concurrency_lines(analysis: Analysis) -> list[str]:
    """How much of the window has 0, 1, 2, ... active."""
    overlap = analysis.overlap
    if not overlap.window_ns:
        return []
    shares = [format_percent(spent / overlap.window_ns, 0) for spent in overlap.concurrency_ns]
    told = ", ".join(f"{share} with {count}" for count, share in enumerate(shares))
    return [f"active at once: {told}; two or more in {format_percent(overlap.overlapped_share)} of the active time"]


def dma_lines(analysis: Analysis) -> list[str]:
    """DMA in two lines."""
    dma = analysis.dma
    if dma is None:
        return []
    peak = ""
    if dma.peak_bytes_per_s and dma.throughput_share is not None:
        peak = f" of {format_rate(dma.peak_bytes_per_s, 'B/s')} {_peak_basis(analysis)} ({format_percent(dma.throughput_share, 0)})"
    traffic = [
        f"{name} {format_bytes(value)}"
        for name, value in (
            ("HBM read", dma.hbm_read_bytes),
            ("written", dma.hbm_write_bytes),
            ("SBUF read", dma.sbuf_read_bytes),
            ("written", dma.sbuf_write_bytes),
            ("PSUM read", dma.psum_read_bytes),
            ("written", dma.psum_write_bytes),
            ("spills reloaded", dma.spill_reload_bytes or None),
        )
        if value is not None
    ]
    return [
        f"DMA: {format_bytes(dma.data_bytes)} in {dma.data_packets:,} data packets of {format_bytes(dma.mean_data_packet_bytes)} on "
        f"average, {format_rate(dma.throughput_bytes_per_s, 'B/s')} while active{peak}; {dma.engines_used} DMA engines, "
        f"busiest {dma.engine_imbalance:.2f} times the mean",
        f"bytes: {', '.join(traffic)}" if traffic else "bytes: not in this artifact",
    ]


def _peak_basis(analysis: Analysis) -> str:
    """Of what a DMA rate is a share: simulations state what DMA attains, captures its theoretical rate."""
    source = analysis.dma.peak_source if analysis.dma else ""
    if analysis.is_simulated and source == "Metadata":
        return "attainable by the model"
    return "peak, as the capture states" if source == "Metadata" else f"peak, by the {source}"


def dma_table(analysis: Analysis) -> Grid | None:
    """DMA by queue, by kind and by size."""
    dma = analysis.dma
    if dma is None:
        return None
    rows = []
    for title, groups in (("queue", dma.by_queue), ("kind", dma.by_queue_type), ("size", dma.by_size)):
        for index, group in enumerate(groups[:_MAX_QUEUES]):
            rows.append(
                [
                    title if index == 0 else "",
                    group.name,
                    f"{group.packets:,}",
                    format_bytes(group.bytes),
                    format_percent(group.share_of_bytes),
                    format_percent(group.share_of_packet_time),
                ]
            )
    return table(["<DMA by", "<", "packets", "moved", "of bytes", "of packet time"], rows)


def bounds_table(analysis: Analysis) -> Grid | None:
    """Lower bounds, over the window and over the capture."""
    if not analysis.bounds:
        return None
    rows = [
        [
            bound.name,
            "-" if bound.window_ns is None else format_ns(bound.window_ns),
            "-" if bound.share_of_kernel is None else format_percent(bound.share_of_kernel),
            "-" if bound.total_ns is None else format_ns(bound.total_ns),
            bound.formula,
        ]
        for bound in analysis.bounds
    ]
    return table(["<not faster than", "in window", "of window", f"in {_run_name(analysis)}", "<because of"], rows)


def findings_line(analysis: Analysis) -> str:
    """How many findings follow."""
    count = len(analysis.findings)
    return f"{count} finding{'s' * (count != 1)}" if count else "no rule applies"


def _run_name(analysis: Analysis) -> str:
    return "simulation" if analysis.is_simulated else "capture"


def finding_lines(finding: Finding, number: int, width: int) -> list[str]:
    """One finding, wrapped: what, evidence, action, gain."""
    shown = list(finding.evidence.items())[:_SHOWN_EVIDENCE]
    numbers = "; ".join(f"{label(name)} {text}" for name, value in shown if (text := quantity(name, value)))
    gain = finding.gain
    told = f"up to {format_ns(gain.ns)}" if gain.ns is not None else "-"
    if gain.ns is not None and gain.share_of_kernel is not None:
        told += f" ({format_percent(gain.share_of_kernel)} of kernel time)"
    parts = [
        ("", finding.cause),
        ("evidence: ", numbers),
        ("-> ", finding.action),
        ("gain: ", f"{told}; {gain.basis}" if gain.ns is not None else gain.basis),
    ]
    lines = [f"{number}. [{finding.severity}] {finding.rule}"]
    for lead, text in parts:
        indent = "   " + " " * len(lead)
        lines += textwrap.wrap(
            lead + text, width, initial_indent="   ", subsequent_indent=indent, break_on_hyphens=False
        )
    return lines


def difference_lines(analysis: Analysis) -> list[str]:
    """Whether the vendor's own summary agrees with the figures computed here."""
    found = analysis.vendor_difference
    if found is None:
        return []
    if not found:
        return ["the vendor's summary agrees with ours in every field that both have"]
    first = ", ".join(f"{item.field} {item.relative:+.2%}" for item in found[:3])
    return [f"{len(found)} fields differ from the vendor's summary: {first}" + (", ..." if len(found) > 3 else "")]


def rules_table(rules: tuple[Rule, ...], thresholds: Thresholds) -> Grid:
    """Every rule with its thresholds."""
    rows = [
        [
            rule.name,
            rule.severity,
            ", ".join(f"{name}={getattr(thresholds, name):g}" for name in rule.thresholds) or "-",
            "yes" if rule.vendor else "",
            rule.statement,
        ]
        for rule in rules
    ]
    return table(["<rule", "<severity", "<thresholds", "<vendor's", "<applies to"], rows, whole=True)
