"""Comparisons: contributions that sum to the change, and refusals with the reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.analysis.comparability import Work, same_work
from npuscope.analysis.compare import compare_profiles
from npuscope.analysis.compare_results import compare_results
from npuscope.errors import ComparisonError, UsageError
from npuscope.formats.results import ResultRow, write_parquet
from tests.profiles import instruction, packet, small_profile

TENSORS = [{"variable_name": "x", "type": "IN", "shape": "128 128", "size": 32768}]


def kernel(load_ns=3_000, matmul_ns=4_000, *, flops=1_000, source="a", metadata=None, tensors=TENSORS):
    return small_profile(
        [
            instruction("Tensor", "LDWEIGHTS", load_ns, 100),
            instruction("Tensor", "MATMUL", load_ns + 100, matmul_ns),
            instruction("Scalar", "ACTIVATE", load_ns + matmul_ns, 600),
        ],
        [packet(0, load_ns)],
        summary={"total_time": (load_ns + matmul_ns + 600) / 1e9, "model_flops": flops},
        metadata=metadata,
        source=source,
        TensorInfo=tensors,
    )


# contributions


def test_contributions_sum_to_the_change_and_come_largest_first():
    found = compare_profiles([kernel(), kernel(load_ns=2_000, matmul_ns=3_500, source="b")])
    (difference,) = found.differences
    assert difference.change_ns == -1_500
    assert difference.unexplained_ns == 0
    assert [(c.resource, c.part, c.change_ns) for c in difference.changes] == [
        ("DMA", "data", -1_000),
        ("Tensor", "MATMUL", -500),
    ]
    assert sum(c.share_of_change for c in difference.changes) == pytest.approx(1)


def test_what_is_hidden_behind_a_busier_resource_does_not_contribute():
    def overlapped(activate_ns):
        return small_profile(
            [instruction("Tensor", "MATMUL", 0, 9_000), instruction("Scalar", "ACTIVATE", 100, activate_ns)],
            summary={"total_time": 9e-6, "model_flops": 1},
        )

    (difference,) = compare_profiles([overlapped(1_000), overlapped(8_000)]).differences
    assert difference.change_ns == 0
    assert difference.changes == ()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Tensor", "Vector", "Scalar", "Sync"]),
            st.sampled_from(["MATMUL", "DRAIN", "EVENT_SEMAPHORE"]),
            st.integers(0, 5_000),
            st.integers(0, 900),
        ),
        min_size=1,
        max_size=15,
    ),
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 700)), max_size=8),
)
def test_contributions_always_sum_to_the_change(rows, packets):
    first = kernel()
    second = small_profile(
        [instruction(*row) for row in rows],
        [packet(*row) for row in [*packets, (0, 10)]],
        summary={"model_flops": 1_000},
        TensorInfo=TENSORS,
    )
    (difference,) = compare_profiles([first, second]).differences
    assert difference.unexplained_ns == 0


def test_one_execution_each_is_not_judged():
    found = compare_profiles([kernel(), kernel(matmul_ns=4_001, source="b")])
    assert found.differences[0].verdict.startswith("not judged")
    assert "no interval" in found.notes[0]


def test_equal_profiles_are_told_as_no_change():
    (difference,) = compare_profiles([kernel(), kernel(source="b")]).differences
    assert difference.verdict.startswith("no change")
    assert (difference.change_ns, difference.changes, difference.ratio) == (0, (), 1)


def test_three_profiles_are_each_compared_with_the_first():
    found = compare_profiles([kernel(), kernel(matmul_ns=5_000, source="b"), kernel(matmul_ns=6_000, source="c")])
    assert [difference.change_ns for difference in found.differences] == [1_000, 2_000]
    assert [side.ratio for side in found.profiles] == pytest.approx([1, 8.6 / 7.6, 9.6 / 7.6])


# refusals


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (kernel(flops=2_000), "1,000 model FLOPs against 2,000"),
        (kernel(tensors=[{**TENSORS[0], "shape": "128 256", "size": 65536}]), "inputs and outputs"),
        (kernel(metadata={"is_simulation": True}), "simulated"),
        (kernel(metadata={"device": "trn2.48xlarge"}), "trn2.48xlarge"),
        (small_profile(source="empty"), "no events"),
        (kernel(tensors=[], flops=None), "unknown"),
    ],
)
def test_profiles_that_are_not_comparable_are_refused_with_the_reason(other, reason):
    with pytest.raises(ComparisonError, match=reason) as refused:
        compare_profiles([kernel(), other])
    assert refused.value.exit_code == 1


def test_cold_against_warm_is_refused():
    cold = small_profile(
        [instruction("Tensor", "DRAIN", 0, 100), instruction("Tensor", "MATMUL", 1_900_000, 9_000)],
        summary={"model_flops": 1_000},
        TensorInfo=TENSORS,
    )
    with pytest.raises(ComparisonError, match="cold capture"):
        compare_profiles([kernel(), cold])


def test_a_user_who_insists_gets_the_comparison_with_a_label():
    found = compare_profiles([kernel(), kernel(flops=2_000, source="b")], different_work=True)
    assert found.differences[0].same_work is False
    assert any("THE WORK DIFFERS" in remark for remark in found.differences[0].remarks)
    found = compare_profiles([kernel(), kernel(metadata={"device": "trn2.48xlarge"})], across_devices=True)
    assert any("DIFFERENT DEVICES" in remark for remark in found.differences[0].remarks)


def test_one_profile_is_no_comparison():
    with pytest.raises(UsageError):
        compare_profiles([kernel()])


def test_weights_that_the_compiler_adds_and_names_do_not_make_other_work():
    left = Work("", (("IN", "128 128", 32768),), 10, 100)
    assert same_work(left, replace(left, program="ab")) == (
        True,
        "inputs and outputs of the same shapes and sizes, the same model FLOPs, as many bytes of inputs and outputs",
    )
    assert same_work(Work("", (), None, None), left)[0] is None
    assert same_work(Work("ab", (), None, None), Work("ab", (), 5, None))[0] is True


# folders of results


def row(latency_ns, *, rounds=5, shape=(128, 128, 512), **more):
    rng = np.random.default_rng(latency_ns)
    samples = tuple(int(latency_ns * (1 + 0.01 * rng.standard_normal())) for _ in range(4 * rounds))
    values = {
        "num_tiles_M": 1,
        "num_tiles_K": 1,
        "num_tiles_N": 1,
        "total_tiles": 1,
        "device": "cpu",
        "is_simulated": False,
        "status": "ok",
        "dtype": "float32",
        "samples_ns": samples,
        "sample_round": tuple(i // 4 for i in range(4 * rounds)),
        **more,
    }
    return ResultRow(*shape, latency_ms=float(np.median(samples)) / 1e6, **values)


def folder(path: Path, *rows: ResultRow) -> Path:
    path.mkdir()
    write_parquet(path / "results.parquet", list(rows))
    return path


def test_a_ratio_beyond_noise_is_judged_and_one_within_it_is_not_claimed(tmp_path):
    before = folder(tmp_path / "a", row(100_000), row(200_000, shape=(256, 128, 512)))
    after = folder(tmp_path / "b", row(80_000), row(200_100, shape=(256, 128, 512)))
    found = compare_results([before, after])
    assert [(item.shape, item.verdict) for item in found.rows] == [
        ("128x128x512", "faster"),
        ("256x128x512", "within noise"),
    ]
    assert found.rows[0].ratio == pytest.approx(0.8, rel=0.02)
    assert found.rows[0].ratio_low < found.rows[0].ratio < found.rows[0].ratio_high < 1


def test_too_few_rounds_are_refused(tmp_path):
    before, after = folder(tmp_path / "a", row(100_000, rounds=2)), folder(tmp_path / "b", row(80_000, rounds=5))
    with pytest.raises(ComparisonError, match="too few runs"):
        compare_results([before, after])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (row(80_000, device="openvino:npu"), "--across-devices"),
        (row(80_000, shape=(64, 64, 64)), "no shape and type in common"),
        (row(80_000, includes_transfers=True), "includes_transfers"),
        (row(80_000, is_simulated=True), "is_simulated"),
        (row(80_000, compute_dtype="bfloat16"), "compute_dtype"),
    ],
)
def test_results_that_are_not_comparable_are_refused_with_the_reason(tmp_path, other, reason):
    before, after = folder(tmp_path / "a", row(100_000)), folder(tmp_path / "b", other)
    with pytest.raises(ComparisonError, match=reason):
        compare_results([before, after])


def test_across_devices_is_told(tmp_path):
    before, after = folder(tmp_path / "a", row(100_000)), folder(tmp_path / "b", row(80_000, device="jax:cpu"))
    found = compare_results([before, after], across_devices=True)
    assert "DIFFERENT DEVICES" in found.notes[0]
    assert found.rows[0].verdict == "faster"


def test_a_workload_of_one_folder_only_is_named(tmp_path):
    before = folder(tmp_path / "a", row(100_000), row(5_000, shape=(8, 8, 8)))
    after = folder(tmp_path / "b", row(80_000))
    assert compare_results([before, after]).only_in_one == (f"8x8x8 float32: only in {before}",)
