"""The explanation of real captures: cold, limited by DMA and its latency, the same from the NTFF as from the JSON."""

from functools import cache

import pytest

from npuscope.analysis.analyze import analyze
from npuscope.analysis.compare import compare_profiles
from npuscope.errors import ComparisonError
from npuscope.formats.artifact import read_profile
from tests.conftest import samples_folder

ALWAYS = {"cold-capture", "idle-gaps", "launch-dominated", "low-model-flops", "missing-notifications"}


def captures():
    folder = samples_folder()
    found = sorted((folder / "inf2-matmul").glob("*.json")) if folder else []
    return found or [None]


@cache
def explained(path):
    return analyze(read_profile(path))


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")
def test_every_capture_is_cold_and_its_kernel_takes_microseconds(path, samples):
    found = explained(path)
    kernel = found.kernel_time
    assert found.device == "inf2.xlarge"
    assert not found.is_simulated
    assert kernel.is_cold
    assert 1_855_000 < kernel.total_ns < 1_881_000
    assert 4_500 < kernel.ns < 10_500
    assert kernel.startup_ns > 0.99 * kernel.total_ns
    assert found.summary["total_active_time"] == pytest.approx(kernel.active_ns / 1e9, rel=0.01)
    assert found.roofline.mfu > 100 * found.summary["mfu_estimated_percent"]


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")
def test_the_rules_that_apply_to_every_capture(path, samples):
    rules = {finding.rule for finding in explained(path).findings}
    assert rules >= ALWAYS
    transposes = explained(path).summary
    assert ("transposes" in rules) == (transposes["transpose_flops"] > 0.1 * transposes["hardware_flops"])
    assert not rules & {"neff-mismatch", "spills", "nki-coverage", "fp32-matmul", "collective-outliers"}


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")
def test_shares_and_concurrency_sum_to_the_whole(path, samples):
    found = explained(path)
    assert sum(found.bound.shares.values()) == pytest.approx(1)
    assert sum(found.bound.capture_shares.values()) == pytest.approx(1)
    assert found.bound.kind in {"dma", "dependency"}
    assert found.bound.capture_kind == "launch"
    assert sum(found.overlap.concurrency_ns) == pytest.approx(found.kernel_time.window_ns, rel=1e-12)
    assert sum(found.bound.dependency_ns.values()) == pytest.approx(found.overlap.concurrency_ns[0], rel=1e-12)


def summary_key(use, ending):
    return f"dma_{ending}" if use.name == "DMA" else f"{use.name.lower()}_engine_{ending}"


def both_sources():
    return [path.with_suffix(ending) if path else None for path in captures() for ending in (".json", ".ntff")]


@pytest.mark.parametrize("path", both_sources(), ids=lambda path: path.name if path else "no-captures")
def test_engines_and_summary_of_one_document_do_not_contradict(path, samples):
    found = explained(path)
    total = found.summary["total_time"]
    for use in found.engines:
        assert use.active_ns / 1e9 == pytest.approx(found.summary[summary_key(use, "active_time")], rel=1e-9)
        share = found.summary[summary_key(use, "active_time_percent")]
        assert use.active_share_of_total == pytest.approx(share, rel=1e-9)
        if use.kind == "engine":
            summed = found.summary[summary_key(use, "instruction_time")]
            assert use.instruction_time_ns / 1e9 == pytest.approx(summed, rel=1e-9)
    assert found.kernel_time.total_ns / 1e9 == pytest.approx(total, rel=1e-9)
    exact = path.suffix == ".ntff"
    active = found.summary["total_active_time"]
    assert found.kernel_time.active_ns / 1e9 == pytest.approx(active, rel=1e-9 if exact else 0.01)
    (flops,) = (finding.evidence for finding in found.findings if finding.rule == "low-model-flops")
    assert flops["tensor_active_ns"] / 1e9 == pytest.approx(found.summary["tensor_engine_active_time"], rel=1e-9)
    bounds = {bound.name: bound.total_ns for bound in found.bounds}
    assert bounds["compute"] / 1e9 == pytest.approx(found.summary["tensor_engine_active_time"], rel=1e-9)
    assert bounds["memory"] / 1e9 == pytest.approx(found.summary["dma_active_time"], rel=1e-9)
    assert found.dma.active_ns == bounds["memory"]
    packet_time = sum(group.packet_time_ns for group in found.dma.by_queue)
    assert packet_time / 1e9 == pytest.approx(found.summary["dma_packet_time"], rel=1e-9)


@pytest.mark.parametrize("path", both_sources(), ids=lambda path: path.name if path else "no-captures")
def test_active_times_are_the_vendors(path, samples):
    found = explained(path)
    vendor = read_profile(path.with_suffix(".json")).vendor_summary
    within = 0.01 if path.suffix == ".json" else 1e-6
    for use in found.engines:
        assert use.active_ns / 1e9 == pytest.approx(vendor[summary_key(use, "active_time")], rel=within)
    assert found.kernel_time.active_ns / 1e9 == pytest.approx(vendor["total_active_time"], rel=within)
    assert found.vendor_difference == (() if path.suffix == ".json" else None)


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")
def test_the_ntff_alone_gives_the_same_explanation(path, samples):
    ours, theirs = explained(path.with_suffix(".ntff")), explained(path)
    assert ours.kernel_time.ns == pytest.approx(theirs.kernel_time.ns, abs=3)
    assert ours.kernel_time.program_instructions == theirs.kernel_time.program_instructions
    for use, other in zip(ours.engines, theirs.engines, strict=True):
        assert (use.name, use.instruction_count) == (other.name, other.instruction_count)
        assert use.active_in_kernel_ns == pytest.approx(other.active_in_kernel_ns, rel=0.01, abs=3)
    assert ours.overlap.concurrency_ns == pytest.approx(theirs.overlap.concurrency_ns, abs=30)
    assert ours.bound.shares == pytest.approx(theirs.bound.shares, abs=0.005)
    assert ours.bound.kind == theirs.bound.kind
    assert list(ours.bound.dependency_ns)[:3] == list(theirs.bound.dependency_ns)[:3]
    assert set(list(ours.bound.dependency_ns)[:3]) == {
        "result of Scalar",
        "DMA on its way: until its first packet",
        "completion of a DMA on qGpSimdDynamic",
    }
    assert {finding.rule for finding in ours.findings} == {finding.rule for finding in theirs.findings}
    assert ours.roofline.is_estimated


@pytest.mark.parametrize("path", both_sources(), ids=lambda path: path.name if path else "no-captures")
def test_no_advice_without_a_gain_is_given(path, samples):
    assert all(finding.gain.ns is None or finding.gain.ns >= 1 for finding in explained(path).findings)


@pytest.mark.parametrize("path", both_sources(), ids=lambda path: path.name if path else "no-captures")
def test_only_the_json_holds_peaks(path, samples):
    wanted = "Metadata" if path.suffix == ".json" else "hardware facts of inf2"
    assert set(explained(path).constants.sources.values()) == {wanted}
    assert explained(path).dma.peak_source == wanted


def test_two_captures_of_one_shape_are_comparable_and_other_shapes_are_not(samples):
    folder = samples / "inf2-matmul"
    for ending in ("json", "ntff"):
        first, again, larger = (
            read_profile(folder / f"profile_{name}.{ending}")
            for name in ("128x128x512", "bucketed_128x128x512", "128x128x1024")
        )
        (difference,) = compare_profiles([first, again]).differences
        assert difference.same_work
        assert difference.unexplained_ns == 0
        assert abs(difference.ratio - 1) < 0.05
        with pytest.raises(ComparisonError, match="work differs"):
            compare_profiles([first, larger])


def test_there_are_28_captures(samples):
    assert len(captures()) == 28
