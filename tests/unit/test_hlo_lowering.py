"""XLA programs as instructions: counts, bytes, loops, and that nothing is left out unseen."""

import numpy as np
import pytest

from npuscope.errors import NpuscopeError, UsageError
from npuscope.formats.hlo import HloModule
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.simulate.hlo.layout import grid_of
from npuscope.simulate.hlo.lowering import Lowered, lower_module
from npuscope.simulate.hlo.simulation import HloSimulation, simulate_module
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.matmul_program import matmul_program
from npuscope.simulate.neuroncore.profile import predicted_total_ns
from npuscope.simulate.neuroncore.program import InstructionLimitError, Transfer, Work
from npuscope.workloads.matmul import MatmulConfig

jax = pytest.importorskip("jax")
jnp = jax.numpy
Spec = jax.ShapeDtypeStruct


def module_of(function, *shapes, optimised: bool = False) -> HloModule:
    lowered = jax.jit(function).lower(*shapes)
    optimised_modules = lowered.compile().runtime_executable().hlo_modules() if optimised else []
    module = optimised_modules[0] if optimised else lowered.compiler_ir("hlo")
    return parse_hlo(module.as_serialized_hlo_module_proto(), source="test")


def f32(*shape: int):
    return Spec(shape, jnp.float32)


def lowered(function, *shapes) -> Lowered:
    return lower_module(module_of(function, *shapes), nc_version=3, sbuf_usable_bytes=212_984)


def counts(program) -> dict[str, int]:
    """Instructions by opcode; DMAs by direction."""
    found: dict[str, int] = {}
    for number, count in zip(*np.unique(program.signature, return_counts=True), strict=True):
        work = program.signatures[number]
        if isinstance(work, Transfer):
            name = f"{work.source.name}->{work.destination.name}"
        else:
            name = "nc_transpose" if work.is_transpose else work.opcode
        found[name] = found.get(name, 0) + int(count)
    return found


def flops(program) -> int:
    """Of matmuls, transposes left out."""
    each = [work.flops if isinstance(work, Work) and not work.is_transpose else 0 for work in program.signatures]
    return int(np.array(each)[program.signature].sum())


def moved(program, source: str, destination: str) -> int:
    """Bytes of DMAs."""
    sizes = [
        work.read_bytes
        if isinstance(work, Transfer) and (work.source.name, work.destination.name) == (source, destination)
        else 0
        for work in program.signatures
    ]
    return int(np.array(sizes)[program.signature].sum())


@pytest.mark.parametrize(
    "shape", [(128, 128, 512), (2048, 2048, 2048), (64, 4096, 4096), (1, 4096, 4096), (512, 32768, 2048)]
)
def test_a_plain_dot_is_the_matmul_that_was_validated(shape):
    """The same instructions and time as `matmul_program`, whose figures stand in docs/validation.md."""
    M, K, N = shape
    core = load_device("trn2")
    simulation = simulate_module(
        module_of(lambda a, b: a @ b, Spec((M, K), jnp.bfloat16), Spec((K, N), jnp.bfloat16)), device="trn2"
    )
    run = run_program(matmul_program(MatmulConfig(M, K, N, "bfloat16"), core.sbuf_usable_bytes), core)
    assert simulation.instruction_count == run.instruction_count
    assert simulation.total_time_ns == pytest.approx(predicted_total_ns([run]), rel=1e-9)


@pytest.mark.parametrize(
    ("equation", "left", "right", "expected"),
    [
        ("mk,kn->mn", (64, 96), (96, 80), 2 * 64 * 96 * 80),
        ("km,kn->mn", (96, 64), (96, 80), 2 * 64 * 96 * 80),
        ("mk,nk->mn", (64, 96), (80, 96), 2 * 64 * 96 * 80),
        ("bmk,bkn->bmn", (5, 32, 64), (5, 64, 48), 2 * 5 * 32 * 64 * 48),
        ("bqhd,bkhd->bhqk", (2, 32, 4, 16), (2, 48, 4, 16), 2 * 2 * 4 * 32 * 48 * 16),
        ("ijk,jkl->il", (64, 8, 32), (8, 32, 100), 2 * 64 * 8 * 32 * 100),
    ],
)
def test_matmul_flops_are_those_of_the_equation(equation, left, right, expected):
    made = lowered(lambda a, b: jnp.einsum(equation, a, b), f32(*left), f32(*right))
    assert flops(made.program) == expected


def test_an_operand_that_is_contracted_along_its_last_dimension_is_turned_and_no_other():
    assert "nc_transpose" in counts(lowered(lambda a, b: a @ b, f32(128, 128), f32(128, 128)).program)
    assert "nc_transpose" not in counts(lowered(lambda a, b: a.T @ b, f32(128, 128), f32(128, 128)).program)
    both = counts(lowered(lambda a, b: a @ b.T, f32(128, 128), f32(128, 128)).program)
    assert both["nc_transpose"] == 2


def test_parameters_are_read_once_and_results_written_once():
    made = lowered(lambda x, y: jnp.tanh(x * y) + x, f32(512, 768), f32(512, 768))
    size = 512 * 768 * 4
    assert moved(made.program, "HBM", "SBUF") == 2 * size
    assert moved(made.program, "SBUF", "HBM") == size


def test_a_chain_of_constants_joins_and_an_activation_takes_its_factor_along():
    made = counts(lowered(lambda x: jnp.maximum(x, 0.0) + 0.1, f32(32, 128)).program)
    assert made == {"HBM->SBUF": 1, "tensor_scalar": 1, "SBUF->HBM": 1}
    made = counts(lowered(lambda x: jnp.exp(x * 2.0), f32(32, 128)).program)
    assert made == {"HBM->SBUF": 1, "activation": 1, "SBUF->HBM": 1}


def test_equal_ops_on_equal_operands_are_computed_once():
    made = counts(lowered(lambda x, y: (x * y) + jnp.sin(x * y), f32(32, 128), f32(32, 128)).program)
    assert made["tensor_tensor"] == 2


def test_a_chain_on_more_rows_than_a_chunk_goes_tile_by_tile():
    """Loads, work and stores of the first rows come before the loads of the last: nothing is kept that need not be."""
    made = lowered(lambda x, y: jnp.tanh(x * 2 + y) * x - y, f32(8192, 4096), f32(8192, 4096))
    spaces = [isinstance(work, Transfer) and work.destination.name == "SBUF" for work in made.program.signatures]
    loads = np.flatnonzero(np.array(spaces)[made.program.signature])
    work = np.flatnonzero(
        ~np.array([isinstance(one, Transfer) for one in made.program.signatures])[made.program.signature]
    )
    assert work[0] < loads[3]
    assert loads[-1] > work[-20]


def test_softmax_stays_on_the_chip():
    made = lowered(lambda x: jax.nn.softmax(x, -1), f32(4096, 1024))
    assert moved(made.program, "HBM", "SBUF") == 4096 * 1024 * 4
    assert moved(made.program, "SBUF", "HBM") == 4096 * 1024 * 4


def test_softmax_of_more_than_sbuf_goes_row_tile_by_row_tile():
    """64 MiB do not fit: each row tile is finished before the next, the maximum being known only after a whole row."""
    made = lowered(lambda x: jax.nn.softmax(x, -1), f32(4096, 4096))
    assert moved(made.program, "HBM", "SBUF") == 4096 * 4096 * 4
    assert moved(made.program, "SBUF", "HBM") == 4096 * 4096 * 4


@pytest.mark.parametrize("trips", [1, 3, 17])
def test_a_scan_is_a_device_loop_of_as_many_iterations(trips):
    def scan(xs):
        return jax.lax.scan(lambda carry, x: (carry + x, carry * x), jnp.zeros(128), xs)

    made = lowered(scan, f32(trips, 128))
    assert [(loop.trip_count, loop.is_known) for loop in made.loops] == [(trips, True)]
    assert counts(made.program)["loop_branch"] == trips + 1
    assert len(np.unique(made.program.iteration)) >= trips


def test_a_python_loop_is_plain_code():
    def loop(xs):
        total = jnp.zeros(128)
        for i in range(5):
            total = total + jnp.sin(xs[i])
        return total

    made = lowered(loop, f32(5, 128))
    assert not made.loops
    assert counts(made.program)["activation"] == 5


def test_iterations_of_a_device_loop_do_not_overlap():
    def scan(xs):
        return jax.lax.scan(lambda carry, x: (carry, jnp.sin(x)), 0.0, xs)

    simulation = simulate_module(module_of(scan, f32(4, 32, 128)), device="trn2")
    table = simulation.profile.tables["Instruction"].to_pydict()
    events = sorted(zip(table["start_ps"], table["duration_ps"], table["opcode"], strict=True))
    branches = [start for start, _, opcode in events if opcode == "LOOP_BRANCH"]
    sines = [start for start, _, opcode in events if opcode == "ACTIVATE"]
    assert len(branches) == 5
    assert len(sines) == 4
    assert all(before < sine < after for before, sine, after in zip(branches[:-1], sines, branches[1:], strict=True))


def test_what_a_loop_computes_from_values_that_do_not_change_is_computed_once():
    def scan(w, xs):
        return jax.lax.scan(lambda carry, x: (carry + x @ jnp.sin(w), 0.0), jnp.zeros((32, 64)), xs)[0]

    made = counts(lowered(scan, f32(128, 64), f32(6, 32, 128)).program)
    assert made["activation"] == 1
    assert made["nc_matmul"] == 6


def test_an_array_that_a_loop_updates_is_copied_once_at_most():
    def scan(xs):
        return jax.lax.scan(lambda carry, x: (carry, x + 1.0), 0.0, xs)[1]

    made = counts(lowered(scan, f32(20, 64, 64)).program)
    assert made.get("HBM->HBM", 0) <= 1
    assert made["SBUF->HBM"] >= 20


def test_a_loop_whose_count_is_not_known_says_so_and_takes_the_assumed_one():
    module = module_of(lambda x: jax.lax.while_loop(lambda c: c.sum() < 100, lambda c: c * 2, x), f32(128))
    for trips in (0, 1, 4):
        made = lower_module(module, nc_version=3, sbuf_usable_bytes=212_984, assumed_trip_count=trips)
        assert [(loop.trip_count, loop.is_known) for loop in made.loops] == [(trips, False)]
        assert any("--trip-count" in note for note in made.notes)


def test_ops_without_a_lowering_are_listed_with_their_share_of_the_time():
    simulation = simulate_module(module_of(lambda x: jnp.sort(x, -1), f32(128, 256)))
    (only,) = simulation.unlowered
    assert only.opcode == "sort"
    assert 0 < only.share_of_time < 1
    assert simulation.unlowered_share == only.share_of_time
    assert simulate_module(module_of(lambda x: x * x, f32(128, 256))).unlowered == ()


def step(x):
    return jnp.maximum(jnp.sum(x * x, -1), 0) + 0.1 + jnp.sum(x @ x.T, -1)


def vmapped(xs):
    ys = jax.vmap(step)(xs)
    return ys, ys.sum(0)


def scanned(xs):
    def body(carry, x):
        y = step(x)
        return carry + y, y

    return jax.lax.scan(body, jnp.zeros(xs.shape[1]), xs)


def unrolled(xs):
    ys = [step(xs[i]) for i in range(xs.shape[0])]
    return jnp.stack(ys), sum(ys)


@pytest.mark.parametrize("function", [vmapped, scanned, unrolled])
@pytest.mark.parametrize("optimised", [False, True])
def test_every_op_of_the_patterns_is_lowered_and_their_matmul_work_is_the_same(function, optimised):
    made = lower_module(
        module_of(function, f32(3, 32, 128), optimised=optimised), nc_version=2, sbuf_usable_bytes=180_224
    )
    assert not made.unlowered
    gram = 3 * 2 * 32 * 128 * 32
    sums = flops(made.program) - gram  # sums over partitions are matmuls with ones
    assert 0 <= sums < gram / 8


def test_what_the_profile_holds_of_an_op():
    simulation = simulate_module(module_of(step, f32(32, 128)))
    table = simulation.profile.tables["Instruction"].to_pydict()
    matmul = table["opcode"].index("MATMUL")
    assert table["hlo_name"][matmul] in simulation.source_lines
    assert table["bir_debug_info_source_location"][matmul].startswith("test_hlo_lowering.py:")
    assert simulation.profile.is_simulation
    assert {row["type"] for row in simulation.profile.tables["TensorInfo"].to_pylist()} == {"IN", "OUT"}


@pytest.mark.parametrize(
    "function",
    [lambda x: x, lambda x: (x, x + 1), lambda x: {"a": [x * 0]}, lambda x: jnp.ones((3, 3))],
    ids=["itself", "two", "nested", "constant"],
)
def test_small_programs_run(function):
    assert simulate_module(module_of(function, f32(16, 16))).total_time_ns > 0


def test_an_array_without_elements_costs_no_instruction():
    assert simulate_module(module_of(lambda x: x * 2, f32(0, 64))).instruction_count == 0


def test_limits_and_values_out_of_range_are_refused():
    module = module_of(lambda x: x @ x, f32(512, 512))
    with pytest.raises(InstructionLimitError, match="more than 5 instructions"):
        simulate_module(module, max_instructions=5)
    with pytest.raises(UsageError, match="--trip-count -1"):
        simulate_module(module, trip_count=-1)
    with pytest.raises(NpuscopeError, match="simulated device"):
        simulate_module(module, device="sim:trn9")


@pytest.mark.parametrize("device", ["inf2", "trn1", "trn2", "trn3"])
def test_more_work_takes_longer_on_every_device(device):
    times = [simulate_module(module_of(vmapped, f32(n, 32, 128)), device=device).total_time_ns for n in (3, 30, 300)]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_predictions_repeat_exactly():
    results: list[HloSimulation] = [simulate_module(module_of(scanned, f32(5, 32, 128))) for _ in range(2)]
    assert results[0].total_time_ns == results[1].total_time_ns
    assert results[0].profile.tables["Instruction"].equals(results[1].profile.tables["Instruction"])


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (128, 1), (4096, 1), (96, 128), (300, 700), (7, 5000), (0, 3), (3, 0)]
)
def test_a_grid_covers_every_element_once(rows, columns):
    grid = grid_of(rows, columns)
    covered = sum(
        grid.partitions(tile) * (grid.columns if grid.pieces == 1 else grid.piece_width(piece))
        for tile in range(grid.row_tiles)
        for piece in range(grid.pieces)
    )
    assert covered == rows * columns
    assert grid.tiles_per_chunk & (grid.tiles_per_chunk - 1) == 0


def test_a_chain_that_only_passes_through_spills_nothing_and_keeps_the_rate_of_its_busiest_engine():
    """Results leave as they are made: 384 MiB go through the 24 MiB of SBUF."""
    simulation = simulate_module(module_of(lambda x, y: jnp.tanh(x * 2 + y) * x - y, f32(8192, 4096), f32(8192, 4096)))
    assert simulation.profile.summary["spill_save_bytes"] == 0
    vector_ns = 3 * 8192 * 4096 / 128 * 2 / 0.96
    assert simulation.total_time_ns == pytest.approx(vector_ns, rel=0.1)


def test_a_layers_weights_are_read_once_per_iteration_as_the_matmul_needs_them():
    def layers(x, weights):
        return jax.lax.scan(lambda carry, w: (jnp.tanh(carry @ w), None), x, weights)[0]

    simulation = simulate_module(module_of(layers, f32(128, 1024), f32(3, 1024, 1024)))
    summary = simulation.profile.summary
    assert summary["spill_save_bytes"] == 0
    constants = 128 * 128 * 4  # the identity that turns the carried rows
    assert summary["hbm_read_bytes"] == 4 * (128 * 1024 + 3 * 1024 * 1024) + constants
