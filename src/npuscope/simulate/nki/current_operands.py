"""What the instructions of the current dialect have in common: a destination that is passed in, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from npuscope.simulate.neuroncore.program import Engine, Space
from npuscope.simulate.nki import emit
from npuscope.simulate.nki.current_memory import note_read, note_write
from npuscope.simulate.nki.dtypes import dtype_name
from npuscope.simulate.nki.isa_operands import write
from npuscope.simulate.nki.numerics import Array
from npuscope.simulate.nki.tensors import Tensor, take_over
from npuscope.simulate.nki.trace import KernelError, current

_GENERATIONS: Final = {2: "Trn1, Inf2", 3: "Trn2", 4: "Trn3"}


class NkiInstruction:
    """What an instruction returns; the order that a kernel asks for with it is kept anyway or not modelled."""

    __slots__ = ()

    def depends_on(self, *producers: NkiInstruction) -> NkiInstruction:
        """Itself: the model knows the dependences through memory alone."""
        for producer in producers:
            if not isinstance(producer, NkiInstruction):
                raise KernelError(f"depends_on: takes instructions, not {type(producer).__name__}")
        return self


ISSUED: Final = NkiInstruction()


def needs_generation(opcode: str, generation: int) -> None:
    """Check that the device has an instruction.

    Raises:
        KernelError: It came with a later generation.
    """
    found = current().nc_version
    if found < generation:
        raise KernelError(
            f"{opcode}: needs NeuronCore-v{generation} ({_GENERATIONS[generation]}) or newer;"
            f" the simulated device is NeuronCore-v{found}"
        )


def reads(opcode: str, *operands: Any) -> None:
    """Check the tiles that an instruction reads; other operands are let through."""
    for operand in operands:
        if isinstance(operand, Tensor):
            note_read(opcode, operand)


def into(opcode: str, dst: Any, result: Any) -> NkiInstruction:
    """Let the instruction that made the fresh tile `result` write `dst` instead.

    Raises:
        KernelError: They differ in size, or `dst` is no tile on the chip.
    """
    _check_destination(opcode, dst)
    if dst.partitions != result.partitions or dst.size != result.size:
        raise KernelError(
            f"{opcode}: dst has shape {list(dst.shape)}, the result {list(result.shape)};"
            " partitions and elements per partition must be the same"
        )
    note_write(dst)
    if not take_over(dst, result):
        number = result.writer
        if number < 0:
            raise KernelError(f"{opcode}: a result in {result.space.name} cannot be written to {dst.space.name}")
        current().builder.retarget(number, dst.boxes()[0], out_dtype=emit.name_of(dst.dtype))
        if current().compute:
            write(dst, result.value())
    return ISSUED


def issue(
    opcode: str,
    engines: tuple[Engine, ...],
    streams: Sequence[Tensor],
    dst: Tensor,
    compute: Callable[[], Array],
    **options: Any,
) -> NkiInstruction:
    """Record an instruction and store what it computes.

    Args:
        opcode: As `nki.isa` calls it.
        engines: Those that may run it.
        streams: Tiles that are read element by element.
        dst: Where the result goes.
        compute: Gives the values, as many as `dst` has; called only where values are computed.
        **options: See `emit.instruction`.
    """
    _check_destination(opcode, dst)
    emit.on_chip(opcode, **{f"operand {number + 1}": tile for number, tile in enumerate(streams)})
    reads(opcode, *streams, *options.get("scalars", ()))
    emit.instruction(opcode, engines, streams, dst, **options)
    note_write(dst)
    if current().compute:
        write(dst, compute())
    return ISSUED


def _check_destination(opcode: str, dst: Any) -> None:
    if not isinstance(dst, Tensor):
        raise KernelError(f"{opcode}: dst must be a tile, not {type(dst).__name__}")
    emit.on_chip(opcode, dst=dst)


def needs_dtype(opcode: str, name: str, tile: Tensor, *allowed: str) -> None:
    """Check the type of an operand.

    Raises:
        KernelError: It is none of `allowed`.
    """
    found = dtype_name(tile.dtype)
    if found not in allowed:
        raise KernelError(f"{opcode}: {name} is {found}; it must be {' or '.join(allowed)}")


def needs_space(opcode: str, name: str, tile: Tensor, space: Space) -> None:
    """Check where an operand lies.

    Raises:
        KernelError: Elsewhere.
    """
    if tile.space is not space:
        raise KernelError(f"{opcode}: {name} is in {tile.space.name}; it must be in {space.name}")
