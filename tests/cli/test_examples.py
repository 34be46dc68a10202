"""The examples run as their README says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED = {
    "01_single_matmul.py": ("device: cpu", "total tiles: 8 = 2 x 4 x 1"),
    "02_custom_shapes.py": ("GFLOP/s", "saved: results/custom_results.csv"),
    "03_tile_boundary.py": ("M: crossing 128 -> 136", "M: crossing 256 -> 264"),
    "04_llm_scenarios.py": ("prefill b1 s128 ffn-up", "decode b1 attention-q"),
    "05_quick_test.py": ("256 x 512 x 512: ok",),
    "06_predict_jax.py": ("jit_block on sim:trn2: predicted", "without lowering: 0% of the time", "06_predict_jax.py:"),
    "synthetic_capture.py": ("demo.ntff: next, npuscope analyze demo.ntff",),
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_runs_and_prints_its_figures(name, tmp_path):
    if "jax" in name:
        pytest.importorskip("jax")
    answer = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, answer.stderr
    for text in EXPECTED[name]:
        assert text in answer.stdout


def test_the_synthetic_capture_calls_itself_synthetic_and_can_be_analysed(tmp_path):
    subprocess.run([sys.executable, EXAMPLES / "synthetic_capture.py"], cwd=tmp_path, check=True, capture_output=True)
    words = [sys.executable, "-m", "npuscope", "analyze", "demo.ntff"]
    answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.startswith("inf2.synthetic, measured: demo.ntff (ntff)\n")
    assert "limited by" in answer.stdout
