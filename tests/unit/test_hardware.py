"""Device facts and the host."""

from dataclasses import fields

import pytest

from npuscope.errors import FormatError, UsageError
from npuscope.hardware.host import available_memory_bytes, detect_host_cpu
from npuscope.hardware.model import NeuronChip, NeuronCore, hardware_names, load_hardware, neuron_core_of, parse_facts


@pytest.mark.parametrize("name", hardware_names())
def test_every_number_has_a_source(name):
    facts = load_hardware(name)
    for item in fields(facts):
        if item.name not in {"name", "sources"}:
            assert facts.sources[item.name].strip(), item.name


def test_the_bf16_peak_follows_from_the_array_and_its_clock():
    for name in ("neuroncore-v2", "neuroncore-v3", "neuroncore-v4"):
        core = load_hardware(name)
        assert isinstance(core, NeuronCore)
        peak = 2 * core.pe_rows * core.pe_columns * core.tensor_clock_ghz / 1e3
        assert core.peak_bf16_tflops == pytest.approx(peak, rel=1e-3)


@pytest.mark.parametrize(("chip", "core"), [("inf2", "v2"), ("trn1", "v2"), ("trn2", "v3"), ("trn3", "v4")])
def test_each_chip_has_the_core_of_its_generation(chip, core):
    assert isinstance(load_hardware(chip), NeuronChip)
    assert neuron_core_of(chip).name == f"NeuronCore-{core}"


def test_an_unknown_device_is_told_with_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'trn2'"):
        load_hardware("trn22")


def test_a_number_without_a_source_is_refused():
    document = {"name": "x", "core": {"value": "neuroncore-v2", "source": "nowhere"}, "sources": {}}
    entries = {
        key: {"value": 1, "source": "a"} for key in ("cores_per_chip", "hbm_bytes_per_chip", "hbm_gb_s_per_chip")
    }
    with pytest.raises(FormatError, match="core"):
        parse_facts(NeuronChip, {**document, **entries}, source="x.toml")


def test_a_fact_that_no_field_takes_is_refused():
    with pytest.raises(FormatError, match="unknown"):
        parse_facts(
            NeuronChip, {"name": "x", "colour": {"value": 1, "source": "a"}, "sources": {"a": "b"}}, source="x.toml"
        )


def test_the_host_has_cores_and_memory():
    host = detect_host_cpu()
    assert host.usable_cores >= 1
    assert 0 < available_memory_bytes() <= host.memory_bytes
