"""Work folders of torch-neuronx and neuronx-cc: any subset of their files."""

import json

import pytest

from npuscope.errors import FormatError
from npuscope.formats.compiler_workdir import looks_like_workdir, read_compiler_workdir, split_command
from npuscope.formats.workdir_inspection import inspect_compiler_workdir
from tests.writers import compile_cache as writer

TENSOR_MAP = {
    "input0": {"is_const": False, "dtype": "float16", "tf_shape": [256, 128], "tf_format": "NC", "kind": "input"},
    "weight": {"is_const": True, "dtype": "float32", "tf_shape": [1, 1, 1, 64], "tf_format": "CRSM"},
}


def operand(shape, dtype="float16"):
    return {"access_shape": shape, "dtype": dtype}


BIR = {
    "arch": "sunda",
    "functions": [
        {
            "allocations": [
                {"memorylocations": [{"type": "SB", "dims": [128, 1024]}, {"type": "PSUM", "dims": [128, 16]}]}
            ],
            "blocks": [
                {
                    "instructions": [
                        {
                            "opcode": "Load",
                            "ins": [operand([128, 512])],
                            "outs": [operand([128, 512])],
                            "loopnest": [1],
                        },
                        *[
                            {
                                "opcode": "Matmult",
                                "ins": [operand([128, 512]), operand([128, 64])],
                                "outs": [operand([64, 512], "float32")],
                            }
                        ]
                        * 3,
                        "not an instruction",
                    ]
                }
            ],
        }
    ],
}


def test_a_torch_neuronx_trace_tells_its_command_and_neff(tmp_path):
    folder = writer.matmul_entry(tmp_path, 128, 128, 128)
    workdir = read_compiler_workdir(folder)
    assert workdir.kind == "torch-neuronx-workdir"
    assert workdir.flags == {
        "framework": "XLA",
        "target": "inf2",
        "output": f"{folder.name}/graph.neff",
        "verbose": "35",
    }
    assert workdir.command_source == "command.txt"
    assert workdir.neff == folder / "graph.neff"
    assert workdir.metadata["name"] == "matmul"
    assert inspect_compiler_workdir(folder).facts["target"] == "inf2"
    assert looks_like_workdir(folder)


def test_tiles_are_counted_from_the_program(tmp_path):
    (tmp_path / "sg00").mkdir()
    (tmp_path / "sg00" / "bir.json").write_text(json.dumps(BIR))
    program = read_compiler_workdir(tmp_path).programs[0]
    assert [(o.opcode, o.tile, o.instructions, o.looped, o.moved_bytes) for o in program.operations] == [
        ("Matmult", "128x64x512", 3, 0, 3 * 64 * 512 * 4),
        ("Load", "128x512", 1, 1, 128 * 512 * 2),
    ]
    assert program.allocated_bytes == {"PSUM": 2048, "SB": 131072}


def test_tensors_and_metrics_are_read_by_name(tmp_path):
    (tmp_path / "tensor_map.json").write_text(json.dumps(TENSOR_MAP))
    (tmp_path / "hlo_metrics.json").write_text(
        '{"HloMacCount": 1160, "HloInputCount": -1, "ArithmeticIntensity": 0.5, "x": "y"}'
    )
    (tmp_path / "mempressure.txt").write_text("\npeak sb usage: 0.01\npeak psum usage: 0.07\n")
    store = {"Sum": {"compiletime": {"PGTiling": 0.5, "CSE": 0.1}, "tensorizer": {"StaticProfiler::LoadExpanded": 4}}}
    (tmp_path / "tensorizer_metric_store.json").write_text(json.dumps(store))
    workdir = read_compiler_workdir(tmp_path)
    assert workdir.kind == "compiler-workdir"
    assert [(t.name, t.kind, t.shape, t.size_bytes) for t in workdir.tensors] == [
        ("input0", "input", (256, 128), 65536),
        ("weight", "file", (1, 1, 1, 64), 256),
    ]
    assert workdir.metrics == {
        "tensorizer.StaticProfiler::LoadExpanded": 4,
        "hlo.HloMacCount": 1160,
        "hlo.ArithmeticIntensity": 0.5,
        "memory.peak_sbuf_share": 0.01,
        "memory.peak_psum_share": 0.07,
    }
    assert list(workdir.pass_seconds.items()) == [("PGTiling", 0.5), ("CSE", 0.1)]


LOG = (
    "2026-01-30T01:55:07Z INFO 4296 [root]: neuronx-cc compile /tmp/a/model --target trn1 --output /tmp/a/graph.neff\n"
)


def test_the_command_is_taken_from_a_log_of_the_same_compilation(tmp_path):
    (tmp_path / "info.json").write_text('{"tool_version": "2.22", "name": "/tmp/a/graph.neff"}')
    (tmp_path / "log-neuron-cc.txt").write_text(LOG)
    workdir = read_compiler_workdir(tmp_path)
    assert workdir.flags["target"] == "trn1"
    assert workdir.command_source == "log-neuron-cc.txt"
    assert not any("another compilation" in note for note in workdir.notes)


def test_the_command_of_another_compilation_is_not_this_folders(tmp_path):
    (tmp_path / "info.json").write_text('{"tool_version": "2.22", "name": "/tmp/b/graph.neff"}')
    (tmp_path / "log-neuron-cc.txt").write_text(LOG)
    workdir = read_compiler_workdir(tmp_path)
    assert workdir.command == ()
    assert any("another compilation" in note and "/tmp/b/graph.neff" in note for note in workdir.notes)


def test_damaged_files_are_notes_and_the_others_are_read(tmp_path):
    (tmp_path / "info.json").write_text("{")
    (tmp_path / "metrics.json").write_text('[[[1]], 7, {"MetricName": 3}]')
    (tmp_path / "tensor_map.json").write_text(json.dumps(TENSOR_MAP))
    workdir = read_compiler_workdir(tmp_path)
    assert len(workdir.tensors) == 2
    assert [note for note in workdir.notes if "info.json" in note]


def test_a_file_that_is_a_link_out_of_the_folder_is_not_read(tmp_path):
    outside = tmp_path / "secret.json"
    outside.write_text('{"tool_version": "secret"}')
    folder = tmp_path / "workdir"
    folder.mkdir()
    (folder / "info.json").symlink_to(outside)
    (folder / "kernel_info.json").write_text("{}")
    workdir = read_compiler_workdir(folder)
    assert list(workdir.files) == ["kernel_info.json"]
    assert workdir.compiler_version == ""


def test_a_folder_with_none_of_the_files_is_refused(tmp_path):
    with pytest.raises(FormatError, match="none of its files"):
        read_compiler_workdir(tmp_path)
    with pytest.raises(FormatError, match="no such folder"):
        read_compiler_workdir(tmp_path / "missing")
    assert not looks_like_workdir(tmp_path)


def test_a_command_is_split_as_a_shell_or_python_writes_it():
    assert split_command("neuronx-cc compile 'a b' -O1") == ("neuronx-cc", "compile", "a b", "-O1")
    assert split_command("['neuronx-cc', 'compile', \"a b\"]") == ("neuronx-cc", "compile", "a b")
    assert split_command("it's unbalanced") == ("it's", "unbalanced")
