"""Costs of instructions on simulated NeuronCores: the published formulas, and sources for every number."""

import pytest

from npuscope.errors import FormatError, UsageError
from npuscope.simulate.neuroncore.costs import cost_of, engine_clock_ghz, run_ns
from npuscope.simulate.neuroncore.devices import SIMULATED_CHIPS, load_device
from npuscope.simulate.neuroncore.expressions import Formula
from npuscope.simulate.neuroncore.program import Engine, Space, Work
from tests.programs import load, matmul, vector_add


def cycles(work: Work, engine: Engine, device: str = "trn1") -> float:
    sim = load_device(device)
    clock = engine_clock_ghz(sim, engine)
    bubble = sim.constants.get(f"{engine.name.lower()}_bubble", 0.0)
    cycles = cost_of(work, engine, sim, limited=False).occupancy_ns * clock
    return cycles if cycles <= sim.constants["min_ii"] else cycles - bubble


@pytest.mark.parametrize(
    ("work", "engine", "expected"),
    [
        (matmul(512), Engine.TENSOR, 512),
        (matmul(16), Engine.TENSOR, 64),
        (matmul(512, dtype="float32"), Engine.TENSOR, 2048),
        (vector_add(512), Engine.VECTOR, 1024),
        (vector_add(4), Engine.VECTOR, 64),
        (vector_add(512, dtype="bfloat16"), Engine.VECTOR, 512),
        (vector_add(512)._replace(sources=(Space.PSUM, Space.SBUF)), Engine.VECTOR, 512),
        (Work("tensor_tensor_scan", 512, 128, "float32", "float32", (Space.SBUF,) * 2), Engine.VECTOR, 1024),
        (Work("activation", 512, 128, "float32", "float32", function="exp"), Engine.SCALAR, 512),
        (Work("activation_reduce", 512, 128, "float32", "float32", function="exp"), Engine.SCALAR, 576),
        (Work("tensor_reduce", 512, 128, "bfloat16", "bfloat16", function="add"), Engine.VECTOR, 256),
        (Work("tensor_reduce", 512, 128, "float32", "float32", function="add"), Engine.VECTOR, 512),
        (Work("bn_aggr", 48, 128, "float32", "float32"), Engine.VECTOR, 208),
        (Work("memset", 512, 128, "bfloat16", "bfloat16", (), function="zero"), Engine.VECTOR, 256),
        (Work("iota", 512, 128, "int32", "int32", ()), Engine.GPSIMD, 662),
    ],
)
def test_instructions_cost_what_the_isa_reference_of_neuroncore_v2_says(work, engine, expected) -> None:
    assert cycles(work, engine) == pytest.approx(expected)


def test_vector_copies_of_16_bit_floats_are_four_times_faster_on_v3_within_sbuf_and_twice_from_psum() -> None:
    copy = Work("tensor_copy", 512, 128, "bfloat16", "bfloat16")
    assert cycles(copy, Engine.VECTOR) == 512
    assert cycles(copy, Engine.VECTOR, "trn2") == 128
    assert cycles(copy._replace(sources=(Space.PSUM,)), Engine.VECTOR, "trn2") == 256
    assert cycles(copy._replace(dtype="float32"), Engine.VECTOR, "trn2") == 512


def test_a_one_element_activation_that_depends_on_another_starts_264_cycles_after_it_on_v2() -> None:
    cost = cost_of(Work("activation", 1, 128, "float32", "float32"), Engine.SCALAR, load_device("trn1"))
    assert (cost.occupancy_ns + cost.latency_ns) * 1.4 == pytest.approx(264)


def test_a_dma_run_streams_at_the_practical_rate_of_an_engine() -> None:
    trn1 = load_device("trn1")
    assert run_ns(load(1 << 20), trn1) == pytest.approx((1 << 20) / 17, rel=1e-3)
    assert run_ns(load(2), trn1) > 10


@pytest.mark.parametrize("chip", SIMULATED_CHIPS)
def test_every_constant_and_rule_names_its_source(chip) -> None:
    device = load_device(f"sim:{chip}")
    assert set(device.constants) == set(device.constant_sources)
    assert all(device.constant_sources.values())
    assert all(rule.source for rule in device.rules)
    assert device.name == f"sim:{chip}"
    assert device.chip.name == chip


def test_an_unknown_device_is_refused_with_the_near_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'sim:trn2'"):
        load_device("sim:trn22")


@pytest.mark.parametrize("text", ["n.__class__", "open('x')", "[n]", "lambda: 1", "n +", "(n := 1)", "'a'.join(n)"])
def test_a_formula_that_is_more_than_arithmetic_is_refused(text) -> None:
    with pytest.raises(FormatError, match=r"costs\.toml"):
        Formula(text, source="costs.toml")


def test_a_formula_computes_with_names_and_conditions() -> None:
    formula = Formula("max(n, 3) if fn in ('add', 'max') and n > 1 else ceil(n / 2)", source="t")
    assert formula.names == {"n", "fn"}
    assert formula({"n": 2, "fn": "add"}) == 3
    assert formula({"n": 5, "fn": "x"}) == 3
