"""Instructions that a program repeats with other tiles: recorded once as a template, and expanded when the program is built.

A front end that knows that an operation becomes the same instructions as one before it names the template and the tiles; that
takes a fraction of recording each instruction anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

ROW_COLUMNS: Final = 7
"""Of a row per instruction: signature, engines, flags, line, iteration, first of its writes and end of its boxes."""
_LINE, _ITERATION, _WRITES, _END = 3, 4, 5, 6
BOX_COLUMNS: Final = 5


class Template(NamedTuple):
    """Where the rows and boxes of a template stand."""

    first_row: int
    rows: int
    first_box: int
    boxes: int
    bound: int
    """Tiles that each repetition names; those that it makes are numbered after them."""


class Templates:
    """Those of a program in the making."""

    def __init__(self) -> None:
        self.templates: list[Template] = []
        self._rows: list[int] = []
        """As the program's, with lines and iterations that are not used, and box numbers from the template's first on."""
        self._boxes: list[int] = []
        """Slot (tile of the repetition, or -1 - tile for one that all repetitions share), rows, bytes."""

    def add(
        self, rows: Sequence[int], boxes: Sequence[Sequence[int]], first_box: int, slots: Mapping[int, int], bound: int
    ) -> int | None:
        """A template of instructions that were recorded; returns its number, None where they touch a tile without a slot.

        Args:
            rows: Of the instructions.
            boxes: Theirs.
            first_box: Number of the first of `boxes` in the program.
            slots: Tile to its slot; -1 - tile for one that all repetitions share.
            bound: How many tiles a repetition names.
        """
        copied: list[int] = []
        for tile, *sides in boxes:
            if tile not in slots:
                return None
            copied += (slots[tile], *sides)
        place = Template(
            len(self._rows) // ROW_COLUMNS, len(rows) // ROW_COLUMNS, len(self._boxes) // BOX_COLUMNS, len(boxes), bound
        )
        columns = np.array(rows, np.int64).reshape(-1, ROW_COLUMNS)
        columns[:, [_WRITES, _END]] -= first_box
        self._rows += columns.ravel().tolist()
        self._boxes += copied
        self.templates.append(place)
        return len(self.templates) - 1

    def expanded(self, rows: Integers, boxes: Integers, events: Integers, bound: Integers) -> tuple[Integers, Integers]:
        """Rows and boxes of the whole program in its order.

        Args:
            rows: Those that were recorded one by one; shape [instructions, 7].
            boxes: Shape [accesses, 5].
            events: What comes between them, in its order: template, how many of `rows` come before it, line, iteration, and
                the first tile that it makes; shape [repetitions, 5].
            bound: The tiles that they name, in turn.
        """
        number, before, line, iteration, first_tile = events.T
        templates = np.array(self.templates, np.int64).reshape(-1, len(Template._fields))[number]
        first_row, row_count, first_box, box_count, named = templates.T
        box_ends = np.concatenate([[0], rows[:, _END]])

        # Where everything goes: what was recorded one by one moves back by what is repeated before it.
        row_of_event = before + np.cumsum(row_count) - row_count
        box_of_event = box_ends[before] + np.cumsum(box_count) - box_count
        events_before = np.searchsorted(before, np.arange(len(rows)), side="right")
        rows_added = np.concatenate([[0], np.cumsum(row_count)])[events_before]
        boxes_added = np.concatenate([[0], np.cumsum(box_count)])[events_before]
        all_rows = np.empty((len(rows) + int(row_count.sum()), ROW_COLUMNS), np.int64)
        all_boxes = np.empty((len(boxes) + int(box_count.sum()), BOX_COLUMNS), np.int64)
        moved = rows.copy()
        moved[:, [_WRITES, _END]] += boxes_added[:, None]
        all_rows[np.arange(len(rows)) + rows_added] = moved
        all_boxes[np.arange(len(boxes)) + np.repeat(boxes_added, np.diff(box_ends))] = boxes

        row_event = np.repeat(np.arange(len(before)), row_count)
        inner = np.arange(len(row_event)) - np.repeat(np.cumsum(row_count) - row_count, row_count)
        copied = np.array(self._rows, np.int64).reshape(-1, ROW_COLUMNS)[first_row[row_event] + inner]
        copied[:, _LINE] = line[row_event]
        copied[:, _ITERATION] = iteration[row_event]
        copied[:, [_WRITES, _END]] += box_of_event[row_event][:, None]
        all_rows[row_of_event[row_event] + inner] = copied

        box_event = np.repeat(np.arange(len(before)), box_count)
        inner = np.arange(len(box_event)) - np.repeat(np.cumsum(box_count) - box_count, box_count)
        copied = np.array(self._boxes, np.int64).reshape(-1, BOX_COLUMNS)[first_box[box_event] + inner]
        slot, count = copied[:, 0], named[box_event]
        first_named = np.cumsum(named) - named
        is_named = (slot >= 0) & (slot < count)
        of_event = np.append(bound, 0)[np.where(is_named, first_named[box_event] + slot, len(bound))]
        made = first_tile[box_event] + slot - count
        copied[:, 0] = np.where(slot < 0, -1 - slot, np.where(is_named, of_event, made))
        all_boxes[box_of_event[box_event] + inner] = copied
        return all_rows, all_boxes
