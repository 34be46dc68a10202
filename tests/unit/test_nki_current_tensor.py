"""`NkiTensor`: subscripts, views and access patterns of the current dialect, against NumPy."""

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.nki import current_isa as nisa
from npuscope.simulate.nki import current_language as language
from npuscope.simulate.nki.current_tensor import NkiTensor
from npuscope.simulate.nki.trace import KernelError, Trace, tracing

nl: Any = language


@pytest.fixture(autouse=True)
def trace() -> Iterator[Trace]:
    with tracing(Trace(device=load_device("trn2"))) as running:
        yield running


def numbered(*shape: int, buffer: Any = nl.sbuf) -> NkiTensor:
    """A tensor that holds 0, 1, 2... in row-major order."""
    found = nl.ndarray(shape, nl.float32, buffer)
    found.assign(np.arange(found.size, dtype=np.float32).reshape(shape))
    return found


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ((0, 0, 10), (1, 1)),
        ((slice(None), 0), (64, 64)),
        ((slice(None), 0, 10), (64, 1)),
        ((0, Ellipsis, slice(None)), (1, 64, 64)),
        (Ellipsis, (64, 64, 64)),
        ((slice(None), slice(None), slice(None, None, 2)), (64, 64, 32)),
        ((-1, slice(0, 3)), (1, 3, 64)),
        ((nl.ds(8, 4), 1), (4, 64)),
        (nl.ds(8, 4), (4, 64, 64)),
    ],
)
def test_a_tile_keeps_its_partitions_and_two_axes(key: Any, shape: tuple[int, ...]) -> None:
    assert numbered(64, 64, 64)[key].shape == shape


def test_a_tensor_in_hbm_drops_an_indexed_axis_down_to_one() -> None:
    tensor = numbered(4, 6, 8, buffer=nl.private_hbm)
    assert tensor[1].shape == (6, 8)
    assert np.array_equal(tensor[1, 2:4].value(), tensor.value()[1, 2:4])
    assert tensor[1, 2, 3].shape == (1,)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_slices_select_what_numpy_selects(data: st.DataObject) -> None:
    shape = (5, 4, 6)
    key = []
    for size in shape:
        start = data.draw(st.integers(0, size - 1))
        stop = data.draw(st.integers(start + 1, size))
        key.append(slice(start, stop, data.draw(st.integers(1, 3))))
    with tracing(Trace()):
        tensor = numbered(*shape)
        assert np.array_equal(tensor[tuple(key)].value(), tensor.value()[tuple(key)])


@pytest.mark.parametrize("key", [(slice(0, 9),), (slice(None), slice(3, 3)), (0, 7), (9,), (0, 0, 0)])
def test_what_leaves_the_tensor_is_an_error_at_once(key: Any) -> None:
    with pytest.raises(KernelError):
        numbered(8, 4)[key]


VIEWS: dict[str, tuple[Callable[[NkiTensor], NkiTensor], Callable[[Any], Any]]] = {
    "permute": (lambda t: t.permute((0, 2, 1)), lambda a: a.transpose(0, 2, 1)),
    "reshape": (lambda t: t.reshape((8, 24)), lambda a: a.reshape(8, 24)),
    "reshape_dim": (lambda t: t.reshape_dim(2, (2, -1)), lambda a: a.reshape(8, 4, 2, 3)),
    "flatten_dims": (lambda t: t.flatten_dims(1, 2), lambda a: a.reshape(8, 24)),
    "slice": (lambda t: t.slice(1, 1, 4, 2), lambda a: a[:, 1:4:2]),
    "select": (lambda t: t.select(1, 3), lambda a: a[:, 3]),
    "expand and broadcast": (
        lambda t: t.expand_dim(1).broadcast(1, 3),
        lambda a: np.broadcast_to(a[:, None], (8, 3, 4, 6)),
    ),
    "squeeze": (lambda t: t[:, 0:1].squeeze_dim(1), lambda a: a[:, 0]),
    "ap": (
        lambda t: t.ap([[24, 8], [1, 4], [4, 2]], offset=3),
        lambda a: a.reshape(8, 24)[:, [[3, 7], [4, 8], [5, 9], [6, 10]]],
    ),
    "ap of a view": (lambda t: t[:, 2:].ap([[24, 8], [1, 2]]), lambda a: a.reshape(8, 24)[:, 12:14]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_show_what_numpy_shows(name: str) -> None:
    view, expected = VIEWS[name]
    tensor = numbered(8, 4, 6)
    assert np.array_equal(view(tensor).value(), expected(tensor.value()))


def test_axes_are_split_and_reordered_by_name() -> None:
    tensor = numbered(8, 24)
    turned = tensor.rearrange(("b", ("h", "w")), ("b", "w", "h"), {"h": 4})
    assert np.array_equal(turned.value(), tensor.value().reshape(8, 4, 6).transpose(0, 2, 1))


def test_views_share_memory() -> None:
    tensor = numbered(8, 4)
    nisa.memset(tensor.reshape((8, 2, 2))[:, 1], 9.0)
    assert tensor.value()[:, 2:].tolist() == [[9.0, 9.0]] * 8
    assert tensor.value()[0, :2].tolist() == [0.0, 1.0]


def test_a_view_as_another_type_scales_its_last_axis() -> None:
    tensor = numbered(8, 6)
    halves = tensor.view(nl.bfloat16)
    assert halves.shape == (8, 12)
    assert np.array_equal(halves.value()[:, 1::2], tensor.value().astype(ml_dtypes.bfloat16))
    assert tensor.ap([[12, 8], [1, 12]], dtype=nl.bfloat16).shape == (8, 12)


def test_layout_questions_are_answered() -> None:
    tensor = numbered(128, 64)
    part = tensor.slice(1, 8, 24)
    assert (tensor.strides, tensor.offset, tensor.size, tensor.ndim) == ((64, 1), 0, 128 * 64, 2)
    assert (part.get_pattern(), part.offset) == ([[64, 128], [1, 16]], 8)
    assert tensor.is_contiguous()
    assert not numbered(8, 4, 6).permute((0, 2, 1)).is_contiguous()
    assert not tensor.is_indirect()
    assert tensor.buffer == nl.sbuf


def test_a_register_or_a_tile_selects_while_the_kernel_runs() -> None:
    tensor, wanted = numbered(4, 8, 6, buffer=nl.private_hbm), nl.full((1, 1), 2, nl.int32)
    there = nl.ndarray((8, 6), nl.float32)
    assert tensor.select(0, wanted).is_indirect()
    nisa.dma_copy(there, tensor.select(0, wanted))
    assert np.array_equal(there.value(), tensor.value()[2])
    nisa.dma_copy(there, tensor.ap([[6, 8], [1, 6]], scalar_offset=nisa.register_alloc(3), indirect_dim=0))
    assert np.array_equal(there.value(), tensor.value()[3])
    with pytest.raises(KernelError, match="one dynamic index at most"):
        tensor.select(0, wanted).select(0, wanted)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (lambda t: t.ap([[48, 4], [1, 24]]), "partition stride is 48"),
        (lambda t: t.ap([[24, 8], [1, 25]]), "reaches partition 7, element 24"),
        (lambda t: t.permute((1, 0, 2)), "partitions"),
        (lambda t: t.reshape((4, 48)), "8 partitions cannot become 4"),
        (lambda t: t.broadcast(1, 2), "axis 1 has 4 positions"),
        (lambda t: t.permute((0, 2, 1)).flatten_dims(1, 2), "do not lie in one piece"),
        (lambda t: t.indirect(t), "NkiTensor.indirect is not supported by the simulator"),
        (lambda t: t.slice(1, 2, 9), "2:9:1 of an axis of 4"),
    ],
)
def test_views_that_the_hardware_has_not_are_refused(view: Callable[[NkiTensor], Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        view(numbered(8, 4, 6))
