"""Built XDNA kernels: whether their files agree with what their manifests say, and how to build one with mlir-aie.

The build commands are those of Xilinx/mlir-aie, programming_examples/basic/matrix_multiplication: makefile-common @02979d3, single_core/Makefile
@02ebff8, and whole_array/Makefile in three versions, @0025575, @35da5c1 and, of 2026, @0eaf548; variables and names of files are the same in all
three, but that instructions end in .bin in newer ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from npuscope.errors import FormatError, UsageError
from npuscope.formats.npu_instructions import read_instructions
from npuscope.formats.xclbin import read_xclbin
from npuscope.formats.xdna_manifest import KernelManifest
from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_legality import array_name, kernel_calls_in_program, violations
from npuscope.tiling.xdna_plan import Rejected, judge, plan_matmul
from npuscope.tiling.xdna_time import Calibration

_SHORT: Final = {"bfloat16": "bf16", "float32": "f32", "int8": "i8", "int16": "i16", "int32": "i32"}
_FOLDER: Final = "programming_examples/basic/matrix_multiplication"
_LEAST_ARGUMENTS: Final = 6  # opcode, instructions and their count, A, B and C


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """What was found about one built kernel."""

    problems: tuple[str, ...]
    """Why it cannot be used as its manifest says."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildCommand:
    """How to build a design."""

    lines: tuple[str, ...]
    """Commands and remarks; remarks begin with #."""
    xclbin: str
    """File that it makes."""
    instructions: str


def check_kernel(manifest: KernelManifest, array: XdnaArray) -> KernelCheck:
    """Hold a manifest against its files and an array; nothing is loaded into a device."""
    problems, notes = _xclbin_problems(manifest), []
    try:
        instructions = read_instructions(manifest.instructions_path)
    except FormatError as error:
        problems.append(str(error))
    else:
        if not instructions.is_for(manifest.array):
            other = instructions.array or "another device"
            problems.append(f"{manifest.instructions_path.name} is for {other}, and the manifest says {manifest.array}")
        notes.append(f"{instructions.operations:,} operations, {instructions.words.nbytes:,} bytes of instructions")
    if manifest.array != array_name(array):
        notes.append(f"built for {manifest.array}; not checked against this array")
    else:
        problems += [f"{found.constraint}: {found.reason}" for found in violations(manifest.design, array)]
    return KernelCheck(tuple(problems), (*notes, *_rounding_notes(manifest.design)))


def _xclbin_problems(manifest: KernelManifest) -> list[str]:
    """Why the xclbin does not do for the manifest."""
    try:
        xclbin = read_xclbin(manifest.xclbin_path)
    except FormatError as error:
        return [str(error)]
    name, problems = manifest.xclbin_path.name, []
    declared = {kernel.name: kernel.arguments for kernel in xclbin.kernels}
    if manifest.kernel_name not in declared:
        found = ", ".join(declared) or "none"
        problems.append(f"{name} has no kernel {manifest.kernel_name!r}; it has {found}")
    elif (declared[manifest.kernel_name] or _LEAST_ARGUMENTS) < _LEAST_ARGUMENTS:
        takes = declared[manifest.kernel_name]
        problems.append(
            f"kernel {manifest.kernel_name} takes {takes} arguments; a matmul takes {_LEAST_ARGUMENTS} or more"
        )
    if xclbin.partition_columns is not None and xclbin.partition_columns < manifest.design.columns:
        problems.append(
            f"{name} is for {xclbin.partition_columns} columns of cores, and the manifest says {manifest.design.columns}"
        )
    if not xclbin.has_array_partition:
        problems.append(f"{name} has no AIE_PARTITION section: it is no design for an NPU")
    return problems


def _rounding_notes(design: XdnaDesign) -> tuple[str, ...]:
    """What a kernel that rounds down loses, or whether it does so at all."""
    if design.rounding != "floor" or design.dtype != "bfloat16":
        return ()
    if design.multiplication == "bfp16":
        return (
            "it is said to round toward minus infinity, but mm.cc for npu2 has rounded to nearest even in bfp16 blocks since mlir-aie's"
            ' pull request 3442 (July 2026): if yours is as new, say rounding = "even"',
        )
    if design.out_dtype != "bfloat16":
        return ()
    return (
        "its results are rounded toward minus infinity, the core's mode after power-up: build mm.cc with -DROUND_CONV_EVEN to mend that",
    )


def design_to_build(
    request: PlanRequest,
    array: XdnaArray,
    calibration: Calibration,
    tile: tuple[tuple[int, int, int], tuple[int, int]] | None = None,
) -> XdnaDesign:
    """The design to build for a problem: the best planned one, or that of a tile.

    Raises:
        UsageError: The tile cannot be built, or nothing can.
    """
    if tile is not None:
        found = judge(tile[0], tile[1], request, array, calibration)
        if isinstance(found, Rejected):
            raise UsageError(f"this tile cannot be built: {found.reason}")
        best = found
    else:
        plans = plan_matmul(request, array, calibration, top=1).plans
        if not plans:
            raise UsageError("no design for this problem is legal")
        best = plans[0]
    return best.design(request)


def build_command(design: XdnaDesign, array: XdnaArray) -> BuildCommand:
    """The make command of the stock design that computes this, and the files that it makes.

    Raises:
        UsageError: No stock design computes it.
    """
    _require_stock(design, array)
    single = design.cores == 1
    folder = f"{_FOLDER}/{'single_core' if single else 'whole_array'}"
    suffix = f"{design.M}x{design.K}x{design.N}_{design.tile_text}" + ("" if single else f"_{design.columns}c")
    variables = {
        "M": design.M,
        "K": design.K,
        "N": design.N,
        "m": design.tile_m,
        "k": design.tile_k,
        "n": design.tile_n,
        "dtype_in": _SHORT[design.dtype],
        "dtype_out": _SHORT[design.out_dtype],
        "devicename": "npu2" if array_name(array) == "npu2" else "npu",
    }
    if not single:
        variables["n_aie_cols"] = design.columns
    if not single or design.b_column_major:
        variables["b_col_maj"] = int(design.b_column_major)
    if array_name(array) == "npu2" and design.dtype == "bfloat16":
        variables["emulate_bfloat16_mmul_with_bfp16"] = int(design.multiplication == "bfp16")
    xclbin, instructions = f"build/final_{suffix}.xclbin", f"build/insts_{suffix}.txt"
    lines = [
        "# in a checkout of Xilinx/mlir-aie with its environment set up; not tried on hardware here",
        f"make -C {folder} {xclbin} " + " ".join(f"{name}={value}" for name, value in variables.items()),
        f"# makes {folder}/{xclbin} and {folder}/{instructions}; newer versions name the second .bin",
    ]
    if single and design.b_column_major:
        lines.append("# single_core takes B column-major since 2026; an older one ignores b_col_maj")
    lines += _flag_remarks(design, array)
    if kernel_calls_in_program(design) > 4:
        lines.append("# odd counts of tiles make a large program: if it overflows the 16 KB, pad to even counts")
    return BuildCommand(tuple(lines), f"final_{suffix}.xclbin", f"insts_{suffix}.txt")


def _flag_remarks(design: XdnaDesign, array: XdnaArray) -> list[str]:
    """What the compiler of mm.cc must be told, where make does not by itself."""
    lines = []
    in_blocks = design.multiplication == "bfp16"
    if design.rounding == "even" and not in_blocks and design.out_dtype == "bfloat16":
        lines += [
            "# add -DROUND_CONV_EVEN to the flags of mm.cc: without it a core rounds toward minus infinity",
            "# (mlir-aie's mm.cc knows it since about September 2026, amd/IRON's did before; older ones have no such switch)",
        ]
    if in_blocks:
        lines.append(
            "# see that mm.cc is compiled with -DAIE_API_EMULATE_BFLOAT16_MMUL_WITH_BFP16; since July 2026 it rounds to nearest even then"
        )
        if design.rounding != "even":
            lines.append('# so write rounding = "even" in the manifest, unless your mlir-aie is older')
    elif array_name(array) == "npu2" and design.dtype == "bfloat16":
        lines.append("# see that mm.cc is compiled without -DAIE_API_EMULATE_BFLOAT16_MMUL_WITH_BFP16")
    return lines


def _require_stock(design: XdnaDesign, array: XdnaArray) -> None:
    """Refuse what the stock designs do not do.

    Raises:
        UsageError: It packs tiles, has single buffers, or is not legal.
    """
    if design.batch > 1:
        raise UsageError("no stock design of mlir-aie computes packed tiles: its program would have to be written")
    if (design.buffers_a, design.buffers_b, design.buffers_c) != (2, 2, 2):
        raise UsageError(
            "the stock designs have two buffers of A, B and C each; other depths need fifo_depth changed in their source"
        )
    broken = violations(replace(design), array)
    if broken:
        raise UsageError(f"this design cannot be built: {broken[0].reason}")
