"""The tiling study on real wall-clock latencies of an inf2.xlarge, whose small shapes measure dispatch."""

import json
import subprocess
import sys

import pytest

from npuscope.analysis.tiling_study import tiling_study
from npuscope.formats.latency_csv import read_latency_csv

MATMULS = ("FIX_PE_1_tile", "K_variation_test", "M_variation_with_N", "m128k128n32_1024", "simple_test")


@pytest.mark.parametrize("name", [*MATMULS, "bucket_equivalence_test"])
def test_the_study_says_that_small_shapes_measure_dispatch(samples, name):
    study = tiling_study(read_latency_csv(samples / "inf2-wall-latency" / f"{name}.csv"))
    assert any("small shapes measure dispatch" in sentence for sentence in study.findings)
    assert 0.26 < study.dispatch_floor_ms < 0.36  # wall latencies of these shapes start at 0.266 ms


def test_rows_far_above_the_floor_are_not_called_dispatch(samples):
    study = tiling_study(read_latency_csv(samples / "inf2-wall-latency" / "K_variation_test.csv"))
    slowest = max(study.rows, key=lambda row: row.latency_ms)
    assert slowest.dispatch_share < 0.35


def test_no_floor_is_claimed_where_no_shape_is_small_enough(samples):
    """The smallest of these feed-forward blocks takes 1 ms: nothing in the file tells the floor."""
    study = tiling_study(read_latency_csv(samples / "inf2-wall-latency" / "ffn_profile.csv"))
    assert "not distinguishable from zero" in study.floor_method
    assert not any("measure dispatch" in sentence for sentence in study.findings)


def test_crossings_of_512_in_n_are_within_noise_in_wall_latency(samples):
    study = tiling_study(read_latency_csv(samples / "inf2-wall-latency" / "M_variation_with_N.csv"))
    crossings = [boundary for boundary in study.boundaries if (boundary.axis, boundary.before) == ("N", 512)]
    assert len(crossings) == 4
    assert {boundary.verdict for boundary in crossings} == {"within noise"}


def test_the_files_own_tile_counts_are_recognised(samples):
    """The public tool changed its tile model between these files."""
    folder = samples / "inf2-wall-latency"
    found = {name: tiling_study(read_latency_csv(folder / f"{name}.csv")).file_tile_model for name in MATMULS}
    assert found == {
        "FIX_PE_1_tile": "legacy",
        "K_variation_test": "tensor-engine",
        "M_variation_with_N": "tensor-engine",
        "m128k128n32_1024": "legacy",
        "simple_test": None,
    }


def test_the_command_prints_the_contract_on_a_real_file(samples):
    path = samples / "inf2-wall-latency" / "K_variation_test.csv"
    answer = subprocess.run(
        [sys.executable, "-m", "npuscope", "tiling", path, "--json"], capture_output=True, text=True, check=True
    )
    document = json.loads(answer.stdout)
    assert document["dispatch_floor_ms"] > 0
    assert "estimated" in document["floor_method"]
    assert len(document["rows"]) == 140
    for row in document["rows"]:
        assert row["total_tiles"] == row["num_tiles_M"] * row["num_tiles_K"] * row["num_tiles_N"]
        assert row["latency_per_tile_ms"] == pytest.approx(row["latency_ms"] / row["total_tiles"])
        assert 0 <= row["dispatch_share"] <= 1
        assert isinstance(row["boundary"], bool)
