"""`npuscope matmul`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, console, print_json, progress, remark, say, tell
from npuscope.errors import FormatError, UsageError

if TYPE_CHECKING:
    from npuscope.backends.base import Backend, BackendOptions, DeviceInfo
    from npuscope.formats.results import PredictedColumns
    from npuscope.measure.session import Session
    from npuscope.workloads.matmul import MatmulConfig

NO_DEVICE = "none"
"""`--device none`: nothing is measured."""


def matmul(
    shape: Annotated[list[str] | None, typer.Option(help="MxKxN; repeatable.")] = None,
    shapes: Annotated[
        Path | None, typer.Option(help="CSV with M,K,N (and dtype, name), or TOML with [[shape]] tables.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="quick, boundary, sweep, tiling or llm; quick when nothing else is asked for.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The projections of a public model, such as llama-3.1-8b.")] = None,
    model_dims: Annotated[
        str | None, typer.Option(help="Of a model of your own: hidden=4096,ffn=14336,heads=32,kv_heads=8,head_dim=128.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes for a model; repeatable; default 1.")] = None,
    sequence: Annotated[
        list[int] | None, typer.Option(help="Prompt lengths for a model; repeatable; default 512.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float32, float16, bfloat16 or int8; repeatable; default float32, on XDNA devices bfloat16."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="A device as npuscope doctor lists them, or auto: the first real NPU, else cpu; none, with --predict, measures nothing."
        ),
    ] = "auto",
    predict: Annotated[
        list[str] | None,
        typer.Option(
            help="Also predict device time, bound and utilisation of one core of inf2, trn1, trn2 or trn3; repeatable."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder; default results/TIME-matmul.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on in a results folder that was interrupted.")] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Exactly so many warm-up runs; default: until latency is steady.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Exactly so many samples; default: until the precision is reached.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Wanted half of the 95 % interval, of the median; default 1%.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Most time for the samples of one shape; default 2.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of inputs, order and bootstrap; default 0.")] = None,
    tile: Annotated[str | None, typer.Option(help="Tile model: tensor-engine (default), legacy, or MxKxN.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show tiles, FLOPs and bytes; measure nothing.")] = False,
    chart: Annotated[bool, typer.Option("--chart", help="Also write chart.html and chart.svg.")] = False,
    compiler_log: Annotated[
        Path | None, typer.Option(help="Keep the compiler's verbose log and work folder here (device neuron).")
    ] = None,
    compile_cache: Annotated[
        Path | None,
        typer.Option(help="Keep compiled programs here and count cache hits and misses (jax and openvino devices)."),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Measure matmuls: compile, first run, steady state and dispatch floor, kept apart."""
    from npuscope.backends.base import BackendOptions
    from npuscope.measure.settings import Settings
    from npuscope.units import parse_fraction

    options = BackendOptions(compiler_log=compiler_log, compile_cache=compile_cache)
    if chart:
        from npuscope.report.charts import require_charts

        require_charts()  # before a folder is made that would stay without rows
    if resume is not None:
        settled = (shape, shapes, suite, model, model_dims, batch, sequence, dtype, predict, out, warmup, iterations)
        if plan or any(value is not None for value in (*settled, precision, max_seconds, seed, tile)):
            raise UsageError(
                "--resume takes its plan and settings from the folder; give only --device, --chart, --json"
            )
        return _finish(*_resume(resume, device, options), chart=chart, json=json)
    settings = Settings(
        warmup=warmup,
        iterations=iterations,
        precision=parse_fraction("1%" if precision is None else precision, "--precision"),
        max_seconds=2.0 if max_seconds is None else max_seconds,
        seed=seed or 0,
        tile_model="tensor-engine" if tile is None else tile,
    )
    from npuscope.backends.registry import default_dtype

    dtypes = dtype or [default_dtype(device)]
    configs, label, removed = _collect(shape, shapes, suite, model, model_dims, batch, sequence, dtypes)
    if plan:
        if predict:
            raise UsageError("--plan only counts; to predict without measuring: --device none --predict DEVICE")
        return _show_plan(configs, settings.tile_model, label, removed, json)
    predicted = _predict(configs, predict or [], device)
    backend, chosen = _open(device, options)
    folder = out or Path("results") / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-matmul"
    session = _start(backend, folder, configs, settings, label, removed, predicted)
    counted = f"{label}: {len(configs)} workloads" + (f", {removed} duplicates removed" if removed else "")
    return _finish(backend, session, [chosen, counted], chart=chart, json=json)


def _collect(
    shape: list[str] | None,
    shapes: Path | None,
    suite: str | None,
    model: str | None,
    model_dims: str | None,
    batch: list[int] | None,
    sequence: list[int] | None,
    dtype: list[str],
) -> tuple[list[MatmulConfig], str, int]:
    """The distinct workloads that the options ask for, what to call them, and how many duplicates fell out."""
    from npuscope.formats.shapes import read_shapes
    from npuscope.workloads.dtypes import operand_type
    from npuscope.workloads.llm import llm_scenarios, parse_model_dims
    from npuscope.workloads.llm import model_dims as preset
    from npuscope.workloads.matmul import parse_shape
    from npuscope.workloads.suites import load_suite

    dtypes = list(dict.fromkeys(operand_type(name) for text in dtype for name in text.split(",")))
    configs: list[MatmulConfig] = []
    labels = []
    removed = 0
    if suite is None and not (shape or shapes or model or model_dims):
        suite = "quick"
    if suite is not None:
        listed = load_suite(suite)
        configs += listed.configs(dtypes)
        removed += listed.removed * len(dtypes)
        labels.append(f"suite {suite}")
    if shape:
        configs += [parse_shape(text, name) for text in shape for name in dtypes]
        labels.append("shapes")
    if shapes is not None:
        configs += read_shapes(shapes, dtypes)
        labels.append(str(shapes))
    batches, sequences = batch or [1], sequence or [512]
    if min(batches) < 1 or min(sequences) < 1:
        raise UsageError("--batch and --sequence must be positive")
    if (batch or sequence) and not (model or model_dims):
        raise UsageError("--batch and --sequence need --model or --model-dims")
    for name, dims in (
        (model, preset(model) if model else None),
        ("", parse_model_dims(model_dims) if model_dims else None),
    ):
        if dims is not None:
            configs += llm_scenarios(dims, batches=batches, sequences=sequences, dtypes=dtypes, label=name or "")
            labels.append(f"model {name}" if name else "model")
    distinct = list({(*config.shape, config.dtype): config for config in reversed(configs)}.values())[::-1]
    return distinct, " + ".join(labels), removed + len(configs) - len(distinct)


def _predict(configs: list[MatmulConfig], devices: list[str], device: str) -> PredictedColumns:
    """The predicted columns that were asked for; none is an error where nothing is measured either."""
    if not devices:
        if device == NO_DEVICE:
            raise UsageError("--device none measures nothing; say what to predict: --predict trn2")
        return {}
    from npuscope.simulate.neuroncore.closed_form import predicted_columns

    return predicted_columns(configs, devices)


def _open(device: str, options: BackendOptions) -> tuple[Backend | None, str]:
    """The backend, and the line that says what `auto` took; empty for a device that was named.

    The backend of `none` is None: nothing is measured.
    """
    from npuscope.backends.registry import open_auto, open_device

    if device == NO_DEVICE:
        if options.compiler_log is not None or options.compile_cache is not None:
            raise UsageError("--device none compiles nothing; leave --compiler-log and --compile-cache out")
        return None, ""
    return open_auto(options) if device == "auto" else (open_device(device, options), "")


def _start(
    backend: Backend | None,
    folder: Path,
    configs: list[MatmulConfig],
    settings: Any,
    label: str,
    removed: int,
    predicted: PredictedColumns,
) -> Session:
    from npuscope.backends.base import require_dtype
    from npuscope.measure.provenance import collect
    from npuscope.measure.session import Plan, create_session

    info = _describe(backend)
    for dtype in dict.fromkeys(config.dtype for config in configs):
        require_dtype(info.name, dtype, info.dtypes)
    plan = Plan(info.name, tuple(configs), settings, label, removed, predicted)
    return create_session(folder, plan, info, collect())


def _describe(backend: Backend | None) -> DeviceInfo:
    from npuscope.measure.unmeasured import NO_DEVICE_INFO

    return NO_DEVICE_INFO if backend is None else backend.describe()


def _resume(folder: Path, device: str, options: BackendOptions) -> tuple[Backend | None, Session, list[str]]:
    from dataclasses import asdict

    from npuscope.backends.registry import check_device_name
    from npuscope.measure.provenance import collect
    from npuscope.measure.session import recorded_device, resume_session

    recorded = recorded_device(folder)
    name = str(recorded["name"])
    if device not in {"auto", name}:
        raise UsageError(f"{folder} was measured on {name}; it cannot go on on {device}")
    try:
        if name != NO_DEVICE:
            check_device_name(name)
    except UsageError as error:
        raise FormatError(
            folder, where="run.json, device", expected="a device of npuscope", found=str(error)
        ) from error
    backend, _ = _open(name, options)
    now = asdict(_describe(backend))
    changed = [
        f"{key}: {recorded.get(key)} then, {now[key]} now"
        for key in ("description", "versions")
        if now[key] != recorded.get(key)
    ]
    if changed:
        raise UsageError(
            f"{folder} was measured on another set-up ({', '.join(changed)}); start a new folder, or restore the set-up"
        )
    session = resume_session(folder, collect())
    return backend, session, [f"resuming {folder}: {len(session.rows)} of {len(session.plan.configs)} rows are there"]


def _finish(backend: Backend | None, session: Session, remarks: list[str], *, chart: bool, json: bool) -> int:
    """Measure what is left, write and show the results."""
    from npuscope.analysis.boundary import boundary_study
    from npuscope.measure.session import ordered_rows
    from npuscope.measure.sweep import run_sweep
    from npuscope.measure.unmeasured import leave_unmeasured
    from npuscope.report.predictions import prediction_notes
    from npuscope.tiling.model import tile_model

    if chart and backend is None:
        raise UsageError("--chart draws measured latencies, and --device none measures nothing")
    if chart:
        from npuscope.report.charts import require_charts

        require_charts()
    early = sys.stderr.isatty() or json  # who watches a long run wants to know what it is; in a pipe it stands below
    for line in filter(None, remarks):
        if early and (not json or line.startswith("auto:")):
            remark(line)
    try:
        with progress() as update:
            if backend is None:
                leave_unmeasured(session)
            else:
                for _ in run_sweep(backend, session, update):
                    pass
    except KeyboardInterrupt:
        session.close(complete=False)
        remark(
            f"npuscope: {len(session.rows)} of {len(session.plan.configs)} rows finished, samples of the others kept; go on with: npuscope matmul --resume {session.folder}"
        )
        raise
    session.close(complete=True)
    rows = ordered_rows(session)
    model = tile_model(session.plan.settings.tile_model)
    effects = boundary_study(rows, model)
    info = _describe(backend)
    if chart:
        _write_charts(session.folder, rows, effects, model, info)
    if json:
        document = {
            "folder": session.folder,
            "device": info,
            "suite": session.plan.suite,
            "removed_duplicates": session.plan.removed_duplicates,
        }
        predicted = session.plan.predicted
        summaries = [
            {**row.summary(), **{name: values[index] for name, values in predicted.items()}}
            for index, row in enumerate(rows)
        ]
        print_json({**document, "rows": summaries, "boundaries": effects, "notes": prediction_notes(predicted)})
    else:
        shown = early and sys.stdout.isatty()  # on one terminal the remarks stand above already
        _show(session, rows, effects, info, model, [] if shown else [*filter(None, remarks)], chart)
    return 1 if any(row.status == "failed" for row in rows) else 0


def _show(session: Session, rows: Any, effects: Any, info: Any, model: Any, remarks: list[str], chart: bool) -> None:
    from npuscope.report.predictions import prediction_notes
    from npuscope.report.tables import boundary_lines, matmul_table, warning_lines

    kind = "nothing is measured" if info.name == NO_DEVICE else "simulated" if info.is_simulated else "measured"
    versions = ", ".join(f"{k} {v}" for k, v in info.versions.items())
    say(f"matmul on {info.name} ({kind}): " + "; ".join(filter(None, (info.description, versions))))
    floors = sorted({row.dispatch_floor_ms for row in rows if row.dispatch_floor_ms is not None})
    if floors:
        from npuscope.units import format_ns

        say(f"dispatch floor: {format_ns(1e6 * floors[0])} (a 1x1x1 matmul on the same path, same run)")
    say(f"tiles: {model.name} {model.shape_text} ({model.evidence})")
    if not info.name.startswith(("neuron", "jax:neuron", NO_DEVICE)):
        say(f"note: tile counts and boundaries are those of this model; {info.name} tiles in its own way")
    tell((*remarks, *(f"note: {note}" for note in (*info.notes, *prediction_notes(session.plan.predicted)))))
    say("")
    console().print(matmul_table(rows, session.plan.predicted))
    for line in (*boundary_lines(effects), *warning_lines(rows)):
        say(line)
    for row in rows:
        if row.status == "failed":
            remark(f"npuscope: failed: {row.M}x{row.K}x{row.N} {row.dtype}: {row.error}")
    say("")
    say(
        f"results: {session.folder}/results.csv, results.parquet (every sample), run.json"
        + (", chart.html, chart.svg" if chart else "" if info.name == NO_DEVICE else "; add --chart for a page")
    )


def _show_plan(configs: list[MatmulConfig], tile: str, label: str, removed: int, json: bool) -> int:
    from npuscope.tiling.model import tile_model
    from npuscope.tiling.work import plan as plan_work
    from npuscope.tiling.work import tensor_engine_columns

    model = tile_model(tile)
    columns = plan_work(configs, model)
    if model.name == "tensor-engine":
        columns |= tensor_engine_columns(configs)
    labels = [(config.dtype, config.name) for config in configs]
    if json:
        lists = {name: values.tolist() for name, values in columns.items()}
        rows = [
            {"dtype": dtype, "name": name, **dict(zip(lists, cells, strict=True))}
            for (dtype, name), *cells in zip(labels, *lists.values(), strict=True)
        ]
        print_json({"tile_model": model, "removed_duplicates": removed, "rows": rows})
        return 0
    from npuscope.report.tables import plan_table

    say(f"tiles: {model.name} {model.shape_text} ({model.evidence})")
    say(f"{label}: {len(configs)} workloads, {removed} duplicates removed")
    console().print(plan_table(columns, labels))
    return 0


def _write_charts(folder: Path, rows: Any, effects: Any, model: Any, info: Any) -> None:
    from dataclasses import asdict

    from npuscope._files import write_text_atomically
    from npuscope.report.charts import latency_chart, to_svg
    from npuscope.report.page import matmul_page

    write_text_atomically(folder / "chart.html", matmul_page(rows, effects, model, asdict(info)))
    measured = [row for row in rows if row.status == "ok"]
    if measured:
        write_text_atomically(folder / "chart.svg", to_svg(latency_chart(measured)))
