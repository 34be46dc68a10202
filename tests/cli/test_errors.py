"""What goes wrong is told in one line: what, where, and what to do about it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, command, environment

PLAN = ("matmul", "--plan", "--json")
NINES = "9" * 5000
MODEL = "floor_ms=1,tile=4096"
FULL = Path("/dev/full")


# shapes and flags


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("0x1x1", "must be a positive whole number"),
        ("1x-1x1", "must be a positive whole number"),
        ("-1x1x1", "must be a positive whole number"),
        ("99999999999999999999x1x1", "too large"),
        ("4611686018427387904x1x1", "too large"),
        (f"{NINES}x1x1", "write it as 128x128x128"),
        ("axbxc", "write it as 128x128x128"),
        ("1.5x1x1", "write it as 128x128x128"),
        ("1e3x1x1", "write it as 128x128x128"),
        ("nanx1x1", "write it as 128x128x128"),
        ("1x1", "write it as 128x128x128"),
        ("1x1x1x1", "write it as 128x128x128"),
        ("128*128*128", "write it as 128x128x128"),
        ("", "write it as 128x128x128"),
        ("xx", "write it as 128x128x128"),
        ("1x1x1\x00\x1b[31m", "write it as 128x128x128"),
    ],
)
def test_a_shape_that_is_none_is_refused(shape, text, call_cli, assert_one_line_error):
    line = assert_one_line_error(call_cli("matmul", "--shape", shape, *QUICK, "--out", "run", "--json"), 2, text)
    assert line.isprintable()
    assert len(line) < 300
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--precision", "0"), "--precision '0' must lie between 0 and 1"),
        (("--precision", "abc"), "--precision 'abc' is not a number; write it as 1% or 0.01"),
        (("--precision", "200%"), "must lie between 0 and 1 (100 %)"),
        (("--precision", "1"), "must lie between 0 and 1 (100 %)"),
        (("--precision", "nan"), "must lie between 0 and 1 (100 %)"),
        (("--precision", "-1%"), "must lie between 0 and 1 (100 %)"),
        (("--precision", ""), "write it as 1% or 0.01"),
        (("--max-seconds", "nan"), "--max-seconds nan must lie between 0 and 86400"),
        (("--max-seconds", "inf"), "must lie between 0 and 86400"),
        (("--max-seconds", "-1"), "must lie between 0 and 86400"),
        (("--max-seconds", "0"), "must lie between 0 and 86400"),
        (("--max-seconds", "soon"), "--max-seconds"),
        (("--warmup", "-1"), "--warmup -1 must lie between 0 and 1000000"),
        (("--warmup", "1.5"), "--warmup"),
        (("--iterations", "0"), "--iterations 0 must lie between 1 and 1000000"),
        (("--iterations", "9999999999"), "must lie between 1 and 1000000"),
        (("--iterations", "many"), "--iterations"),
        (("--seed", "-1"), "--seed -1 must lie between 0 and 2^63"),
        (("--seed", str(1 << 63)), "must lie between 0 and 2^63"),
        (("--tile", "foo"), "unknown tile model 'foo'"),
        (("--tile", "legaci"), "did you mean 'legacy'?"),
        (("--tile", "0x1x1"), "edges from 1 to 4096"),
        (("--tile", "1x1x5000"), "edges from 1 to 4096"),
        (("--tile", "1x1"), "write it as 128x128x128"),
        (("--tile", "²x1x1"), "write it as 128x128x128"),
        (("--tile", ""), "unknown tile model"),
        (("--dtype", "float31"), "did you mean 'float32'?"),
        (("--dtype", "complex"), "known: float32, float16, bfloat16, int8"),
        (("--dtype", ""), "unknown dtype"),
        (("--suite", "quik"), "did you mean 'quick'?"),
        (("--suite", "everything"), "known: quick, boundary"),
        (("--model", "llama-3.1-8"), "did you mean 'llama-3.1-8b'?"),
        (("--model-dims", "hiden=1"), "did you mean 'hidden'?"),
        (("--model-dims", "ffn=1"), "needs hidden=NUMBER"),
        (("--model-dims", "hidden=0"), "needs hidden=NUMBER"),
        (("--model-dims", "hidden=-1"), "write hidden=NUMBER"),
        (("--model-dims", "hidden=1.5"), "write hidden=NUMBER"),
        (("--model-dims", "hidden"), "write hidden=NUMBER"),
        (("--model-dims", f"hidden={NINES}"), "write hidden=NUMBER"),
        (("--model-dims", "hidden=129,heads=3,kv_heads=2"), "kv_heads must divide heads"),
        (("--model-dims", "hidden=128,kv_heads=0"), "every dimension must be positive"),
        (("--model-dims", "hidden=2147483647,ffn=2147483647"), "too large"),
        (("--batch", "2"), "--batch and --sequence need --model or --model-dims"),
        (("--model", "llama-3.1-8b", "--batch", "0"), "must be positive"),
        (("--model", "llama-3.1-8b", "--sequence", "-5"), "must be positive"),
        (("--shap", "1x1x1"), "--shape"),
        (("--shape",), "--shape"),
        (("1x1x1",), "1x1x1"),
    ],
)
def test_a_flag_of_matmul_that_cannot_be_used_is_named(flags, text, call_cli, assert_one_line_error):
    assert_one_line_error(call_cli(*PLAN, *flags), 2, text)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--max-length", "-1"), "--max-length -1 must lie between 1 and"),
        (("--max-length", "0"), "--max-length 0 must lie between 1 and"),
        (("--max-length", str(1 << 40)), "must lie between 1 and 16777216"),
        (("--max-batch", "0"), "--max-batch 0 must lie between 1 and"),
        (("--scheme", "vlm"), "did you mean 'vllm'?"),
        (("--max-buckets", "3"), "--histogram"),
        (("--distribution", "uniform"), "--latency or --latency-model is missing"),
        (("--latency-model", MODEL), "--histogram or --distribution is missing"),
        (("--distribution", "unifrom", "--latency-model", MODEL), "did you mean 'uniform'?"),
        (("--distribution", "uniform:hig=3", "--latency-model", MODEL), "did you mean 'high'?"),
        (("--distribution", "uniform:high=x", "--latency-model", MODEL), "high=NUMBER"),
        (("--distribution", "uniform:low=nan", "--latency-model", MODEL), "low=NUMBER"),
        (("--distribution", "uniform:low=9,high=3", "--latency-model", MODEL), "gives no length"),
        (("--distribution", "lognormal:sigma=0", "--latency-model", MODEL), "gives no length"),
        (("--distribution", "uniform", "--latency-model", "floor=1"), "did you mean 'floor_ms'?"),
        (("--distribution", "uniform", "--latency-model", "floor_ms=0"), "a value above 0"),
        (("--distribution", "uniform", "--latency-model", "per_token_ms=1e308"), "latency model"),
        (("--distribution", "uniform", "--latency-model", "floor_ms=1,tile=0"), "tile=0 must be a whole number"),
        (("--distribution", "uniform", "--latency-model", "floor_ms=1,tile=1.5"), "tile=1.5 must be a whole number"),
        (("--distribution", "uniform", "--latency-model", MODEL, "--multiple-of", "0"), "must lie between 1 and"),
        (("--distribution", "uniform", "--latency-model", MODEL, "--max-buckets", "0"), "at least 1"),
        (("--distribution", "uniform", "--latency-model", MODEL, "--compile-cost-ms", "nan"), "must lie between 0 and"),
        (("--distribution", "uniform", "--latency-model", MODEL, "--compile-cost-ms", "-1"), "must lie between 0 and"),
        (("--distribution", "uniform", "--latency-model", MODEL, "--max-length", "1500000"), "--max-length"),
        (("--histogram", "a.csv", "--distribution", "uniform"), "not both"),
        (("--distribution", "uniform", "--latency", "a.csv", "--latency-model", MODEL), "not both"),
    ],
)
def test_a_flag_of_buckets_that_cannot_be_used_is_named(flags, text, call_cli, assert_one_line_error):
    assert_one_line_error(call_cli("buckets", "--json", *flags), 2, text)


@pytest.mark.parametrize("flag", ["--multiple-of", "--max-batch"])
def test_a_bad_value_is_refused_even_where_nothing_is_planned(flag, call_cli, assert_one_line_error):
    assert_one_line_error(call_cli("buckets", "--json", flag, "0"), 2, flag)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ("x=y", "write role=column with a role of M, K, N, latency_ms"),
        ("M", "write role=column"),
        ("M=", "write role=column"),
        (",", "write role=column"),
    ],
)
def test_a_column_mapping_that_is_none_is_refused(columns, text, call_cli, sweep_csv, assert_one_line_error):
    assert_one_line_error(call_cli("tiling", sweep_csv, "--columns", columns, "--json"), 2, text)


def test_a_column_mapping_to_a_column_that_is_not_there_names_it(call_cli, sweep_csv, assert_one_line_error):
    answer = call_cli("tiling", sweep_csv, "--columns", "latency_ms=us", "--json")
    assert_one_line_error(answer, 3, "sweep.csv, header", "column us", "M, K, N, latency_ms")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("matmull",), "'matmul'?"),
        (("fly",), "commands: doctor, matmul, tiling, buckets"),
        (("--verbose",), "--verbose"),
        (("tiling",), "see npuscope tiling --help"),
        (("doctor", "cpu"), "see npuscope doctor --help"),
    ],
)
def test_a_command_that_is_none_is_told_what_there_is(words, text, run_cli, assert_one_line_error):
    assert_one_line_error(run_cli(*words), 2, text)


# devices


@pytest.mark.parametrize(("device", "text"), [("cp", "did you mean 'cpu'?"), ("abacus", "known: "), ("", "known: ")])
def test_an_unknown_device_is_named_with_the_nearest(device, text, run_cli, assert_one_line_error):
    answer = run_cli("matmul", "--shape", "8x8x8", "--device", device, "--json")
    assert_one_line_error(answer, 2, "unknown device", text)


@pytest.mark.skipif(Path("/dev/neuron0").exists(), reason="a Neuron device is here")
@pytest.mark.parametrize("extra", [(), ("--json",)], ids=["words", "json"])
def test_a_device_that_is_not_here_is_exit_code_4_and_no_other_device_steps_in(
    extra, run_cli, tmp_path, assert_one_line_error
):
    answer = run_cli("matmul", "--shape", "8x8x8", "--device", "neuron", "--out", "run", *extra)
    assert_one_line_error(answer, 4, "neuron is not available", "pip install")
    assert not (tmp_path / "run").exists()


def test_a_platform_that_jax_has_not_is_exit_code_4(run_cli, assert_one_line_error):
    answer = run_cli("matmul", "--shape", "8x8x8", "--device", "jax:abacus", "--json")
    assert_one_line_error(answer, 4, "jax:abacus is not available")


def test_a_dtype_that_the_device_lacks_is_refused_before_anything_runs(run_cli, tmp_path, assert_one_line_error):
    pytest.importorskip("openvino")
    answer = run_cli(
        "matmul", "--shape", "8x8x8", "--device", "openvino:cpu", "--dtype", "int8", "--out", "run", "--json"
    )
    assert_one_line_error(answer, 2, "has no int8 matmul; it has float32")
    assert not (tmp_path / "run").exists()


def test_a_compiler_log_of_a_device_without_compiler_is_refused(run_cli, assert_one_line_error):
    answer = run_cli("matmul", "--shape", "8x8x8", "--device", "cpu", "--compiler-log", "log", "--json")
    assert_one_line_error(answer, 2, "--compiler-log is for device neuron")


# input files

BAD_TABLES = {
    "empty": (b"", "an empty file"),
    "header only": (b"M,K,N,latency_ms\n", "at least one row of data"),
    "blank lines": (b"\n\n , \n", "an empty file"),
    "missing column": (b"M,K,latency_ms\n1,1,1\n", "expected column N"),
    "NaN": (b"M,K,N,latency_ms\n1,1,1,nan\n", "row 2, column latency_ms: expected a finite number"),
    "inf": (b"M,K,N,latency_ms\n1,1,1,inf\n", "row 2, column latency_ms: expected a finite number"),
    "overflow": (b"M,K,N,latency_ms\n1,1,1,1e999\n", "row 2, column latency_ms: expected a finite number"),
    "negative latency": (b"M,K,N,latency_ms\n1,1,1,-1\n", "row 2, column latency_ms: expected a finite number"),
    "zero latency": (b"M,K,N,latency_ms\n1,1,1,0\n", "row 2, column latency_ms: expected a finite number"),
    "empty cell": (b"M,K,N,latency_ms\n1,1,1,1\n1,1,1,\n", "row 3, column latency_ms: expected a number, found ''"),
    "words": (b"M,K,N,latency_ms\n1,1,1,fast\n", "row 2, column latency_ms: expected a number, found 'fast'"),
    "zero dimension": (b"M,K,N,latency_ms\n0,1,1,1\n", "row 2, column M: expected a finite number of at least 1"),
    "fractional dimension": (b"M,K,N,latency_ms\n1.5,1,1,1\n", "row 2, column M: expected a whole number"),
    "huge dimension": (b"M,K,N,latency_ms\n1e30,1,1,1\n", "row 2, column M: expected a whole number"),
    "huge product": (b"M,K,N,latency_ms\n1e9,1e9,1e9,1\n", "row 2: expected a shape whose operation count fits"),
    "UTF-16": ("M,K,N,latency_ms\n1,1,1,1\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without mark": (
        "M,K,N,latency_ms\n1,1,1,1\n".encode("utf-16-le"),
        "row 1: expected text, found a NUL byte",
    ),
    "latin-1": ("M,K,N,latency_ms,é\n1,1,1,1,1\n".encode("latin-1"), "row 1, byte 17 of the line: expected UTF-8"),
    "NUL byte": (b"M,K,N,latency_ms\n1,1,1,1\0\n", "row 2: expected text, found a NUL byte"),
    "ragged": (b"M,K,N,latency_ms\n1,1,1,1\n1,1,1\n", "row 3: expected 4 cells, found 3"),
    "too many cells": (b"M,K,N,latency_ms\n1,1,1,1,1\n", "row 2: expected 4 cells, found 5"),
    "duplicate header": (b"M,M,K,N,latency_ms\n1,1,1,1,1\n", "header: expected distinct column names"),
    "semicolons": (b"M;K;N;latency_ms\n1;1;1;1\n", "expected columns M, K, N, latency_ms"),
    "bare carriage returns": (b"M,K,N,latency_ms\r1,1,1,1\r", "comma-separated cells"),
    "endless quote": (b'M,K,N,latency_ms\n"' + b"1\n" * 100_000, "comma-separated cells"),
    "binary": (bytes(range(1, 256)) * 4, "expected"),
    "only failures": (b"M,K,N,latency_ms,status\n1,1,1,,failed\n", "a row that did not fail"),
    "digits beyond counting": (b"M,K,N,latency_ms\n" + b"9" * 5000 + b",1,1,1\n", "row 2, column M"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_csv_of_latencies_is_told_by_file_row_and_column(case, call_cli, assert_one_line_error):
    content, text = BAD_TABLES[case]
    Path("bad.csv").write_bytes(content)
    line = assert_one_line_error(call_cli("tiling", "bad.csv", "--json"), 3, "bad.csv", text)
    assert line.isprintable()
    assert len(line) < 500


NOT_A_TABLE = (
    "empty",
    "header only",
    "blank lines",
    "UTF-16",
    "UTF-16 without mark",
    "latin-1",
    "NUL byte",
    "ragged",
    "too many cells",
    "duplicate header",
    "semicolons",
    "bare carriage returns",
    "endless quote",
    "binary",
)


@pytest.mark.parametrize("case", NOT_A_TABLE)
def test_what_is_no_table_is_no_histogram_no_latency_curve_and_no_list_of_shapes(case, call_cli, assert_one_line_error):
    Path("bad.csv").write_bytes(BAD_TABLES[case][0])
    for reader in ("histogram", "latency", "shapes"):
        assert_one_line_error(call_cli(*reading(reader, "bad.csv")), 3, "bad.csv")


@pytest.mark.parametrize(
    ("reader", "content", "text"),
    [
        ("histogram", "size,count\n1,1\n", "header: expected column length"),
        ("histogram", "length,count\n1,0\n", "counts with a positive sum"),
        ("histogram", "length,count\n1,-1\n", "row 2, column count"),
        ("histogram", "length,count\n1,nan\n", "row 2, column count"),
        ("histogram", "length,count\n1,1e308\n2,1e308\n", "a number of at most 1e+18"),
        ("histogram", "length,count\n0,1\n", "row 2, column length"),
        ("histogram", "length,count\n99999999,1\n", "row 2, column length: expected a length of at most 16777216"),
        ("latency", "length,ms\n1,1\n", "header: expected column latency_ms"),
        ("latency", "length,latency_ms\n1,0\n", "row 2, column latency_ms"),
        ("latency", "length,latency_ms\n1,\n", "row 2, column latency_ms: expected a number, found ''"),
        ("latency", "M,K,N,latency_ms\n1,1,1,1\n", "found a single shape"),
        ("latency", "M,K,N,latency_ms,device\n1,1,1,1,cpu\n1,1,2,1,neuron\n", "expected one device"),
        ("latency", "length,latency_ms,status\n1,,failed\n", "a row that did not fail"),
        ("shapes", "M,K\n1,1\n", "header: expected column N"),
        ("shapes", "M,K,N\n1,1,0\n", "row 2, column N"),
        ("shapes", "M,K,N\n1,1,\n", "row 2, column N"),
        ("shapes", "M,K,N\n1e18,1,1\n", "row 2: expected a shape and a dtype, found shape"),
        ("shapes", "M,K,N,dtype\n1,1,1,float31\n", "did you mean 'float32'?"),
    ],
)
def test_a_column_that_is_not_what_it_should_be_is_named(reader, content, text, call_cli, assert_one_line_error):
    Path("bad.csv").write_text(content, encoding="utf-8")
    assert_one_line_error(call_cli(*reading(reader, "bad.csv")), 3, "bad.csv", text)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "[[shape]] tables"),
        (b"[[shape]]\nM = 1\nK = 1\n", "shape 1: expected M, K, N and perhaps dtype, name, found no N"),
        (b"[[shape]]\nM = 1\nK = 1\nN = 1\nk = 1\n", "unknown k"),
        (b"[[shape]]\nM = 1.5\nK = 1\nN = 1\n", "M = 1.5 is not a whole number"),
        (b"[[shape]]\nM = true\nK = 1\nN = 1\n", "must be a positive whole number"),
        (b"[[shape]]\nM = 'x'\nK = 1\nN = 1\n", "is not a whole number"),
        (b"[[shape]]\nM = 1\nK = 1\nN = 1\ndtype = 'float31'\n", "did you mean 'float32'?"),
        (b"shape = 5\n", "[[shape]] tables"),
        (b"shape = [1, 2]\n", "[[shape]] tables"),
        (b"[[shape]\n", "expected TOML"),
        (b"\xff\xfe", "expected TOML"),
        (b"a = " + b"[" * 100_000, "expected TOML"),
        (b"[[shape]]\nM = " + b"9" * 30 + b"\nK = 1\nN = 1\n", "too large"),
        (b"[[shape]]\nM = " + b"9" * 5000 + b"\nK = 1\nN = 1\n", "shapes.toml"),
    ],
    ids=range(14),
)
def test_a_bad_toml_of_shapes_is_told_by_file_and_shape(content, text, call_cli, assert_one_line_error):
    Path("shapes.toml").write_bytes(content)
    assert_one_line_error(call_cli(*PLAN, "--shapes", "shapes.toml"), 3, "shapes.toml", text)


READERS = {
    "tiling": ("tiling", "FILE", "--json"),
    "histogram": ("buckets", "--histogram", "FILE", "--latency-model", MODEL, "--json"),
    "latency": ("buckets", "--distribution", "uniform", "--latency", "FILE", "--json"),
    "shapes": ("matmul", "--plan", "--json", "--shapes", "FILE"),
}


def reading(reader: str, path: object) -> list[str]:
    return [str(path) if word == "FILE" else word for word in READERS[reader]]


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_file_is_exit_code_3(reader, call_cli, assert_one_line_error):
    assert_one_line_error(call_cli(*reading(reader, "none.csv")), 3, "none.csv", "No such file or directory")


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_holds_no_results_is_exit_code_3(reader, call_cli, assert_one_line_error):
    Path("folder").mkdir()
    assert_one_line_error(call_cli(*reading(reader, "folder")), 3, "folder", "expected a readable file")


@pytest.mark.parametrize("reader", READERS)
def test_a_name_too_long_for_a_file_is_exit_code_3(reader, call_cli, assert_one_line_error):
    assert_one_line_error(call_cli(*reading(reader, "n" * 5000)), 3, "File name too long")


@pytest.mark.parametrize(
    ("reader", "name"), [*((reader, "big.csv") for reader in READERS), ("shapes", "big.toml")], ids=str
)
def test_one_line_of_a_gigabyte_is_refused_at_once_and_in_little_memory(reader, name, weigh_cli, tmp_path):
    big = tmp_path / name
    with big.open("wb") as file:
        file.write(b"M,K,N,latency_ms,")
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    cost = weigh_cli(*reading(reader, big))
    assert cost.code == 3
    assert len(cost.stderr.splitlines()) == 1
    assert name in cost.stderr
    assert cost.seconds < 10
    assert cost.peak_bytes < 300e6


def test_one_long_line_of_text_is_told_by_its_row(call_cli, assert_one_line_error):
    Path("long.csv").write_text("M,K,N,latency_ms\n1,1,1," + "1" * 70_000 + "\n", encoding="utf-8")
    assert_one_line_error(call_cli("tiling", "long.csv", "--json"), 3, "row 2: expected lines of at most 65536 bytes")


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("M,K,N,latency_ms\n\n\n1,1,1,1\n1,1,1,nan\n", 5),
        ("M,K,N,latency_ms,status\n1,1,1,,failed\n1,1,1,nan,ok\n", 3),
        ('M,K,N,latency_ms,name\n1,1,1,1,"two\nlines"\n1,1,1,nan,x\n', 4),
    ],
    ids=["after blank lines", "after a failed row", "after a cell of two lines"],
)
def test_a_bad_cell_is_told_by_the_line_that_an_editor_shows(content, row, call_cli, assert_one_line_error):
    Path("bad.csv").write_text(content, encoding="utf-8")
    assert_one_line_error(call_cli("tiling", "bad.csv", "--json"), 3, f"row {row}, column latency_ms")


def test_a_bad_length_in_a_list_without_header_is_told_by_its_line(call_cli, assert_one_line_error):
    Path("lengths.csv").write_text("12\n-5\n", encoding="utf-8")
    answer = call_cli("buckets", "--histogram", "lengths.csv", "--latency-model", MODEL, "--json")
    assert_one_line_error(answer, 3, "lengths.csv, row 2")


@pytest.mark.parametrize("cell", ["1_000", "１０００", "0x10", "1 000", "+-1"])
def test_a_number_that_only_a_programmer_would_write_is_refused(cell, call_cli, assert_one_line_error):
    Path("bad.csv").write_text(f"M,K,N,latency_ms\n{cell},1,1,1\n", encoding="utf-8")
    assert_one_line_error(call_cli("tiling", "bad.csv", "--json"), 3, "row 2, column M: expected a number")


def test_latencies_that_end_before_the_longest_request_are_not_extrapolated(call_cli, assert_one_line_error):
    Path("lengths.csv").write_text("length,count\n2000,1\n", encoding="utf-8")
    Path("latency.csv").write_text("length,latency_ms\n1,1\n1000,2\n", encoding="utf-8")
    answer = call_cli("buckets", "--histogram", "lengths.csv", "--latency", "latency.csv", "--json")
    assert_one_line_error(answer, 2, "the latencies end at length 1000")


def test_latencies_of_two_varying_dimensions_are_no_curve(call_cli, sweep_csv, assert_one_line_error):
    answer = call_cli("buckets", "--distribution", "uniform", "--latency", sweep_csv, "--json")
    assert_one_line_error(answer, 3, "one dimension varies", "M and K and N varying")


# output folders


def test_a_folder_with_results_is_not_overwritten(run_cli, copied, assert_one_line_error):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", copied)
    assert_one_line_error(answer, 2, "is not empty", f"--resume {copied}")
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_folder_with_other_files_is_not_written_to(run_cli, tmp_path, assert_one_line_error):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine", encoding="utf-8")
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", "run", "--json")
    assert_one_line_error(answer, 2, "run is not empty; choose another --out", "it holds other files")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_folder_that_is_empty_is_taken(run_cli, tmp_path):
    (tmp_path / "run").mkdir()
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", "run", "--json")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("out", ["file", "file/run", "/proc/npuscope", "/dev/null", "n" * 300, "/dev/full/run"])
def test_a_folder_that_cannot_be_made_is_named(out, run_cli, tmp_path, assert_one_line_error):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", out, "--json")
    assert_one_line_error(answer, 2, out, "cannot be used for results")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_write_permission_is_named(run_cli, tmp_path, assert_one_line_error):
    (tmp_path / "locked").mkdir(mode=0o500)
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", "locked/run", "--json")
    assert_one_line_error(answer, 2, "locked/run", "Permission denied")


def test_an_out_folder_whose_name_is_no_text_works_or_is_refused_in_one_line(run_cli):
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", "odd\udcff", "--json")
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) == (0 if answer.returncode == 0 else 1)


# standard output


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "words",
    [
        ("buckets", "--json"),
        ("buckets",),
        ("matmul", "--suite", "tiling", "--plan", "--json"),
        ("matmul", "--shape", "8x8x8", *QUICK, "--out", "run", "--json"),
        ("--version",),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_full_standard_output_is_one_line_and_no_success(words, run_cli, assert_one_line_error):
    with FULL.open("wb") as full:
        answer = run_cli(*words, stdout=full)
    assert_one_line_error(answer, answer.returncode, "No space left on device")
    assert answer.returncode not in {0, 1}


@pytest.mark.parametrize(
    "words", [("buckets",), ("buckets", "--json"), ("matmul", "--suite", "tiling", "--plan", "--json")]
)
def test_a_reader_that_has_gone_ends_the_command_quietly(words, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    answer = subprocess.run(
        command(*words),
        cwd=tmp_path,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert answer.stderr == ""
    assert answer.returncode == 141  # as a shell reports SIGPIPE; 1 would say that a row failed


def test_the_head_of_a_long_table_comes_without_traceback(tmp_path):
    words = " ".join(command("matmul", "--suite", "tiling", "--plan"))
    answer = subprocess.run(
        ["sh", "-c", f"{words} | head -1"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert answer.stdout.startswith("tiles: tensor-engine")
    assert len(answer.stdout.splitlines()) == 1
    assert answer.stderr == ""


@pytest.mark.parametrize("words", ["buckets --json", "buckets", "--version", "fly"])
def test_a_closed_standard_output_is_no_traceback(words, tmp_path):
    answer = subprocess.run(
        ["sh", "-c", f"{' '.join(command())} {words} >&-"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) <= 1


# --debug


def test_debug_shows_where_an_error_arose(run_cli):
    answer = run_cli("tiling", "none.csv", "--debug")
    assert answer.stderr.startswith("Traceback")
    assert "FormatError" in answer.stderr.splitlines()[-1]
    assert answer.returncode != 0


def test_debug_changes_nothing_where_nothing_goes_wrong(call_cli):
    assert call_cli("--debug", "buckets", "--json").stdout == call_cli("buckets", "--json").stdout
