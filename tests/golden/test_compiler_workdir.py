"""A real work folder of neuronx-cc: what is read equals what its files say."""

import json

import pytest

from npuscope.formats.compiler_workdir import looks_like_workdir, read_compiler_workdir
from npuscope.formats.neuron_log import read_neuron_log
from npuscope.formats.workdir_inspection import inspect_compiler_workdir
from npuscope.tiling.work import tensor_engine_work
from npuscope.workloads.matmul import MatmulConfig


@pytest.fixture(scope="module")
def folder(samples):
    return samples / "inf2-compiler-workdir"


def content(folder, name):
    return json.loads((folder / name).read_text())


def test_version_name_and_tensors_equal_the_json_files(folder):
    workdir = read_compiler_workdir(folder)
    info = content(folder, "info.json")
    assert looks_like_workdir(folder)
    assert workdir.kind == "compiler-workdir"
    assert workdir.compiler_version == info["tool_version"] == "2.22.12471.0+b4a00d10"
    assert workdir.network_name == info["name"]
    tensors = {t.name: (list(t.shape), t.dtype) for t in workdir.tensors}
    assert tensors == {name: (t["tf_shape"], t["dtype"]) for name, t in content(folder, "tensor_map.json").items()}


def test_metrics_equal_the_metric_stores(folder):
    workdir = read_compiler_workdir(folder)
    store = content(folder, "tensorizer_metric_store.json")["Sum"]
    assert {
        f"tensorizer.{name}": value for name, value in store["tensorizer"].items()
    }.items() <= workdir.metrics.items()
    assert workdir.pass_seconds == store["compiletime"]
    hlo = content(folder, "hlo_metrics.json")
    assert workdir.metrics["hlo.HloMacCount"] == hlo["HloMacCount"] == 2 * 2 * 290
    assert workdir.metrics["hlo.ArithmeticIntensity"] == pytest.approx(2 * hlo["HloMacCount"] / hlo["Traffic"])


def test_the_program_holds_one_matmul_of_the_whole_shape(folder):
    program = read_compiler_workdir(folder).programs[0]
    found = {operation.opcode: (operation.tile, operation.instructions) for operation in program.operations}
    assert found["Matmult"] == ("2x2x290", 1)
    assert program.arch == "sunda"
    assert program.instructions == 6
    assert program.allocated_bytes["DRAM"] == 2 * 2 * 2 + 2 * 2 * 290 * 2 + 128 * 128 * 4


def test_the_log_is_recognised_as_that_of_another_compilation(folder):
    workdir = read_compiler_workdir(folder)
    assert workdir.command == ()
    assert any("another compilation" in note for note in workdir.notes)
    assert "4096x4096x14336" in inspect_compiler_workdir(folder).facts["log_command"]


def test_the_log_holds_one_compilation_of_eight_seconds_that_passed(folder):
    log = read_neuron_log(folder / "log-neuron-cc.txt")
    assert log.compiler_version == "2.22.12471.0+b4a00d10"
    assert [(run.line, run.result, run.seconds, run.at_most) for run in log.compilations] == [(1, "pass", 8.0, False)]
    assert log.lines == len((folder / "log-neuron-cc.txt").read_bytes().splitlines())
    assert log.levels == {"WARNING": 5, "ERROR": 1}
    assert "hlo-neff-wrapper" not in log.remarks[-1].text
    assert "could not open input file" in log.remarks[-1].text


def test_the_compiler_chose_the_tiles_of_the_closed_form(folder):
    """4096x4096x14336 in tiles of 128 x 128 x 512 with one transpose a stationary block, counted by the compiler itself."""
    log = read_neuron_log(folder / "log-neuron-cc.txt")
    work = tensor_engine_work(MatmulConfig(4096, 4096, 14336, "float16"))
    assert log.tiles["matmul_128x128x512"] == 32 * 32 * 28
    assert log.tiles["transpose_128x128"] == 32 * 32
    assert log.tiles["matmul_128x128x512"] + log.tiles["transpose_128x128"] == work.matmul_instruction_count
    assert log.figures["hlo_mac_count"] == 4096 * 4096 * 14336
    assert log.figures["matmult_insts_after_tiling"] == log.tiles["matmul_128x128x512"]
