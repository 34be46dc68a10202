"""What an XDNA array lets a design be: facts of the research notes, of mlir-aie's issues, and of its checks."""

from __future__ import annotations

import pytest

from npuscope.errors import UsageError
from npuscope.hardware.model import load_hardware
from npuscope.tiling.xdna_design import XdnaDesign, operand_type, result_type
from npuscope.tiling.xdna_legality import (
    core_memory_bytes,
    kb,
    kernel_calls_in_program,
    reported_overflow,
    tile_buffers_bytes,
    unit,
    violations,
)

XDNA1, XDNA2 = load_hardware("xdna1"), load_hardware("xdna2")


def constraints(design, array=XDNA1, **options):
    return [found.constraint for found in violations(design, array, **options)]


def test_the_seeds_tile_of_all_columns_does_not_fit_one_core_and_the_reason_has_the_bytes():
    (found,) = violations(XdnaDesign(64, 64, 512, 64, 64, 512), XDNA1)
    assert found.constraint == "core-memory"
    assert "64x64x512 bfloat16 on one core needs 136 KB of 64 KB" in found.reason
    assert "on 8 cores (64 columns each) 40 KB" in found.reason


def test_streamed_over_n_the_same_product_fits_one_core():
    """The seed's row of 512 columns, as eight tiles of 64: 40 KB with one buffer of C, whatever N is."""
    for columns in (64, 512, 4096):
        design = XdnaDesign(64, 64, columns, 64, 64, 64, buffers_c=1)
        assert violations(design, XDNA1) == ()
        assert core_memory_bytes(design, 0) == 40 * 1024


@pytest.mark.parametrize(
    ("cores", "buffers", "out_dtype", "needed_kb"),
    [
        (1, (1, 1, 1), "bfloat16", 136),
        (1, (2, 2, 1), "bfloat16", 208),
        (1, (2, 2, 2), "bfloat16", 272),
        (1, (2, 2, 1), "float32", 272),
        (4, (2, 2, 1), "bfloat16", 64),
        (8, (1, 1, 1), "bfloat16", 24),
        (8, (2, 2, 2), "bfloat16", 48),
        (16, (2, 2, 1), "bfloat16", 28),
        (32, (2, 2, 1), "float32", 24),
    ],
)
def test_what_cores_that_share_the_columns_need_is_the_published_table(cores, buffers, out_dtype, needed_kb):
    design = XdnaDesign(64, 64, 512, 64, 64, 512 // cores, out_dtype=out_dtype)
    assert sum(tile_buffers_bytes(design, buffers)) == needed_kb * 1024


def test_sixty_four_kilobytes_of_tiles_leave_no_room_for_the_stack():
    design = XdnaDesign(64, 64, 64, 64, 64, 64, out_dtype="float32")
    assert sum(tile_buffers_bytes(design)) == XDNA1.core_memory_bytes
    assert constraints(design) == ["core-memory"]
    assert constraints(design, stack_bytes=0) == []


def test_units_are_those_of_the_stock_kernels():
    assert unit(XDNA1, "bfloat16") == (16, 8, 16)
    assert unit(XDNA1, "int8") == (16, 8, 16)
    assert unit(XDNA1, "int16") == (8, 4, 8)
    assert unit(XDNA2, "bfloat16") == (8, 8, 16)
    assert unit(XDNA2, "bfloat16", "bfp16") == (16, 8, 16)
    assert unit(XDNA2, "int8") == (16, 8, 16)


def test_a_tile_edge_that_is_no_multiple_is_refused_by_name():
    (found,) = violations(XdnaDesign(40, 64, 64, 40, 64, 64), XDNA1)
    assert found.constraint == "intrinsic"
    assert "m = 40 is no multiple of 16" in found.reason


def test_mlir_aies_own_largest_n_of_8192_is_the_last_that_a_descriptor_can_step():
    """CI of amd/IRON runs 2048x2048x8192 with tiles of 64 on two columns: 128 x 8192 words are just the 2^20 of a stride."""
    assert constraints(XdnaDesign(2048, 2048, 8192, 64, 64, 64, 4, 2)) == []
    assert "descriptor-stride" in constraints(XdnaDesign(2048, 2048, 8320, 64, 64, 64, 4, 2))


def test_a_shim_descriptor_repeats_sixty_four_times_at_most():
    assert "descriptor-repeat" not in constraints(XdnaDesign(64, 64, 64 * 64, 64, 64, 64))
    assert "descriptor-repeat" in constraints(XdnaDesign(64, 64, 65 * 64, 64, 64, 64))


def test_a_problem_that_its_tiles_do_not_divide_is_told_what_to_pad_to():
    (found,) = violations(XdnaDesign(3001, 512, 512, 64, 64, 64), XDNA1)
    assert found.constraint == "divisibility"
    assert "pad it to 3008" in found.reason


def test_the_published_tiles_of_the_tuned_kernels_are_legal_as_their_authors_built_them():
    """arXiv:2512.13282, table 2: two buffers of A and B, one of C, 1 KB of stack, C not joined in one buffer."""
    for array, dtype, out, tile, mapping in (
        (XDNA1, "bfloat16", "bfloat16", (96, 56, 96), (4, 4)),
        (XDNA1, "int8", "int8", (112, 112, 112), (4, 4)),
        (XDNA1, "int8", "int32", (80, 88, 96), (4, 4)),
        (XDNA2, "int8", "int8", (144, 72, 144), (4, 8)),
        (XDNA2, "int8", "int32", (96, 64, 96), (4, 8)),
        (XDNA2, "bfloat16", "bfloat16", (112, 48, 96), (4, 8)),
    ):
        m, k, n = tile
        rows, columns = mapping
        design = XdnaDesign(
            m * rows, 2 * k, n * columns, m, k, n, rows, columns, dtype=dtype, out_dtype=out, buffers_c=1
        )
        assert violations(design, array, stack_bytes=1024, joined=False) == (), tile


def test_joined_c_of_more_than_a_bank_is_refused_only_where_it_is_joined():
    design = XdnaDesign(384, 56, 384, 96, 56, 96, 4, 4, buffers_c=1)
    assert "memory-tile-bank" in constraints(design)
    assert "memory-tile-bank" not in constraints(design, joined=False)


def test_five_columns_are_no_mapping_of_the_stock_designs():
    assert "array" in constraints(XdnaDesign(256, 64, 320, 64, 64, 64, 4, 5))
    assert "array" in constraints(XdnaDesign(256, 64, 512, 64, 64, 64, 4, 8), XDNA1)
    assert "array" not in constraints(XdnaDesign(256, 64, 512, 64, 64, 64, 4, 8), XDNA2)


def test_designs_whose_program_users_saw_overflow_are_refused_with_the_issue():
    design = XdnaDesign(1280, 1280, 1280, 64, 64, 64, 4, 4)
    assert "2411" in reported_overflow(design, XDNA2)
    assert "program-memory" in constraints(design, XDNA2)
    assert reported_overflow(design, XDNA1) == ""


def test_odd_counts_of_tiles_make_larger_programs():
    usual = XdnaDesign(2048, 512, 512, 64, 64, 64, 4, 4)  # 16 tiles a core, 8 steps of k
    odd = XdnaDesign(1280, 1280, 1280, 64, 64, 64, 4, 4)  # 25 and 20
    single = XdnaDesign(64, 64, 64, 64, 64, 64)
    assert [kernel_calls_in_program(each) for each in (single, usual, odd)] == [1, 4, 6]


def test_bfp16_is_for_xdna2():
    assert "intrinsic" in constraints(XdnaDesign(64, 64, 64, 64, 64, 64, multiplication="bfp16"))
    assert constraints(XdnaDesign(64, 64, 64, 64, 64, 64, multiplication="bfp16"), XDNA2) == []


def test_packed_tiles_need_no_more_of_a_descriptor_than_one_run():
    assert constraints(XdnaDesign(64, 64, 64, 64, 64, 64, batch=3000)) == []


@pytest.mark.parametrize(
    "changed",
    [{"tile_m": 0}, {"batch": 0}, {"buffers_c": 3}, {"dtype": "float32"}, {"out_dtype": "int8"}, {"rounding": "up"}],
)
def test_a_design_that_cannot_be_meant_is_refused(changed):
    values = {"M": 64, "K": 64, "N": 64, "tile_m": 64, "tile_k": 64, "tile_n": 64}
    with pytest.raises(UsageError):
        XdnaDesign(**{**values, **changed})


def test_short_names_of_types_are_understood_and_results_that_no_kernel_has_are_refused():
    assert (operand_type("bf16"), operand_type("i16")) == ("bfloat16", "int16")
    assert (result_type("int8", None), result_type("bfloat16", "f32")) == ("int32", "float32")
    with pytest.raises(UsageError, match="result type of bfloat16"):
        result_type("bfloat16", "int32")
    with pytest.raises(UsageError, match="dtype of an XDNA kernel"):
        operand_type("float32")


def test_kilobytes_are_of_1024():
    assert (kb(40 * 1024), kb(3328), kb(20 * 1024**2)) == ("40 KB", "3.25 KB", "20 MB")
