"""Every strategy on both emulated arrays, whatever the shape, type and rounding: the right product, counted as the device counts it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from npuscope.backends.xdna.execution import Execution, result_dtype
from npuscope.backends.xdna.phases import PhaseTimer
from npuscope.backends.xdna.platform import SIMULATED, open_platform
from npuscope.backends.xdna.session import XdnaSession
from npuscope.backends.xdna.strategies import STRATEGIES
from npuscope.measure.xdna_bound import check_design_result
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_design import OUT_TYPES, ROUNDINGS
from npuscope.tiling.xdna_legality import violations

# The same examples every time: the root mean square of a few elements may stray beyond what is allowed, though rarely.
fuzz = settings(deadline=None, max_examples=20, derandomize=True)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_device = pytest.mark.parametrize("device", SIMULATED)
FULL_LIST = PlanRequest(128, 129, 200)
"""24 tiles of 64: all of one run list."""
MORE_THAN_A_LIST = PlanRequest(129, 129, 129)
"""27 tiles."""
sizes = st.integers(1, 200) | st.sampled_from([1, 63, 64, 65, 128, 129])


@pytest.fixture(scope="module")
def platforms():
    return {name: open_platform(name) for name in SIMULATED}


@st.composite
def floats(draw):
    return PlanRequest(
        *draw(st.tuples(sizes, sizes, sizes)),
        dtype="bfloat16",
        out_dtype=draw(st.sampled_from(OUT_TYPES["bfloat16"])),
        rounding=draw(st.sampled_from(ROUNDINGS)),
    )


@st.composite
def integers(draw):
    dtype = draw(st.sampled_from(["int8", "int16"]))
    return PlanRequest(
        *draw(st.tuples(sizes, sizes, sizes)), dtype=dtype, out_dtype=draw(st.sampled_from(OUT_TYPES[dtype]))
    )


def operands(problem, seed):
    """Normal values, or any integers of the type: what does not fit the result wraps."""
    rng = np.random.default_rng(seed)
    shapes = (problem.M, problem.K), (problem.K, problem.N)
    if problem.dtype == "bfloat16":
        return [rng.standard_normal(shape, np.float32) for shape in shapes]
    limits = np.iinfo(problem.dtype)
    return [rng.integers(limits.min, limits.max + 1, shape, problem.dtype) for shape in shapes]


def executed(platform, strategy, problem, inputs, batch=0):
    """Results of one session for each pair of inputs, the design, the tiling, and both counts."""
    tiling = STRATEGIES[strategy].tile(problem, platform, batch)
    assume(not violations(tiling.design, platform.array))
    before = platform.runtime.counters.submissions, platform.runtime.counters.commands
    with XdnaSession(platform.runtime, platform.array, platform.name) as session:
        kernel = session.load(platform.kernel_for(tiling.design))
        execution = Execution(session, kernel, tiling, PhaseTimer(platform.host_ns))
        results = [execution.multiply(a, b) for a, b in inputs]
        counted = session.count.dispatches, session.count.commands
        design = kernel.design
    after = platform.runtime.counters.submissions, platform.runtime.counters.commands
    return results, design, tiling, counted, (after[0] - before[0], after[1] - before[1])


@every_device
@every_strategy
@fuzz
@given(problem=floats(), seed=st.integers(0, 1 << 32))
def test_a_float_product_is_within_the_bound_of_its_design(platforms, device, strategy, problem, seed):
    a, b = operands(problem, seed)
    [found], design, *_ = executed(platforms[device], strategy, problem, [(a, b)])
    assert found.shape == (problem.M, problem.N)
    assert found.dtype == np.float32
    check = check_design_result(found, a, b, design)
    assert check.within_bound, check


@every_device
@every_strategy
@fuzz
@given(problem=integers(), seed=st.integers(0, 1 << 32))
def test_an_integer_product_has_the_low_bits_of_the_exact_one(platforms, device, strategy, problem, seed):
    a, b = operands(problem, seed)
    [found], design, *_ = executed(platforms[device], strategy, problem, [(a, b)])
    assert found.dtype == result_dtype(design) == np.dtype(problem.out_dtype)
    exact = a.astype(np.int64) @ b.astype(np.int64)
    assert np.array_equal(found, exact.astype(problem.out_dtype))


@every_device
@every_strategy
@fuzz
@given(problem=floats() | integers(), batch=st.integers(0, 9), seed=st.integers(0, 1 << 32))
@example(problem=FULL_LIST, batch=0, seed=0)
@example(problem=MORE_THAN_A_LIST, batch=0, seed=0)
def test_dispatches_are_counted_as_the_device_counts_them(platforms, device, strategy, problem, batch, seed):
    pair = operands(problem, seed)
    _, _, tiling, counted, by_device = executed(platforms[device], strategy, problem, [pair, pair], batch)
    assert counted == by_device
    if strategy == "batched-loop":  # claims a dispatch per batch of columns, and sends one per tile
        assert counted == (2 * tiling.calls, 2 * tiling.calls)
    else:
        assert counted[0] == 2 * tiling.claimed_dispatches
    assert counted[1] == 2 * (tiling.claimed_dispatches if strategy == "packed" else tiling.calls)


@every_device
@every_strategy
@fuzz
@given(problem=floats() | integers(), seed=st.integers(0, 1 << 32))
@example(problem=MORE_THAN_A_LIST, seed=0)
def test_a_pass_leaves_nothing_behind_for_the_next(platforms, device, strategy, problem, seed):
    """The first inputs again, after others went through the same buffers: the same bits; and the others are as right."""
    pair, other = operands(problem, [seed, 0]), operands(problem, [seed, 1])
    (first, between, again), design, *_ = executed(platforms[device], strategy, problem, [pair, other, pair])
    assert first.tobytes() == again.tobytes()
    assert check_design_result(between, *other, design).within_bound
