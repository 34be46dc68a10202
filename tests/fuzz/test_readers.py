"""Whatever a file or an option holds, it is read or refused by an error of npuscope; nothing else comes out."""

import contextlib
import io
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npuscope.analysis.tiling_study import tiling_study
from npuscope.backends.base import BackendOptions
from npuscope.backends.cpu import NumpyBackend
from npuscope.cli import main
from npuscope.errors import FormatError, NpuscopeError, UsageError
from npuscope.formats.latency_csv import parse_column_mapping, read_latency_csv
from npuscope.formats.lengths import (
    MAX_LENGTH,
    named_distribution,
    parse_parameters,
    read_histogram,
    read_latency_curve,
)
from npuscope.formats.results import read_parquet
from npuscope.formats.shapes import read_shapes
from npuscope.formats.text_table import read_text_table
from npuscope.measure.session import Plan, create_session, ordered_rows, resume_session
from npuscope.measure.settings import Settings
from npuscope.measure.sweep import run_sweep
from npuscope.report.document import to_json
from npuscope.tiling.model import tile_model
from npuscope.units import parse_fraction, parse_integers
from npuscope.workloads.llm import parse_model_dims
from npuscope.workloads.matmul import MatmulConfig, parse_shape
from tests.strategies import edits, mutations, numbers, separated, tables

fuzz = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example],
)
slow_fuzz = settings(fuzz, max_examples=75)

SWEEP = b"""M,K,N,latency_ms,status,dispatch_floor_ms,latency_ci_low_ms,latency_ci_high_ms
64,128,512,0.51,ok,0.25,0.5,0.52
128,128,512,0.52,ok,0.25,0.5,0.53
129,128,512,0.71,ok,0.25,0.7,0.72
256,128,512,0.77,ok,0.25,0.7,0.8
512,128,512,,failed,,,
512,256,512,1.91,ok,0.25,1.9,1.93
"""
HISTOGRAM = b"length,count\n128,10\n500,3.5\n2048,1\n"
CURVE = b"length,latency_ms\n1,0.5\n1024,1.5\n2048,3.5\n"
SHAPES_CSV = b"M,K,N,dtype,name\n128,256,512,float32,ffn\n1,1,1,int8,\n8,8,8,,x\n"
SHAPES_TOML = b'[[shape]]\nM = 128\nK = 256\nN = 512\nname = "ffn"\n\n[[shape]]\nM = 1\nK = 1\nN = 1\ndtype = "int8"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def read_or_refuse(reader: Callable[[Path], object], path: Path, content: bytes) -> object:
    """What `reader` makes of a file with this content; None where it refuses it as it should."""
    path.write_bytes(content)
    try:
        return reader(path)
    except FormatError as error:
        told = str(error)
    assert told.startswith(str(path))
    assert told.isprintable()
    assert len(told) < len(str(path)) + 1500
    return None


def check_pairs(pairs: object, *, positive: bool) -> None:
    if pairs is None:
        return
    lengths, values = pairs
    assert len(lengths) == len(values) > 0
    assert (np.diff(lengths) > 0).all()
    assert lengths[0] >= 1
    assert lengths[-1] <= MAX_LENGTH
    assert np.isfinite(values).all()
    assert (values > 0).all() or not positive


# tables


@fuzz
@given(st.binary(max_size=400) | tables() | mutations(SWEEP), st.booleans())
def test_any_bytes_are_a_table_or_no_table(folder, content, header):
    table = read_or_refuse(lambda path: read_text_table(path, header=header), folder / "any.csv", content)
    if table is not None:
        assert len(set(table.columns)) == len(table.columns)
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)


@fuzz
@given(st.binary(max_size=400) | tables() | mutations(SWEEP))
def test_any_bytes_are_latencies_or_no_latencies(folder, content):
    rows = read_or_refuse(read_latency_csv, folder / "latency.csv", content)
    if rows is not None:
        assert rows.shapes.shape == (len(rows.latency_ms), 3)
        assert (rows.shapes >= 1).all()
        assert np.isfinite(rows.latency_ms).all()
        assert (rows.latency_ms > 0).all()
        assert len(rows.group) == len(rows.latency_ms)


@fuzz
@given(st.binary(max_size=400) | tables() | mutations(HISTOGRAM))
@example(b"length,count\n1,1e308\n2,1e308\n")
@example(b"1\n2\n3\n")
def test_any_bytes_are_a_histogram_or_none(folder, content):
    check_pairs(read_or_refuse(read_histogram, folder / "histogram.csv", content), positive=True)


@fuzz
@given(st.binary(max_size=400) | tables() | mutations(CURVE) | mutations(SWEEP))
def test_any_bytes_are_a_latency_curve_or_none(folder, content):
    check_pairs(read_or_refuse(read_latency_curve, folder / "curve.csv", content), positive=True)


@fuzz
@given(st.binary(max_size=400) | tables() | mutations(SHAPES_CSV))
def test_any_bytes_are_shapes_in_a_csv_or_none(folder, content):
    configs = read_or_refuse(lambda path: read_shapes(path, ["float16"]), folder / "shapes.csv", content)
    assert configs is None or all(isinstance(config, MatmulConfig) for config in configs)


@fuzz
@given(st.binary(max_size=400) | mutations(SHAPES_TOML) | st.text(max_size=200).map(str.encode))
@example(b"[[shape]]\nM = " + b"9" * 5000 + b"\nK = 1\nN = 1\n")
@example(b"a = " + b"[" * 100_000)
@example(b"[[shape]]\nM = 1\nK = 1\nN = 1\ndtype = ['int8']\n")
@example(b"[[shape]]\nM = 0x10\nK = 1979-05-27\nN = 1\n")
def test_any_bytes_are_shapes_in_a_toml_or_none(folder, content):
    configs = read_or_refuse(lambda path: read_shapes(path, ["float16"]), folder / "shapes.toml", content)
    assert configs is None or all(isinstance(config, MatmulConfig) for config in configs)


def test_a_file_that_nothing_was_done_to_is_read(folder):
    """Else the mutations of it would all be refused for the same reason."""
    assert read_or_refuse(read_latency_csv, folder / "a.csv", SWEEP).skipped == 1
    assert read_or_refuse(read_histogram, folder / "b.csv", HISTOGRAM)[1].tolist() == [10, 3.5, 1]
    assert read_or_refuse(read_latency_curve, folder / "c.csv", CURVE)[0].tolist() == [1, 1024, 2048]
    for name, content in (("d.csv", SHAPES_CSV), ("d.toml", SHAPES_TOML)):
        assert read_or_refuse(lambda path: read_shapes(path, ["float16"]), folder / name, content)[1].dtype == "int8"


@slow_fuzz
@given(tables() | mutations(SWEEP))
@example(b"M,K,N,latency_ms\n1,1,576460752303423488,1\n2,2,2,1\n3,3,3,1\n")
@example(b"M,K,N,latency_ms\n1,1,1,1e-9\n2,2,2,1e308\n3,3,3,1e308\n")
def test_every_file_of_latencies_that_is_read_has_a_study_in_strict_json(folder, content):
    path = folder / "study.csv"
    path.write_bytes(content)
    try:
        data = read_latency_csv(path)
    except FormatError:
        return  # what is refused has no study
    study = tiling_study(data, tile_model("tensor-engine"))
    document = json.loads(to_json(study), parse_constant=pytest.fail)
    assert len(document["rows"]) == len(data.latency_ms)
    for row in document["rows"]:
        assert row["dispatch_share"] is None or 0 <= row["dispatch_share"] <= 1
        assert row["latency_per_tile_ms"] <= row["latency_ms"]
        assert row["total_tiles"] >= 1


@slow_fuzz
@given(mutations(SWEEP), st.booleans())
def test_the_command_answers_any_file_with_a_result_or_one_line(folder, content, in_words):
    path = folder / "command.csv"
    path.write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["tiling", str(path), *([] if in_words else ["--json"])])
    assert code in {0, 3}
    assert len(err.getvalue().splitlines()) == (1 if code else 0)
    assert bool(out.getvalue()) == (code == 0)
    if code == 0 and not in_words:
        json.loads(out.getvalue(), parse_constant=pytest.fail)


@settings(slow_fuzz, max_examples=30)
@given(tables() | mutations(HISTOGRAM), tables() | mutations(CURVE))
@example(HISTOGRAM, b"length,latency_ms\n1,1e308\n2048,1e308\n")
@example(b"length,count\n1,5e-324\n2048,1\n", CURVE)
def test_buckets_are_planned_for_any_files_or_refused_in_one_line(folder, histogram, curve):
    (folder / "lengths.csv").write_bytes(histogram)
    (folder / "curve.csv").write_bytes(curve)
    files = ["--histogram", str(folder / "lengths.csv"), "--latency", str(folder / "curve.csv")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["buckets", *files, "--compile-cost-ms", "0.1", "--json"])
    assert code in {0, 2, 3}
    assert bool(out.getvalue()) == (code == 0)
    if code:
        assert len(err.getvalue().splitlines()) == 1
    else:
        planned = json.loads(out.getvalue(), parse_constant=pytest.fail)["planned"]
        assert planned["buckets"] == sorted(set(planned["buckets"]))
        assert planned["expected_cost_ms"] > 0
        assert 0 <= planned["padding_waste"] < 1


# options


def value_or_usage_error(function: Callable[..., object], *arguments: object) -> object:
    """What `function` makes of an option; None where it refuses it as it should."""
    try:
        return function(*arguments)
    except UsageError as error:
        told = str(error)
    assert told.isprintable()
    assert len(told) < 500
    return None


anything = st.text(max_size=60) | st.sampled_from(["9" * 5000, "\0", "x" * 1000, "²x²x²", "1x1x1\n"])
dimensions = st.lists(numbers, max_size=5).flatmap(
    lambda parts: st.sampled_from(["x", "X", "×", " x "]).map(lambda by: by.join(parts))
)


@fuzz
@given(anything | dimensions)
def test_any_text_is_a_shape_or_none(text):
    config = value_or_usage_error(parse_shape, text)
    if config is not None:
        assert min(config.shape) >= 1
        assert config.model_flops < 1 << 62
        assert parse_shape(config.shape_text) == config


@fuzz
@given(anything | dimensions)
def test_any_text_is_integers_or_none(text):
    values = value_or_usage_error(parse_integers, text, "shape", 3)
    assert values is None or (len(values) == 3 and all(isinstance(value, int) for value in values))


@fuzz
@given(anything | dimensions | st.sampled_from(["legacy", "tensor-engine", "Legacy"]))
def test_any_text_is_a_tile_model_or_none(text):
    model = value_or_usage_error(tile_model, text)
    assert model is None or all(1 <= edge <= 4096 for edge in model.edges)


@fuzz
@given(anything | numbers | numbers.map(lambda number: number + "%"))
def test_any_text_is_a_fraction_or_none(text):
    fraction = value_or_usage_error(parse_fraction, text, "--precision")
    assert fraction is None or 0 < fraction < 1


@fuzz
@given(anything | separated(["hidden", "ffn", "heads", "kv_heads", "head_dim", "gated"]))
@example(f"hidden={'9' * 5000}")
@example("hidden=128,heads=0")
def test_any_text_is_model_dimensions_or_none(text):
    dims = value_or_usage_error(parse_model_dims, text)
    if dims is not None:
        assert min(dims.hidden, dims.ffn, dims.heads, dims.kv_heads, dims.head_dim) >= 1
        assert dims.heads % dims.kv_heads == 0


distributions = st.builds(
    "{}{}{}".format,
    st.sampled_from(["uniform", "lognormal", "geometric"]) | st.text(max_size=5),
    st.sampled_from([":", ""]),
    separated(["low", "high", "median", "sigma", "mean"]),
)


@fuzz
@given(anything | distributions, st.integers(-2, 300) | st.sampled_from([MAX_LENGTH + 1, 10**30]))
@example("lognormal:sigma=0", 100)
@example("lognormal:median=0,sigma=1e-300", 100)
@example("geometric:mean=0", 100)
@example("geometric:mean=1e308", 100)
def test_any_text_is_a_distribution_or_none(text, max_length):
    pairs = value_or_usage_error(named_distribution, text, max_length)
    check_pairs(pairs, positive=True)
    if pairs is not None:
        assert pairs[0][-1] <= max_length
        assert pairs[1].sum() == pytest.approx(1)


@fuzz
@given(anything | separated(["a", "b"]))
def test_any_text_is_parameters_or_none(text):
    values = value_or_usage_error(parse_parameters, text, {"a": 1.0, "b": 2.0}, "model")
    if values is not None:
        assert values.keys() == {"a", "b"}
        assert all(math.isfinite(value) and value >= 0 for value in values.values())


@fuzz
@given(anything | separated(["M", "K", "N", "latency_ms"]))
def test_any_text_is_a_column_mapping_or_none(text):
    mapping = value_or_usage_error(parse_column_mapping, text)
    assert mapping is None or (mapping and mapping.keys() <= {"M", "K", "N", "latency_ms"} and all(mapping.values()))


@slow_fuzz
@given(separated(["M", "K", "N", "latency_ms"]))
def test_any_column_mapping_reads_a_file_or_is_refused(folder, text):
    path = folder / "mapped.csv"
    path.write_bytes(SWEEP)
    with contextlib.suppress(NpuscopeError):
        rows = read_latency_csv(path, parse_column_mapping(text))
        assert len(rows.shapes) == 5


# results folders


@pytest.fixture(scope="module")
def backend():
    return NumpyBackend("cpu", BackendOptions())


@pytest.fixture(scope="module")
def interrupted(backend, tmp_path_factory):
    """run.json and the journal of two finished rows, as a kill just before the end leaves them."""
    folder = tmp_path_factory.mktemp("session") / "run"
    plan = Plan("cpu", (MatmulConfig(1, 2, 3), MatmulConfig(3, 2, 1, "int8")), Settings(warmup=0, iterations=1))
    session = create_session(folder, plan, backend.describe(), {})
    assert len(list(run_sweep(backend, session, lambda _: None))) == 2
    session.close(complete=False)
    return folder


PLANNED = [(1, 2, 3, "float32"), (3, 2, 1, "int8")]


def is_quick(plan: Plan) -> bool:
    """A changed plan may ask for more than a test has time for."""
    counts = (plan.settings.warmup, plan.settings.iterations)
    return all(count is not None and count <= 5 for count in counts) and all(
        config.model_flops < 1e6 for config in plan.configs
    )


def go_on(folder: Path, backend: NumpyBackend) -> list | None:
    """The rows of a resume that runs to its end; None where it is refused as it should be."""
    try:
        session = resume_session(folder, {})
    except FormatError as error:
        told = str(error)
    else:
        if is_quick(session.plan):
            for _ in run_sweep(backend, session, lambda _: None):
                pass
        session.close(complete=True)
        return list(ordered_rows(session))
    assert told.startswith(str(folder))
    assert told.isprintable()
    return None


def check_continuation(folder: Path, rows: list | None) -> None:
    if rows is None:
        return
    assert [(row.M, row.K, row.N, row.dtype) for row in rows] == PLANNED
    assert [(row.M, row.K, row.N, row.dtype) for row in read_parquet(folder / "results.parquet")] == PLANNED
    # A spoilt record must not pass for a failure of the device.
    assert not any(row.error.startswith(("KeyError", "TypeError", "ValueError", "AttributeError")) for row in rows)
    assert not (folder / "journal.jsonl").exists()


@pytest.fixture
def spoilt(interrupted):
    """Copies of the interrupted folder, each fresh, in memory where the system has a folder there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:

        def copy() -> Path:
            folder = Path(scratch) / "run"
            shutil.rmtree(folder, ignore_errors=True)
            return Path(shutil.copytree(interrupted, folder))

        yield copy


def test_a_journal_cut_at_any_byte_keeps_every_whole_line(interrupted, spoilt):
    whole = (interrupted / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    folder = spoilt()
    run = (folder / "run.json").read_bytes()
    for size in range(len(whole) + 1):
        (folder / "journal.jsonl").write_bytes(whole[:size])
        (folder / "run.json").write_bytes(run)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nothing is measured, so that nothing is closed
            session = resume_session(folder, {})
            kept = whole[:size].count(b"\n")
            finished = [json.loads(line)["index"] for line in lines[:kept] if b'"event":"row"' in line]
            samples = sum(len(json.loads(line).get("samples_ns", [])) for line in lines[:kept])
            held = [*session.rows.values(), *session.taken.values()]
            assert sorted(session.rows) == sorted(finished)
            assert sum(len(item.samples_ns) for item in held) == samples
            del session, held
        assert (folder / "journal.jsonl").read_bytes() == b"".join(lines[:kept])


def test_a_journal_cut_at_any_line_goes_on_to_the_same_rows(interrupted, spoilt, backend):
    lines = (interrupted / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        folder = spoilt()
        cut = b"" if count == len(lines) else lines[count][:-1]
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:count]) + cut)
        rows = go_on(folder, backend)
        assert rows is not None
        check_continuation(folder, rows)
        assert [row.samples for row in rows] == [len(row.samples_ns) for row in rows] == [1, 1]
        assert all(row.status == "ok" for row in rows)


def test_a_run_json_cut_at_any_byte_is_refused(interrupted, spoilt):
    whole = (interrupted / "run.json").read_bytes()
    folder = spoilt()
    for size in range(len(whole) - 1):  # without the last byte, a line feed, it is whole
        (folder / "run.json").write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"run\.json"):
            resume_session(folder, {})


@slow_fuzz
@given(st.data())
def test_a_journal_with_other_bytes_goes_on_or_is_refused(interrupted, spoilt, backend, data):
    whole = (interrupted / "journal.jsonl").read_bytes()
    folder = spoilt()
    (folder / "journal.jsonl").write_bytes(data.draw(mutations(whole)))
    check_continuation(folder, go_on(folder, backend))


@slow_fuzz
@given(st.data())
def test_a_journal_with_another_value_goes_on_or_is_refused(interrupted, spoilt, backend, data):
    events = [json.loads(line) for line in (interrupted / "journal.jsonl").read_bytes().splitlines()]
    changed = data.draw(st.integers(0, len(events) - 1))
    events[changed] = data.draw(edits(events[changed]))
    events = events[: data.draw(st.integers(changed, len(events))) + 1]
    folder = spoilt()
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    check_continuation(folder, go_on(folder, backend))


@slow_fuzz
@given(st.data())
def test_a_journal_whose_lines_are_shuffled_or_repeated_goes_on_or_is_refused(interrupted, spoilt, backend, data):
    lines = (interrupted / "journal.jsonl").read_bytes().splitlines(keepends=True)
    folder = spoilt()
    chosen = data.draw(st.lists(st.sampled_from(lines), max_size=2 * len(lines)))
    (folder / "journal.jsonl").write_bytes(b"".join(chosen))
    check_continuation(folder, go_on(folder, backend))


@slow_fuzz
@given(st.data())
def test_a_run_json_with_another_value_goes_on_or_is_refused(interrupted, spoilt, backend, data):
    document = json.loads((interrupted / "run.json").read_text(encoding="utf-8"))
    document["status"] = "running"
    folder = spoilt()
    (folder / "run.json").write_text(json.dumps(data.draw(edits(document))), encoding="utf-8")
    (folder / "journal.jsonl").write_bytes(b"")
    rows = go_on(folder, backend)
    assert rows is None or not any(row.error.startswith(("TypeError", "ValueError", "AttributeError")) for row in rows)


@slow_fuzz
@given(st.data())
def test_a_run_json_with_other_bytes_goes_on_or_is_refused(interrupted, spoilt, data):
    folder = spoilt()
    (folder / "run.json").write_bytes(
        data.draw(mutations((interrupted / "run.json").read_bytes()) | st.binary(max_size=60))
    )
    with contextlib.suppress(FormatError):
        resume_session(folder, {}).close(complete=False)


@slow_fuzz
@given(st.data())
def test_a_parquet_with_other_bytes_is_read_or_refused(interrupted, folder, data):
    path = folder / "results.parquet"
    path.write_bytes(data.draw(mutations((interrupted / "results.parquet").read_bytes()) | st.binary(max_size=60)))
    with contextlib.suppress(FormatError):
        assert len(read_parquet(path)) == 2
