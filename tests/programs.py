"""Small programs for the NeuronCore simulator, recorded by hand."""

from __future__ import annotations

import numpy as np

from npuscope.simulate.neuroncore.program import Box, Engine, Program, ProgramBuilder, Space, Transfer, Work

LINE = "kernel.py:1"


def vector_add(elements: int = 512, *, dtype: str = "float32") -> Work:
    """A tensor_tensor of two SBUF tiles."""
    return Work("tensor_tensor", elements, 128, dtype, dtype, (Space.SBUF, Space.SBUF), function="add")


def matmul(columns: int = 512, *, dtype: str = "bfloat16") -> Work:
    """A full 128x128 stationary tile against `columns` moving ones."""
    flops = 2 * 128 * 128 * columns
    return Work("nc_matmul", columns, 128, dtype, "float32", (Space.SBUF,), Space.PSUM, columns=128, flops=flops)


def load(row_bytes: int, rows: int = 128) -> Transfer:
    """Rows from HBM into as many partitions."""
    return Transfer(rows, row_bytes, rows * row_bytes, rows * row_bytes, Space.HBM, Space.SBUF)


class Recorder(ProgramBuilder):
    """A builder with short forms."""

    def sbuf(self, row_bytes: int = 2048, site: object = None) -> Box:
        """A new SBUF tile, as the box of all of it."""
        return Box(self.tile(Space.SBUF, 128, row_bytes, site=site), 0, 128, 0, row_bytes)

    def psum(self, row_bytes: int = 2048) -> Box:
        """A new PSUM tile."""
        return Box(self.tile(Space.PSUM, 128, row_bytes), 0, 128, 0, row_bytes)

    def hbm(self, rows: int = 128, row_bytes: int = 2048) -> Box:
        """A new tensor in HBM."""
        return Box(self.tile(Space.HBM, rows, row_bytes, is_external=True), 0, rows, 0, row_bytes)

    def add(self, out: Box, *sources: Box, work: Work | None = None, engine: Engine = Engine.VECTOR) -> int:
        """A vector instruction."""
        return self.instruction(work or vector_add(), [engine], sources, [out], LINE)

    def dma(self, out: Box, source: Box, transfer: Transfer | None = None) -> int:
        """A DMA."""
        return self.instruction(transfer or load(2048), [Engine.DMA], [source], [out], LINE)

    def matmul(self, out: Box, *sources: Box, work: Work | None = None, accumulates: bool = False) -> int:
        """A matmul into PSUM."""
        return self.instruction(work or matmul(), [Engine.TENSOR], sources, [out], LINE, accumulates=accumulates)


def random_program(seed: int, count: int = 60, tiles: int = 12) -> Program:
    """Instructions of all engines over a few tiles with overlapping boxes."""
    rng = np.random.default_rng(seed)
    record = Recorder()
    spaces = [Space(int(space)) for space in rng.choice([0, 1, 1, 1, 2], tiles)]
    numbers = [record.tile(space, 128, 2048) for space in spaces]
    for number in numbers:
        record.instruction(load(2048), [Engine.DMA], [], [Box(number, 0, 128, 0, 2048)], LINE)

    def box(index: int) -> Box:
        rows, columns = sorted(rng.choice(129, 2, replace=False)), sorted(rng.choice(2049, 2, replace=False))
        return Box(numbers[index], int(rows[0]), int(rows[1]), int(columns[0]), int(columns[1]))

    for _ in range(count):
        engine = Engine(int(rng.integers(0, 6)))
        boxes = [box(int(index)) for index in rng.integers(0, tiles, int(rng.integers(1, 4)))]
        work: Work | Transfer = vector_add(int(rng.integers(1, 2048)))
        if engine is Engine.DMA:
            work = load(int(rng.integers(1, 4096)), int(rng.integers(1, 129)))
        elif engine is Engine.TENSOR:
            work = matmul(int(rng.integers(1, 513)))
        record.instruction(work, [engine], boxes[1:], boxes[:1], LINE)
    return record.build()
