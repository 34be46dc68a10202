"""The ops of a module as columns, numbered through all computations, for the compiled loop over them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.formats.hlo import HloModule, Op
from npuscope.simulate.hlo.replay_loop import CALLED, LOWERED, MOST_OPERANDS, REPLAYED, SKIPPED, ProgramColumns

_WORTHWHILE: Final = 5
"""Times that an op is run from which on it pays to record what it becomes."""
_OFTEN: Final = 1e9
_SHORT_ROW: Final = 4
"""Ops in a row for which it does not pay to enter the loop."""
_SHORT: Final = 16
"""Ops of a function that is compared with others."""


class ModuleColumns:
    """A module for the compiled loop.

    Attributes:
        ops: Those of all computations in turn.
        columns: The same as numbers.
    """

    def __init__(self, module: HloModule, is_pure: Callable[[str], bool], called: Callable[[Op], bool]) -> None:
        """Number the ops.

        Args:
            module: The program.
            is_pure: Whether the value of an op of that opcode follows from its operands alone.
            called: Whether an op is nothing but a call of its first function.
        """
        self.module = module
        self.ops: list[Op] = [op for computation in module.computations for op in computation.ops]
        sizes = [len(computation.ops) for computation in module.computations]
        first_op = np.fromiter(accumulate(sizes, initial=0), np.int64, count=len(sizes) + 1)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        places = [op.operands for op in self.ops]
        counts = np.fromiter(map(len, places), np.int64, count=len(places))
        operands = np.fromiter(chain.from_iterable(places), np.int64) + np.repeat(first_op[owner], counts)
        first_operand = np.concatenate([[0], np.cumsum(counts)])
        root = first_op[:-1] + np.array([computation.root for computation in module.computations], np.int64)
        uses = np.bincount(operands, minlength=len(places))
        uses[root] += 1
        is_root = np.zeros(len(places), np.bool_)
        is_root[root] = True
        classes = {opcode: _class_of(opcode, is_pure) for opcode in {op.opcode for op in self.ops}}
        op_class = np.array([classes[op.opcode] for op in self.ops], np.int64)
        pure = op_class == REPLAYED
        op_class[pure & (counts > MOST_OPERANDS)] = LOWERED
        unused = np.flatnonzero((uses == 0) & (op_class != SKIPPED))
        for place in np.unique(owner[unused]).tolist():
            ops = range(int(first_op[place]), int(first_op[place + 1]))
            _count_by_needed_ops(uses, operands, first_operand, ops, int(root[place]))
        needed = np.add.reduceat(uses > 0, first_op[:-1])
        op_class[uses == 0] = SKIPPED

        calling = [number for number, op in enumerate(self.ops) if op.called]
        heads = self._heads(calling)
        times = np.bincount(heads, self._runs(owner, calling)[owner])[heads]
        op_class[(op_class == REPLAYED) & (times < _WORTHWHILE)] = LOWERED
        is_alone = np.bincount(heads, _rows_of_class(op_class) < _SHORT_ROW) > 0.5 * np.bincount(heads)
        op_class[(op_class == REPLAYED) & is_alone[heads]] = LOWERED  # all that are equal, or none
        self.classes: list[int] = op_class.tolist()
        self.is_met_again: list[bool] = (times > 1).tolist()
        """Whether an op like it is run before or after."""
        callee = np.full(len(places), -1, np.int64)
        for number in calling:
            if called(self.ops[number]):
                op_class[number] = CALLED if uses[number] else SKIPPED
                self.classes[number] = int(op_class[number])
                callee[number] = self.ops[number].called[0]
        parameters = [computation.parameters for computation in module.computations]
        first_parameter = np.fromiter(accumulate(map(len, parameters), initial=0), np.int64, count=len(parameters) + 1)
        is_only_use = (uses == 1) & ~is_root
        # A value that an equal op has as well is read by the readers of both, and must not be overwritten by one of them.
        is_shared = (uses > 1) | (pure & (times > 1))
        self.is_only_use: list[bool] = is_only_use.tolist()
        self.columns = ProgramColumns(
            op_class,
            heads,
            is_only_use.astype(np.int64),
            is_shared.astype(np.int64),
            first_operand,
            operands,
            callee,
            first_op,
            needed.astype(np.int64),
            root,
            first_parameter,
            np.fromiter(chain.from_iterable(parameters), np.int64) + np.repeat(first_op[:-1], np.diff(first_parameter)),
        )

    def _runs(self, owner: npt.NDArray[np.int64], calling: list[int]) -> npt.NDArray[np.float64]:
        """How often each computation is run, about: loops run theirs more than once."""
        runs = np.zeros(len(self.module.computations))
        runs[self.module.entry] = 1
        for number in reversed(calling):  # callers come behind what they call
            for place in self.ops[number].called:
                more = runs[owner[number]] * (_WORTHWHILE if self.ops[number].opcode == "while" else 1)
                runs[place] = min(runs[place] + more, _OFTEN)
        return runs

    def _heads(self, calling: list[int]) -> npt.NDArray[np.int64]:
        """A number for each op, the same for ops that compute the same of the same operands."""
        # Attributes hold opcode and shape, too, and equal ones are one object.
        identities = np.fromiter(map(id, [op.attributes for op in self.ops]), np.int64, count=len(self.ops))
        _, heads = np.unique(identities, return_inverse=True)
        found: npt.NDArray[np.int64] = heads.astype(np.int64)
        forms: dict[int, int] = {}
        equal: dict[tuple[Any, ...], int] = {}
        numbers: dict[tuple[int, ...], int] = {}
        for number in calling:
            key = (int(found[number]), *[self._form(place, forms, equal) for place in self.ops[number].called])
            found[number] = len(self.ops) + numbers.setdefault(key, len(numbers))
        return found

    def _form(self, place: int, forms: dict[int, int], equal: dict[tuple[Any, ...], int]) -> int:
        """The same for functions that compute the same, if they are short: XLA has one for each reduction."""
        known = forms.get(place)
        if known is None:
            computation = self.module.computations[place]
            key: tuple[Any, ...] = (place,)
            if len(computation.ops) <= _SHORT:
                ops = [
                    (id(op.attributes), op.operands, *[self._form(one, forms, equal) for one in op.called])
                    for op in computation.ops
                ]
                key = (computation.root, *ops)
            known = forms[place] = equal.setdefault(key, len(equal))
        return known


def _class_of(opcode: str, is_pure: Callable[[str], bool]) -> int:
    return SKIPPED if opcode == "parameter" else REPLAYED if is_pure(opcode) else LOWERED


def _rows_of_class(op_class: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each op, how many stand in a row of which none stops the loop."""
    stops = op_class == LOWERED
    row = np.cumsum(np.append(0, stops[1:] != stops[:-1]))
    found: npt.NDArray[np.int64] = np.bincount(row)[row]
    return found


def _count_by_needed_ops(
    uses: npt.NDArray[np.int64],
    operands: npt.NDArray[np.int64],
    first_operand: npt.NDArray[np.int64],
    ops: range,
    root: int,
) -> None:
    """Count the uses of the ops of one computation by those alone that its root needs."""
    uses[ops.start : ops.stop] = 0
    uses[root] = 1
    for number in range(root, ops.start - 1, -1):
        if uses[number]:
            for operand in operands[first_operand[number] : first_operand[number + 1]].tolist():
                uses[operand] += 1
