"""Manifest of a built XDNA kernel: a TOML file beside its xclbin and instruction file that says what they compute.

An xclbin names its kernel and no more: not the tile, not the types, not how its core rounds. Whoever builds one writes that down,
or lets `npuscope xdna kernels --build` do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

import msgspec

from npuscope._toml import tomllib
from npuscope.errors import FormatError, UsageError
from npuscope.formats.whole_file import read_whole
from npuscope.tiling.xdna_design import XdnaDesign

_MOST_BYTES: Final = 1 << 20
_MOST_MANIFESTS: Final = 10_000
_OPERANDS: Final = ("a", "b", "c")
Size = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]
"""What a kernel's loops can count to."""
Text = Annotated[str, msgspec.Meta(max_length=1000)]


class _Dispatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    M: Size
    K: Size
    N: Size
    batch: Size = 1


class _Tile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    m: Size
    k: Size
    n: Size
    rows: Size = 1
    columns: Size = 1
    buffers_a: Size = 2
    buffers_b: Size = 2
    buffers_c: Size = 2


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Text
    array: Literal["npu1", "npu2"]
    xclbin: Text
    instructions: Text
    dispatch: _Dispatch
    tile: _Tile
    dtype: str = "bfloat16"
    out_dtype: str = "bfloat16"
    b_column_major: bool = False
    multiplication: str = "native"
    rounding: str = "floor"
    kernel_name: Text = "MLIR_AIE"
    argument_order: tuple[str, ...] = _OPERANDS
    instruction_count: Literal["bytes", "words"] = "bytes"
    emulated: bool = False
    built_with: Text = ""


@dataclass(frozen=True, slots=True)
class KernelManifest:
    """One built kernel."""

    path: Path
    """Of the manifest."""
    name: str
    array: str
    """`npu1` or `npu2`."""
    design: XdnaDesign
    xclbin_path: Path
    instructions_path: Path
    kernel_name: str
    """In the xclbin; mlir-aie's is MLIR_AIE."""
    argument_order: tuple[str, ...]
    """Operands `a`, `b`, `c` in the order of the kernel's buffers."""
    instruction_count_unit: str
    """`bytes`, as mlir-aie's host runtime passes the length, or `words` of 32 bits."""
    emulated: bool
    """Made for the emulator: no device runs it."""
    built_with: str
    """Compiler and versions, for people."""


def read_manifest(path: Path) -> KernelManifest:
    """Read one manifest; the files that it names are not opened.

    Raises:
        FormatError: Unreadable, with a key that is missing, unknown or of another type, or naming files outside its folder.
    """
    data = read_whole(path, what="a kernel manifest", limit=_MOST_BYTES)
    try:
        raw = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(path, expected="TOML", found=str(error)) from error
    try:
        document = msgspec.convert(raw, _Document)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError(path, expected="the keys of a kernel manifest", found=str(error)) from error
    if sorted(document.argument_order) != sorted(_OPERANDS):
        raise FormatError(
            path, where="argument_order", expected="a, b and c, each once", found=str(document.argument_order)
        )
    for key in ("name", "kernel_name", "built_with"):
        if not getattr(document, key).isprintable():
            raise FormatError(
                path, where=key, expected="text without control characters", found=repr(getattr(document, key))
            )
    return KernelManifest(
        path=path,
        name=document.name,
        array=document.array,
        design=_design(document, path),
        xclbin_path=_beside(path, "xclbin", document.xclbin),
        instructions_path=_beside(path, "instructions", document.instructions),
        kernel_name=document.kernel_name,
        argument_order=document.argument_order,
        instruction_count_unit=document.instruction_count,
        emulated=document.emulated,
        built_with=document.built_with,
    )


def _design(document: _Document, path: Path) -> XdnaDesign:
    tile, dispatch = document.tile, document.dispatch
    try:
        return XdnaDesign(
            dispatch.M,
            dispatch.K,
            dispatch.N,
            tile.m,
            tile.k,
            tile.n,
            tile.rows,
            tile.columns,
            dtype=document.dtype,
            out_dtype=document.out_dtype,
            batch=dispatch.batch,
            buffers_a=tile.buffers_a,
            buffers_b=tile.buffers_b,
            buffers_c=tile.buffers_c,
            b_column_major=document.b_column_major,
            multiplication=document.multiplication,
            rounding=document.rounding,
        )
    except UsageError as error:
        raise FormatError(path, where="dispatch and tile", expected="an XDNA design", found=str(error)) from error


def _beside(path: Path, key: str, name: str) -> Path:
    """A file in the manifest's folder or below it: a manifest from anywhere must not make us open anything, by a link neither."""
    parts = PurePosixPath(name)
    inside = bool(name) and not parts.is_absolute() and ".." not in parts.parts and "\0" not in name
    if inside:
        try:
            inside = (path.parent / name).resolve().is_relative_to(path.parent.resolve())
        except (OSError, RuntimeError):  # a loop of links
            inside = False
    if not inside:
        raise FormatError(path, where=key, expected="a file in the manifest's folder", found=repr(name))
    return path.parent / name


def manifest_paths(folder: Path) -> list[Path]:
    """Every `*.toml` of a folder, by name.

    Raises:
        FormatError: No folder, or too many files.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise FormatError(
            folder, expected="a folder of kernel manifests", found=error.strerror or str(error)
        ) from error
    if len(paths) > _MOST_MANIFESTS:
        raise FormatError(folder, expected=f"at most {_MOST_MANIFESTS} manifests", found=str(len(paths)))
    return paths


def scan_manifests(folder: Path) -> tuple[tuple[KernelManifest, ...], tuple[str, ...]]:
    """Every manifest of a folder that can be read, and what is wrong with each other one.

    Raises:
        FormatError: No folder, or too many files.
    """
    found, refused = [], []
    for path in manifest_paths(folder):
        try:
            found.append(read_manifest(path))
        except FormatError as error:
            refused.append(str(error))
    return tuple(found), tuple(refused)


def manifest_text(
    design: XdnaDesign,
    xclbin: str,
    instructions: str,
    *,
    array: str,
    name: str = "",
    emulated: bool = False,
    instruction_count: str = "bytes",
    built_with: str = "",
) -> str:
    """A manifest as TOML.

    Args:
        design: What the kernel computes.
        xclbin: File name, relative to the manifest.
        instructions: Likewise.
        array: `npu1` or `npu2`.
        name: Of the kernel; made from the design when empty.
        emulated: Made for the emulator.
        instruction_count: `bytes` or `words`.
        built_with: For people.
    """
    label = (
        name
        or f"mm_{design.M}x{design.K}x{design.N}_{design.tile_text}_{design.cores}c_{design.dtype}_{design.out_dtype}"
    )
    texts = {
        "name": label,
        "array": array,
        "xclbin": xclbin,
        "instructions": instructions,
        "kernel_name": "MLIR_AIE",
        "dtype": design.dtype,
        "out_dtype": design.out_dtype,
        "multiplication": design.multiplication,
        "rounding": design.rounding,
        "instruction_count": instruction_count,
        "built_with": built_with,
    }
    lines = [f"{key} = {_quoted(value)}" for key, value in texts.items()]
    lines += [
        'argument_order = ["a", "b", "c"]',
        f"b_column_major = {str(design.b_column_major).lower()}",
        f"emulated = {str(emulated).lower()}",
        "",
        "[dispatch]",
        *(f"{key} = {getattr(design, key)}" for key in ("M", "K", "N", "batch")),
        "",
        "[tile]",
        *(f"{key} = {getattr(design, f'tile_{key}')}" for key in ("m", "k", "n")),
        *(f"{key} = {getattr(design, key)}" for key in ("rows", "columns", "buffers_a", "buffers_b", "buffers_c")),
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's, which wants DEL escaped as well."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
