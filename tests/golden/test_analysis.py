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
    assert sum(found.overlap.concurrency_ns) == found.kernel_time.window_ns
    assert max(found.bound.dependency_ns, key=found.bound.dependency_ns.get).startswith(("DMA", "completion of a DMA"))


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")
def test_engine_active_times_are_the_vendors(path, samples):
    found = explained(path)
    vendor = read_profile(path).vendor_summary
    for use in found.engines:
        theirs = vendor["dma_active_time" if use.name == "DMA" else f"{use.name.lower()}_engine_active_time"]
        assert use.active_ns / 1e9 == pytest.approx(theirs, abs=1e-9 * use.instruction_count)
    assert found.vendor_difference == ()


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")
def test_the_ntff_alone_gives_the_same_explanation(path, samples):
    ours, theirs = explained(path.with_suffix(".ntff")), explained(path)
    assert ours.kernel_time == theirs.kernel_time
    assert ours.engines == theirs.engines
    assert ours.overlap.concurrency_ns == theirs.overlap.concurrency_ns
    assert ours.bound.shares == theirs.bound.shares
    assert [finding.rule for finding in ours.findings] == [finding.rule for finding in theirs.findings]
    assert ours.roofline.is_estimated


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
