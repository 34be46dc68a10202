"""The work of an HLO program: FLOPs, transcendentals and bytes per op, as XLA's own analysis counts them.

The rules are those of XLA's `HloCostAnalysis` (`xla/service/hlo_cost_analysis.cc` of openxla/xla), checked against
`lowered.cost_analysis()` of JAX 0.10.2 in `tests/golden/test_hlo_cost.py`:

- An elementwise op is one FLOP per element of its result, or one transcendental; integers and truth values count alike.
- A dot is 2 FLOPs per element of its result and of its contracted dimensions; a convolution counts only the taps that
  meet the input.
- A reduction applies its function once per element that disappears.
- Bytes are those of the operands and of the result; slices, gathers and updates count only what they touch. A fusion
  reads its parameters, as far as it uses them, and writes its result.

Known differences from XLA:

- Loops are multiplied by their trip counts: the body by n, the condition by n + 1. XLA counts both once, which
  `loops_once=True` reproduces.
- A custom call is 0 FLOPs and the bytes of its operands and result here, and listed in `uncounted`.
  XLA counts -1 of each.
- `topk` and batch normalisation are 0 FLOPs here as in XLA, which has no rule for them; here they are listed, too.
- Numbers are exact; XLA adds float32, which holds 24 bits.
- Types of less than a byte are packed; XLA on CPUs counts a byte per element.
- Fused tuple parameters and custom fusions of GPUs are counted like plain fusions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

from npuscope.errors import FormatError, shorten
from npuscope.formats.hlo import Computation, HloModule, Op
from npuscope.formats.hlo_loops import trip_count
from npuscope.formats.hlo_work import (
    ELEMENTWISE,
    FREE,
    MOVES,
    RULES,
    TRANSCENDENTAL,
    Site,
    Work,
    accessed_size,
    fusion_bytes,
)
from npuscope.units import printable

WORK_LIMIT: Final = 1 << 96
"""Of any one number; a century of all machines there are is less."""
_NOTHING: Final = Work(0, 0, 0, 0)


class Loop(NamedTuple):
    """A `while` of the program."""

    computation: int
    op: int
    """Places of the computation and of the op in it."""
    trip_count: int | None
    """None where the module does not tell."""
    body: Work
    """Of one iteration."""


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """The work of one execution of a program.

    Attributes:
        total: Of the entry computation, with all that it calls.
        computations: Of one execution of each, in the order of the module.
        ops: Of one execution of each op with what it calls, by computation.
        executions: How often each computation runs. A function that a reduction, map, sort or scatter applies to
            elements has 0; of a `conditional` each branch counts as if it ran.
        loops: In the order of the module.
        assumed_trip_count: Of the loops whose trip count is not known.
        uncounted: Opcodes that the rules do not know, and custom calls, with how often they stand in the program.
    """

    total: Work
    computations: tuple[Work, ...]
    ops: tuple[tuple[Work, ...], ...]
    executions: tuple[int, ...]
    loops: tuple[Loop, ...]
    assumed_trip_count: int
    uncounted: dict[str, int]

    @property
    def unknown_loops(self) -> int:
        """Loops for which `assumed_trip_count` stands."""
        return sum(loop.trip_count is None for loop in self.loops)


class OpcodeCount(NamedTuple):
    """A line of the histogram."""

    opcode: str
    ops: int
    """In all computations of the module."""
    executed: int
    """In one execution of the program, see `ProgramCost.executions`."""


def program_cost(module: HloModule, *, assumed_trip_count: int = 1, loops_once: bool = False) -> ProgramCost:
    """Count the work of one execution of a program.

    Args:
        module: From `read_hlo`.
        assumed_trip_count: For loops whose trip count the module does not tell.
        loops_once: Body and condition of every loop count once, as XLA's analysis has it.

    Raises:
        FormatError: An op contradicts its operands, or the work is beyond all bounds.
    """
    counter = _Counter(module, assumed_trip_count, loops_once)
    for place in range(len(module.computations)):
        counter.add(place)
    return ProgramCost(
        counter.computations[module.entry],
        tuple(counter.computations),
        tuple(counter.ops),
        _executions(module, counter),
        tuple(counter.loops),
        assumed_trip_count,
        dict(counter.uncounted),
    )


def opcode_histogram(module: HloModule, cost: ProgramCost) -> tuple[OpcodeCount, ...]:
    """Ops by opcode, the most executed first."""
    ops: Counter[str] = Counter()
    executed: Counter[str] = Counter()
    for computation, times in zip(module.computations, cost.executions, strict=True):
        for opcode, count in Counter([op[1] for op in computation.ops]).items():
            ops[opcode] += count
            executed[opcode] += times * count
    rows = [OpcodeCount(opcode, count, executed[opcode]) for opcode, count in ops.items()]
    return tuple(sorted(rows, key=lambda row: (-row.executed, -row.ops, row.opcode)))


def _executions(module: HloModule, counter: _Counter) -> tuple[int, ...]:
    """Callers come after callees, so that going backwards sees each computation when its own number is complete."""
    times = [0] * len(module.computations)
    times[module.entry] = 1
    for place in range(len(times) - 1, -1, -1):
        if not times[place]:
            continue
        for number in counter.calls[place]:
            op = module.computations[place].ops[number]
            counts = counter.loop_counts.get((place, number))
            for index, callee in enumerate(op.called):
                times[callee] += times[place] * (counts[index] if counts else 1)
                _check_bound(times[callee], op, module.source)
    return tuple(times)


def _check_bound(value: int, op: Op, source: str) -> None:
    if value > WORK_LIMIT:
        raise FormatError(source, where=_where(op), expected="work that a machine could do", found="more than 2^96")


def _where(op: Op) -> str:
    return f"{op.opcode} {shorten(printable(op.name[:200]), 60)}"


class _Counter:
    """Costs of computations, callees first."""

    def __init__(self, module: HloModule, assumed_trip_count: int, loops_once: bool) -> None:
        self.module = module
        self.assumed_trip_count = assumed_trip_count
        self.loops_once = loops_once
        self.computations: list[Work] = []
        self.ops: list[tuple[Work, ...]] = []
        self.calls: list[list[int]] = []
        """Per computation, its ops that run others (not those that apply a function to elements)."""
        self.loops: list[Loop] = []
        self.loop_counts: dict[tuple[int, int], tuple[int, int]] = {}
        """How often body and condition of a loop run."""
        self.uncounted: Counter[str] = Counter()
        self.taps = 0

    def add(self, place: int) -> None:
        """Count one computation; those that it calls have been."""
        computation = self.module.computations[place]
        ops = computation.ops
        sizes = [accessed_size(op[2]) for op in ops]
        costs: list[Work] = []
        self.calls.append([])
        for number, op in enumerate(ops):
            opcode = op[1]
            if opcode in FREE:
                costs.append(_NOTHING)
                continue
            elements = op[2][3]
            accessed = op[2][4]
            for operand in op[3]:
                accessed += sizes[operand]
            if opcode in ELEMENTWISE:
                cost = _new_work(Work, (elements, 0, accessed, 0))
            elif opcode in TRANSCENDENTAL:
                cost = _new_work(Work, (0, elements, accessed, 0))
            elif opcode in MOVES:
                cost = _new_work(Work, (0, 0, accessed, 0))
            else:
                cost = self._special(place, number, op, computation, accessed)
            costs.append(cost)
        total = _new_work(Work, tuple(map(sum, zip(*costs, strict=True))))
        for value in total:
            _check_bound(value, ops[computation.root], self.module.source)
        self.ops.append(tuple(costs))
        self.computations.append(total)

    def _special(self, place: int, number: int, op: Op, computation: Computation, accessed: int) -> Work:
        """Ops with a rule of their own, which reads attributes that may be anything."""
        operands = [computation.ops[operand] for operand in op.operands]
        try:
            if op.opcode == "convolution":
                self._spend_taps(operands[1].shape.dimensions)
            if op.opcode in _RUNS:
                self.calls[place].append(number)
                return self._run(place, number, op, computation)
            rule = RULES.get(op.opcode)
            if rule is None:
                self.uncounted[_uncounted_name(op)] += 1
                return Work(0, 0, accessed, 0)
            return rule(Site(op, operands, accessed, self.computations))
        except (IndexError, ValueError, ZeroDivisionError):
            expected = "attributes that fit its operands"
            raise FormatError(self.module.source, where=_where(op), expected=expected, found="others") from None

    def _spend_taps(self, kernel: tuple[int, ...]) -> None:
        """Taps are visited one by one: refuse what would take for ever."""
        self.taps += sum(min(extent, _TAPS_LIMIT + 1) for extent in kernel)
        if self.taps > _TAPS_LIMIT:
            raise ValueError(self.taps)

    def _run(self, place: int, number: int, op: Op, computation: Computation) -> Work:
        """Ops that run computations."""
        callees = [self.computations[callee] for callee in op.called]
        if op.opcode == "fusion":
            inner = callees[0]
            accessed = fusion_bytes(self.module.computations[op.called[0]], op)
            return Work(inner.flops, inner.transcendentals, accessed, inner.model_flops)
        if op.opcode == "while":
            body, condition = callees
            count = trip_count(self.module, computation, op)
            self.loops.append(Loop(place, number, count, body))
            times = self.assumed_trip_count if count is None else count
            self.loop_counts[place, number] = (times, times + 1)
            if self.loops_once:
                return body.plus(condition)
            return body.times(times).plus(condition.times(times + 1))
        if op.opcode == "conditional":
            return Work(*map(max, zip(*callees, strict=True)))
        return callees[0]


_TAPS_LIMIT: Final = 4 << 20
"""Edges of the kernels of all convolutions of a program, in sum."""
_RUNS: Final = frozenset({"async-start", "call", "conditional", "fusion", "while"})
_new_work: Final = tuple.__new__
"""Without the detour of a named tuple's own constructor."""


def _uncounted_name(op: Op) -> str:
    if op.opcode != "custom-call":
        return op.opcode
    target = op.attributes.custom_call_target[:200].decode("utf-8", "replace")
    return f"custom-call {shorten(printable(target), 60)}".rstrip()
