"""The program of one matmul C[M, N] = A[M, K] @ B[K, N] as a compiler would shape it for a NeuronCore.

A lies row-major in HBM and is turned on the PE by a matmul with an identity matrix; M goes in tiles of 128 rows, N in
tiles of 512 columns, K is accumulated in PSUM 128 rows at a time; loads and stores are up to 1,024 columns wide; operands
stay in SBUF where they fit. Instruction counts, FLOPs and HBM bytes are those of `tiling.work.tensor_engine_work` while
each operand is read once.

    for each block of columns of B:            # as many as SBUF holds
        for each 128 rows of A:
            load the rows, turn them, 4 blocks of 128x128 per PSUM bank     # once, where the turned A fits SBUF
            for each 512 columns of the block: accumulate over K; PSUM -> SBUF
            store 1,024 columns at a time

Where K is so long that not even 512 columns of B fit, both operands stream: 3 x 2 PSUM banks accumulate over K at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from npuscope.simulate.neuroncore.program import Box, Engine, Program, ProgramBuilder, Space, Transfer, Work
from npuscope.tiling.model import TENSOR_ENGINE
from npuscope.workloads.dtypes import ELEMENT_TYPES
from npuscope.workloads.matmul import MatmulConfig

Counts = npt.NDArray[np.int64]

TILE_M, TILE_K, TILE_N = TENSOR_ENGINE.edges
LOAD_COLUMNS = 1024
"""Widest load and store: what compiled matmuls use."""
TURNED_PER_BANK = 4
"""Transposed 128x128 blocks that share a PSUM bank and one copy to SBUF."""
STREAM_TILES_M = 3
"""Row tiles that accumulate at once while both operands stream: with 2 column tiles, 6 of 8 PSUM banks."""
STREAM_TILES_N = LOAD_COLUMNS // TILE_N
EVACUATION = (Engine.VECTOR, Engine.SCALAR)
"""Engines that copy from PSUM to SBUF."""
_BUFFERS = 2


class Blocking(NamedTuple):
    """What stays in SBUF; one array entry per shape."""

    block_tiles_n: Counts
    """Tiles of 512 columns of B that are held at once; 0 where both operands stream."""
    keeps_a: npt.NDArray[np.bool_]
    """All of A, turned, stays in SBUF: it is read and turned once."""

    def reads_of_a(self, tiles_n: Counts) -> Counts:
        """How often each row of A is loaded (and turned)."""
        streamed = -(-tiles_n // STREAM_TILES_N)
        blocks = -(-tiles_n // np.maximum(self.block_tiles_n, 1))
        return np.where(self.block_tiles_n == 0, streamed, np.where(self.keeps_a, 1, blocks))

    def reads_of_b(self, tiles_m: Counts) -> Counts:
        """How often each column of B is loaded."""
        return np.where(self.block_tiles_n == 0, -(-tiles_m // STREAM_TILES_M), 1)


def choose_blocking(shapes: Counts, itemsize: Counts | int, sbuf_usable_bytes: int) -> Blocking:
    """Decide what stays in SBUF.

    Args:
        shapes: int64 [n, 3]: M, K, N.
        itemsize: Bytes per element, one number or [n].
        sbuf_usable_bytes: Per partition.
    """
    M, K, N = np.asarray(shapes, dtype=np.int64).reshape(-1, 3).T
    tiles_m, tiles_k, tiles_n = -(-M // TILE_M), -(-K // TILE_K), -(-N // TILE_N)
    columns = tiles_n * TILE_N
    rows_bytes = tiles_k * TILE_K * itemsize  # of 128 rows of A, as loaded and also once turned
    fixed = _BUFFERS * rows_bytes + (TILE_M + _BUFFERS * LOAD_COLUMNS) * itemsize
    tile_bytes = tiles_k * TILE_N * itemsize
    whole_bytes = tiles_k * np.minimum(columns, N) * itemsize
    all_a = tiles_m * rows_bytes
    whole_b = fixed + _BUFFERS * rows_bytes + whole_bytes <= sbuf_usable_bytes
    beside_a = (sbuf_usable_bytes - fixed - all_a) // (_BUFFERS * tile_bytes)
    beside_rows = (sbuf_usable_bytes - fixed - _BUFFERS * rows_bytes) // tile_bytes
    double = np.where(beside_rows >= _BUFFERS, beside_rows // _BUFFERS, beside_rows)
    keeps_a = ~whole_b & (beside_a >= 1)
    block = np.clip(np.where(keeps_a, beside_a, double), 0, tiles_n)
    even = block - block % np.where(block > 1, STREAM_TILES_N, 1)  # whole loads of 1,024 columns
    return Blocking(np.where(whole_b, tiles_n, even), keeps_a)


def transpose_work(rows: int, columns: int, dtype: str) -> Work:
    """Turn [rows, columns] of A, each at most 128, on the PE."""
    return Work(
        "nc_transpose",
        elements=columns,
        partitions=rows,
        dtype=dtype,
        out_dtype="float32",
        destination=Space.PSUM,
        columns=columns,
        is_transpose=True,
        flops=2 * rows * rows * columns,
    )


def matmul_work(rows: int, depth: int, columns: int, dtype: str) -> Work:
    """[rows, depth] of A by [depth, columns] of B."""
    return Work(
        "nc_matmul",
        elements=columns,
        partitions=depth,
        dtype=dtype,
        out_dtype="float32",
        sources=(Space.SBUF, Space.SBUF),
        destination=Space.PSUM,
        columns=rows,
        flops=2 * depth * rows * columns,
    )


def copy_work(partitions: int, columns: int, dtype: str) -> Work:
    """Copy float32 columns of PSUM to SBUF, in the operands' type."""
    return Work(
        "tensor_copy",
        elements=columns,
        partitions=partitions,
        dtype="float32",
        out_dtype=dtype,
        sources=(Space.PSUM,),
    )


@dataclass(slots=True)
class _Recorder:
    """A program in the making."""

    builder: ProgramBuilder
    M: int
    K: int
    N: int
    dtype: str
    itemsize: int
    a: int
    b: int
    c: int
    identity: int = -1
    line: str = "matmul"

    def tile(self, space: Space, rows: int, row_bytes: int, name: str) -> int:
        """A tile whose site is its name and shape."""
        return self.builder.tile(space, rows, row_bytes, name=name, site=(name, rows, row_bytes))

    def load(self, source: int, row: int, rows: int, column: int, columns: int, name: str) -> int:
        """Columns of an operand in HBM to a new SBUF tile; returns the tile."""
        width = columns * self.itemsize
        tile = self.tile(Space.SBUF, rows, width, name)
        start = column * self.itemsize
        self.builder.instruction(
            Transfer(rows, width, rows * width, rows * width, Space.HBM, Space.SBUF),
            (Engine.DMA,),
            [Box(source, row, row + rows, start, start + width)],
            [Box(tile, 0, rows, 0, width)],
            self.line,
        )
        return tile

    def load_columns(self, source: int, row: int, rows: int, start: int, stop: int, name: str) -> list[int]:
        """[start, stop) of some rows, one tile per `LOAD_COLUMNS`."""
        return [
            self.load(source, row, rows, column, min(LOAD_COLUMNS, stop - column), name)
            for column in range(start, stop, LOAD_COLUMNS)
        ]

    def turn(self, loaded: list[int], rows: int, first: int, blocks: int) -> int:
        """Transpose `blocks` 128-column blocks of loaded rows of A, from block `first`, into one tile; returns it.

        The tile is [128 partitions of K, blocks * rows columns].
        """
        width = rows * self.itemsize
        turned = self.tile(Space.SBUF, TILE_K, blocks * width, "a_turned")
        for start in range(0, blocks, TURNED_PER_BANK):
            group = range(start, min(start + TURNED_PER_BANK, blocks))
            bank = self.tile(Space.PSUM, TILE_K, len(group) * rows * 4, "turning")
            depth = 0
            for slot, block in enumerate(group):
                k = first + block
                partitions = min(TILE_K, self.K - k * TILE_K)
                depth = max(depth, partitions)
                column = k * TILE_K
                byte = column % LOAD_COLUMNS * self.itemsize
                self.builder.instruction(
                    transpose_work(rows, partitions, self.dtype),
                    (Engine.TENSOR,),
                    [
                        Box(loaded[block * TILE_K // LOAD_COLUMNS], 0, rows, byte, byte + partitions * self.itemsize),
                        Box(self.identity, 0, rows, 0, width),
                    ],
                    [Box(bank, 0, partitions, slot * rows * 4, (slot + 1) * rows * 4)],
                    self.line,
                )
            self.evacuate(bank, turned, depth, len(group) * rows, start * width)
        return turned

    def evacuate(self, bank: int, tile: int, partitions: int, columns: int, byte: int) -> None:
        """Copy float32 columns of a PSUM bank to SBUF, in the operands' type."""
        self.builder.instruction(
            copy_work(partitions, columns, self.dtype),
            EVACUATION,
            [Box(bank, 0, partitions, 0, columns * 4)],
            [Box(tile, 0, partitions, byte, byte + columns * self.itemsize)],
            self.line,
        )

    def multiply(self, turned: Box, moving: Box, bank: int, k: int, rows: int) -> None:
        """One matmul instruction: 128 rows of K, accumulated in a bank."""
        partitions = moving.row_stop
        columns = (moving.byte_stop - moving.byte_start) // self.itemsize
        self.builder.instruction(
            matmul_work(rows, partitions, columns, self.dtype),
            (Engine.TENSOR,),
            [turned, moving],
            [Box(bank, 0, rows, 0, columns * 4)],
            self.line,
            accumulates=k > 0,
        )

    def store(self, tile: int, row: int, rows: int, column: int, columns: int) -> None:
        """A finished SBUF tile to C."""
        width, start = columns * self.itemsize, column * self.itemsize
        self.builder.instruction(
            Transfer(rows, width, rows * width, rows * width, Space.SBUF, Space.HBM),
            (Engine.DMA,),
            [Box(tile, 0, rows, 0, width)],
            [Box(self.c, row, row + rows, start, start + width)],
            self.line,
        )


def matmul_program(config: MatmulConfig, sbuf_usable_bytes: int) -> Program:
    """Record the program of one matmul.

    Args:
        config: Shape and element type.
        sbuf_usable_bytes: SBUF bytes per partition that the program may fill.
    """
    itemsize = ELEMENT_TYPES[config.dtype].itemsize
    builder = ProgramBuilder()
    hbm = [
        builder.tile(Space.HBM, rows, columns * itemsize, name=name, is_external=name != "identity")
        for name, rows, columns in (
            ("a", config.M, config.K),
            ("b", config.K, config.N),
            ("c", config.M, config.N),
            ("identity", TILE_M, TILE_M),
        )
    ]
    a, b, c, identity = hbm
    recorder = _Recorder(builder, config.M, config.K, config.N, config.dtype, itemsize, a, b, c)
    recorder.identity = recorder.load(identity, 0, TILE_M, 0, TILE_M, "identity")
    blocking = choose_blocking(np.array([config.shape]), itemsize, sbuf_usable_bytes)
    width = int(blocking.block_tiles_n[0]) * TILE_N
    if width:
        _record_resident(recorder, width, keeps_a=bool(blocking.keeps_a[0]))
    else:
        _record_streamed(recorder)
    return builder.build()


def _record_resident(recorder: _Recorder, width: int, *, keeps_a: bool) -> None:
    """A block of columns of B at a time; A row tile by row tile."""
    M, K, N, itemsize = recorder.M, recorder.K, recorder.N, recorder.itemsize
    kept: dict[int, int] = {}
    blocks_k = -(-K // TILE_K)
    for n_start in range(0, N, width):
        n_stop = min(n_start + width, N)
        held: dict[tuple[int, int], int] = {}  # (first column, first row of K) to the tile of B
        for m in range(0, M, TILE_M):
            rows = min(TILE_M, M - m)
            if m not in kept:
                loaded = recorder.load_columns(recorder.a, m, rows, 0, K, "a")
                kept[m] = recorder.turn(loaded, rows, 0, blocks_k)
            for store_start in range(n_start, n_stop, LOAD_COLUMNS):
                store_columns = min(LOAD_COLUMNS, n_stop - store_start)
                out = recorder.tile(Space.SBUF, rows, store_columns * itemsize, "c")
                for column in range(0, store_columns, TILE_N):
                    columns = min(TILE_N, store_columns - column)
                    bank = recorder.tile(Space.PSUM, rows, columns * 4, "sum")
                    for k in range(blocks_k):
                        depth = min(TILE_K, K - k * TILE_K)
                        if (store_start, k) not in held:
                            held[store_start, k] = recorder.load(
                                recorder.b, k * TILE_K, depth, store_start, store_columns, "b"
                            )
                        byte = column * itemsize
                        recorder.multiply(
                            Box(kept[m], 0, depth, k * rows * itemsize, (k + 1) * rows * itemsize),
                            Box(held[store_start, k], 0, depth, byte, byte + columns * itemsize),
                            bank,
                            k,
                            rows,
                        )
                    recorder.evacuate(bank, out, rows, columns, column * itemsize)
                recorder.store(out, m, rows, store_start, store_columns)
            if not keeps_a:
                del kept[m]


def _record_streamed(recorder: _Recorder) -> None:
    """Neither operand stays: `STREAM_TILES_M` row tiles by 1,024 columns accumulate while K streams by."""
    M, K, N, itemsize = recorder.M, recorder.K, recorder.N, recorder.itemsize
    for n in range(0, N, LOAD_COLUMNS):
        columns = min(LOAD_COLUMNS, N - n)
        for first in range(0, M, STREAM_TILES_M * TILE_M):
            tiles = range(first, min(first + STREAM_TILES_M * TILE_M, M), TILE_M)
            starts = range(0, columns, TILE_N)
            banks = {
                (m, start): recorder.tile(Space.PSUM, min(TILE_M, M - m), min(TILE_N, columns - start) * 4, "sum")
                for m in tiles
                for start in starts
            }
            for k_start in range(0, K, LOAD_COLUMNS):
                k_stop = min(k_start + LOAD_COLUMNS, K)
                blocks = -(-(k_stop - k_start) // TILE_K)
                turned = {}
                for m in tiles:
                    rows = min(TILE_M, M - m)
                    loaded = recorder.load_columns(recorder.a, m, rows, k_start, k_stop, "a")
                    turned[m] = recorder.turn(loaded, rows, k_start // TILE_K, blocks)
                for block in range(blocks):
                    row = k_start + block * TILE_K
                    depth = min(TILE_K, K - row)
                    moving = recorder.load(recorder.b, row, depth, n, columns, "b")
                    for (m, start), bank in banks.items():
                        rows = min(TILE_M, M - m)
                        stop = min(start + TILE_N, columns)
                        recorder.multiply(
                            Box(turned[m], 0, depth, block * rows * itemsize, (block + 1) * rows * itemsize),
                            Box(moving, 0, depth, start * itemsize, stop * itemsize),
                            bank,
                            row,
                            rows,
                        )
            for m in tiles:
                rows = min(TILE_M, M - m)
                out = recorder.tile(Space.SBUF, rows, columns * itemsize, "c")
                for start in starts:
                    recorder.evacuate(banks[m, start], out, rows, min(TILE_N, columns - start), start * itemsize)
                recorder.store(out, m, rows, n, columns)
