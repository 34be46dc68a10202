"""The program of one matmul: its counts are those of the tiling model, and it fits the chip."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.simulate.neuroncore.devices import SIMULATED_CHIPS, load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.matmul_program import choose_blocking, matmul_program
from npuscope.simulate.neuroncore.memory import with_spills
from npuscope.simulate.neuroncore.program import ACCUMULATES, Program, Space, Transfer, Work
from npuscope.tiling.work import tensor_engine_work
from npuscope.workloads.dtypes import ELEMENT_TYPES
from npuscope.workloads.matmul import MatmulConfig

SBUF_BYTES = load_device("trn1").sbuf_usable_bytes
SMALL_SBUF_BYTES = 1 << 15
"""So little that most shapes read an operand again, or stream both."""
SHAPES = st.tuples(st.integers(1, 700), st.integers(1, 2500), st.integers(1, 2600))


def record(shape: tuple[int, int, int], dtype: str = "bfloat16", sbuf_bytes: int = SBUF_BYTES) -> Program:
    return matmul_program(MatmulConfig(*shape, dtype), sbuf_bytes)


def instructions(program: Program) -> list[Work | Transfer]:
    return [program.signatures[number] for number in program.signature]


def opcodes(program: Program) -> Counter[str]:
    return Counter(work.opcode for work in instructions(program) if isinstance(work, Work))


def hbm_bytes(program: Program) -> tuple[int, int]:
    moves = [work for work in instructions(program) if isinstance(work, Transfer)]
    read = sum(move.read_bytes for move in moves if move.source is Space.HBM)
    return read, sum(move.write_bytes for move in moves if move.destination is Space.HBM)


@pytest.mark.parametrize("columns", [64, 200, 512, 520, 1000, 1024, 2048])
def test_counts_of_one_stationary_block_are_those_confirmed_on_captures(columns: int) -> None:
    program, expected = (
        record((128, 128, columns), "float16"),
        tensor_engine_work(MatmulConfig(128, 128, columns, "float16")),
    )
    found = opcodes(program)
    assert found["nc_matmul"] + found["nc_transpose"] == expected.matmul_instruction_count
    assert found["nc_transpose"] == expected.transpose_instruction_count
    assert sum(work.flops for work in instructions(program) if isinstance(work, Work)) == expected.hardware_flops
    assert hbm_bytes(program) == (expected.hbm_read_bytes, expected.hbm_write_bytes)


@given(
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4)),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
@settings(max_examples=10, deadline=None)
def test_counts_of_whole_tiles_that_fit_are_the_tiling_models(tiles: tuple[int, int, int], dtype: str) -> None:
    shape = (128 * tiles[0], 128 * tiles[1], 512 * tiles[2])
    program, expected = record(shape, dtype), tensor_engine_work(MatmulConfig(*shape, dtype))
    found = opcodes(program)
    assert found["nc_matmul"] == expected.matmul_instruction_count - expected.transpose_instruction_count
    assert found["nc_transpose"] == expected.transpose_instruction_count
    assert sum(work.flops for work in instructions(program) if isinstance(work, Work)) == expected.hardware_flops
    assert hbm_bytes(program) == (expected.hbm_read_bytes, expected.hbm_write_bytes)


@given(shape=SHAPES, sbuf_bytes=st.sampled_from([SBUF_BYTES, SMALL_SBUF_BYTES]))
@settings(max_examples=10, deadline=None)
def test_each_operand_is_read_as_often_as_the_blocking_says(shape: tuple[int, int, int], sbuf_bytes: int) -> None:
    M, K, N = shape
    program = record(shape, sbuf_bytes=sbuf_bytes)
    itemsize = ELEMENT_TYPES["bfloat16"].itemsize
    blocking = choose_blocking(np.array([shape]), itemsize, sbuf_bytes)
    tiles_m, tiles_n = np.array([-(-M // 128)]), np.array([-(-N // 512)])
    reads_a, reads_b = blocking.reads_of_a(tiles_n)[0], blocking.reads_of_b(tiles_m)[0]
    expected = itemsize * (reads_a * M * K + reads_b * K * N + 128 * 128)
    assert hbm_bytes(program) == (expected, itemsize * M * N)
    found = opcodes(program)
    assert found["nc_transpose"] == reads_a * tiles_m[0] * -(-K // 128)
    assert found["nc_matmul"] == tiles_m[0] * tiles_n[0] * -(-K // 128)
    products = sum(
        work.flops for work in instructions(program) if isinstance(work, Work) and work.opcode == "nc_matmul"
    )
    assert products == 2 * M * K * N


@given(shape=SHAPES, sbuf_bytes=st.sampled_from([SBUF_BYTES, SMALL_SBUF_BYTES]))
@settings(max_examples=6, deadline=None)
def test_nothing_is_spilled(shape: tuple[int, int, int], sbuf_bytes: int) -> None:
    program = record(shape, sbuf_bytes=sbuf_bytes)
    assert len(with_spills(program, sbuf_bytes)) == len(program)


@pytest.mark.parametrize("chip", SIMULATED_CHIPS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (300, 200, 700), (128, 33_000, 640)])
def test_every_program_runs_to_its_end(chip: str, shape: tuple[int, int, int]) -> None:
    device = load_device(chip)
    run = run_program(record(shape, sbuf_bytes=device.sbuf_usable_bytes), device)
    assert run.schedule.finished == len(run.program)


def test_a_sum_over_k_starts_afresh_in_its_bank_and_accumulates_then() -> None:
    program = record((128, 384, 512))
    flags = [
        int(flag) & ACCUMULATES
        for flag, work in zip(program.flags, instructions(program), strict=True)
        if isinstance(work, Work) and work.opcode == "nc_matmul"
    ]
    assert flags == [0, ACCUMULATES, ACCUMULATES]


def test_loads_and_stores_are_at_most_1024_columns_wide() -> None:
    widths = {work.run_bytes for work in instructions(record((128, 3000, 2100))) if isinstance(work, Transfer)}
    assert max(widths) == 2 * 1024


def test_a_turned_once_stays_where_it_fits_and_b_does_not() -> None:
    shape = (256, 4096, 65_536)
    blocking = choose_blocking(np.array([shape]), 2, SBUF_BYTES)
    assert blocking.keeps_a[0]
    assert 0 < blocking.block_tiles_n[0] < 128
    assert blocking.reads_of_a(np.array([128]))[0] == 1
