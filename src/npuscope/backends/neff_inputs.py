"""The inputs of a compiled graph (NEFF), laid out by its own table of tensors.

AWS's profiler takes them as pairs `NAME FILE` of raw bytes, and fills with zeros what it is not given. What it does with a file
of another size is not documented, so nothing of a wrong size is ever handed to it.

Source: AWS Neuron documentation, Neuron Profiler User Guide (2.28.1; its example names `.npy` files, users pass raw bytes, as we
do); for the names `inp-NAME-000.bin` public scripts of users and the tests of AWS's nki-library, where 000 is the rank.
"""

from __future__ import annotations

import os
import tempfile
import tokenize
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError, OutputError, shorten
from npuscope.formats.neff import Neff, read_neff
from npuscope.units import printable

_MAGIC: Final = b"\x93NUMPY"
_CHUNK: Final = 1 << 24
_ALIASES: Final = {"float32r": "float32"}
_VOID_BYTES: Final = {"bfloat16": 2, "float8e3": 1, "float8e4": 1, "float8e5": 1}
"""Types that NumPy does not know: `numpy.save` writes what ml_dtypes makes of them as void, so that only the width is told."""
_NUMPY_TYPES: Final = frozenset(
    ("bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32", "int64", "uint64", "float64")
)
_BROKEN_NPY: Final = (
    OSError, ValueError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError, RecursionError, KeyError,
    IndexError, AttributeError, tokenize.TokenError,
)  # fmt: skip
"""What `numpy.load` raises on files that are none."""


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input that the table of a NEFF declares."""

    name: str
    size_bytes: int
    """0 where the table does not tell."""
    shape: tuple[int, ...] | None
    """Where the NEFF tells it."""
    dtype: str
    """The compiler's name of the type; '' where the NEFF does not tell."""

    @property
    def told(self) -> str:
        """Size, shape and type, for a message."""
        parts = [f"{self.size_bytes:,} bytes"]
        if self.shape is not None:
            parts.append(f"shape {'×'.join(map(str, self.shape)) or 'scalar'}")
        return ", ".join([*parts, self.dtype] if self.dtype else parts)


@dataclass(frozen=True, slots=True)
class NamedInput:
    """One input as the profiler takes it."""

    name: str
    """As the NEFF's table has it."""
    path: Path
    """Raw bytes, in the order of C, little-endian."""
    source: Path | None = None
    """The user's file, where the raw bytes were made from it."""


def input_tensors(neff: Neff) -> tuple[InputTensor, ...]:
    """The inputs of a NEFF, in the order of its table; one that several sub-graphs declare alike is one.

    Raises:
        FormatError: Sub-graphs differ in an input, or the table does not tell the size of one.
    """
    found: dict[str, InputTensor] = {}
    for tensor in neff.contents.tensors:
        if tensor.type != "IN":
            continue
        made = InputTensor(tensor.name, tensor.size_bytes, tensor.shape, tensor.dtype)
        known = found.setdefault(tensor.name, made)
        if known.size_bytes != made.size_bytes:
            sizes = f"{known.size_bytes:,} and {made.size_bytes:,} bytes"
            raise _error(
                neff.source, f"input {tensor.name}", "one size in all sub-graphs", sizes, "inputs cannot be laid out"
            )
        if not made.size_bytes:
            raise _error(
                neff.source, f"input {tensor.name}", "its size in bytes", "none", "capture without inputs: on zeros"
            )
    return tuple(found.values())


def layout_inputs(neff: Path, folder: Path, *, raw_dir: Path | None = None) -> tuple[NamedInput, ...]:
    """Find a file for each input of a NEFF, in the order of its table.

    For an input NAME the folder holds one of `NAME.npy`, `NAME.bin` and `inp-NAME-000.bin`; the latter two are raw bytes. Other
    files than `.npy` and `.bin` are passed over.

    Args:
        neff: The compiled graph.
        folder: Where the files are.
        raw_dir: Where the raw bytes of `.npy` files go, as `inp-NAME-000.bin`; made when it is needed. None makes a temporary
            folder, which is the caller's to remove.

    Raises:
        FormatError: The NEFF is damaged or tells no inputs; or a file is missing, superfluous, ambiguous, no array, or does not
            fit its tensor. Nothing was written then.
        OutputError: The raw bytes cannot be written.
    """
    tensors = input_tensors(read_neff(neff))
    if not tensors:
        raise FormatError(
            neff, expected="inputs in its table of tensors", found="none", remedy="capture without inputs"
        )
    chosen = _choose(tensors, folder)
    arrays = {tensor.name: _checked(tensor, path) for tensor, path in chosen}
    made = []
    for tensor, path in chosen:
        array = arrays[tensor.name]
        if array is None:
            made.append(NamedInput(tensor.name, path))
            continue
        raw_dir = raw_dir or Path(tempfile.mkdtemp(prefix="npuscope-inputs-"))
        made.append(NamedInput(tensor.name, _write_raw(array, raw_dir / f"inp-{tensor.name}-000.bin"), path))
    return tuple(made)


def check_inputs(neff: Neff, inputs: Sequence[NamedInput]) -> None:
    """Check that named files of raw bytes are the inputs of a NEFF: each one once, each of its size.

    Raises:
        FormatError: One is missing, superfluous, given twice, no file, or of another size.
    """
    tensors = {tensor.name: tensor for tensor in input_tensors(neff)}
    given = [item.name for item in inputs]
    for name in given:
        if name not in tensors:
            raise _error(neff.source, f"input {name}", _names(tensors), "a file for it", "leave it out")
        if given.count(name) > 1:
            raise _error(neff.source, f"input {name}", "one file", f"{given.count(name)}", "give one")
    for name, tensor in tensors.items():
        if name not in given:
            raise _error(neff.source, f"input {name}", f"a file of {tensor.told}", "none", "give all inputs or none")
    for item in inputs:
        if item.name.startswith("-"):  # the profiler would take it for an option
            raise _error(neff.source, f"input {item.name}", "a name that can be given on a command line", item.name)
        _check_size(tensors[item.name], item.path)


def _error(source: object, where: str, expected: str, found: str, remedy: str = "") -> FormatError:
    return FormatError(source, where=printable(where), expected=expected, found=found, remedy=remedy)


def _names(names: Iterable[str]) -> str:
    return f"one of the inputs {shorten(printable(', '.join(names)), 200)}"


def _choose(tensors: Sequence[InputTensor], folder: Path) -> list[tuple[InputTensor, Path]]:
    """The one file of each tensor. Names are compared with those in the folder, so that none leads out of it."""
    try:
        there = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(folder, expected="a folder with a file for each input", found=reason) from error
    owners: dict[str, list[InputTensor]] = {}
    for tensor in tensors:
        for name in _file_names(tensor.name):
            owners.setdefault(name, []).append(tensor)
    chosen = []
    for tensor in tensors:
        names = _file_names(tensor.name)
        found = [name for name in names if name in there]
        where, wanted = f"input {tensor.name}", f"one file of {tensor.told}"
        if not found:
            remedy = f"add {names[0]}, {names[1]} or {names[2]}, the latter two as raw bytes"
            raise _error(folder, where, wanted, "none", printable(remedy))
        shared = next((name for name in found if len(owners[name]) > 1), None)
        if len(found) > 1 or shared is not None:
            told = ", ".join(found) if shared is None else f"{shared}, which may be of another input, too"
            raise _error(folder, where, wanted, told, "leave one of them in the folder")
        chosen.append((tensor, folder / found[0]))
    extra = [name for name in there if name not in owners and name.endswith((".npy", ".bin"))]
    if extra:
        listed = _names(tensor.name for tensor in tensors)
        raise _error(folder, extra[0], listed, "a file for none of them", "take it out of the folder")
    return chosen


def _file_names(tensor: str) -> tuple[str, str, str]:
    return f"{tensor}.npy", f"{tensor}.bin", f"inp-{tensor}-000.bin"


def _checked(tensor: InputTensor, path: Path) -> npt.NDArray[Any] | None:
    """The array of a `.npy` file that fits its tensor, not yet read; None for raw bytes that do."""
    if path.suffix == ".bin":
        _check_size(tensor, path)
        return None
    array = _map_npy(tensor, path)
    width = array.dtype.itemsize
    found = f"{array.nbytes:,} bytes, shape {'×'.join(map(str, array.shape)) or 'scalar'}, {_type_name(array.dtype)}"
    raw = f"or save its raw bytes as {printable(tensor.name)}.bin, of which only the size is checked"
    is_size = array.nbytes == tensor.size_bytes
    if not _fits_type(array.dtype, tensor.dtype):
        remedy = f"convert it, {raw}" if is_size else "convert it to that type and shape"
        raise _error(path, f"input {tensor.name}", tensor.told, found, remedy)
    if not is_size or (tensor.shape is not None and array.shape != tensor.shape):
        remedy = (
            f"reshape it, {raw}" if is_size else f"give an array of {tensor.size_bytes // max(width, 1):,} elements"
        )
        raise _error(path, f"input {tensor.name}", tensor.told, found, remedy)
    return array


def _check_size(tensor: InputTensor, path: Path) -> None:
    where = f"input {tensor.name}"
    try:
        found = f"{path.stat().st_size:,} bytes" if path.is_file() else "no regular file"
        if path.is_file() and path.stat().st_size == tensor.size_bytes:
            return
    except OSError as error:
        found = error.strerror or str(error)
    raise _error(
        path, where, f"raw bytes: {tensor.told}", found, "write the tensor as it lies in memory, without a header"
    )


def _map_npy(tensor: InputTensor, path: Path) -> npt.NDArray[Any]:
    """A `.npy` file as an array on the disk: a header that lies about the size is refused before anything is allocated."""
    where, wanted = f"input {tensor.name}", f"a .npy file of {tensor.told}"
    remedy = f"save it with numpy.save, or its raw bytes as {printable(tensor.name)}.bin"
    try:
        if not path.is_file():
            raise _error(path, where, wanted, "no regular file", remedy)
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise _error(path, where, wanted, "a file that does not begin as one", remedy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on headers of Python 2, which are read all the same
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FormatError:
        raise
    except _BROKEN_NPY as error:
        raise _error(path, where, wanted, f"{error}" or type(error).__name__, remedy) from error
    made: npt.NDArray[Any] = array
    return made


def _fits_type(found: np.dtype[Any], wanted: str) -> bool:
    """Whether elements are of the NEFF's type, as far as either tells."""
    name = _ALIASES.get(wanted, wanted)
    if name in _VOID_BYTES:
        return found.kind == "V" and found.fields is None and found.itemsize == _VOID_BYTES[name]
    return name not in _NUMPY_TYPES or found.newbyteorder("=") == np.dtype(name)


def _type_name(dtype: np.dtype[Any]) -> str:
    """`void16` for what `numpy.save` makes of bfloat16."""
    return dtype.name if dtype.fields is None else "a structured type"


def _write_raw(array: npt.NDArray[Any], path: Path) -> Path:
    """Write an array's elements in the order of C, little-endian, to a new file."""
    values = array if array.dtype.kind == "V" else array.astype(array.dtype.newbyteorder("<"), copy=False)
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for start in range(0, flat.size, _CHUNK):
                file.write(flat[start : start + _CHUNK].tobytes())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    return path
