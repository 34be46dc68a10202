"""`npuscope inspect` of XLA programs, serialized and as text."""

import gzip

import pytest

from tests.cli.conftest import strict_json
from tests.writers import hlo as writer

TEXT = """HloModule jit_f

ENTRY main {
  a = f32[4,8] parameter(0)
  b = f32[8,2] parameter(1)
  ROOT c = f32[4,2] dot(a, b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""

FUSED = """HloModule optimised

fused {
  a = f32[128,8] parameter(0)
  ROOT b = f32[128,8] add(a, a)
}

ENTRY main {
  a = f32[128,8] parameter(0)
  ROOT c = f32[128,8] fusion(a), kind=kLoop, calls=fused
}
"""


def test_a_program_is_told(call_cli, tmp_path):
    path = tmp_path / "graph.hlo"
    path.write_bytes(writer.module_bytes(*writer.counting_loop()))
    answer = call_cli("inspect", path)
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"{path}: XLA program of 18 op(s), 1 loop(s), 1 parameter(s), result f32[8]\n")
    document = strict_json(call_cli("inspect", path, "--json").stdout)
    assert (document["kind"], document["facts"]["counted_flops"]) == ("hlo", 51)
    assert document["tables"]["loops"][0]["trip_count"] == 5


def test_a_program_that_is_cut_off_is_one_line(call_cli, assert_one_line_error, tmp_path):
    path = tmp_path / "graph.hlo"
    path.write_bytes(writer.module_bytes(writer.matmul())[:-20])
    assert_one_line_error(call_cli("inspect", path), 3, "copy it again")


def test_a_program_is_no_profile(call_cli, assert_one_line_error, tmp_path):
    path = tmp_path / "graph.hlo"
    path.write_bytes(writer.module_bytes(writer.matmul()))
    assert_one_line_error(call_cli("analyze", path), 2, "npuscope simulate")


def test_text_is_parsed_by_jax(call_cli, tmp_path):
    pytest.importorskip("jax")
    path = tmp_path / "graph.txt"
    path.write_text(TEXT)
    document = strict_json(call_cli("inspect", path, "--json").stdout)
    assert (document["kind"], document["path"], document["facts"]["model_flops"]) == ("hlo-text", str(path), 128)


def test_packed_text_is_unpacked_first(call_cli, tmp_path):
    pytest.importorskip("jax")
    path = tmp_path / "graph.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    document = strict_json(call_cli("inspect", path, "--json").stdout)
    assert (document["kind"], document["facts"]["model_flops"]) == ("hlo-text", 128)


def test_a_program_with_fusions_is_simulated_with_a_note(call_cli, tmp_path):
    pytest.importorskip("jax")
    path = tmp_path / "optimised.txt"
    path.write_text(FUSED)
    document = strict_json(call_cli("simulate", path, "--json").stdout)
    assert any("optimised it for another device" in note for note in document["notes"])
