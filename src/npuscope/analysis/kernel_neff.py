"""One NEFF of a kernel on the profiler: its inputs under its own names, and which of them is which where names and sizes leave it open.

torch_xla names a graph's inputs by number, and the three weights of a gated MLP are of one size. Assignments that fit by size are
then tried in the order of the NEFF's table: an execution with the right one gives the kernel's result, any other gives another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from npuscope.backends.neff_capture import NeffCapture, capture_neff
from npuscope.backends.neff_inputs import InputTensor, NamedInput, input_tensors
from npuscope.backends.neuron_tools import Profiler
from npuscope.errors import FormatError, MeasurementError
from npuscope.formats.kernel_folder import Built, InputSet
from npuscope.formats.neff import read_neff
from npuscope.formats.tensor_files import read_tensor
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.mlp import INPUT_NAMES, check_mlp

Array = npt.NDArray[Any]
MAX_TRIALS: Final = 120
"""Assignments that are tried: all of four inputs to five tensors of one size, which is where tokens are as many as the
intermediate and the caller allocates the result. Most NEFFs have six, and list the right one first."""


@dataclass(slots=True)
class KernelNeff:
    """A NEFF, and how the profiler is asked to execute it."""

    root: Path
    built: Built
    inputs: InputSet
    folder: Path
    """Of its captures."""
    nth_execution: int
    profiler: Profiler
    limit_s: float
    bindings: dict[str, str] = field(default_factory=dict)
    """Kernel's input to the NEFF's."""

    @property
    def path(self) -> Path:
        """Of the NEFF."""
        return self.root / self.built.folder / self.built.neff

    def capture(self, tag: str, *, save_output: bool, folder: Path | None = None) -> NeffCapture:
        """Execute it and capture the execution that is wanted.

        Raises:
            MeasurementError: The profiler failed, or not in time.
            FormatError: An input does not fit.
            UnavailableError: Another process holds the device.
        """
        return capture_neff(
            self.path,
            folder or self.folder,
            inputs=self._named_inputs(),
            nth_execution=self.nth_execution,
            save_output=save_output,
            tool=self.profiler,
            timeout_s=self.limit_s,
            tag=tag,
        )

    def settle_bindings(self, arrays: Sequence[Array]) -> list[str]:
        """Find which input of the NEFF is which, by executions where names and sizes do not tell; notes on how.

        Raises:
            FormatError: The NEFF has no inputs of the kernel's sizes.
            MeasurementError: No assignment gives the right result, or the profiler fails.
        """
        if all(name in self.built.bindings for name in INPUT_NAMES):
            self.bindings = dict(self.built.bindings)
            return []
        tensors = input_tensors(read_neff(self.path))
        sizes = {name: array.nbytes for name, array in zip(INPUT_NAMES, arrays, strict=True)}
        candidates = list(assignments(self.built.bindings, tensors, sizes))
        if not candidates:
            names = ", ".join(f"{tensor.name} {tensor.size_bytes:,} bytes" for tensor in tensors)
            wanted = ", ".join(f"{size:,}" for size in sizes.values())
            raise FormatError(self.path, expected=f"inputs of {wanted} bytes", found=names)
        for number, self.bindings in enumerate(candidates, 1):
            made = self.capture(f"-trial{number}", save_output=True, folder=self.folder / "trials")
            saved = self.saved_result(made)
            if saved is None:
                return ["which input is which was taken by the order of the NEFF's table: no output was saved to tell"]
            if check_mlp(self.built.config, arrays, saved[1]).passed:
                told = ", ".join(f"{theirs} is {ours}" for ours, theirs in self.bindings.items())
                return [f"which input is which was told by the result, of assignment {number}: {told}"]
        raise MeasurementError(
            f"wrong result: none of {len(candidates)} ways to assign the kernel's inputs to"
            f" {', '.join(tensor.name for tensor in tensors)} gives it"
        )

    def saved_result(self, made: NeffCapture) -> tuple[Path, Array] | None:
        """The saved output of the captured execution that has the result's size; None where none was saved."""
        config = self.built.config
        size = numpy_dtype(config.dtype).itemsize * config.tokens * config.hidden
        fitting = [output for output in made.outputs if output.size_bytes == size]
        wanted = (output for output in fitting if output.execution == self.nth_execution)
        chosen = next(wanted, fitting[-1] if fitting else None)
        return None if chosen is None else (chosen.path, read_tensor(chosen.path, config.dtype, config.output_shape))

    def _named_inputs(self) -> tuple[NamedInput, ...]:
        """The raw inputs under the NEFF's names, in its order. Others of its inputs, which the caller allocates, are zeros."""
        names = {theirs: ours for ours, theirs in self.bindings.items()}
        named = []
        for number, tensor in enumerate(input_tensors(read_neff(self.path))):
            if tensor.name in names:
                path = self.root / self.inputs.folder / f"{names[tensor.name]}.bin"
            else:
                path = self.folder / f"zeros-{number}.bin"
                self.folder.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_bytes(bytes(tensor.size_bytes))
            named.append(NamedInput(tensor.name, path))
        return tuple(named)


def assignments(
    known: Mapping[str, str], tensors: Sequence[InputTensor], sizes: Mapping[str, int]
) -> Iterator[dict[str, str]]:
    """Every way to give each of the kernel's inputs a tensor of its own of the same size; none where sizes do not fit.

    Args:
        known: Kernel's input to the NEFF's, where that is settled.
        tensors: The NEFF's inputs, in its order.
        sizes: Bytes of each of the kernel's inputs, in their order.
    """
    free = [tensor for tensor in tensors if tensor.name not in known.values()]
    by_size: dict[int, list[str]] = {}
    for name in sizes:
        if name not in known:
            by_size.setdefault(sizes[name], []).append(name)
    choices = [
        [dict(zip(names, order, strict=True)) for order in _orders(free, size, len(names))]
        for size, names in by_size.items()
    ]
    for combination in islice(product(*choices), MAX_TRIALS):
        made = dict(known)
        for part in combination:
            made |= part
        yield {name: made[name] for name in sizes}


def _orders(free: Sequence[InputTensor], size: int, count: int) -> Iterator[tuple[str, ...]]:
    fitting = [tensor.name for tensor in free if tensor.size_bytes == size]
    return islice(permutations(fitting, count), MAX_TRIALS)
