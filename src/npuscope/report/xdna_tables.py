"""XDNA plans, benches and kernels as tables and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from npuscope.report.grid import Grid, table
from npuscope.tiling.xdna_legality import KB, kb
from npuscope.tiling.xdna_plan import Plan
from npuscope.units import format_bytes, format_ns, format_percent

if TYPE_CHECKING:
    from npuscope.analysis.xdna_decomposition import CallDecomposition
    from npuscope.analysis.xdna_kernels import KernelCheck
    from npuscope.analysis.xdna_plan_study import PlanStudy, Rung
    from npuscope.backends.xdna.platform import Platform
    from npuscope.formats.xdna_manifest import KernelManifest
    from npuscope.measure.xdna_bench import StrategyRow

_SHORT = {"sync_to": "sync to", "sync_from": "sync from"}


def _us(value: float | None) -> str:
    return "-" if value is None else format_ns(1e3 * value)


def plan_heading(study: PlanStudy) -> list[str]:
    """What is planned, for what, by which model, and how wrong that is."""
    request, found = study.found.request, study.found
    calibration = study.calibration
    how = " in bfp16 blocks" if request.multiplication == "bfp16" else ""
    clock = f"{study.clock_ghz or calibration.clock_ghz:g} GHz"
    elsewhere = study.clock_ghz not in {None, calibration.clock_ghz}
    return [
        f"{request.M}x{request.K}x{request.N} {request.dtype} to {request.out_dtype}{how} on {study.device}, {clock}: PREDICTED, nothing ran",
        f"times: {calibration.name} kernels; on published measurements this model is wrong by {format_percent(calibration.error_mean)} on"
        f" average and {format_percent(calibration.error_max)} at most"
        + (f", all at {calibration.clock_ghz:g} GHz: at another clock nobody has measured" if elsewhere else ""),
        f"{found.candidates:,} designs tried, {found.legal:,} legal",
    ]


def plan_grid(plans: Sequence[Plan], title: str) -> Grid:
    """Plans, best first."""
    headings = ("<tile m,k,n", "cores", "dispatches", "predicted", "<bound", "compute", "DRAM", "L1 KB")
    rows = [
        (
            f"{plan.tile_m},{plan.tile_k},{plan.tile_n}{' *' * plan.pareto}",
            f"{plan.rows}x{plan.columns}",
            f"{plan.dispatches:,}",
            _us(plan.predicted_us),
            plan.bound,
            _us(plan.compute_us),
            _us(plan.dram_us),
            f"{plan.l1_bytes / KB:g}",
        )
        for plan in plans
    ]
    return table(headings, rows, title)


def plan_lines(study: PlanStudy) -> list[str]:
    """Why so many dispatches, what else is on the front, and where the program may not fit."""
    found = study.found
    if not found.plans:
        return ["no design is legal"]
    best = found.plans[0]
    lines = [
        f"best: {format_percent(best.padding)} of padding, {format_bytes(best.dram_bytes)} between DRAM and the array, streams busy"
        f" {_us(best.stream_us)}, dispatches {_us(best.dispatch_us)} in all; * nothing beats it in dispatches, time and L1 alike",
        f"why {found.why_fewest}",
    ]
    if min(best.compute_us, best.dram_us) > 0.9 * max(best.compute_us, best.dram_us):
        lines.append("its compute and its DRAM time are within 10 %: the model cannot tell which of them binds")
    small = [plan for plan in found.pareto if plan.l1_bytes < best.l1_bytes]
    if small:
        last = small[-1]
        lines.append(
            f"front of dispatches, time and L1 (--json has all {len(found.pareto)}): from {kb(best.l1_bytes)} and {_us(best.predicted_us)} down to"
            f" {kb(last.l1_bytes)} and {_us(last.predicted_us)} ({last.tile_m}x{last.tile_k}x{last.tile_n} on {last.rows}x{last.columns})"
        )
    if best.kernel_calls > 4:
        lines.append(
            f"program memory: the best plan's core program has {best.kernel_calls} copies of the kernel's call, an odd count of tiles in a loop over"
            " two buffers; four of six reported overflows of the 16 KB had 6. Not predicted: build it to know"
        )
    return lines


def ladder_grid(rungs: Sequence[Rung]) -> Grid:
    """The strategies by their dispatches."""
    rows = [
        (
            rung.strategy,
            (rung.title + ("" if rung.stock_design else " (no stock design)")) if not rung.refused else rung.refused,
            f"{rung.dispatches:,}",
            _us(rung.predicted_us) if not rung.refused else "not legal",
            rung.bound if not rung.refused else "",
        )
        for rung in rungs
    ]
    headings = ("<strategy", "<what a dispatch is", "dispatches", "device time", "<bound")
    return table(headings, rows, "from one dispatch per tile to the fewest (npuscope xdna bench executes them)")


def rejected_lines(study: PlanStudy) -> list[str]:
    """What cannot be built, and why."""
    lines = []
    for item in study.asked:
        if isinstance(item, Plan):
            lines.append(
                f"asked: {item.tile_m}x{item.tile_k}x{item.tile_n} on {item.rows}x{item.columns} cores is legal: {item.dispatches:,} dispatches,"
                f" {_us(item.predicted_us)}, bound by {item.bound}, {kb(item.l1_bytes)} of L1"
            )
        else:
            lines.append(f"asked: rejected ({item.constraint}): {item.reason}")
    for item in study.found.rejected:
        would = f" (would take {_us(item.predicted_us)})" if item.predicted_us is not None else ""
        lines.append(
            f"rejected: {item.tile_m}x{item.tile_k}x{item.tile_n} on {item.rows}x{item.columns}{would}, {item.why_shown}: {item.reason}"
        )
    return lines


def next_lines(study: PlanStudy) -> list[str]:
    """What to do with a plan."""
    if not study.found.plans:
        return []
    request, best = study.found.request, study.found.plans[0]
    usual = (request.dtype, request.out_dtype) == ("bfloat16", "bfloat16")
    types = "" if usual else f" --dtype {request.dtype} --out-dtype {request.out_dtype}"
    device = "" if study.device == "sim:npu1" else f" --device {study.device}"
    size = f"{request.M}x{request.K}x{request.N}"
    tile = f"{best.tile_m}x{best.tile_k}x{best.tile_n}@{best.cores}"
    return [
        f"next: npuscope xdna bench {size.replace('x', ' ')}{types}{device}    executes and counts it on the emulated array",
        f"      npuscope xdna kernels --build {size} --tile {tile}{types}{device}    prints how to build it",
    ]


def decomposition_lines(found: CallDecomposition) -> list[str]:
    """A measured time per call, explained as far as it can be."""
    lines = [found.headline]
    lines += [
        f"  {part.name}: {_ms_range(part.low_ms, part.high_ms)}, {part.kind}: {part.source}" for part in found.parts
    ]
    return [
        *lines,
        f"  {found.conclusion}",
        f"  it is wrong if {found.falsified_by}",
        f"  next: {found.next_step}",
    ]


def _ms_range(low: float, high: float) -> str:
    return _us(1e3 * low) if low == high else f"{_us(1e3 * low)} to {_us(1e3 * high)}"


def bench_heading(rows: Sequence[StrategyRow], platform: Platform) -> list[str]:
    """What ran where."""
    kind = "device times are SIMULATED, host times measured" if platform.is_simulated else "measured"
    shapes = ", ".join(dict.fromkeys(f"{row.M}x{row.K}x{row.N}" for row in rows))
    lines = [f"{shapes} {rows[0].dtype} to {rows[0].out_dtype} on {platform.name} ({kind}): {platform.description}"]
    if platform.is_simulated:
        calibration = platform.calibration
        lines.append(
            f"the timing model is wrong by {format_percent(calibration.error_mean)} on average and {format_percent(calibration.error_max)} at most on"
            " published measurements; syncs and host drivers are not in it"
        )
        array, clock = platform.array, platform.clock_ghz or calibration.clock_ghz
        lines.append(
            f"clock {clock:g} GHz; opening {array.context_ms:g} ms ({array.sources['context_ms']}), configuring {array.reconfigure_ms:g} ms"
            f" ({array.sources['reconfigure_ms']}), waking {array.idle_wake_ms:g} ms ({array.sources['idle_wake_ms']})"
        )
    lines += [f"left out: {text}" for text in platform.refused]
    return lines


def bench_grids(rows: Sequence[StrategyRow], tables: Sequence[Mapping[str, Any]]) -> list[Grid]:
    """Counts and totals, time by phase, cold and woken passes, the batched loop's tables, failures."""
    able = [row for row in rows if row.status == "ok"]
    grids = []
    if able:
        grids += [_counts_grid(able), _phases_grid(able), _cold_grid(able)]
    if tables:
        grids.append(_batched_grid(tables))
    failed = [row for row in rows if row.status != "ok"]
    if failed:
        grids.append(table(("<strategy", "<why"), [(row.strategy, row.error) for row in failed], "failed"))
    return grids


def _name(row: StrategyRow, rows: Sequence[StrategyRow]) -> str:
    several_batches = sum(other.strategy == row.strategy and other.M == row.M for other in rows) > 1
    name = f"{row.strategy} {row.batch}" if several_batches else row.strategy
    return f"{row.M}: {name}" if len({other.M for other in rows}) > 1 else name


def _counts_grid(rows: Sequence[StrategyRow]) -> Grid:
    simulated = rows[0].is_simulated
    headings = (
        "<strategy",
        "claimed",
        "counted",
        "device (sim)" if simulated else "device",
        "host",
        "elapsed",
        "speed-up",
        "rms error",
    )
    lines = [
        (
            _name(row, rows),
            f"{row.claimed_dispatches:,}",
            f"{row.counted_dispatches:,}" + ("" if row.counted_dispatches == row.claimed_dispatches else " !"),
            _us(row.device_us),
            _us(sum((row.host_us or {}).values())),
            _us(row.elapsed_us),
            "-" if row.speedup is None else f"{row.speedup:.3g}x",
            _error(row),
        )
        for row in rows
    ]
    return table(headings, lines, "dispatches and time of one warm pass (! counted is not what is claimed)")


def _error(row: StrategyRow) -> str:
    """Error over result, by root mean square."""
    text = "exact" if not row.max_abs_error else f"{100 * (row.error_over_result or 0.0):.2g} %"
    return text if row.within_bound else f"{text} WRONG"


def _phases_grid(rows: Sequence[StrategyRow]) -> Grid:
    from npuscope.backends.xdna.phases import PHASES

    headings = ("<strategy", *(_SHORT.get(phase, phase) for phase in PHASES))
    lines = [(_name(row, rows), *(_short_us((row.host_us or {}).get(phase)) for phase in PHASES)) for row in rows]
    title = "host time of one warm pass by phase, measured"
    return table(
        headings,
        lines,
        f"{title}; the emulator's own time is not in it"
        if rows[0].is_simulated
        else f"{title}; run includes the device",
    )


def _short_us(value: float | None) -> str:
    """Three digits: seven of these stand side by side."""
    return "-" if value is None else format_ns(float(f"{1e3 * value:.3g}"))


def _cold_grid(rows: Sequence[StrategyRow]) -> Grid:
    headings = ("<strategy", "open", "first pass", "its device", "warm pass", "to wake", "to device", "from device")
    lines = [
        (
            _name(row, rows),
            _us(row.cold_open_us),
            _us((row.cold_elapsed_us or 0) - (row.cold_open_us or 0)),
            _us(row.cold_device_us),
            _us(row.elapsed_us),
            _us(row.idle_wake_us),
            format_bytes(row.synced_to_bytes or 0),
            format_bytes(row.synced_from_bytes or 0),
        )
        for row in rows
    ]
    return table(headings, lines, "cold, warm and woken, kept apart; bytes of a warm pass")


def _batched_grid(tables: Sequence[Mapping[str, Any]]) -> Grid:
    headings = (
        "<size",
        "batch",
        "claimed",
        "counted",
        "average",
        "stdev",
        "least",
        "per claimed",
        "per counted",
        "speed-up",
        "max error",
    )
    times = ("average_us", "stdev_us", "min_us", "per_claimed_call_us", "per_counted_call_us")
    lines = [
        (
            str(line["size"]),
            f"{line['batch']}",
            f"{line['claimed_calls']:,}",
            f"{line['counted_calls']:,}",
            *(_short_us(line[key]) for key in times),
            f"{line['speedup']:.3g}x",
            f"{line['max_abs_error']:.3g}",
        )
        for line in tables
    ]
    return table(headings, lines, "the batched loop by batch: it changes what is claimed, not what is sent")


def bench_lines(rows: Sequence[StrategyRow]) -> list[str]:
    """What the figures say."""
    from npuscope.measure.xdna_bench import FIXED_TOLERANCE

    able = [row for row in rows if row.status == "ok"]
    lines = []
    wrong = [row for row in able if row.counted_dispatches != row.claimed_dispatches]
    lines += [
        f"{_name(row, able)}: claims {row.claimed_dispatches:,} dispatches and sends {row.counted_dispatches:,}: its batches only order the loop on the host"
        for row in wrong
    ]
    for M in dict.fromkeys(row.M for row in able):
        lines += _fastest_lines([row for row in able if row.M == M])
    several = [row for row in able if row.counted_commands != row.counted_dispatches]
    lines += [
        f"{row.strategy}: {row.counted_commands:,} commands in {row.counted_dispatches:,} submissions"
        for row in several
    ]
    floats = [row for row in able if row.bound_over_mass]
    if floats:
        worst = max(floats, key=lambda row: (row.error_over_mass or 0.0) / (row.bound_over_mass or 1.0))
        lines.append(
            f"{sum(bool(row.within_bound) for row in able)} of {len(able)} within the bound; nearest to it: {worst.strategy}, an error of"
            f" {worst.error_over_mass:.2g} of the accumulated mass where {worst.bound_over_mass:.2g} may be, bias {worst.bias_over_mass:+.2g}"
        )
    lines += _rounding_lines(able)
    rounded = [row for row in able if row.rounding]
    if rounded:
        met = sum(bool(row.meets_fixed_tolerance) for row in rounded)
        scales = [row.fixed_tolerance_scale for row in rounded if row.fixed_tolerance_scale is not None]
        where = (
            f"; expect it where B deviates by less than {min(scales):.2g} to {max(scales):.2g} (A by 1)"
            if scales
            else ""
        )
        lines.append(
            f"a fixed tolerance, max error < {FIXED_TOLERANCE}, is met by {met} of {len(rounded)}: it follows the data's scale, and the bound over"
            f" mass does not{where}"
        )
    lines += dict.fromkeys(f"{row.strategy}: {note}" for row in able for note in row.notes)
    return lines


def _fastest_lines(rows: Sequence[StrategyRow]) -> list[str]:
    """By the device's time, where it is simulated, and by that of a pass as a user waits for it, if that is another."""
    timed = [row for row in rows if row.elapsed_us]
    if len(timed) < 2:
        return []
    size = f"{timed[0].M}x{timed[0].K}x{timed[0].N}"
    by_pass = min(timed, key=lambda row: row.elapsed_us or 0.0)
    lines = []
    if timed[0].is_simulated:
        least = min(timed, key=lambda row: row.device_us or 0.0)
        lines.append(
            f"{size}: least device time: {_name(least, timed)}, {_dispatches(least.counted_dispatches)}, {_us(least.device_us)}"
        )
        alike = (least.elapsed_low_us or 0.0) <= (by_pass.elapsed_high_us or 0.0)
        if by_pass is least or alike:
            return lines
    text = f"{size}: fastest pass: {_name(by_pass, timed)}, {_dispatches(by_pass.counted_dispatches)}, {_us(by_pass.elapsed_us)}"
    return [*lines, f"{text}, packing of which it hides behind the device" if timed[0].is_simulated else text]


def _rounding_lines(rows: Sequence[StrategyRow]) -> list[str]:
    """Why some strategies lose more than others."""
    rounded = [row for row in rows if row.rounding and row.error_over_result is not None]
    if not rounded:
        return []
    worst = max(rounded, key=lambda row: row.error_over_result or 0.0)
    times = -(-(worst.call or (0, 1, 0))[1] // (worst.tile or (1, 1, 1))[1])
    if times < 2:
        return []
    line = (
        f"{_name(worst, rows)} loses {100 * (worst.error_over_result or 0.0):.2g} % of the result: a core rounds its C to bfloat16 after each of"
        f" {times} k tiles ({worst.rounding})"
    )
    other = "--rounding even (build mm.cc with -DROUND_CONV_EVEN), or " if worst.rounding != "even" else ""
    return [f"{line}; less is lost with {other}--out-dtype float32"]


def _dispatches(count: int | None) -> str:
    return "1 dispatch" if count == 1 else f"{count:,} dispatches"


def bench_document(
    rows: Sequence[StrategyRow], platform: Platform, tables: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The JSON of `npuscope xdna bench`."""
    first = rows[0]
    calibration = platform.calibration
    return {
        "device": platform.name,
        "description": platform.description,
        "is_simulated": platform.is_simulated,
        "M": first.M,
        "K": first.K,
        "N": first.N,
        "dtype": first.dtype,
        "out_dtype": first.out_dtype,
        "kernel_set": calibration.name,
        "prediction_error": {"mean": calibration.error_mean, "max": calibration.error_max},
        "strategies": [asdict(row) for row in rows],
        "batched_tables": list(tables),
        "notes": bench_lines(rows),
    }


def kernels_grid(checked: Sequence[tuple[KernelManifest, KernelCheck]]) -> Grid:
    """Built kernels, one a row."""
    rows = [
        (
            f"{manifest.path.name}: {manifest.name}",
            manifest.array,
            manifest.design.call_text,
            manifest.design.tile_text,
            f"{manifest.design.rows}x{manifest.design.columns}",
            f"{manifest.design.dtype} to {manifest.design.out_dtype}",
            manifest.design.rounding,
            "emulated" if manifest.emulated else "built",
            "ok" if not check.problems else f"{len(check.problems)} problems",
        )
        for manifest, check in checked
    ]
    headings = ("<manifest: kernel", "<array", "<dispatch", "<tile", "<cores", "<types", "<rounding", "<for", "<check")
    return table(headings, rows)


def kernels_lines(checked: Sequence[tuple[KernelManifest, KernelCheck]], folder: str) -> list[str]:
    """What is wrong with each, and what is worth knowing."""
    lines = []
    for manifest, check in checked:
        lines += [f"{manifest.path.name}: PROBLEM: {text}" for text in check.problems]
        lines += [f"{manifest.path.name}: {text}" for text in check.notes]
    return lines or [f"no manifests in {folder}; npuscope xdna kernels --build MxKxN prints how to make one"]
