"""Kernels on Neuron as entries: how they are named, and what they take."""

import ml_dtypes
import numpy as np
import pytest

from npuscope.backends.neuron_kernels import (
    FRAMEWORK_DEBUG,
    KLIR,
    METHODS,
    MLP_ISA,
    NAMED,
    check_kernel,
    extra_input_sizes,
    neuron_kernel,
    shaped_result,
)
from npuscope.errors import UsageError
from npuscope.workloads.kernels import ENTRIES
from npuscope.workloads.mlp import INPUT_NAMES


def inputs(hidden=128, dtype=ml_dtypes.bfloat16, names=INPUT_NAMES, sequence=4):
    shapes = (1, sequence, hidden), (hidden, 256), (hidden, 256), (256, hidden)
    return {name: np.zeros(shape, dtype) for name, shape in zip(names, shapes, strict=True)}


@pytest.mark.parametrize("name", ["nkilib", "neuronxcc"])
def test_an_entry_of_the_list_is_the_kernel_of_its_name(name):
    (entry,) = (each for each in ENTRIES if each.name == name)
    assert neuron_kernel(entry.target) == neuron_kernel(name)
    assert neuron_kernel(name).is_vendors


def test_conventions_and_ways_of_the_vendors_kernels():
    nkilib, neuronxcc = neuron_kernel("nkilib"), neuron_kernel("neuronxcc")
    assert (nkilib.convention, nkilib.methods) == (NAMED, METHODS)
    assert (neuronxcc.convention, neuronxcc.methods) == (MLP_ISA, (FRAMEWORK_DEBUG,))


def test_a_file_is_named_with_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    kernel = neuron_kernel("mine.py:kernel")
    assert (kernel.name, kernel.target, kernel.is_file) == ("mine:kernel", f"{tmp_path / 'mine.py'}:kernel", True)
    assert neuron_kernel("mine.py:kernel", "fast").name == "fast"
    assert not neuron_kernel("package.module:kernel").is_file


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("mine", "names no function"),
        ("mine.py:", "names no function"),
        ("mine.py:two words", "names no function"),
        ("missing.py:kernel", "there is no file 'missing.py'"),
        ("../package:kernel", "is neither PATH.py:FUNC nor package.module:FUNC"),
    ],
)
def test_anything_else_is_refused(target, expected):
    with pytest.raises(UsageError, match=expected):
        neuron_kernel(target)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_the_mlps_inputs_are_taken(method, dtype):
    check_kernel(neuron_kernel("nkilib"), inputs(dtype=dtype), method)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (inputs(dtype=np.float64), "hidden_tensor of kernel nkilib is float64; expected bfloat16 or float32"),
        (inputs(dtype=np.float32) | {INPUT_NAMES[1]: inputs()[INPUT_NAMES[1]]}, "differ in type"),
        (inputs(hidden=96), "hidden = 96 is no multiple of 128"),
        (inputs(names=("a", "b", "c", "d")), "takes hidden_tensor, gate_proj_weights_tensor"),
        (dict(reversed(inputs().items())), "in this order"),
        (inputs() | {INPUT_NAMES[3]: np.zeros((128, 256), ml_dtypes.bfloat16)}, r"takes \[batch, sequence, hidden\]"),
        (inputs(sequence=0), "has no elements"),
    ],
)
def test_what_a_vendors_kernel_does_not_take_is_refused(given, expected):
    with pytest.raises(UsageError, match=expected):
        check_kernel(neuron_kernel("nkilib"), given, KLIR)


def test_a_kernel_without_source_cannot_be_traced():
    with pytest.raises(UsageError, match="use --method framework-debug"):
        check_kernel(neuron_kernel("neuronxcc"), inputs(), KLIR)


def test_a_users_kernel_may_take_other_names_and_sizes():
    check_kernel(neuron_kernel("package.module:kernel"), inputs(hidden=96, names=("a", "b", "c", "d")), KLIR)


def test_only_the_compilers_kernel_is_handed_more_than_the_inputs():
    assert extra_input_sizes(neuron_kernel("nkilib"), inputs()) == ()
    assert extra_input_sizes(neuron_kernel("neuronxcc"), inputs()) == (256, 1024)


def test_a_result_without_its_batch_axis_gets_it_back():
    assert shaped_result(np.zeros((4, 128)), inputs()).shape == (1, 4, 128)
    assert shaped_result(np.zeros((5, 128)), inputs()).shape == (5, 128)
    assert shaped_result(np.zeros((4, 128)), {}).shape == (4, 128)
