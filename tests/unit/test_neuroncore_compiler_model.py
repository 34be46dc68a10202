"""What the model of the compiler does to a program: loop invariants, renaming, inserted copies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.simulate.neuroncore.copies import without_inserted_copies
from npuscope.simulate.neuroncore.dependences import RAW, dependences
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.invariants import without_invariants
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.options import ModelOptions
from npuscope.simulate.neuroncore.program import Box, Engine, Program, Space, Work
from npuscope.simulate.neuroncore.renaming import renamed
from tests.programs import LINE, Recorder, load, random_program, vector_add

TRN1 = load_device("trn1")
COPY = Work("tensor_copy", 512, 128, "float32", "float32", (Space.PSUM,))


def true_dependences(program: Program) -> set[tuple[int, int]]:
    start, predecessor, kind = dependences(program)
    owner = np.repeat(np.arange(len(program)), np.diff(start))
    raw = kind == RAW
    return set(zip(predecessor[raw].tolist(), owner[raw].tolist(), strict=True))


def looping(body, iterations: int = 3) -> Program:
    record = Recorder()
    source, left, right = record.hbm(), record.sbuf(), record.sbuf()
    record.dma(left, source)
    record.dma(right, source)
    for index in range(iterations):
        record.iteration += 1
        body(record, index, left, right)
    record.iteration += 1
    return record.build()


def test_what_an_innermost_loop_repeats_is_computed_once_and_read_by_all() -> None:
    def body(record, index, left, right):
        product = record.sbuf()
        record.instruction(vector_add(), [Engine.VECTOR], [left, right], [product], "k.py:3")
        record.instruction(vector_add(100 + index), [Engine.VECTOR], [product], [record.sbuf()], "k.py:4")

    program = looping(body)
    moved = without_invariants(program)
    assert len(program) - len(moved) == 2
    products = moved.access[(moved.access[:, 5] == 0), 0][-3:]
    assert len(set(products.tolist())) == 1


def test_what_changes_between_iterations_stays() -> None:
    def body(record, index, left, right):
        scratch = record.sbuf()
        record.instruction(vector_add(), [Engine.VECTOR], [left], [scratch], "k.py:3")
        record.instruction(vector_add(), [Engine.VECTOR], [scratch], [left], "k.py:4")

    program = looping(body)
    assert without_invariants(program) is program


def test_a_load_of_the_same_rows_in_every_iteration_is_done_once_unless_they_are_stored_to() -> None:
    def body(stores):
        def run(record, index, left, right):
            tile = record.sbuf()
            record.instruction(load_of(), [Engine.DMA], [Box(0, 0, 128, 0, 2048)], [tile], "k.py:3")
            record.instruction(vector_add(), [Engine.VECTOR], [tile, left], [left], "k.py:4")
            if stores:
                record.instruction(store_of(), [Engine.DMA], [left], [Box(0, 0, 128, 0, 2048)], "k.py:5")

        return run

    assert len(without_invariants(looping(body(False)))) == len(looping(body(False))) - 2
    assert len(without_invariants(looping(body(True)))) == len(looping(body(True)))


def load_of():
    return load(2048)


def store_of():
    return load_of()._replace(source=Space.SBUF, destination=Space.HBM)


def test_a_tile_that_is_filled_in_pieces_is_invariant_only_if_all_of_its_pieces_are() -> None:
    def body(changes):
        def run(record, index, left, right):
            tile = record.tile(Space.SBUF, 128, 2048)
            for piece in range(2):
                work = vector_add(512 + index * changes * piece)
                box = Box(tile, 0, 128, 1024 * piece, 1024 * piece + 1024)
                record.instruction(work, [Engine.VECTOR], [left], [box], f"k.py:{3 + piece}")
            record.instruction(vector_add(), [Engine.VECTOR], [Box(tile, 0, 128, 0, 2048)], [right], "k.py:5")

        return run

    assert len(without_invariants(looping(body(0)))) == len(looping(body(0))) - 4
    assert len(without_invariants(looping(body(1)))) == len(looping(body(1)))


def test_random_numbers_are_drawn_anew_in_every_iteration() -> None:
    def body(record, index, left, right):
        work = Work("rand2", 512, 128, "float32", "float32", ())
        record.instruction(work, [Engine.VECTOR], [left], [record.sbuf()], "k.py:3")

    program = looping(body)
    assert without_invariants(program) is program


def test_the_second_of_two_equal_lines_in_one_iteration_is_another_place() -> None:
    def body(record, index, left, right):
        for source in (left, right):
            record.instruction(vector_add(), [Engine.VECTOR], [source], [record.sbuf()], "k.py:3")

    program = looping(body)
    assert len(program) - len(without_invariants(program)) == 4


def test_a_tile_that_is_filled_again_does_not_wait_for_the_readers_of_its_old_contents() -> None:
    record = Recorder()
    source, tile = record.hbm(), record.sbuf()
    for _ in range(4):
        record.dma(tile, source)
        record.add(record.sbuf(), tile, work=vector_add(8192))
    program = record.build()
    fixed = run_program(program, TRN1, ModelOptions(disabled=frozenset({"renaming"})))
    assert run_program(program, TRN1).total_ps < fixed.total_ps
    assert len({int(tile) for tile in renamed(program).access[:, 0]}) == 1 + 4 + 4


def test_parts_that_are_read_together_stay_one_tile() -> None:
    record = Recorder()
    number = record.tile(Space.SBUF, 128, 2048)
    halves = [Box(number, 0, 128, 0, 1024), Box(number, 0, 128, 1024, 2048)]
    for _ in range(2):
        for half in halves:
            record.add(half)
        record.add(record.sbuf(), Box(number, 0, 128, 0, 2048))
    tiles = renamed(record.build()).access[:, 0].reshape(2, 4)
    assert len(set(tiles[0, [0, 1, 2]].tolist())) == 1
    assert set(tiles[0].tolist()).isdisjoint(tiles[1].tolist())


def test_accumulation_stays_in_its_bank() -> None:
    record = Recorder()
    total = record.psum()
    for index in range(3):
        record.matmul(total, record.sbuf(), accumulates=index > 0)
    record.add(record.sbuf(), total, work=COPY)
    program = renamed(record.build())
    psum = [int(tile) for tile in program.access[:, 0] if program.tiles[int(tile)].space is Space.PSUM]
    assert len(set(psum)) == 1


def flows(program: Program) -> set[tuple[int, int]]:
    """Pairs in which the second reads on the chip what the first wrote, and writes none of the first's tiles."""
    start = program.access_start
    touched = [program.access[start[i] : start[i + 1]] for i in range(len(program))]
    reads = [{int(a[0]) for a in rows if not a[5]} for rows in touched]
    writes = [{int(a[0]) for a in rows if a[5]} for rows in touched]
    on_chip = {i for i, tile in enumerate(program.tiles) if tile.space is not Space.HBM}
    return {
        (i, j) for i, j in true_dependences(program) if writes[i] & reads[j] & on_chip and not writes[i] & writes[j]
    }


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_renaming_keeps_every_flow_of_data(seed) -> None:
    program = random_program(seed)
    assert flows(program) <= flows(renamed(program))


def test_an_inserted_copy_is_left_out_where_vector_can_read_psum_and_the_reader_gets_cheaper() -> None:
    record = Recorder()
    product, repeated = record.psum(), record.sbuf()
    record.matmul(product, record.sbuf())
    record.mark_inserted_copy(record.add(repeated, product, work=COPY))
    record.instruction(vector_add(), [Engine.VECTOR, Engine.GPSIMD], [repeated, record.sbuf()], [record.sbuf()], LINE)
    program = record.build()
    shorter = without_inserted_copies(program)
    assert len(shorter) == len(program) - 1
    reader = shorter.signatures[shorter.signature[-1]]
    assert isinstance(reader, Work)
    assert sorted(reader.sources) == [Space.SBUF, Space.PSUM]
    assert shorter.engines[-1] == 1 << Engine.VECTOR
    assert (
        run_program(program, TRN1).total_ps
        < run_program(program, TRN1, ModelOptions(disabled=frozenset({"copy-elimination"}))).total_ps
    )


@pytest.mark.parametrize("reader", ["matmul", "dma", "both"])
def test_an_inserted_copy_stays_where_its_reader_cannot_read_psum(reader) -> None:
    record = Recorder()
    products, copies = [record.psum(), record.psum()], [record.sbuf(), record.sbuf()]
    for product, copy in zip(products, copies, strict=True):
        record.matmul(product, record.sbuf())
        record.mark_inserted_copy(record.add(copy, product, work=COPY))
    if reader == "matmul":
        record.matmul(record.psum(), *copies)
    elif reader == "dma":
        for copy in copies:
            record.dma(record.hbm(), copy, store_of())
    else:
        record.add(record.sbuf(), *copies)
    program = record.build()
    stays = without_inserted_copies(program)
    assert len(program) - len(stays) == (1 if reader == "both" else 0)


def test_a_copy_that_the_kernel_asked_for_stays() -> None:
    record = Recorder()
    product, copy = record.psum(), record.sbuf()
    record.matmul(product, record.sbuf())
    record.add(copy, product, work=COPY)
    record.add(record.sbuf(), copy)
    program = record.build()
    assert without_inserted_copies(program) is program
