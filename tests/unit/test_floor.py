"""The two-term fit and the tiling study on latencies whose floor is known."""

import numpy as np
import pytest

from npuscope.analysis.floor import fit_latency
from npuscope.analysis.tiling_study import tiling_study
from npuscope.errors import FormatError
from npuscope.formats.latency_csv import parse_column_mapping, read_latency_csv
from npuscope.tiling.model import TENSOR_ENGINE

SHAPES = np.array([(m, k, n) for m in (64, 256, 1024) for k in (128, 512) for n in (128, 1024, 4096)])


def latencies(floor_ms, rate, noise=0.02, seed=0, work=None):
    flops = 2.0 * SHAPES.prod(axis=1) if work is None else work
    return (floor_ms + flops / rate) * (1 + noise * np.random.default_rng(seed).standard_normal(len(SHAPES)))


def write_csv(path, rows, header="M,K,N,latency_ms"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_the_fit_finds_the_floor_and_the_rate():
    fit = fit_latency(SHAPES, latencies(0.3, 5e9), TENSOR_ENGINE)
    assert fit.work == "model_flops"
    assert fit.floor_ms == pytest.approx(0.3, rel=0.05)
    assert fit.rate_per_ms == pytest.approx(5e9, rel=0.05)
    assert fit.relative_rms < 0.04


def test_the_interval_of_the_floor_covers_it_about_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        fit = fit_latency(SHAPES, latencies(0.3, 5e9, noise=0.05, seed=seed), TENSOR_ENGINE)
        covered += fit.floor_low_ms <= 0.3 <= fit.floor_high_ms
    assert covered >= 0.85 * 60


def test_work_that_grows_with_the_result_is_recognised():
    output = (SHAPES[:, 0] * SHAPES[:, 2]).astype(float)
    fit = fit_latency(SHAPES, latencies(0.3, 4e6, work=output), TENSOR_ENGINE)
    assert fit.work == "output_elements"


def test_an_outlier_does_not_move_the_floor():
    values = latencies(0.3, 5e9, noise=0.01)
    values[0] = 30.0
    assert fit_latency(SHAPES, values, TENSOR_ENGINE).floor_ms == pytest.approx(0.3, rel=0.05)


def test_a_floor_is_never_negative_and_an_unidentified_one_says_so(tmp_path):
    rows = [(*shape, 1e-9 * 2 * np.prod(shape) ** 1.2) for shape in SHAPES.tolist()]
    study = tiling_study(read_latency_csv(write_csv(tmp_path / "a.csv", rows)))
    assert study.dispatch_floor_ms == 0
    assert "not distinguishable from zero" in study.floor_method


def test_one_amount_of_work_leaves_the_floor_open(tmp_path):
    rows = [(128, 128, 512, 0.3), (128, 128, 512, 0.31)]
    study = tiling_study(read_latency_csv(write_csv(tmp_path / "a.csv", rows)))
    assert study.dispatch_floor_ms is None
    assert study.floor_method.startswith("open")
    assert [row.dispatch_share for row in study.rows] == [None, None]


def test_a_recorded_floor_is_used_before_any_estimate(tmp_path):
    rows = [(*shape, ms, 0.2) for shape, ms in zip(SHAPES.tolist(), latencies(0.3, 5e9), strict=True)]
    rows = [(*shape, ms, floor) for shape, ms, floor in [(r[:3], r[3], r[4]) for r in rows]]
    study = tiling_study(read_latency_csv(write_csv(tmp_path / "a.csv", rows, "M,K,N,latency_ms,dispatch_floor_ms")))
    assert study.dispatch_floor_ms == 0.2
    assert study.floor_method.startswith("recorded")


def test_groups_of_device_and_dtype_have_floors_of_their_own(tmp_path):
    rows = [(*shape, ms, "a", "float32") for shape, ms in zip(SHAPES.tolist(), latencies(0.3, 5e9), strict=True)]
    rows += [(*shape, ms, "b", "float32") for shape, ms in zip(SHAPES.tolist(), latencies(0.05, 5e9), strict=True)]
    study = tiling_study(read_latency_csv(write_csv(tmp_path / "a.csv", rows, "M,K,N,latency_ms,device,dtype")))
    assert [floor.group for floor in study.floors] == ["a float32", "b float32"]
    assert study.floors[0].dispatch_floor_ms == pytest.approx(0.3, rel=0.1)
    assert study.floors[1].dispatch_floor_ms == pytest.approx(0.05, rel=0.2)


def test_rows_carry_tiles_latency_per_tile_boundary_and_jump(tmp_path):
    path = write_csv(tmp_path / "a.csv", [(128, 128, 512, 1.0), (129, 130, 513, 1.6), (130, 131, 514, 1.7)])
    first, second, third = tiling_study(read_latency_csv(path)).rows
    assert (first.boundary, first.boundary_axes, first.jump) == (True, "MKN", False)
    assert (second.boundary, second.jump, second.total_tiles) == (False, True, 8)
    assert second.latency_per_tile_ms == pytest.approx(0.2)
    assert not third.jump


def test_a_boundary_effect_above_the_noise_is_told_from_one_within(tmp_path):
    rng = np.random.default_rng(0)
    sizes = np.arange(16, 385, 8)
    quiet = 0.3 + 0.001 * rng.standard_normal(len(sizes))
    stairs = quiet + 0.1 * np.ceil(sizes / 128)
    for name, values, verdict in (
        ("flat", quiet, "within noise"),
        ("stairs", stairs, "significant, beyond the added work"),
    ):
        rows = [(size, 128, 512, ms) for size, ms in zip(sizes, values, strict=True)]
        study = tiling_study(read_latency_csv(write_csv(tmp_path / f"{name}.csv", rows)))
        assert [(b.axis, b.before, b.after) for b in study.boundaries] == [("M", 128, 136), ("M", 256, 264)]
        assert {boundary.verdict for boundary in study.boundaries} == {verdict}


def test_columns_of_other_names_can_be_named_and_constants_given(tmp_path):
    path = write_csv(tmp_path / "a.csv", [(1, 0.3), (2, 0.4), (600, 0.5)], "rows,ms")
    data = read_latency_csv(path, parse_column_mapping("M=rows,K=128,N=64,latency_ms=ms"))
    assert data.shapes.tolist() == [[1, 128, 64], [2, 128, 64], [600, 128, 64]]


def test_failed_rows_are_left_out_and_counted(tmp_path):
    path = write_csv(tmp_path / "a.csv", [(1, 1, 1, 0.3, "ok"), (2, 1, 1, "", "failed")], "M,K,N,latency_ms,status")
    study = tiling_study(read_latency_csv(path))
    assert len(study.rows) == 1
    assert study.skipped_rows == 1


def test_noise_that_grows_with_latency_is_no_boundary_effect(tmp_path):
    """Of pure floor + work with 3 % relative noise, few crossings may look like more."""
    rng = np.random.default_rng(0)
    shapes = [(m, k, n) for m in range(96, 545, 16) for k, n in ((128, 512), (512, 2048), (2048, 4096))]
    rows = [(*s, (0.01 + 2 * np.prod(s) / 1e9) * (1 + 0.03 * rng.standard_normal())) for s in shapes]
    boundaries = tiling_study(read_latency_csv(write_csv(tmp_path / "a.csv", rows))).boundaries
    wrong = [b for b in boundaries if b.verdict == "significant, beyond the added work"]
    assert len(boundaries) == 12
    assert len(wrong) <= 3


def test_a_negative_recorded_floor_is_refused(tmp_path):
    path = write_csv(tmp_path / "a.csv", [(1, 1, 1, 0.3, -5)], "M,K,N,latency_ms,dispatch_floor_ms")
    with pytest.raises(FormatError, match="dispatch_floor_ms"):
        read_latency_csv(path)
