"""`npuscope simulate` of XLA programs: from files, from text, from a JAX function; what is written, and what is refused."""

import gzip
from pathlib import Path

import pytest

from npuscope.formats.artifact import read_profile
from npuscope.formats.perfetto_processor import TraceProcessor
from tests.cli.conftest import is_share, strict_json
from tests.cli.test_inspect_hlo import TEXT
from tests.writers import hlo as writer

KEYS = {
    "total_time_ns", "is_simulated", "device", "program", "source", "model", "model_error", "instruction_count", "hlo_ops",
    "hlo_bytes", "executed_ops", "loops", "unlowered", "unlowered_share", "bound", "summary", "trip_count", "options", "ops",
    "effects", "profile", "engines", "dma", "bounds", "roofline", "findings", "notes",
}  # fmt: skip
FUNCTIONS = """
import jax
import jax.numpy as jnp


def forward(x, w, scale=1.0):
    return jnp.maximum(x @ w, 0) * scale


def multiply(a, b):
    return a @ b


def square(x):
    return x @ x


@jax.jit
def repeated(x):
    return jax.lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c + 1, x)
"""
SHAPES = ("--arg", "float32[4,8]", "--arg", "float32[8,2]")


@pytest.fixture
def graph(tmp_path) -> Path:
    """A matmul in a file."""
    path = tmp_path / "graph.hlo"
    path.write_bytes(writer.module_bytes(writer.matmul()))
    return path


@pytest.fixture
def functions(tmp_path) -> str:
    """A file of JAX functions, for tests that trace them."""
    pytest.importorskip("jax")
    (tmp_path / "model.py").write_text(FUNCTIONS)
    return "model.py"


@pytest.fixture
def simulated(call_cli):
    """Simulate, and return what `--json` prints."""

    def simulate(*arguments):
        answer = call_cli("simulate", *arguments, "--json")
        assert answer.returncode == 0, answer.stderr
        return strict_json(answer.stdout)

    return simulate


class TestFiles:
    def test_json_has_the_keys_of_the_page(self, simulated, graph):
        document = simulated(graph, "--device", "sim:trn1")
        assert set(document) == KEYS
        assert document["is_simulated"] is True
        assert (document["device"], document["program"], document["hlo_ops"]) == ("sim:trn1", "test", 4)
        assert document["hlo_bytes"] == graph.stat().st_size
        assert document["total_time_ns"] > 0
        assert document["instruction_count"] > 0
        assert document["unlowered"] == []
        assert any("nc_matmul" in use["opcodes"] for use in document["ops"])
        assert is_share(document["bound"]["share"])

    def test_the_heading_says_that_no_device_ran_it(self, call_cli, graph):
        answer = call_cli("simulate", graph)
        assert answer.returncode == 0, answer.stderr
        first = answer.stdout.splitlines()[0]
        assert "on sim:trn2: predicted" in first
        assert "SIMULATED" in first
        assert "no device ran it" in first

    def test_packed_and_plain_are_the_same(self, simulated, graph, tmp_path):
        packed = tmp_path / "graph.hlo.gz"
        packed.write_bytes(gzip.compress(graph.read_bytes()))
        one, other = simulated(graph), simulated(packed)
        assert one["total_time_ns"] == other["total_time_ns"]
        assert one["hlo_bytes"] == other["hlo_bytes"]

    def test_hlo_text_stablehlo_text_and_the_function_are_one_program(self, simulated, functions, tmp_path):
        import jax

        shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((4, 8), (8, 2))]
        (tmp_path / "graph.mlir").write_text(jax.jit(lambda a, b: a @ b).lower(*shapes).as_text())
        (tmp_path / "graph.txt").write_text(TEXT)
        documents = [
            simulated("graph.txt"), simulated("graph.mlir"), simulated(f"{functions}:multiply", "--jax", *SHAPES)
        ]  # fmt: skip
        assert [d["source"] for d in documents] == ["graph.txt", "graph.mlir", "multiply"]
        assert [d["hlo_ops"] for d in documents] == [3] * 3
        assert len({d["total_time_ns"] for d in documents}) == 1

    def test_loops_are_told_with_their_trips(self, simulated, tmp_path):
        (tmp_path / "loop.hlo").write_bytes(writer.module_bytes(*writer.counting_loop()))
        (loop,) = simulated("loop.hlo")["loops"]
        assert (loop["trip_count"], loop["is_known"]) == (5, True)
        (loop,) = simulated("loop.hlo", "--trip-count", 7)["loops"]
        assert loop["trip_count"] == 5  # what the program tells is not the user's to assume

    def test_options_of_the_model_are_taken(self, simulated, graph):
        document = simulated(graph, "--without", "dma-start", "--effects")
        assert document["options"]["without"] == ["dma-start"]
        assert document["total_time_ns"] < simulated(graph)["total_time_ns"]
        assert document["effects"]


class TestFunctions:
    def test_is_traced_with_arguments_of_these_shapes(self, simulated, functions, graph):
        document = simulated(f"{functions}:forward", "--jax", *SHAPES)
        assert document["program"] == "jit_forward"
        assert document["is_simulated"] is True
        assert any(line.startswith("model.py:") or "/model.py:" in line for line in _lines(document))

    def test_takes_arguments_by_name(self, simulated, functions):
        by_name = simulated(f"{functions}:forward", "--jax", "--arg", "w=float32[8,2]", "--arg", "x=float32[4,8]")
        by_place = simulated(f"{functions}:forward", "--jax", *SHAPES)
        assert by_name["hlo_ops"] == by_place["hlo_ops"]  # they are parameters, no constants that fold away
        assert by_name["total_time_ns"] == by_place["total_time_ns"]

    def test_a_loop_of_unknown_length_takes_the_assumed_count(self, simulated, functions):
        documents = [
            simulated(f"{functions}:repeated", "--jax", "--arg", "float32[4,8]", "--trip-count", count)
            for count in (1, 6)
        ]
        assert [d["loops"][0]["trip_count"] for d in documents] == [d["trip_count"] for d in documents] == [1, 6]
        assert not any(d["loops"][0]["is_known"] for d in documents)
        assert documents[0]["total_time_ns"] < documents[1]["total_time_ns"]
        assert any("trip" in note for note in documents[0]["notes"])

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("square", "--arg", "float32[2,3]"), "square does not trace with these arguments: TypeError"),
            (("square",), "square does not trace with these arguments: TypeError"),
            (("squared", "--arg", "float32[2,2]"), "did you mean 'square'"),
            (("square", "--arg", "float32[2"), "float32[2"),
        ],
    )
    def test_what_does_not_trace_is_one_line(self, call_cli, assert_one_line_error, functions, arguments, told):
        name, *others = arguments
        assert_one_line_error(call_cli("simulate", f"{functions}:{name}", "--jax", *others), 2, told)

    def test_taken_for_a_kernel_is_told_what_it_is(self, call_cli, assert_one_line_error, functions):
        answer = call_cli("simulate", f"{functions}:multiply", *SHAPES)
        assert_one_line_error(answer, 2, "uses JAX and nothing of NKI: predict a JAX function with --jax")


def _lines(document):
    return [use["source_line"] for use in document["ops"]]


class TestOut:
    def test_is_read_by_every_command_and_says_that_it_is_simulated(self, call_cli, simulated, graph, tmp_path):
        printed = simulated(graph, "--out", "run")
        run = strict_json((tmp_path / "run" / "run.json").read_text())
        assert {key: run[key] for key in ("total_time_ns", "is_simulated", "program")} == {
            key: printed[key] for key in ("total_time_ns", "is_simulated", "program")
        }
        assert read_profile(tmp_path / "run").is_simulation
        analysis = strict_json(call_cli("analyze", "run", "--json").stdout)
        assert analysis["is_simulated"] is True
        assert run["model_error"] in analysis["notes"]
        assert analysis["kernel_time"]["total_ns"] == pytest.approx(run["total_time_ns"], abs=1)
        rows = strict_json(call_cli("query", "run", "SELECT DISTINCT hlo_name AS op FROM Instruction", "--json").stdout)
        assert {row["op"] for row in rows} & {use["op"] for use in printed["ops"]}
        tensors = strict_json(call_cli("query", "run", "SELECT type, shape FROM TensorInfo", "--json").stdout)
        assert [(row["type"], row["shape"]) for row in tensors] == [
            ("IN", "[4, 8]"),
            ("IN", "[8, 2]"),
            ("OUT", "[4, 2]"),
        ]
        assert call_cli("export", "run", "--perfetto", "run.pftrace").returncode == 0
        with TraceProcessor() as processor:
            processor.load(tmp_path / "run.pftrace")
            assert processor.error_stats() == {}

    def test_a_folder_that_is_not_empty_is_refused(self, call_cli, assert_one_line_error, graph, tmp_path):
        assert_one_line_error(call_cli("simulate", graph, "--out", tmp_path), 2, "is not empty")


@pytest.mark.parametrize(
    "option",
    [
        ("--inputs", "f.py:inputs"), ("--reference", "f.py:reference"), ("--tolerance", "1%"), ("--grid", "2"),
        ("--no-compute",), ("--lnc", "2"), ("--arg", "float32[4,8]"),
    ],
)  # fmt: skip
def test_options_of_kernels_are_refused_with_a_program(call_cli, assert_one_line_error, graph, option):
    assert_one_line_error(call_cli("simulate", graph, *option), 2, f"{option[0]} is for kernels")


def test_options_of_programs_are_refused_with_a_kernel(call_cli, assert_one_line_error, tmp_path):
    (tmp_path / "k.py").write_text("raise SystemError")
    told = "--trip-count is for XLA programs"
    assert_one_line_error(call_cli("simulate", "k.py:add", "--trip-count", 2), 2, told)


@pytest.mark.parametrize("keep", [1, 10, 60, -1])
def test_a_file_that_is_cut_off_is_one_line(call_cli, assert_one_line_error, graph, keep):
    graph.write_bytes(graph.read_bytes()[:keep])
    assert_one_line_error(call_cli("simulate", graph), 3, "graph.hlo")


def test_a_packed_file_that_is_cut_off_is_one_line(call_cli, assert_one_line_error, graph):
    packed = graph.with_suffix(".hlo.gz")
    packed.write_bytes(gzip.compress(graph.read_bytes())[:-9])
    assert_one_line_error(call_cli("simulate", packed), 3, "graph.hlo.gz")


@pytest.mark.parametrize("name", ["missing.hlo", "missing.pb.gz", "missing.mlir"])
def test_a_file_that_is_not_there_is_one_line(call_cli, assert_one_line_error, name):
    assert_one_line_error(call_cli("simulate", name), 2, f"no file '{name}' with an XLA program")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--trip-count", "-1"), 2, "--trip-count -1: at least 0"),
        (("--max-instructions", "0"), 2, "--max-instructions 0: at least 1"),
        (("--max-instructions", "2"), 3, "--max-instructions"),
        (("--device", "sim:trn9"), 2, "trn9"),
        (("--jax",), 2, "names no function"),
    ],
)
def test_wrong_use_is_one_line(call_cli, assert_one_line_error, graph, arguments, code, told):
    assert_one_line_error(call_cli("simulate", graph, *arguments), code, told)
