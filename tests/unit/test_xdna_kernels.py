"""Built XDNA kernels: held against their manifests, and the commands of mlir-aie that build them."""

from dataclasses import replace

import pytest

from npuscope.analysis.xdna_kernels import build_command, check_kernel, design_to_build
from npuscope.backends.xdna.emulated import build_emulated
from npuscope.errors import UsageError
from npuscope.formats.xdna_manifest import manifest_text, read_manifest
from npuscope.hardware.model import load_xdna
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_legality import violations
from npuscope.tiling.xdna_time import calibration_for
from tests.writers import xclbin as writer

NPU1, NPU2 = load_xdna("npu1"), load_xdna("npu2")
EVEN = XdnaDesign(64, 64, 64, 64, 64, 64, rounding="even")
WHOLE = XdnaDesign(512, 512, 512, 64, 64, 64, 4, 4)


def built(folder, design=EVEN, array="npu1", edit=("", "")):
    files = build_emulated(design, array, folder, "k")
    path = folder / "k.toml"
    text = manifest_text(design, files.xclbin.name, files.instructions.name, array=array, emulated=True)
    assert edit[0] in text
    path.write_text(text.replace(*edit) if edit[0] else text)
    return read_manifest(path)


class TestCheck:
    @pytest.mark.parametrize(("array", "facts"), [("npu1", NPU1), ("npu2", NPU2)])
    def test_a_kernel_that_agrees_has_no_problem(self, tmp_path, array, facts):
        check = check_kernel(built(tmp_path, array=array), facts)
        assert check.problems == ()
        assert check.notes == ("1 operations, 36 bytes of instructions",)

    @pytest.mark.parametrize("which", ["xclbin_path", "instructions_path"])
    def test_a_file_that_is_missing_or_broken_is_told_and_the_other_is_checked(self, tmp_path, which):
        manifest = built(tmp_path)
        path = getattr(manifest, which)
        path.write_bytes(path.read_bytes()[:20])
        (problem,) = check_kernel(manifest, NPU1).problems
        assert problem.startswith(str(path))
        path.unlink()
        (problem,) = check_kernel(manifest, NPU1).problems
        assert "found no file" in problem

    def test_a_kernel_of_another_name_is_told_with_those_that_are_there(self, tmp_path):
        manifest = built(tmp_path, edit=('kernel_name = "MLIR_AIE"', 'kernel_name = "mm"'))
        (problem,) = check_kernel(manifest, NPU1).problems
        assert problem.endswith("has no kernel 'mm'; it has MLIR_AIE")

    def test_a_kernel_without_room_for_three_buffers_is_none_of_a_matmul(self, tmp_path):
        manifest = built(tmp_path)
        manifest.xclbin_path.write_bytes(writer.xclbin_bytes())
        (problem,) = check_kernel(manifest, NPU1).problems
        assert problem == "kernel MLIR_AIE takes 4 arguments; a matmul takes 6 or more"

    def test_arguments_that_the_xclbin_does_not_tell_are_no_problem(self, tmp_path):
        manifest = built(tmp_path)
        sections = [section for section in writer.matmul_sections() if section[0] != writer.EMBEDDED_METADATA]
        manifest.xclbin_path.write_bytes(writer.xclbin_bytes(sections))
        assert check_kernel(manifest, NPU1).problems == ()

    def test_a_design_of_fewer_columns_than_the_manifest_says_is_told(self, tmp_path):
        manifest = built(tmp_path, replace(EVEN, rows=4, columns=2, M=256, N=128))
        assert check_kernel(manifest, NPU1).problems == ()
        manifest = replace(manifest, design=replace(manifest.design, columns=4, N=256))
        (problem,) = check_kernel(manifest, NPU1).problems
        assert problem.endswith("is for 2 columns of cores, and the manifest says 4")

    def test_an_xclbin_without_an_array_partition_is_no_design(self, tmp_path):
        manifest = built(tmp_path)
        manifest.xclbin_path.write_bytes(writer.xclbin_bytes([(writer.EMBEDDED_METADATA, b"", b"")]))
        problems = check_kernel(manifest, NPU1).problems
        assert any(problem.endswith("has no kernel 'MLIR_AIE'; it has none") for problem in problems)
        assert any("has no AIE_PARTITION section" in problem for problem in problems)

    def test_instructions_of_another_array_are_told(self, tmp_path):
        manifest = built(tmp_path)
        (tmp_path / "other").mkdir()
        other = built(tmp_path / "other", array="npu2")
        manifest.instructions_path.write_bytes(other.instructions_path.read_bytes())
        (problem,) = check_kernel(manifest, NPU1).problems
        assert problem == "k.insts.bin is for npu2, and the manifest says npu1"

    def test_a_design_that_the_array_cannot_hold_is_told_with_its_constraint(self, tmp_path):
        manifest = built(tmp_path, XdnaDesign(64, 64, 512, 64, 64, 512, rounding="even"))
        (problem,) = check_kernel(manifest, NPU1).problems
        assert problem.startswith("core-memory: ")
        assert "136 KB of 64 KB" in problem

    def test_a_kernel_for_the_other_array_is_not_held_against_this_one(self, tmp_path):
        check = check_kernel(built(tmp_path, XdnaDesign(64, 64, 512, 64, 64, 512, rounding="even"), "npu2"), NPU1)
        assert check.problems == ()
        assert "built for npu2; not checked against this array" in check.notes

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"rounding": "floor"}, True),
            ({"rounding": "even"}, False),
            ({"rounding": "floor", "out_dtype": "float32", "tile_k": 32}, False),
            ({"rounding": "floor", "dtype": "int8", "out_dtype": "int32"}, False),
        ],
    )
    def test_results_that_are_rounded_down_are_told(self, tmp_path, change, told):
        notes = " ".join(check_kernel(built(tmp_path, replace(EVEN, **change)), NPU1).notes)
        assert ("toward minus infinity" in notes) is told


class TestCommand:
    def test_one_core_is_built_by_the_single_core_design(self):
        command = build_command(EVEN, NPU1)
        (make,) = [line for line in command.lines if not line.startswith("#")]
        assert make == (
            "make -C programming_examples/basic/matrix_multiplication/single_core build/final_64x64x64_64x64x64.xclbin"
            " M=64 K=64 N=64 m=64 k=64 n=64 dtype_in=bf16 dtype_out=bf16 devicename=npu"
        )
        assert (command.xclbin, command.instructions) == (
            "final_64x64x64_64x64x64.xclbin",
            "insts_64x64x64_64x64x64.txt",
        )

    def test_several_cores_are_built_by_the_whole_array_design(self):
        command = build_command(WHOLE, NPU1)
        (make,) = [line for line in command.lines if not line.startswith("#")]
        assert "/whole_array build/final_512x512x512_64x64x64_4c.xclbin" in make
        assert "n_aie_cols=4" in make
        assert "b_col_maj=0" in make
        assert command.xclbin == "final_512x512x512_64x64x64_4c.xclbin"

    @pytest.mark.parametrize("multiplication", ["native", "bfp16"])
    def test_the_second_generation_is_told_how_to_multiply(self, multiplication):
        design = XdnaDesign(64, 64, 64, 64, 64, 64, multiplication=multiplication, rounding="even")
        command = build_command(design, NPU2)
        (make,) = [line for line in command.lines if not line.startswith("#")]
        assert f"devicename=npu2 emulate_bfloat16_mmul_with_bfp16={int(multiplication == 'bfp16')}" in make

    def test_the_first_generation_and_integers_have_no_blocks_to_ask_for(self):
        integers = XdnaDesign(64, 64, 64, 64, 64, 64, dtype="int8", out_dtype="int32")
        for design, array in ((EVEN, NPU1), (integers, NPU1), (integers, NPU2)):
            assert "bfp16" not in " ".join(build_command(design, array).lines)

    @pytest.mark.parametrize("design", [EVEN, WHOLE])
    def test_b_by_columns_is_asked_for(self, design):
        assert "b_col_maj=1" in " ".join(build_command(replace(design, b_column_major=True), NPU1).lines)
        assert "b_col_maj=1" not in " ".join(build_command(design, NPU1).lines)

    @pytest.mark.parametrize("rounding", ["even", "floor"])
    def test_a_flag_is_wanted_for_rounding_to_nearest_alone(self, rounding):
        remarks = " ".join(build_command(replace(EVEN, rounding=rounding), NPU1).lines)
        assert ("-DROUND_CONV_EVEN" in remarks) is (rounding == "even")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"batch": 2}, "packed tiles"),
            ({"buffers_c": 1}, "two buffers"),
            ({"M": 65}, "cannot be built"),
            ({"N": 512, "tile_n": 512}, "cannot be built: .*136 KB"),
            ({"M": 192, "rows": 3}, "3 rows x 1 columns"),
            ({"multiplication": "bfp16"}, "XDNA2 only"),
        ],
    )
    def test_what_no_stock_design_computes_is_refused(self, change, says):
        with pytest.raises(UsageError, match=says):
            build_command(replace(EVEN, **change), NPU1)


class TestDesignToBuild:
    CALIBRATION = calibration_for("npu1", "stock")

    def test_the_best_plan_can_be_built(self):
        design = design_to_build(PlanRequest(3001, 512, 512), NPU1, self.CALIBRATION)
        assert violations(design, NPU1) == ()
        assert (design.K, design.N) == (512, 512)
        assert design.M >= 3001
        assert build_command(design, NPU1).xclbin.startswith(f"final_{design.M}x512x512")

    def test_a_tile_that_is_asked_for_is_the_one_that_is_built(self):
        design = design_to_build(PlanRequest(512, 512, 512), NPU1, self.CALIBRATION, ((32, 64, 32), (4, 2)))
        assert (design.tile_m, design.tile_k, design.tile_n, design.rows, design.columns) == (32, 64, 32, 4, 2)

    def test_a_tile_that_does_not_fit_is_refused_with_its_reason(self):
        with pytest.raises(UsageError, match=r"cannot be built: .*KB of 64 KB"):
            design_to_build(PlanRequest(512, 512, 512), NPU1, self.CALIBRATION, ((64, 64, 512), (1, 1)))
