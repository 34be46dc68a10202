"""Tracing a kernel: arguments to HBM, the programs of a launch grid one after the other, results back."""

from __future__ import annotations

import gc
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from npuscope.errors import UsageError
from npuscope.simulate.neuroncore.program import Program, ProgramBuilder, Space
from npuscope.simulate.nki.argument_types import cast_note, engine_dtype
from npuscope.simulate.nki.decorators import launch_grid, plain_function
from npuscope.simulate.nki.dtypes import Dtype, as_dtype
from npuscope.simulate.nki.kernel_file import call_user, dialect_of, load_kernel
from npuscope.simulate.nki.running import one_at_a_time, watched
from npuscope.simulate.nki.tensors import Array, Tensor, hbm_tensor
from npuscope.simulate.nki.trace import KernelError, Trace, file_name, forget_caches, tracing

__all__ = ["TensorSpec", "Traced", "load_kernel", "trace_kernel"]

DEFAULT_MAX_INSTRUCTIONS = 5_000_000
"""Of one physical core, unless it is said otherwise: a few GiB of memory while it is recorded."""
_MAX_PROGRAMS = 1_000_000
"""Of a launch grid: each one runs the kernel once."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of which only shape and type are known: an argument or a result where nothing is computed."""

    shape: tuple[int, ...]
    dtype: Dtype


@dataclass(frozen=True, slots=True)
class Traced:
    """A kernel that has run."""

    name: str
    """The kernel's function."""
    programs: tuple[Program, ...]
    """One per physical core that had something to run."""
    outputs: tuple[Array | TensorSpec, ...]
    """What the kernel returned, else the arguments that it stored to; arrays where values were computed."""
    has_returned: bool
    """The outputs were returned, not stored to arguments."""
    grid: tuple[int, ...]
    notes: tuple[str, ...] = ()
    """What makes the results or the time mean less than they seem to."""

    @property
    def instruction_count(self) -> int:
        """Instructions of all cores."""
        return sum(len(program) for program in self.programs)


def trace_kernel(
    kernel: Callable[..., Any],
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    device: Any = None,
    grid: Sequence[Any] = (),
    lnc: int = 1,
    compute: bool = True,
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    updates_arguments: bool = False,
) -> Traced:
    """Run a kernel and record what it would issue.

    Args:
        kernel: As `load_kernel` gives it, or any function written for NKI.
        args: Its arguments: NumPy arrays and `TensorSpec` become HBM tensors, also inside lists, tuples and dicts.
        kwargs: Arguments by name.
        device: The `SimDevice` to trace for.
        grid: Programs per axis: integers, `nl.nc(2)`, `nl.spmd_dim(...)`; by default the kernel's own.
        lnc: Physical cores per logical core, among which the programs are divided.
        compute: Whether values are computed.
        max_instructions: Limit per physical core.
        updates_arguments: Arrays among the arguments get what the kernel stored to them.

    Raises:
        KernelError: The kernel does what is not allowed or not supported, or an exception ends it.
        InstructionLimitError: It issues more than `max_instructions`.
    """
    with one_at_a_time:
        try:
            return _trace(
                kernel, args, dict(kwargs or {}), device, grid, lnc, compute, max_instructions, updates_arguments
            )
        finally:
            forget_caches()


def _trace(
    kernel: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    device: Any,
    grid: Sequence[Any],
    lnc: int,
    compute: bool,
    max_instructions: int,
    updates_arguments: bool,
) -> Traced:
    """`trace_kernel`, while no other kernel runs."""
    function = plain_function(kernel)
    axes = tuple(grid) or launch_grid(kernel)
    arguments = _Arguments(function, args, kwargs)
    place = _place(function)
    shared: list[Tensor] = []
    programs, written = [], set()
    result: Any = None
    for members in _programs_of_cores(axes, lnc):
        builder = ProgramBuilder(max_instructions=max_instructions)
        state = Trace(builder, compute=compute, device=device, grid=_sizes(axes), lnc=lnc)
        state.shared = shared
        for tensor in (*arguments.tensors, *shared):
            tensor.storage.forget_program()
        with tracing(state), _collecting(compute), watched(partial(_progress, state)):
            for program_id in members:
                state.program_id, state.allocated = program_id, 0
                result = call_user(function, *arguments.positional, **arguments.named)
        returned = _flatten(result, place)
        program = _with_results(builder.build(), returned)
        programs.append(program)
        written |= {id(tensor) for tensor in (*arguments.tensors, *returned) if _is_written(program, tensor)}
    stored = [tensor for tensor in arguments.tensors if id(tensor) in written]
    if updates_arguments:
        arguments.update(stored)
    returned = _flatten(result, place)
    outputs = returned or stored
    unwritten = [tensor.name for tensor in returned if id(tensor) not in written]
    return Traced(
        name=getattr(function, "__name__", "kernel"),
        programs=tuple(programs),
        outputs=tuple(_output(tensor, compute) for tensor in outputs),
        has_returned=result is not None,
        grid=_sizes(axes),
        notes=(*arguments.notes, *_doubts(programs, unwritten, has_outputs=bool(outputs))),
    )


def _doubts(programs: Sequence[Program], unwritten: Sequence[str], *, has_outputs: bool) -> list[str]:
    """Notes on a kernel that does less than a kernel is there for."""
    if not any(map(len, programs)):
        return ["the kernel issues no instruction: there was nothing to time"]
    if not has_outputs:
        return ["the kernel returns nothing and stores to none of its arguments: no result was computed"]
    return [f"result {name} was never written by the kernel: its values mean nothing" for name in unwritten]


def _progress(trace: Trace) -> tuple[tuple[int, ...], int]:
    """Changes whenever a program starts or an instruction is recorded."""
    return trace.program_id, len(trace.builder)


@contextmanager
def _collecting(is_on: bool) -> Iterator[None]:
    """Without values there is no memory worth a search for cycles, which takes a tenth of the time."""
    was_on = gc.isenabled()
    if not is_on:
        gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _place(function: Any) -> str:
    """Where a kernel is defined, as `file.py:12`."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", "the kernel")
    return f"{file_name(code)}:{code.co_firstlineno}" if code is not None and file_name(code) else name


class _Arguments:
    """Arguments of a kernel with tensors in place of arrays, in the order of the kernel."""

    def __init__(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.tensors: list[Tensor] = []
        self._kind = _tensor_type(function)
        self._arrays: list[Any] = []
        self.notes: list[str] = []
        """What was done to arguments that could not stay as they were."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            names = [f"argument {number + 1}" for number in range(len(args))]
        else:
            _check_arguments(function, signature, args, kwargs)
            names = _positional_names(signature, len(args))
        self.positional = [self._convert(value, name) for value, name in zip(args, names, strict=True)]
        self.named = {name: self._convert(value, name) for name, value in kwargs.items()}

    def _convert(self, value: Any, name: str) -> Any:
        if isinstance(value, (np.ndarray, TensorSpec)):
            given = as_dtype(value.dtype)  # a TensorSpec may name its type
            dtype = engine_dtype(given, name)
            self.notes += filter(None, [cast_note(given, name)])
        if isinstance(value, (np.ndarray, TensorSpec)) and value.shape:
            if isinstance(value, TensorSpec):
                tensor = hbm_tensor(value.shape, dtype, name, is_external=True)
            else:
                tensor = hbm_tensor(value, dtype, name, is_external=True)
            tensor = self._kind(tensor.storage, tensor.dtype, tensor.shape, tensor.strides)
            self.tensors.append(tensor)
            self._arrays.append(value)
            return tensor
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(self._convert(item, f"{name}[{number}]") for number, item in enumerate(value))
        if isinstance(value, dict):
            return {key: self._convert(item, f"{name}[{key!r}]") for key, item in value.items()}
        return value

    def update(self, stored: list[Tensor]) -> None:
        """Copy what the kernel stored back to the caller's arrays."""
        for tensor, array in zip(self.tensors, self._arrays, strict=True):
            if isinstance(array, np.ndarray) and any(tensor is other for other in stored):
                array[...] = tensor.value()


def _tensor_type(function: Any) -> type[Tensor]:
    """The class of tensors in the dialect that a kernel is written in."""
    if dialect_of(function) == "current":
        from npuscope.simulate.nki.current_tensor import NkiTensor

        return NkiTensor
    return Tensor


def _check_arguments(function: Any, signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__name__", "the kernel")
        raise UsageError(f"{name} takes {signature}: {error}") from None


def _positional_names(signature: inspect.Signature, count: int) -> list[str]:
    names = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL), "argument")
    return (names + [f"{rest}[{number}]" for number in range(max(0, count - len(names)))])[:count]


def _sizes(axes: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(getattr(axis, "size", axis)) for axis in axes)


def _programs_of_cores(axes: Sequence[Any], lnc: int) -> Iterator[Iterator[tuple[int, ...]]]:
    """The programs of a launch grid that each physical core runs, core by core; cores without any are left out.

    Raises:
        UsageError: The grid is empty, or spreads over another number of cores than there are.
    """
    sizes = _sizes(axes)
    if any(size < 1 for size in sizes):
        raise UsageError(f"a launch grid of {list(sizes)} has no program")
    if math.prod(sizes) > _MAX_PROGRAMS:
        raise UsageError(f"a launch grid of {list(sizes)} has {math.prod(sizes):,} programs, at most {_MAX_PROGRAMS:,}")
    cores = 1
    for axis in axes:
        cores *= getattr(axis, "cores", 1)
    if cores not in (1, lnc):
        raise UsageError(f"the launch grid asks for {cores} physical cores; run it with --lnc {cores}")

    def core_of(program: tuple[int, ...]) -> int:
        core = 0
        if cores > 1:
            for axis, number in zip(axes, program, strict=True):
                if hasattr(axis, "core_of"):
                    core = core * axis.cores + axis.core_of(number)
        elif lnc > 1 and sizes:
            core = program[0] * lnc // sizes[0]
        return core

    for core in range(lnc):
        members = (program for program in itertools.product(*map(range, sizes)) if core_of(program) == core)
        first = next(members, None)
        if first is not None:
            yield itertools.chain((first,), members)


def _flatten(result: Any, place: str) -> list[Tensor]:
    """The tensors that a kernel returned; `place` is the kernel's line, for an error."""
    if result is None:
        return []
    if isinstance(result, Tensor):
        if result.space is not Space.HBM:
            raise KernelError(
                f"the kernel returns a tile in {result.space.name} ({result.storage.root.name}); a result must be in HBM",
                line=place,
            )
        return [result]
    if isinstance(result, (tuple, list)):
        return [tensor for item in result for tensor in _flatten(item, place)]
    if isinstance(result, dict):
        return [tensor for item in result.values() for tensor in _flatten(item, place)]
    if inspect.iscoroutine(result):
        result.close()  # or Python warns that nobody awaited it
    raise KernelError(f"the kernel returns {type(result).__name__}; a result must be a tensor in HBM", line=place)


def _with_results(program: Program, returned: list[Tensor]) -> Program:
    """Mark what is returned as external."""
    numbers = {number for tensor in returned for number in tensor.storage.root.tiles.values()}
    tiles = tuple(
        replace(tile, is_external=True) if number in numbers else tile for number, tile in enumerate(program.tiles)
    )
    return replace(program, tiles=tiles) if numbers else program


def _is_written(program: Program, tensor: Tensor) -> bool:
    numbers = list(tensor.storage.root.tiles.values())
    return bool(np.any(np.isin(program.access[:, 0], numbers) & (program.access[:, 5] == 1)))


def _output(tensor: Tensor, compute: bool) -> Array | TensorSpec:
    return np.array(tensor.value()) if compute else TensorSpec(tensor.shape, tensor.dtype)
