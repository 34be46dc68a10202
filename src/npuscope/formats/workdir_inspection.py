"""What `npuscope inspect` says of a work folder of the compiler."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from npuscope.formats.compiler_workdir import CompilerWorkdir, read_compiler_workdir
from npuscope.formats.inspection import Inspection
from npuscope.formats.neff_inspection import shape_text

_SHOWN_ROWS = 40
_SHOWN_PASSES = 15
_TILING: Final = (
    ("hlo.HloMacCount", "multiply_accumulates"),
    ("hlo.Traffic", "input_and_output_bytes"),
    ("hlo.ArithmeticIntensity", "flop_per_byte"),
    ("tensorizer.TilingProfiler::MatMultInstructionsAfterTiling", "matmult_instructions"),
    ("tensorizer.TilingProfiler::PfTransposeInstructions", "transpose_instructions"),
    ("tensorizer.TilingProfiler::PfTransposeInstructionsForIo", "transpose_instructions_for_inputs_and_outputs"),
    ("tensorizer.DMATilingProfiler::TotalInstructionsAfterTiling", "instructions_after_dma_tiling"),
    ("tensorizer.StaticProfiler::LoadExpanded", "loads"),
    ("tensorizer.StaticProfiler::StoreExpanded", "stores"),
    ("tensorizer.StaticProfiler::DDRTransferBytes", "dram_transfer_bytes"),
    ("tensorizer.StaticProfiler::InternalTransferBytes", "on_chip_transfer_bytes"),
    ("tensorizer.StaticProfiler::AverageDmaLength", "average_dma_bytes"),
    ("tensorizer.StaticProfiler::AveragePeUtilization", "average_pe_utilization_percent"),
    ("tensorizer.StaticProfiler::AveragePartitionUtilization", "average_partition_utilization_percent"),
    ("kernels.total_kernel_calls", "kernel_calls"),
    ("memory.peak_sbuf_share", "peak_sbuf_share"),
    ("memory.peak_psum_share", "peak_psum_share"),
)
"""Figures of the metric stores that describe tiling, and what they are called here."""


def inspect_compiler_workdir(path: Path | str) -> Inspection:
    """Tell what a work folder holds: command, tensors, tiles, instructions, passes.

    Raises:
        FormatError: See `read_compiler_workdir`.
    """
    workdir = read_compiler_workdir(path)
    known = [t for t in workdir.tensors if t.kind in ("input", "output")]
    shown = ", ".join(f"{t.name} {shape_text(t.shape)} {t.dtype}" for t in known[:4])
    what = "torch-neuronx trace" if workdir.kind == "torch-neuronx-workdir" else "neuronx-cc work folder"
    tables = {
        "tensors": _tensor_rows(workdir),
        "tiling": _tiling_rows(workdir),
        "program": _program_rows(workdir)[:_SHOWN_ROWS],
        "memory": [
            {"program": program.source, "memory": kind, "allocated_bytes": size}
            for program in workdir.programs
            for kind, size in program.allocated_bytes.items()
        ],
        "compiler passes": [
            {"pass": name, "seconds": round(seconds, 6)}
            for name, seconds in list(workdir.pass_seconds.items())[:_SHOWN_PASSES]
            if seconds > 0
        ],
        "tiles in the log": _log_tiles(workdir),
        "files": [{"file": name, "size_bytes": size} for name, size in workdir.files.items()],
    }
    kept = {name: rows for name, rows in tables.items() if rows}
    title = f"{what}: {shown}" if shown else f"{what} of {len(workdir.files)} known file(s)"
    return Inspection(workdir.kind, workdir.source, title, _facts(workdir), kept, workdir.notes)


def _facts(workdir: CompilerWorkdir) -> Mapping[str, Any]:
    log = workdir.log
    facts: dict[str, Any] = {
        "compiler_version": workdir.compiler_version,
        "network_name": workdir.network_name,
        "command": shlex.join(workdir.command),
        "command_source": workdir.command_source,
        "target": workdir.flags.get("target", ""),
        "flags": " ".join(f"{name}={value}" if value else name for name, value in workdir.flags.items()),
        "neff": str(workdir.neff or ""),
    }
    facts |= {f"metadata_{key}": value for key, value in list(workdir.metadata.items())[:20]}
    if log is not None and log.compilations:
        last = log.compilations[-1]
        facts |= {"log_command": last.command, "log_result": last.result, "log_compile_s": last.seconds}
    return {key: value for key, value in facts.items() if value not in ("", None)}


def _tensor_rows(workdir: CompilerWorkdir) -> list[dict[str, Any]]:
    return [
        {
            "tensor": t.name,
            "kind": "constant" if t.kind == "file" else t.kind,
            "shape": shape_text(t.shape),
            "dtype": t.dtype,
            "size_bytes": t.size_bytes,
        }
        for t in workdir.tensors[:_SHOWN_ROWS]
    ]


def _tiling_rows(workdir: CompilerWorkdir) -> list[dict[str, Any]]:
    """Figures by our names; a `*_percent` is a fraction, as in profiles, where the compiler's is percent."""
    return [
        {"figure": name, "value": workdir.metrics[key] / 100 if name.endswith("_percent") else workdir.metrics[key]}
        for key, name in _TILING
        if key in workdir.metrics
    ]


def _program_rows(workdir: CompilerWorkdir) -> list[dict[str, Any]]:
    return [
        {
            "program": program.source,
            "opcode": operation.opcode,
            "tile": operation.tile,
            "dtype": operation.dtype,
            "instructions": operation.instructions,
            "in_loops": operation.looped,
            "output_bytes": operation.moved_bytes,
        }
        for program in workdir.programs
        for operation in program.operations
    ]


def _log_tiles(workdir: CompilerWorkdir) -> list[dict[str, Any]]:
    tiles = workdir.log.tiles if workdir.log else {}
    return [{"macro": name, "instructions": count} for name, count in sorted(tiles.items(), key=lambda item: -item[1])]
