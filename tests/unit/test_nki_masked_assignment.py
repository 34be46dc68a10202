"""Masks that are no rectangles: what lies outside stays as it was."""

import numpy as np
import pytest

from npuscope.simulate.nki.loader import load_kernel, trace_kernel

KERNEL = """
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl

@nki.jit
def triangle(x):
    out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.load(x)
    i, j = nl.mgrid[0:128, 0:128]
    result = nl.ndarray((128, 128), dtype=nl.float32)
    result[i, j] = nl.multiply(tile, -1.0, mask=({first}))
    result[i, j] = nl.copy(tile, mask=({second}))
    nl.store(out, result)
    return out
"""


@pytest.mark.parametrize(("first", "second"), [("i < j", "i >= j"), ("i > j", "i <= j")])
def test_a_masked_assignment_leaves_the_other_elements_alone(tmp_path, first, second) -> None:
    path = tmp_path / "kernel.py"
    path.write_text(KERNEL.format(first=first, second=second))
    x = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    keep = np.tril(np.ones((128, 128), bool)) if second == "i >= j" else np.triu(np.ones((128, 128), bool))

    traced = trace_kernel(load_kernel(f"{path}:triangle"), [x])

    assert np.array_equal(traced.outputs[0], np.where(keep, x, -x))
