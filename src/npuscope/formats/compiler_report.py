"""What the compiler reports of its tiling, memory and DMA in `log-neuron-cc.txt`.

Read off one real log (neuronx-cc 2.22.12471): a line of another version that reads otherwise is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_NAMES_LIMIT: Final = 500
_NEW_REPORT: Final = "MACROS WITH LARGEST INSTRUCTION COUNTS"
_TILE = re.compile(r"\]: (\d{1,15}): ([a-z_]{1,40}\d+(?:x\d+)+)$")
_FIGURE = re.compile(r"\]:\s{1,20}([a-z]{1,30}_[a-z_]{1,60}):\s{1,20}(\d{1,15}(?:\.\d{1,15})?)$")
_NAMED: Final = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("hlo_mac_count", r"HloMacCount has found (\d{1,18})$"),
        ("hlo_traffic_bytes", r"Traffic has found (\d{1,18})$"),
        ("hlo_flop_per_byte", r"\bAIF (\d{1,12}(?:\.\d{1,12})?)$"),
        ("weight_bytes", r"Weights total number of bytes: (\d{1,18})$"),
        ("instructions", r"Output has .{1,120}, and (\d{1,15}) instruction\(s\)"),
        ("peak_scratchpad_bytes", r"Peak scratchpad usage: (\d{1,18})$"),
        ("sbuf_spilled_tensors", r"SB spills = (\d{1,9}) tensors"),
    )
)
_DMA = re.compile(
    r"DMA optimization Out bytes loaded or saved (\d{1,18}), ([\d.]{1,12})% input load, "
    r"([\d.]{1,12})% output write, ([\d.]{1,12})% spill/reload"
)
_WORDS: Final = (
    "has found",
    "AIF ",
    "Weights total",
    "Output has",
    "Peak scratchpad",
    "SB spills",
    "DMA optimization Out",
)


@dataclass(slots=True)
class CompilerReport:
    """Collects figures line by line; a later report replaces an earlier one."""

    tiles: dict[str, int] = field(default_factory=dict)
    """Macro such as `matmul_128x128x512` to its number of instructions."""
    figures: dict[str, float] = field(default_factory=dict)
    """Name to value: counts, bytes, and shares from 0 to 1 that end in `_share`; utilisations are percent."""

    def read(self, line: str) -> None:
        """Take what a line reports."""
        if line[-1:].isdigit() and "]: " in line[:400]:
            if found := _TILE.search(line):
                if found[2] in self.tiles or len(self.tiles) < _NAMES_LIMIT:
                    self.tiles[found[2]] = self.tiles.get(found[2], 0) + int(found[1])
                return
            if found := _FIGURE.search(line):
                self._set(found[1], float(found[2]))
                return
        if _NEW_REPORT in line:
            self.tiles.clear()
            return
        for word in _WORDS:
            if word in line:
                self._read_named(line)
                return

    def _read_named(self, line: str) -> None:
        if found := _DMA.search(line):
            self._set_dma(found)
            return
        for name, pattern in _NAMED:
            if found := pattern.search(line):
                self._set(name, float(found[1]))
                return

    def _set_dma(self, found: re.Match[str]) -> None:
        for name, text in zip(
            ("input_load_share", "output_write_share", "spill_reload_share"), found.groups()[1:], strict=True
        ):
            if text.count(".") <= 1 and text != ".":
                self._set(f"dma_{name}", float(text) / 100)
        self._set("dma_bytes", float(found[1]))

    def _set(self, name: str, value: float) -> None:
        if name in self.figures or len(self.figures) < _NAMES_LIMIT:
            self.figures[name] = int(value) if value.is_integer() else value
