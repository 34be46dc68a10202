"""The kernels that ship compute what their references say, and move what their docstrings say."""

from pathlib import Path

import numpy as np
import pytest

from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.program import Space, Transfer, Work
from npuscope.simulate.nki.loader import load_kernel, trace_kernel

FOLDER = Path(__file__).parents[2] / "examples" / "nki"
MATMULS = ("matmul_naive", "matmul_hoisted", "matmul_blocked_free", "matmul_blocked")
BFLOAT16_STEP = 2.0**-8
CASES = [
    *((name, "kernel", {"M": 256, "K": 256, "N": 1024}, "sim:trn1") for name in MATMULS[:3]),
    ("matmul_blocked", "kernel", {"M": 2048, "K": 1024, "N": 1024}, "sim:trn1"),
    ("rmsnorm", "kernel", {"rows": 200, "columns": 64}, "sim:trn1"),
    ("rmsnorm", "kernel", {"rows": 128, "columns": 600}, "sim:trn3"),
    ("softmax", "kernel", {"rows": 200, "columns": 64}, "sim:trn1"),
    ("softmax", "kernel", {"rows": 1, "columns": 512}, "sim:trn2"),
    ("silu", "kernel", {"rows": 256, "columns": 64}, "sim:trn1"),
    ("mlp_tokens", "kernel", {"tokens": 64, "hidden": 256, "inner": 128}, "sim:trn1"),
    ("mlp_tokens", "kernel", {"tokens": 256, "hidden": 128, "inner": 640}, "sim:trn1"),
    ("mlp_columns", "kernel", {"tokens": 64, "hidden": 256, "inner": 128}, "sim:trn1"),
    ("mlp_columns", "kernel", {"tokens": 256, "hidden": 256, "inner": 128}, "sim:trn1"),
    ("mlp_columns", "kernel", {"tokens": 640, "hidden": 128, "inner": 256}, "sim:trn1"),
    ("mlp_current", "kernel", {"tokens": 64, "hidden": 256, "inner": 128}, "sim:trn2"),
    ("attention", "kernel", {"length": 512, "width": 64}, "sim:trn1"),
    ("attention", "kernel", {"length": 1024, "width": 128}, "sim:trn2"),
    *(
        ("selective_scan", kernel, {"batch": 2, "channels": 128, "steps": 1024, "states": 2}, "sim:trn1")
        for kernel in ("by_state", "by_channel", "by_time")
    ),
]


def outputs_and_reference(name, kernel, sizes, device, **launch):
    file = FOLDER / f"{name}.py"
    function = load_kernel(f"{file}:inputs")
    arguments = function(**sizes)
    expected = load_kernel(f"{file}:reference")(*arguments)
    traced = trace_kernel(load_kernel(f"{file}:{kernel}"), arguments, device=load_device(device), **launch)
    return traced, np.asarray(traced.outputs[0]), np.asarray(expected)


@pytest.mark.parametrize(("name", "kernel", "sizes", "device"), CASES, ids=lambda value: str(value))
def test_a_kernel_computes_what_its_reference_says(name, kernel, sizes, device):
    _, found, expected = outputs_and_reference(name, kernel, sizes, device)
    assert found.shape == expected.shape
    tolerance = 1e-5 if found.dtype == np.float32 else 2 * BFLOAT16_STEP
    scale = np.abs(expected.astype(np.float32)).max()
    assert np.abs(found.astype(np.float32) - expected.astype(np.float32)).max() <= tolerance * scale


def test_references_agree_with_a_plain_numpy_product():
    function = load_kernel(f"{FOLDER / 'matmul_naive.py'}:inputs")
    left, right = function(M=128, K=128, N=512)
    expected = np.einsum("km,kn->mn", left.astype(np.float64), right.astype(np.float64))
    for name in MATMULS:
        found = load_kernel(f"{FOLDER / name}.py:reference")(left, right).astype(np.float64)
        assert np.allclose(found, expected, rtol=BFLOAT16_STEP, atol=0.02)


@pytest.mark.parametrize("name", MATMULS)
def test_every_step_of_the_matmul_issues_the_same_products(name):
    sizes = {"M": 2048, "K": 1024, "N": 1024}
    function = load_kernel(f"{FOLDER / name}.py:inputs")
    traced = trace_kernel(
        load_kernel(f"{FOLDER / name}.py:kernel"), function(**sizes), device=load_device("sim:trn1"), compute=False
    )
    flops = works(traced.programs, lambda work: work.flops if isinstance(work, Work) else 0)
    assert flops == 2 * 2048 * 1024 * 1024


def works(programs, amount):
    return sum(amount(program.signatures[number]) for program in programs for number in program.signature)


def test_later_steps_of_the_matmul_are_faster_and_read_less():
    times, bytes_read = [], []
    for name in MATMULS:
        arguments = load_kernel(f"{FOLDER / name}.py:inputs")(M=2048, K=2048, N=2048)
        device = load_device("sim:trn1")
        traced = trace_kernel(load_kernel(f"{FOLDER / name}.py:kernel"), arguments, device=device, compute=False)
        times.append(run_program(traced.programs[0], device).total_ps)
        bytes_read.append(
            works(
                traced.programs,
                lambda work: work.read_bytes if isinstance(work, Transfer) and work.source is Space.HBM else 0,
            )
        )
    assert times == sorted(times, reverse=True)
    assert bytes_read == sorted(bytes_read, reverse=True)


def test_the_mlp_on_two_cores_has_the_counts_of_the_published_profile():
    sizes = {"tokens": 128, "hidden": 1024, "inner": 512}
    traced, found, expected = outputs_and_reference("mlp_tokens", "kernel", sizes, "sim:trn2", grid=(2,), lnc=2)
    assert len(traced.programs) == 2
    matmuls = works(traced.programs, lambda work: getattr(work, "opcode", "") in {"nc_matmul", "nc_transpose"})
    moved = {
        direction: works(
            traced.programs,
            lambda work, direction=direction: (
                getattr(work, f"{direction}_bytes")
                if isinstance(work, Transfer)
                and (work.source if direction == "read" else work.destination) is Space.HBM
                else 0
            ),
        )
        for direction in ("read", "write")
    }
    assert matmuls == 72
    assert moved == {"read": 6_553_600, "write": 262_144}
    assert np.abs(found.astype(np.float32) - expected).max() < 0.02


@pytest.mark.parametrize("file", ["mlp_tokens", "mlp_columns"])
def test_two_cores_compute_the_same_mlp_as_one(file):
    sizes = {"tokens": 128, "hidden": 256, "inner": 128}
    _, one, _ = outputs_and_reference(file, "kernel", sizes, "sim:trn2")
    _, two, _ = outputs_and_reference(file, "kernel", sizes, "sim:trn2", grid=(2,), lnc=2)
    # sums of other shapes may be added in another order, so that a bfloat16 rounds the other way here and there
    assert np.allclose(one.astype(np.float32), two.astype(np.float32), rtol=2**-7, atol=0)
    assert np.mean(one != two) < 0.001
