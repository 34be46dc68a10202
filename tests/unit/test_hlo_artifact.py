"""Files of XLA programs are told from their content, apart from the formats that begin alike."""

import pytest

from npuscope.errors import FormatError, UsageError
from npuscope.formats.artifact import identify, inspect_artifact, read_profile
from tests.writers import hlo as writer
from tests.writers.neff import matmul_members, neff_bytes
from tests.writers.ntff import small_capture

MODULE = writer.module_bytes(*writer.counting_loop(), name="jit_step")
PACKETS = b"\x0a\x05\x08\x01\x40\x00\x50" + b"\x0a\x04\x0a\x02\x08\x00"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.bin", MODULE, "hlo"),
        ("a.bin", writer.wrapped(MODULE), "hlo"),
        ("a.bin", writer.wrapped(writer.wrapped(MODULE)), "hlo"),
        ("a.gz", writer.packed(MODULE), "hlo"),
        ("model.hlo_module.pb", b"damaged\0", "hlo"),
        ("x.hlo.pb.gz", writer.packed(b"damaged\0"), "hlo"),
        ("a.hlo", b"HloModule jit_f, is_scheduled=true\n\nENTRY main {\n}\n", "hlo-text"),
        ("a.txt", b"// dumped\n\nHloModule jit_f\n", "hlo-text"),
        (
            "a.mlir",
            b"module @jit_f attributes {mhlo.num_partitions = 1 : i32} {\n  func.func public @main\n",
            "hlo-text",
        ),
        ("a.mlir", b'#loc = loc("x.py":1:1)\nmodule {\n', "hlo-text"),
        ("a.mlir", b"%0 = stablehlo.add %a, %b : tensor<4xf32>\n", "hlo-text"),
        ("a.mlirbc", b"ML\xefR\x0dStableHLO_v1.0\x00", "hlo-text"),
        # Neighbours that keep their kind.
        ("a.pftrace", b"\x0a\x02\x08\x00", "perfetto"),
        ("a.bin", PACKETS, "perfetto"),
        ("a.bin", b"\x0a\x06\x0a\x04\x08\x00\x12\x00" * 2, "perfetto"),
        ("a.gz", writer.packed(PACKETS), "perfetto"),
        ("a.bin", small_capture().data(), "ntff"),
        ("a.bin", neff_bytes(matmul_members()), "neff"),
        ("a.log", b"2026-01-01 INFO neuronx-cc: cannot lower stablehlo.sort\nHloModule m\n", "neuron-log"),
        ("a.hlo", b"HloModule m\n// source_file libneuronxla/x.py, neuronx-cc\n", "hlo-text"),
    ],
)
def test_a_program_is_told_by_its_content(tmp_path, name, data, kind):
    path = tmp_path / name
    path.write_bytes(data)
    assert identify(path).name == kind


@pytest.mark.parametrize("data", [b"a module of notes\n", b"module load neuron\n", b"\x12\x01e\x1a\x00\x00"])
def test_what_only_resembles_a_program_is_none(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(FormatError, match="HLO, a Perfetto or Chrome trace"):
        identify(path)


def test_a_program_is_inspected_and_holds_no_profile(tmp_path):
    path = tmp_path / "graph.hlo"
    path.write_bytes(MODULE)
    assert inspect_artifact(path).facts["module"] == "jit_step"
    with pytest.raises(UsageError, match=f"holds no profile; predict one with npuscope simulate {path}"):
        read_profile(path)


def test_text_is_left_to_those_who_can_parse_it(tmp_path):
    path = tmp_path / "graph.txt"
    path.write_bytes(b"HloModule m\n")
    with pytest.raises(UsageError, match="npuscope simulate"):
        inspect_artifact(path)
    with pytest.raises(UsageError, match="predict one with npuscope simulate"):
        read_profile(path)


def test_a_damaged_program_is_one_error(tmp_path):
    path = tmp_path / "a.hlo"
    path.write_bytes(MODULE[:-30])
    with pytest.raises(FormatError, match=r"a\.hlo: expected a serialized HLO module .* copy it again"):
        inspect_artifact(path)
