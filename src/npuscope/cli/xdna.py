"""`npuscope xdna plan`, `bench` and `kernels`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, console, print_json, progress, say, tell
from npuscope.errors import OutputError, UsageError

if TYPE_CHECKING:
    from npuscope.hardware.model import XdnaArray
    from npuscope.tiling.xdna_candidates import PlanRequest
    from npuscope.tiling.xdna_time import Calibration

xdna = typer.Typer(
    name="xdna",
    help="Matmuls on AMD XDNA (Ryzen AI): tiles planned, dispatches counted, time by phase; with or without the hardware.",
    rich_markup_mode=None,
)
_NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
"""A size such as -1 is told as a wrong size, not as an unknown option."""

Rows = Annotated[str, typer.Argument(metavar="M", help="Rows of A.")]
Depth = Annotated[str, typer.Argument(metavar="K", help="Columns of A, rows of B.")]
Columns = Annotated[str, typer.Argument(metavar="N", help="Columns of B.")]
Dtype = Annotated[str, typer.Option(help="bfloat16, int8 or int16.")]
OutDtype = Annotated[
    str | None,
    typer.Option(
        help="Of the result: bfloat16 or float32; int8, int16 or int32. Default bfloat16, and int32 of integers."
    ),
]
Device = Annotated[
    str, typer.Option(help="sim:npu1 (Phoenix, Hawk Point), sim:npu2 (Strix, Krackan), or xdna: the one here.")
]
KernelSet = Annotated[
    str, typer.Option(help="Kernels the times are predicted for: stock (mlir-aie's, IRON's) or tuned (hand-optimised).")
]
ClockGhz = Annotated[float | None, typer.Option(help="Clock of the array; default: that of the calibration.")]
PowerMode = Annotated[
    str | None, typer.Option(help="Clock by power mode: turbo, performance, balanced, powersaver or default.")
]
Bfp16 = Annotated[
    bool,
    typer.Option(
        "--bfp16", help="Multiply bfloat16 in blocks that share an exponent (sim:npu2), as the fast kernels do."
    ),
]
Rounding = Annotated[
    str,
    typer.Option(help="How a core rounds to bfloat16: floor (its mode after power-up), even or truncate."),
]


@xdna.command(context_settings=_NEGATIVE_NUMBERS)
def plan(
    m: Rows,
    k: Depth,
    n: Columns,
    dtype: Dtype = "bfloat16",
    out_dtype: OutDtype = None,
    device: Device = "sim:npu1",
    kernel_set: KernelSet = "stock",
    clock_ghz: ClockGhz = None,
    power_mode: PowerMode = None,
    cores: Annotated[int | None, typer.Option(help="Exactly so many: 1, 4, 8, 16 or 32; default: any.")] = None,
    buffers: Annotated[
        str | None,
        typer.Option(help="Of A, B and C in a core, such as 2,2,1; default 2,2,2 for stock, 2,2,1 for tuned."),
    ] = None,
    tile: Annotated[
        list[str] | None, typer.Option(help="Also judge this tile: MxKxN, with @CORES behind it; repeatable.")
    ] = None,
    bfp16: Bfp16 = False,
    observed: Annotated[
        str | None,
        typer.Option(
            help="Take a measured time per call apart, such as 54.4ms: of this matmul in one call with the first --tile, or of a 64x64x64 tile on one core."
        ),
    ] = None,
    conversion: Annotated[
        str | None,
        typer.Option(help="With --observed: what the host's conversion of the operands takes, if it was measured."),
    ] = None,
    top: Annotated[int, typer.Option(help="Most plans to show.")] = 10,
    json: JsonFlag = False,
) -> int:
    """The best kernel and tiling for a matmul, how many dispatches it needs and why, and what cannot be built, with the bytes."""
    from npuscope.analysis.xdna_plan_study import plan_document, study_plan

    array, array_name, name = _array(device)
    calibration = _calibration(array_name, kernel_set)
    clock = _clock(array, clock_ghz, power_mode)
    request = _request(_sizes(m, k, n), dtype, out_dtype, cores, buffers, array, kernel_set, bfp16=bfp16)
    if top < 1:
        raise UsageError(f"--top {top} must be at least 1")
    tiles = tuple(_tile(text, array) for text in tile or [])
    study = study_plan(request, array, array_name, calibration, clock, device=name, tiles=tiles, top=top)
    if conversion is not None and observed is None:
        raise UsageError("--conversion needs --observed")
    explained = None
    if observed is not None:
        explained = _explain(observed, conversion, tiles[0] if tiles else None, request, array, calibration)
    if json:
        document = plan_document(study)
        print_json({**document, "explained": explained} if explained is not None else document)
    else:
        _show_plan(study, explained)
    return 0 if study.found.plans else 1


@xdna.command(context_settings=_NEGATIVE_NUMBERS)
def bench(
    m: Annotated[str, typer.Argument(metavar="M", help="Rows of A; several with commas: 3001,1000,5000.")],
    k: Depth,
    n: Columns,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="per-tile, batched-loop, row, k-on-device, several-rows, packed, run-list, whole-array, or all (default); repeatable."
        ),
    ] = None,
    dtype: Dtype = "bfloat16",
    out_dtype: OutDtype = None,
    device: Device = "sim:npu1",
    kernels: Annotated[
        Path | None, typer.Option(help="Folder of kernel manifests, for device xdna; default $NPUSCOPE_XDNA_KERNELS.")
    ] = None,
    kernel_set: KernelSet = "stock",
    clock_ghz: ClockGhz = None,
    power_mode: PowerMode = None,
    rounding: Rounding = "floor",
    bfp16: Bfp16 = False,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Of batched-loop (columns) and packed (tiles); repeatable; default 8 and 64."),
    ] = None,
    runs: Annotated[int, typer.Option(help="Warm passes.")] = 3,
    scale: Annotated[float, typer.Option(help="Standard deviation of B; A has 1.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Empty folder for the results; default results/TIME-xdna.")] = None,
    json: JsonFlag = False,
) -> int:
    """Execute each way to tile a matmul: dispatches claimed and counted, time by phase, error against float64."""
    from npuscope.backends.xdna.platform import open_platform
    from npuscope.backends.xdna.strategies import choose_strategies
    from npuscope.cli.simulate import check_folder
    from npuscope.measure.xdna_bench import BenchRequest, StrategyRow, run_bench
    from npuscope.tiling.xdna_candidates import PlanRequest
    from npuscope.tiling.xdna_design import ROUNDINGS, operand_type, result_type

    chosen = choose_strategies(strategy or ["all"])
    if not 1 <= runs <= 1000:
        raise UsageError(f"--runs {runs} must lie between 1 and 1,000")
    if not 0 < scale < 1e6:
        raise UsageError(f"--scale {scale} must be positive, and below a million")
    if seed < 0:
        raise UsageError(f"--seed {seed} must not be negative")
    batches = tuple(batch or [0])
    if batch and min(batch) < 1:
        raise UsageError("--batch must be at least 1")
    if rounding not in ROUNDINGS:
        from npuscope.errors import unknown_name

        raise unknown_name("rounding", rounding, ROUNDINGS)
    operand = operand_type(dtype)
    array, _, _ = _array(device)
    platform = open_platform(
        _device_name(device), kernels=kernels, kernel_set=kernel_set, clock_ghz=_clock(array, clock_ghz, power_mode)
    )
    folder = out or Path("results") / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-xdna"
    check_folder(folder)
    rows: list[StrategyRow] = []
    with progress() as update:
        for part in m.split(","):
            M, K, N = _sizes(part, k, n)
            problem = PlanRequest(
                M,
                K,
                N,
                operand,
                result_type(operand, out_dtype),
                multiplication="bfp16" if bfp16 else "native",
                rounding=rounding,
            )
            rows += run_bench(BenchRequest(problem, tuple(chosen), batches, runs, seed, scale), platform, update)
    _emit_bench(rows, platform, folder, as_json=json)
    return int(any(row.status != "ok" or not row.within_bound for row in rows))


def _sizes(*texts: str) -> tuple[int, int, int]:
    """M, K and N.

    Raises:
        UsageError: One is no positive whole number, or too large.
    """
    from npuscope.workloads.matmul import MatmulConfig

    numbers = []
    for axis, text in zip("MKN", texts, strict=True):
        digits = text.strip().lstrip("+-")
        if not (digits.isascii() and digits.isdecimal()) or len(text) > 20:
            raise UsageError(f"{axis} = {text!r} is no whole number")
        numbers.append(int(text))
    M, K, N = numbers
    config = MatmulConfig(M, K, N)  # refuses what is not positive, and what overflows counts
    return config.shape


def _device_name(device: str) -> str:
    lowered = device.strip().lower()
    return f"sim:{lowered}" if lowered in {"npu1", "npu2"} else lowered


def _array(device: str) -> tuple[XdnaArray, str, str]:
    """Facts of the array of a device, its short name, and the device's full name."""
    from npuscope.errors import unknown_name
    from npuscope.hardware.model import XDNA_ARRAYS, load_xdna

    name = _device_name(device)
    if name == "xdna":
        from npuscope.backends.xdna.platform import open_platform

        platform = open_platform(name)
        return platform.array, platform.array_name, f"sim:{platform.array_name}"  # what is planned is predicted
    array_name = name.removeprefix("sim:")
    if array_name not in XDNA_ARRAYS:
        raise unknown_name("XDNA device", device, [*(f"sim:{array}" for array in XDNA_ARRAYS), "xdna"])
    return load_xdna(array_name), array_name, name


def _calibration(array_name: str, kernel_set: str) -> Calibration:
    from npuscope.tiling.xdna_time import calibration_for

    return calibration_for(array_name, kernel_set)


def _clock(array: XdnaArray, clock_ghz: float | None, power_mode: str | None) -> float | None:
    """The clock that was asked for, by its value or by a power mode."""
    from npuscope.tiling.xdna_time import power_mode_clock_ghz

    if clock_ghz is not None and power_mode is not None:
        raise UsageError("--clock-ghz and --power-mode both set the clock; give one")
    if power_mode is not None:
        return power_mode_clock_ghz(array, power_mode)
    if clock_ghz is not None and not 0.1 <= clock_ghz <= 5:
        raise UsageError(f"--clock-ghz {clock_ghz} must lie between 0.1 and 5")
    return clock_ghz


def _request(
    sizes: tuple[int, int, int],
    dtype: str,
    out_dtype: str | None,
    cores: int | None,
    buffers: str | None,
    array: XdnaArray,
    kernel_set: str,
    *,
    bfp16: bool,
) -> PlanRequest:
    from npuscope.tiling.xdna_candidates import TUNED_STACK_BYTES, PlanRequest
    from npuscope.tiling.xdna_design import operand_type, result_type
    from npuscope.tiling.xdna_legality import array_name, mappings

    operand = operand_type(dtype)
    if bfp16 and (array_name(array) != "npu2" or operand != "bfloat16"):
        raise UsageError("--bfp16 is for bfloat16 on sim:npu2: XDNA1 has no bfp16, and other types do not need it")
    allowed = [rows * columns for rows, columns in mappings(array)]
    if cores is not None and cores not in allowed:
        raise UsageError(f"--cores {cores}: the designs for {array.name} use {', '.join(map(str, allowed))}")
    tuned = kernel_set == "tuned"
    return PlanRequest(
        *sizes,
        dtype=operand,
        out_dtype=result_type(operand, out_dtype),
        multiplication="bfp16" if bfp16 else "native",
        cores=cores,
        buffers=_buffers(buffers) if buffers else ((2, 2, 1) if tuned else (2, 2, 2)),
        stack_bytes=TUNED_STACK_BYTES if tuned else array.core_stack_bytes,
        joined=not tuned,
    )


def _buffers(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip() in {"1", "2"} for part in parts):
        raise UsageError(f"--buffers {text!r} must be three of 1 or 2, such as 2,2,1")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _tile(text: str, array: XdnaArray) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """`64x64x512@1` as a tile and a mapping of cores; all cores where none are named."""
    from npuscope.tiling.xdna_legality import mappings
    from npuscope.units import parse_integers

    edges, _, count = text.partition("@")
    m, k, n = parse_integers(edges, "--tile", 3)
    by_cores = {rows * columns: (rows, columns) for rows, columns in mappings(array)}
    if count and (not (count.isascii() and count.isdecimal()) or int(count) not in by_cores):
        raise UsageError(f"--tile {text!r}: cores must be one of {', '.join(map(str, by_cores))}")
    return (m, k, n), by_cores[int(count) if count else max(by_cores)]


def _explain(
    observed: str,
    conversion: str | None,
    tile: tuple[tuple[int, int, int], tuple[int, int]] | None,
    request: PlanRequest,
    array: XdnaArray,
    calibration: Calibration,
) -> Any:
    """A measured time per call, taken apart: of the whole problem with a tile, or of a 64x64x64 tile on one core."""
    from npuscope.analysis.xdna_decomposition import decompose_call
    from npuscope.tiling.xdna_design import XdnaDesign
    from npuscope.tiling.xdna_plan import Rejected, judge

    design = XdnaDesign(64, 64, 64, 64, 64, 64, dtype=request.dtype, out_dtype=request.out_dtype)
    if tile is not None:
        found = judge(tile[0], tile[1], request, array, calibration)
        if isinstance(found, Rejected):
            raise UsageError(f"--observed cannot be of a call that cannot be: {found.reason}")
        design = found.design(request)
    converted = None if conversion is None else _milliseconds(conversion, "--conversion")
    return decompose_call(_milliseconds(observed, "--observed"), design, array, calibration, converted)


def _milliseconds(text: str, option: str) -> float:
    """`54.4ms`, `812us` or `1.2s` in ms.

    Raises:
        UsageError: No such time.
    """
    units = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
    for unit, scale in units.items():
        body = text.strip().removesuffix(unit)
        if body != text.strip():
            try:
                value = float(body) * scale
            except ValueError:
                break
            if 0 < value < 1e9:
                return value
            break
    raise UsageError(f"{option} {text!r} is no time; write it as 54.4ms or 812us")


def _show_plan(study: Any, explained: Any) -> None:
    from npuscope.report.xdna_tables import (
        decomposition_lines,
        ladder_grid,
        next_lines,
        plan_grid,
        plan_heading,
        plan_lines,
        rejected_lines,
    )

    tell(plan_heading(study))
    say("")
    console().print(plan_grid(study.found.plans, "best plans: predicted, not measured"))
    tell(plan_lines(study))
    say("")
    console().print(ladder_grid(study.ladder))
    say("")
    tell(rejected_lines(study))
    tell(next_lines(study))
    if explained is not None:
        say("")
        tell(decomposition_lines(explained))


def _emit_bench(rows: Any, platform: Any, folder: Path, *, as_json: bool) -> None:
    from npuscope.measure.provenance import collect
    from npuscope.measure.xdna_bench import batched_tables
    from npuscope.report.xdna_files import write_bench
    from npuscope.report.xdna_tables import bench_document, bench_grids, bench_heading, bench_lines

    tables = batched_tables(rows)
    document = bench_document(rows, platform, tables)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
    files = write_bench(rows, document, collect(), folder)
    if as_json:
        print_json({**document, "out": folder, "files": files})
        return
    tell(bench_heading(rows, platform))
    for grid in bench_grids(rows, tables):
        say("")
        console().print(grid)
    say("")
    tell(bench_lines(rows))
    say("")
    say(f"results: {folder / files['table']}, {files['results']}, {files['provenance']}")


@xdna.command("kernels")
def list_kernels(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Of kernel manifests; default $NPUSCOPE_XDNA_KERNELS.")
    ] = None,
    device: Device = "sim:npu1",
    build: Annotated[
        str | None,
        typer.Option(help="Print how to build a kernel for this matmul, MxKxN, with the best planned tile or --tile."),
    ] = None,
    tile: Annotated[str | None, typer.Option(help="For --build: MxKxN, with @CORES behind it.")] = None,
    dtype: Dtype = "bfloat16",
    out_dtype: OutDtype = None,
    bfp16: Bfp16 = False,
    json: JsonFlag = False,
) -> int:
    """Built kernels: what their manifests say, and whether xclbin, instructions and tile agree with it and with the device."""
    import os

    from npuscope.analysis.xdna_kernels import build_command, check_kernel
    from npuscope.backends.xdna.platform import KERNELS_VARIABLE
    from npuscope.formats.xdna_manifest import manifest_text, scan_manifests

    array, array_name, _ = _array(device)
    if build is not None:
        from npuscope.analysis.xdna_kernels import design_to_build
        from npuscope.units import parse_integers

        M, K, N = parse_integers(build, "--build", 3)
        sizes = _sizes(str(M), str(K), str(N))
        request = _request(sizes, dtype, out_dtype, None, None, array, "stock", bfp16=bfp16)
        design = design_to_build(
            request, array, _calibration(array_name, "stock"), _tile(tile, array) if tile else None
        )
        command = build_command(design, array)
        text = manifest_text(
            design, command.xclbin, command.instructions, array=array_name, built_with="mlir-aie, Peano"
        )
        if json:
            print_json({"design": design, "build": command, "manifest": text})
        else:
            for line in command.lines:  # whole, to be copied
                say(line)
            say("")
            say("# the manifest: save it as a .toml beside these two files")
            for line in text.splitlines():
                say(line)
        return 0
    chosen = folder or (Path(os.environ[KERNELS_VARIABLE]) if os.environ.get(KERNELS_VARIABLE) else None)
    if chosen is None:
        raise UsageError(
            f"name a folder of kernel manifests, set {KERNELS_VARIABLE}, or ask how to build one with --build MxKxN"
        )
    manifests, refused = scan_manifests(chosen)
    checked = [(manifest, check_kernel(manifest, array)) for manifest in manifests]
    if json:
        kernels = [{"manifest": one, "check": check} for one, check in checked]
        print_json({"folder": chosen, "kernels": kernels, "refused": refused})
    else:
        from npuscope.report.xdna_tables import kernels_grid, kernels_lines

        if checked:
            console().print(kernels_grid(checked))
        tell([*kernels_lines(checked, folder=str(chosen)), *(f"PROBLEM: {text}" for text in refused)])
    return int(bool(refused) or any(check.problems for _, check in checked))
