"""An HLO module to a program of one NeuronCore, op by op in the order of the module, calls and fusions inlined.

`while` becomes a device loop: its body is recorded once per iteration, between branches that all engines wait for. A
Python loop was unrolled by the framework and is plain code. What is computed from values that do not change is computed
once. Ops without a lowering get a conservative cost on GpSimd and are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from npuscope.errors import FormatError, NpuscopeError, shorten
from npuscope.formats.hlo import Computation, HloModule, Op, Shape, collection_paused
from npuscope.formats.hlo_loops import trip_count
from npuscope.simulate.hlo import elementwise, replay_loop
from npuscope.simulate.hlo.columns import ModuleColumns
from npuscope.simulate.hlo.conservative import conservative
from npuscope.simulate.hlo.layout import NARROWED, PARTITIONS, PIECE_COLUMNS
from npuscope.simulate.hlo.ops import Ops
from npuscope.simulate.hlo.recorder import DMA, VECTOR_GPSIMD, ProgramTooLargeError, Recorder
from npuscope.simulate.hlo.reuse import Reuse
from npuscope.simulate.hlo.values import Value, flat, in_hbm, parts_of, tuple_of, value_of
from npuscope.simulate.neuroncore.program import Box, Program, Space

DEFAULT_MAX_INSTRUCTIONS: Final = 5_000_000
_MOST_OPS: Final = 2_000_000
"""Ops that are looked at, inlined and repeated ones among them: some 20 seconds."""
_INLINED: Final = frozenset({"call", "fusion"})
_FOLLOWED: Final = frozenset({"call", "fusion", "while", "conditional"})
"""Ops whose computations are recorded."""
_FILL_BYTES: Final = 1 << 16
"""A carried array of one constant that is larger is filled in HBM, not on the chip."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A `while` as it was recorded."""

    op: str
    trip_count: int
    is_known: bool
    """Told by the program; else assumed."""
    body_ops: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """A module as instructions."""

    program: Program
    op_count: int
    """Ops of the module."""
    executed_op_count: int
    """Ops that were recorded, those of called and repeated computations each time."""
    instruction_count: int
    loops: tuple[Loop, ...]
    unlowered: dict[str, str]
    """Ops that have a conservative cost: name to opcode."""
    notes: tuple[str, ...]


def lower_module(
    module: HloModule,
    *,
    nc_version: int,
    sbuf_usable_bytes: int,
    assumed_trip_count: int = 1,
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
) -> Lowered:
    """Record the program of a module.

    Args:
        module: From `read_hlo`.
        nc_version: 2, 3 or 4.
        sbuf_usable_bytes: Per partition, for operands of matmuls that stay.
        assumed_trip_count: Of loops whose trip count the program does not tell.
        max_instructions: Of more, recording stops.

    Raises:
        InstructionLimitError: The program has more instructions than `max_instructions`.
        ProgramTooLargeError: It runs more ops than any compiler would take.
    """
    recorder = Recorder(nc_version, sbuf_usable_bytes, max_instructions=max_instructions)
    lowerer = _Lowerer(module, recorder, assumed_trip_count)
    with collection_paused():
        try:
            lowerer.run()
        except NpuscopeError:
            raise
        except RecursionError as error:
            raise FormatError(
                module.source,
                where=f"op {recorder.op or '(none)'}",
                expected="loops, conditionals and tuples less deep in one another",
                found="more than can be followed",
            ) from error
        except _CONTRADICTIONS as error:
            raise FormatError(
                module.source,
                where=f"op {recorder.op or '(none)'}",
                expected="operands and attributes that fit together",
                found=f"others ({shorten(f'{type(error).__name__}: {error}').rstrip(': ')})",
            ) from error
        program = lowerer.built()
    _check_boxes(program, module.source)
    return Lowered(
        program,
        module.op_count,
        lowerer.executed,
        len(program),
        tuple(lowerer.loops.values()),
        recorder.unlowered,
        tuple(recorder.notes),
    )


_CONTRADICTIONS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What attributes that contradict shapes end in: each op relies on what XLA's verifier has checked."""


def _check_boxes(program: Program, source: str) -> None:
    """No instruction may touch memory outside its tiles: the compiled passes rely on it.

    Raises:
        FormatError: One does, so that shapes and attributes of its op contradict each other.
    """
    tiles = program.tile_table[program.access[:, 0]]
    access = program.access
    inside = (access[:, 1] >= 0) & (access[:, 3] >= 0) & (access[:, 2] <= tiles[:, 1]) & (access[:, 4] <= tiles[:, 2])
    inside &= (access[:, 1] < access[:, 2]) & (access[:, 3] < access[:, 4])
    if inside.all():
        return
    first = int(np.searchsorted(program.access_start, int(np.flatnonzero(~inside)[0]), side="right")) - 1
    name = program.lines[program.line[first]]
    expected = "an op whose shapes and attributes fit together"
    raise FormatError(source, where=f"op {name}", expected=expected, found="one that reaches outside its operands")


Lowering = Callable[[Any, Op, list[Value], bool], Value]


class _Lowerer(Ops):
    """Evaluates computations: values instead of arrays."""

    def __init__(self, module: HloModule, recorder: Recorder, assumed_trip_count: int) -> None:
        super().__init__(module, recorder)
        self.assumed_trip_count = assumed_trip_count
        self.loops: dict[str, Loop] = {}
        self._numbered = ModuleColumns(module, _PURE.__contains__, lambda op: op.opcode in _INLINED and bool(op.called))
        self._reuse = Reuse(recorder, self._numbered, _MOST_OPS)
        self._known: dict[tuple[int, ...], int] = {}
        """Values of ops that the compiled loop does not know, by op and operands: of equal ones only one is computed."""
        self._work: list[tuple[int, int]] = []
        self._placed: set[int] = set()
        """Arrays in HBM that are a result of the program."""

    def run(self) -> None:
        """Parameters from HBM, the entry computation, results to HBM."""
        entry = self.module.entry_computation
        planned = self._work_of(self.module.entry)[0]
        if planned > _MOST_OPS:  # told before it takes minutes
            raise ProgramTooLargeError(
                f"{self.module.source}: the program runs {_told(planned)} ops, with those of its loops and calls; at most"
                f" {_MOST_OPS:,} are simulated, so predict a loop with fewer iterations"
            )
        arguments = [
            self._parameter(entry.ops[place].shape, f"parameter {number}")
            for number, place in enumerate(entry.parameters)
        ]
        result = self.evaluated(self.module.entry, arguments)
        self.rec.op = entry.ops[entry.root].name
        for number, value in enumerate(flat(result)):
            self._output(value, f"result {number}")
        self.rec.flush()

    def _parameter(self, shape: Shape, name: str) -> Value:
        if shape.parts:
            return tuple_of(shape, [self._parameter(part, f"{name}.{index}") for index, part in enumerate(shape.parts)])
        value = value_of(shape)
        if shape.element_type in NARROWED:
            self.rec.notes[f"{shape.element_type} is counted as {value.dtype}: no engine has it"] = None
        if shape.element_type in ("c64", "c128"):
            self.rec.notes["arithmetic of complex numbers is counted as that of real ones: times are too short"] = None
        tile = self.rec.tile(
            Space.HBM, max(1, value.grid.rows), value.grid.columns * value.itemsize, name, is_external=True
        )
        return in_hbm(shape, tile, shape.elements, is_input=True)

    def _output(self, value: Value, name: str) -> None:
        if not value.shape.elements:
            return
        value = self.rec.ready(value)
        view = value.hbm
        if view is not None and not view.is_input and view.is_whole and view.tile not in self._placed:
            self._placed.add(view.tile)  # made where the result belongs
            return
        self.rec.store(value, self.rec.hbm(value.shape, name, is_external=True))

    def evaluated(self, place: int, arguments: Sequence[Value]) -> Value:
        """The value of a computation for some arguments."""
        handle = self._reuse.handle
        return self._reuse.released(self._evaluate(place, [handle(argument) for argument in arguments]))

    @property
    def executed(self) -> int:
        """Ops that were looked at, those of called and repeated computations each time."""
        return self._reuse.counters[replay_loop.OPS]

    def _evaluate(self, place: int, arguments: Sequence[int]) -> int:
        """As `evaluated`, of handles: the compiled loop goes from one op that has to be lowered to the next."""
        reuse, counters, numbered = self._reuse, self._reuse.counters, self._numbered
        reuse.enter(place, arguments)
        while True:
            if self.executed > _MOST_OPS:
                raise ProgramTooLargeError(
                    f"{self.module.source}: the program runs more than {_MOST_OPS:,} ops; does a computation call others over and"
                    " over?"
                )
            reason = reuse.run()
            if reason == replay_loop.DONE:
                return reuse.leave(place)
            number = counters[replay_loop.AT]
            if reason == replay_loop.TOO_MANY_INSTRUCTIONS:
                raise self.rec.builder.too_many(numbered.ops[number].name)
            if reason == replay_loop.MISSING:
                reuse.put(number, reuse.lowered(number, self._how(number)))
                number += 1
            # Ops in a row that the compiled loop does not take are lowered here: to enter it for each would take longer.
            last = int(numbered.columns.first_op[1 + int(reuse.state.stack[counters[replay_loop.DEPTH], 0])])
            while number < last and numbered.classes[number] in (replay_loop.LOWERED, replay_loop.SKIPPED):
                if numbered.classes[number] == replay_loop.LOWERED:
                    reuse.put(number, self._lowered(number))
                number += 1
            counters[replay_loop.AT] = number

    def _how(self, number: int) -> Callable[[list[Value]], Value]:
        """How an op is lowered, given its operands."""
        op = self._numbered.ops[number]
        self.rec.op = op.name
        is_only_use = self._numbered.is_only_use[number]
        lowering = LOWERINGS.get(op.opcode, _NONE)[0]
        return lambda operands: lowering(self, op, operands, is_only_use)

    def _lowered(self, number: int) -> int:
        """The value of an op that the compiled loop does not know; once where it follows from its operands alone."""
        operands = self._reuse.operands(number)
        if not self._numbered.is_met_again[number] or not LOWERINGS.get(self._numbered.ops[number].opcode, _NONE)[1]:
            return self._reuse.anew(operands, self._how(number))
        key = (int(self._numbered.columns.head[number]), *operands)
        if key not in self._known:
            self._known[key] = self._reuse.anew(operands, self._how(number))
        return self._known[key]

    def built(self) -> Program:
        """The program that was recorded."""
        state, counters = self._reuse.state, self._reuse.counters
        events, bound = state.events[: counters[replay_loop.EVENTS]], state.bound[: counters[replay_loop.BOUND]]
        if len(events):
            self.rec.builder.repetitions(events, bound, [op.name for op in self._numbered.ops])
        return self.rec.builder.build()

    # -- control

    def call(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """Inlined."""
        return self.evaluated(op.called[0], operands) if op.called else conservative(self.rec, op, operands)

    def conditional(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """The branch with the most work stands for whichever is taken."""
        if not op.called:
            return conservative(self.rec, op, operands)
        sizes = [self._work_of(place)[1] for place in op.called]
        branch = sizes.index(max(sizes))
        if len(op.called) > 1:
            self.rec.notes[
                f"{op.name}: of {len(op.called)} branches, the one with the most work stands for whichever is taken"
            ] = None
        arguments = operands[1:] if len(operands) == len(op.called) + 1 else operands
        taken = arguments[branch] if branch < len(arguments) else arguments[0]
        return self.evaluated(op.called[branch], [taken])

    def _work_of(self, place: int) -> tuple[int, int]:
        """Ops that a computation runs, and elements that they make, with those of loops and calls each time."""
        while len(self._work) <= place:  # what is called comes before what calls it
            computation = self.module.computations[len(self._work)]
            ops, made = len(computation.ops), sum([op.shape.elements for op in computation.ops])
            for op in computation.ops:
                if not op.called or op.opcode not in _FOLLOWED:
                    continue
                times = 1
                if op.opcode == "while":
                    trips = trip_count(self.module, computation, op)
                    times = self.assumed_trip_count if trips is None else trips
                for called in op.called:
                    inner = self._work[called]
                    ops, made = ops + times * inner[0], made + times * inner[1]
            self._work.append((ops, made))
        return self._work[place]

    def loop(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """A device loop."""
        if len(op.called) != 2 or len(operands) != 1:
            return conservative(self.rec, op, operands)
        body, condition = op.called
        if (
            self.module.computations[condition].ops[self.module.computations[condition].root].shape.element_type
            != "pred"
        ):
            body, condition = condition, body
        computation = self._computation_of(op)
        trips = trip_count(self.module, computation, op)
        count = self.assumed_trip_count if trips is None else trips
        if trips is None:
            self.rec.notes[
                f"{op.name}: the trip count of this loop is not known before it runs; {count} was assumed (--trip-count)"
            ] = None
        if count > self.rec.builder.max_instructions:
            raise ProgramTooLargeError(
                f"{self.module.source}: {op.name} runs {count:,} times, more than the"
                f" {self.rec.builder.max_instructions:,} instructions of --max-instructions"
            )
        self.loops[op.name] = Loop(op.name, count, trips is not None, len(self.module.computations[body].ops))
        state = list(parts_of(operands[0]))
        if count < 1:
            return tuple_of(op.shape, state) if op.shape.parts else operands[0]
        carried = _carried(self.module.computations[body], len(state))
        state = [self._enter(part) if index in carried else part for index, part in enumerate(state)]
        rec, name = self.rec, op.name
        rec.enter_loop()
        for iteration in range(count):
            argument = tuple_of(op.shape, state) if op.shape.parts else state[0]
            self.evaluated(condition, [argument])
            result = self.evaluated(body, [argument])
            rec.op = name
            parts = list(parts_of(result))
            state = [self._carry(part) if index in carried else part for index, part in enumerate(parts)]
            if iteration + 1 < count:
                rec.next_iteration()
        rec.op = name
        rec.leave_loop()
        return tuple_of(op.shape, state) if op.shape.parts else state[0]

    def _computation_of(self, op: Op) -> Computation:
        """The computation that holds an op: trip counts are told from what goes into the loop."""
        for computation in self.module.computations[max(op.called) + 1 :]:
            if any(other is op for other in computation.ops):
                return computation
        return self.module.entry_computation

    def _enter(self, value: Value) -> Value:
        """A carried value before the first iteration: in a register, on the chip or in HBM, no constant."""
        if value.parts is not None:
            return tuple_of(value.shape, [self._enter(part) for part in value.parts])
        value = self.rec.ready(value)
        if not value.is_uniform:
            return value
        made = self.rec.new(value.shape)
        if elementwise.is_scalar_integer(value.shape):
            made.is_register, made.tiles = True, [self.rec.tile(Space.REGISTER, 1, 4, "counter")]
            return made
        if value.bytes > _FILL_BYTES:
            return self._filled(value)
        made.tiles = self.rec.empty_tiles(made.grid)
        for part in made.grid.parts():
            write = self.rec.write_box(made, *part)
            elements = (write.byte_stop - write.byte_start) // made.itemsize
            work = self.rec.work("memset", elements, write.row_stop, made.dtype, made.dtype, (), function="zero")
            self.rec.emit(work, VECTOR_GPSIMD, [], [write])
        return made

    def _filled(self, value: Value) -> Value:
        """An array of one constant in HBM: one tile on the chip, stored as often as it takes."""
        rec = self.rec
        target = rec.hbm(value.shape, "filled")
        width = PIECE_COLUMNS * value.itemsize
        tile = rec.tile(Space.SBUF, PARTITIONS, width, "fill")
        box = Box(tile, 0, PARTITIONS, 0, width)
        rec.emit(
            rec.work("memset", PIECE_COLUMNS, PARTITIONS, value.dtype, value.dtype, (), function="zero"),
            VECTOR_GPSIMD,
            [],
            [box],
        )
        assert target.hbm is not None  # noqa: S101
        for _ in range(-(-value.bytes // (width * PARTITIONS))):
            rec.emit(
                rec.transfer(PARTITIONS, width, Space.SBUF, Space.HBM), DMA, [box], [Box(target.hbm.tile, 0, 1, 0, 1)]
            )
        return target

    def _carry(self, value: Value) -> Value:
        """A carried value at the end of an iteration: worked out."""
        if value.parts is not None:
            return tuple_of(value.shape, [self._carry(part) for part in value.parts])
        value = self.rec.ready(value)
        return self._enter(value) if value.is_uniform else value


def _told(count: int) -> str:
    """A number of which only so many digits are worth their place."""
    return f"{count:,}" if count < 10**18 else "more than 10^18"


def _carried(body: Computation, count: int) -> frozenset[int]:
    """Elements of a loop's state that the body changes; it hands the others on as they are."""
    root = body.ops[body.root]
    if root.opcode != "tuple" or not body.parameters:
        return frozenset(range(count))
    changed = set()
    for index, place in enumerate(root.operands):
        op = body.ops[place]
        is_same = op.opcode == "get-tuple-element" and op.operands[:1] == body.parameters[:1]
        if not (is_same and op.attributes.tuple_index == index):
            changed.add(index)
    return frozenset(changed)


_BY_OPCODE: Final[dict[str, Lowering]] = {
    **dict.fromkeys(elementwise.BINARY, Ops.binary_),
    **dict.fromkeys(elementwise.ACTIVATIONS, Ops.activation_),
    **dict.fromkeys(elementwise.UNARY, Ops.unary_),
    **dict.fromkeys(elementwise.COPIES, Ops.copy_),
    "tuple": Ops.tuple_,
    "get-tuple-element": Ops.element_,
    "constant": Ops.constant_,
    "select": Ops.select_,
    "clamp": Ops.clamp_,
    "iota": Ops.iota_,
    "rng": Ops.random_,
    "rng-bit-generator": Ops.random_,
    "reshape": Ops.reshape_,
    "bitcast": Ops.reshape_,
    "bitcast-convert": Ops.reshape_,
    "broadcast": Ops.broadcast_,
    "transpose": Ops.transpose_,
    "opt-barrier": Ops.same_,
    "optimization-barrier": Ops.same_,
    "copy-done": Ops.same_,
    "domain": Ops.same_,
    "add-dependency": Ops.same_,
    "after-all": Ops.nothing_,
    "partition-id": Ops.nothing_,
    "replica-id": Ops.nothing_,
    "get-dimension-size": Ops.nothing_,
    "dot": Ops.dot_,
    "convolution": Ops.convolution_,
    "reduce": Ops.reduce_,
    "reduce-window": Ops.reduce_window_,
    "slice": Ops.slice_,
    "concatenate": Ops.concatenate_,
    "pad": Ops.pad_,
    "reverse": Ops.reverse_,
    "dynamic-slice": Ops.dynamic_slice_,
    "dynamic-update-slice": Ops.dynamic_update_,
    "gather": Ops.gather_,
    "scatter": Ops.scatter_,
    "call": _Lowerer.call,
    "fusion": _Lowerer.call,
    "conditional": _Lowerer.conditional,
    "while": _Lowerer.loop,
    "custom-call": Ops.custom_call_,
}
"""What each opcode becomes; those that are missing get a conservative cost."""
_PURE: Final = frozenset({*elementwise.BINARY, *elementwise.ACTIVATIONS, *elementwise.UNARY}) | {
    "convert", "select", "clamp", "reshape", "bitcast", "bitcast-convert", "broadcast", "transpose", "dot", "convolution",
    "reduce", "reduce-window", "slice", "pad", "reverse", "dynamic-slice", "gather", "iota", "constant", "reduce-precision",
}  # fmt: skip
"""Ops whose value follows from their operands alone: equal ones are computed once, as compilers do, also by a loop."""
LOWERINGS: Final = {opcode: (lowering, opcode in _PURE) for opcode, lowering in _BY_OPCODE.items()}
_NONE: Final[tuple[Lowering, bool]] = (Ops.unknown_, False)
