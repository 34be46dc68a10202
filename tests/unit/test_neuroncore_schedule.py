"""The schedule of programs: dependences, in-order engines, memories, and what each effect does."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.errors import UsageError
from npuscope.simulate.neuroncore.dependences import ORDER, RAW, WAR, dependences
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.memory import MemoryOverflowError, peak_live, tile_uses, with_spills
from npuscope.simulate.neuroncore.options import EFFECTS, ModelOptions
from npuscope.simulate.neuroncore.program import (
    ACCUMULATES,
    IS_RELOAD,
    IS_SPILL,
    Box,
    Engine,
    InstructionLimitError,
    Program,
    ProgramBuilder,
    Space,
    Transfer,
    Work,
)
from npuscope.simulate.neuroncore.schedule import LOADS
from tests.programs import LINE, Recorder, load, matmul, random_program, vector_add

TRN1 = load_device("trn1")
TRN2 = load_device("trn2")


def found(program: Program) -> set[tuple[int, int]]:
    start, predecessor, _ = dependences(program)
    owner = np.repeat(np.arange(len(program)), np.diff(start))
    return set(zip(predecessor.tolist(), owner.tolist(), strict=True))


def reachable(edges: set[tuple[int, int]], count: int) -> np.ndarray:
    reach = np.zeros((count, count), bool)
    for first, second in edges:
        reach[first, second] = True
    for middle in range(count):
        reach |= np.outer(reach[:, middle], reach[middle])
    return reach


def conflicts(program: Program) -> set[tuple[int, int]]:
    """Pairs that touch common memory, one of them writing; by comparing every pair of boxes."""
    owner = np.repeat(np.arange(len(program)), np.diff(program.access_start))
    rows = program.access.tolist()
    seen: dict[int, list[bool]] = {tile: [False, False] for tile in range(len(program.tiles))}
    for tile, *_, writes in rows:
        seen[tile][writes] = True
    pairs = set()
    for a, (i, (tile, r0, r1, b0, b1, w)) in enumerate(zip(owner.tolist(), rows, strict=True)):
        ordered = program.tiles[tile].space is not Space.HBM or all(seen[tile])
        for b in range(a):
            j, (other, q0, q1, c0, c1, v) = int(owner[b]), rows[b]
            overlaps = tile == other and r0 < q1 and q0 < r1 and b0 < c1 and c0 < b1
            if ordered and overlaps and (w or v) and i != j:
                pairs.add((j, i))
    return pairs


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_every_conflict_of_two_instructions_is_ordered_and_nothing_else_is(seed) -> None:
    program = random_program(seed)
    edges, wanted = found(program), conflicts(program)
    assert edges <= wanted
    assert (reachable(edges, len(program)) == reachable(wanted, len(program))).all()


@given(seed=st.integers(0, 10_000), window=st.integers(1, 80), chip=st.sampled_from(["trn1", "trn2"]))
@settings(max_examples=60, deadline=None)
def test_a_schedule_keeps_every_dependence_and_one_instruction_per_engine_at_a_time(seed, window, chip) -> None:
    program = random_program(seed)
    run = run_program(program, load_device(chip), ModelOptions(window=window))
    schedule = run.schedule
    start, predecessor, kind = dependences(run.program)
    owner = np.repeat(np.arange(len(program)), np.diff(start))
    released = np.where(kind == RAW, schedule.done_ps[predecessor], schedule.end_ps[predecessor])
    assert (schedule.start_ps[owner] >= released).all()
    for queue in range(LOADS):
        mine = np.flatnonzero(run.engine == queue)
        order = mine[np.argsort(schedule.start_ps[mine], kind="stable")]
        assert (schedule.start_ps[order][1:] >= schedule.end_ps[order][:-1]).all()
    assert run.total_ps == schedule.done_ps.max()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_packets_of_one_dma_engine_never_overlap_and_hold_all_runs(seed) -> None:
    run = run_program(random_program(seed), TRN1)
    schedule = run.schedule
    runs: dict[int, int] = defaultdict(int)
    by_engine = defaultdict(list)
    for owner, engine, count, begin, end in zip(*schedule[4:9], strict=True):
        runs[int(owner)] += int(count)
        by_engine[int(engine)].append((int(begin), int(end)))
    works = [run.program.signatures[number] for number in run.program.signature]
    assert runs == {i: work.runs for i, work in enumerate(works) if isinstance(work, Transfer)}
    for spans in by_engine.values():
        assert all(first[1] <= second[0] for first, second in pairwise(sorted(spans)))


def test_program_order_is_kept_by_a_window_of_one() -> None:
    record = Recorder()
    source, slow, quick = record.hbm(), record.sbuf(), record.sbuf()
    record.dma(slow, source, load(1 << 16))
    waits = record.add(record.sbuf(), slow)
    record.add(quick, work=vector_add(64))
    program = record.build()
    in_order = run_program(program, TRN1, ModelOptions(window=1)).schedule
    reordered = run_program(program, TRN1).schedule
    assert in_order.start_ps[waits + 1] > in_order.start_ps[waits]
    assert reordered.start_ps[waits + 1] == 0


def test_accumulating_matmuls_follow_each_other_without_a_wait_but_their_reader_waits_for_the_drain() -> None:
    record = Recorder()
    weights, moving, total = record.sbuf(), record.sbuf(), record.psum()
    first = record.matmul(total, weights, moving)
    second = record.matmul(total, weights, moving, accumulates=True)
    reader = record.add(record.sbuf(), total, work=Work("tensor_copy", 512, 128, "float32", "bfloat16", (Space.PSUM,)))
    program = record.build()
    schedule = run_program(program, TRN1).schedule
    assert schedule.start_ps[second] == schedule.end_ps[first]
    assert schedule.start_ps[reader] >= schedule.done_ps[second] > schedule.end_ps[second]
    assert program.flags[second] & ACCUMULATES
    _, _, kinds = dependences(run_program(program, TRN1).program)
    assert ORDER in kinds
    assert WAR not in kinds


def test_a_matmul_that_accumulates_onto_what_another_engine_wrote_waits_for_it() -> None:
    record = Recorder()
    total = record.psum()
    zeros = record.add(total, work=Work("memset", 512, 128, "float32", "float32", (), Space.PSUM, function="zero"))
    sums = record.matmul(total, record.sbuf(), accumulates=True)
    schedule = run_program(record.build(), TRN1).schedule
    assert schedule.start_ps[sums] >= schedule.done_ps[zeros]


def test_eight_psum_banks_hold_eight_accumulators_and_the_ninth_waits() -> None:
    record = Recorder()
    weights, numbers = record.sbuf(), []
    slow = Work("tensor_copy", 8192, 128, "float32", "float32", (Space.PSUM,))
    for _ in range(9):
        total = record.psum()
        numbers.append(record.matmul(total, weights))
        record.add(record.sbuf(), total, work=slow)
    program = record.build()
    limited = run_program(program, TRN1).schedule.start_ps
    unlimited = run_program(program, TRN1, ModelOptions(disabled=frozenset({"psum-banks"}))).schedule.start_ps
    assert limited[numbers[8]] > limited[numbers[7]] + 2 * (limited[numbers[7]] - limited[numbers[6]])
    assert unlimited[numbers[8]] - unlimited[numbers[7]] == unlimited[numbers[7]] - unlimited[numbers[6]]


def test_one_buffer_makes_loads_wait_for_the_use_of_the_one_before() -> None:
    record = Recorder()
    source = record.hbm()
    loads = []
    for _ in range(4):
        tile = record.sbuf(site="tile")
        loads.append(record.dma(tile, source))
        record.add(record.sbuf(), tile, work=vector_add(16_384))
    program = record.build()
    times = {n: run_program(program, TRN1, ModelOptions(buffers=n)).total_ps for n in (0, 1, 2)}
    assert times[1] > times[2] >= times[0]


def test_engines_of_v2_take_turns_at_a_shared_port_and_those_of_v3_do_not() -> None:
    record = Recorder()
    copy = Work("tensor_copy", 512, 128, "float32", "float32", (Space.PSUM,))
    for engine in (Engine.VECTOR, Engine.SCALAR):
        record.add(record.sbuf(), record.psum(), work=copy, engine=engine)
    program = record.build()
    assert run_program(program, TRN1).schedule.start_ps.max() > 0
    assert run_program(program, TRN2).schedule.start_ps.max() == 0
    alone = ModelOptions(disabled=frozenset({"port-sharing"}))
    assert run_program(program, TRN1, alone).schedule.start_ps.max() == 0


def test_the_power_limiter_halves_the_rate_of_the_first_three_microseconds_on_v3_only() -> None:
    record = Recorder()
    weights, total = record.sbuf(), record.psum()
    for index in range(200):
        record.matmul(total, weights, accumulates=index > 0)
    program = record.build()
    run = run_program(program, TRN2)
    durations = np.diff(run.schedule.start_ps)
    assert durations[0] == pytest.approx(2 * durations[-1], abs=1)
    throttled = run.schedule.throttle_start_ps
    assert 0 < len(throttled) < 20
    assert throttled.max() <= 3_100_000
    assert len(run_program(program, TRN1).schedule.throttle_start_ps) == 0


def test_weights_that_are_not_loaded_in_the_background_cost_a_quarter_of_a_cycle_per_column() -> None:
    record = Recorder()
    for _ in range(4):
        record.matmul(record.psum(), record.sbuf())
    program = record.build()
    hidden = run_program(program, TRN1).schedule.start_ps
    exposed = run_program(program, TRN1, ModelOptions(disabled=frozenset({"weight-load"}))).schedule.start_ps
    difference = np.diff(exposed) - np.diff(hidden)
    assert difference == pytest.approx(128 * 0.25 / 2.8 * 1000, abs=2)


def test_work_that_two_engines_can_do_goes_to_the_less_busy_one() -> None:
    record = Recorder()
    copy = Work("tensor_copy", 512, 128, "float32", "float32")
    for _ in range(10):
        record.instruction(copy, [Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD], [], [record.sbuf()], LINE)
    program = record.build()
    shared = run_program(program, TRN1).engine
    assert set(shared.tolist()) == {Engine.VECTOR, Engine.SCALAR}
    fixed = run_program(program, TRN1, ModelOptions(disabled=frozenset({"engine-choice"}))).engine
    assert set(fixed.tolist()) == {Engine.VECTOR}


@given(seed=st.integers(0, 1000), effect=st.sampled_from(sorted(EFFECTS)))
@settings(max_examples=40, deadline=None)
def test_any_effect_can_be_switched_off_and_the_program_still_ends(seed, effect) -> None:
    program = random_program(seed, count=40)
    assert run_program(program, TRN2, ModelOptions(disabled=frozenset({effect}))).total_ps > 0


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="--window 0"):
        ModelOptions(window=0)
    with pytest.raises(UsageError, match="--buffers -1"):
        ModelOptions(buffers=-1)
    with pytest.raises(UsageError, match="did you mean 'power-limit'"):
        ModelOptions(disabled=frozenset({"power-limt"}))


def spilling_program(tiles: int, row_bytes: int) -> Program:
    """Load every tile, then use each once more in the same order."""
    record = Recorder()
    source = record.hbm(128, row_bytes)
    boxes = [record.sbuf(row_bytes) for _ in range(tiles)]
    for box in boxes:
        record.dma(box, source, load(row_bytes))
    for box in boxes:
        record.add(record.sbuf(4), box)
    return record.build()


def test_tiles_that_fit_are_not_spilled() -> None:
    program = spilling_program(4, 40_000)
    assert with_spills(program, 180_224) is program


def test_tiles_beyond_sbuf_are_spilled_to_hbm_and_reloaded_before_their_use() -> None:
    program = spilling_program(8, 40_000)
    spilled = with_spills(program, 180_224)
    flags = spilled.flags
    assert (flags & IS_SPILL > 0).sum() == (flags & IS_RELOAD > 0).sum() >= 4
    assert ((flags & (IS_SPILL | IS_RELOAD)) == 0).sum() == len(program)
    first, last = tile_uses(spilled).lifetimes(len(spilled.tiles))
    sizes = np.where(spilled.tile_table[:, 0] == Space.SBUF, spilled.tile_table[:, 2], 0)
    assert peak_live(first, last, sizes, np.zeros(len(sizes), np.int64))[0] <= 180_224
    run = run_program(program, TRN1)
    assert run.instruction_count == len(program)
    assert len(run.program) == len(spilled)
    unlimited = run_program(program, TRN1, ModelOptions(disabled=frozenset({"sbuf-capacity"})))
    assert run.total_ps > unlimited.total_ps


@given(tiles=st.integers(2, 12), row_bytes=st.integers(1000, 90_000), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_with_spills_nothing_is_read_that_was_not_written_and_sbuf_never_overflows(tiles, row_bytes, seed) -> None:
    rng = np.random.default_rng(seed)
    record = Recorder()
    boxes = [record.sbuf(row_bytes) for _ in range(tiles)]
    for box in boxes:
        record.dma(box, record.hbm(128, row_bytes), load(row_bytes))
    for _ in range(30):
        record.add(record.sbuf(4), boxes[int(rng.integers(tiles))])
    spilled = with_spills(record.build(), 180_224)
    written: set[int] = set()
    for tile, *_, writes in spilled.access.tolist():
        if writes:
            written.add(tile)
        elif spilled.tiles[tile].space is Space.SBUF:
            assert tile in written
    first, last = tile_uses(spilled).lifetimes(len(spilled.tiles))
    sizes = np.where(spilled.tile_table[:, 0] == Space.SBUF, spilled.tile_table[:, 2], 0)
    assert peak_live(first, last, sizes, np.zeros(len(sizes), np.int64))[0] <= 180_224
    assert run_program(record.build(), TRN1).total_ps > 0


def test_an_instruction_whose_operands_exceed_sbuf_is_refused_with_its_line() -> None:
    record = Recorder()
    record.add(record.sbuf(150_000), record.sbuf(150_000))
    with pytest.raises(MemoryOverflowError, match=r"^kernel\.py:1: .*196,608 bytes per partition"):
        run_program(record.build(), TRN1)


def test_a_kernel_that_never_ends_is_stopped_at_its_line() -> None:
    record = ProgramBuilder(max_instructions=10)
    tile = record.tile(Space.SBUF, 128, 4)
    for _ in range(10):
        record.instruction(vector_add(1), [Engine.VECTOR], [], [Box(tile, 0, 128, 0, 4)], LINE)
    with pytest.raises(InstructionLimitError, match=r"^kernel\.py:1: .*--max-instructions"):
        record.instruction(vector_add(1), [Engine.VECTOR], [], [Box(tile, 0, 128, 0, 4)], LINE)


def test_an_instruction_can_be_retargeted_and_its_cost_follows_the_new_type() -> None:
    record = Recorder()
    number = record.add(record.sbuf(), work=Work("memset", 512, 128, "bfloat16", "float32", (), function="zero"))
    target = record.psum()
    record.retarget(number, target, out_dtype="bfloat16")
    program = record.build()
    work = program.signatures[program.signature[number]]
    assert isinstance(work, Work)
    assert (work.out_dtype, work.destination) == ("bfloat16", Space.PSUM)
    assert tuple(program.access[-1]) == (*target, 1)


def test_an_empty_program_takes_no_time() -> None:
    assert run_program(ProgramBuilder().build(), TRN1).total_ps == 0


def test_a_matmul_of_float32_takes_four_passes() -> None:
    record = Recorder()
    record.matmul(record.psum(), record.sbuf(), work=matmul(512, dtype="float32"))
    schedule = run_program(record.build(), TRN1).schedule
    assert schedule.end_ps[0] - schedule.start_ps[0] == pytest.approx(4 * 512 / 2.8 / 0.875 * 1000, abs=1)


def test_a_store_waits_for_an_earlier_load_of_rows_that_nobody_had_written() -> None:
    record = Recorder()
    cache = record.tile(Space.HBM, 128, 2048)
    store = load(2048, 10)._replace(source=Space.SBUF, destination=Space.HBM)
    record.dma(Box(cache, 0, 10, 0, 2048), record.sbuf(), store)
    reads = record.dma(record.sbuf(), Box(cache, 0, 128, 0, 2048))
    writes = record.dma(Box(cache, 64, 74, 0, 2048), record.sbuf(), store)
    schedule = run_program(record.build(), TRN1).schedule
    assert schedule.start_ps[writes] >= schedule.end_ps[reads]


def test_a_bank_goes_to_a_matmul_that_is_ready_before_one_that_still_waits() -> None:
    record = Recorder()
    weights, slow = record.sbuf(), record.sbuf()
    record.dma(slow, record.hbm(), load(65_536))
    copy = Work("tensor_copy", 512, 128, "float32", "float32", (Space.PSUM,))
    late = []
    for _ in range(10):  # more than there are banks
        total = record.psum()
        late.append(record.matmul(total, weights, slow))
        record.add(record.sbuf(), total, work=copy)
    total = record.psum()
    ready = record.matmul(total, weights)
    record.add(record.sbuf(), total, work=copy)
    starts = run_program(record.build(), TRN1).schedule.start_ps
    assert starts[ready] < starts[late[0]]


@given(seed=st.integers(0, 500), psum_tiles=st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_psum_never_holds_more_than_its_banks(seed, psum_tiles) -> None:
    rng = np.random.default_rng(seed)
    record = Recorder()
    weights = record.sbuf()
    totals = [record.psum() for _ in range(psum_tiles)]
    alive: list[Box] = []
    copy = Work("tensor_copy", 512, 128, "float32", "float32", (Space.PSUM,))
    for total in totals:
        record.matmul(total, weights, *([record.sbuf()] if rng.random() < 0.5 else []))
        alive.append(total)
        while len(alive) > int(rng.integers(0, 7)):
            record.add(record.sbuf(), alive.pop(int(rng.integers(len(alive)))), work=copy)
    for total in alive:
        record.add(record.sbuf(), total, work=copy)
    run = run_program(record.build(), TRN1)
    spans = []
    for total in totals:
        users = [
            i
            for i in range(len(run.program))
            if total.tile in run.program.access[run.program.access_start[i] : run.program.access_start[i + 1], 0]
        ]
        spans.append((run.schedule.start_ps[users].min(), run.schedule.done_ps[users].max()))
    for begin, _ in spans:
        assert sum(first <= begin < last for first, last in spans) <= 8
