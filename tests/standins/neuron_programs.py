"""The stand-in for the Neuron SDK, extended by what programs of several operations call: torch's functions on lazy tensors,
`torch.func.vmap`, and torch_xla's `scan` and `metric_data`.

Written from the source of torch_xla 2.9 and PyTorch's documentation, and never more lenient than they are: an unknown
keyword, a host tensor beside a device tensor, operands of different types or of shapes that do not broadcast, a body of a
scan that is no function, that returns another shape of carry or a result on which no gradient depends, and a scan over host
tensors are refused. Neither `torch` nor `torch.func` has a scan here. What torch_xla 2.9 itself refuses was tried on its CPU.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.standins.neuron import CPU, NeuronSdk, State, Tensor, Value

SCAN_MODULE = "torch_xla.experimental.scan"
REFUSAL = (
    "Bad StatusOr access: INTERNAL: RunNeuronCCImpl: error condition error != 0: <class 'subprocess.CalledProcessError'>\n"
    "2026-03-01T10:00:00Z [TEN404] (_dot.12) Internal tensorizer error: TensorInitialization - Please open a support ticket\n"
    "  at starfish/penguin\n"
)


def default_partition(joint_module, _joint_inputs, *, num_fwd_outputs):
    """Stands for functorch's; the stand-in partitions nothing."""


def min_cut_rematerialization_partition(joint_module, _joint_inputs, compiler="inductor", *, num_fwd_outputs):
    """Stands for functorch's; the stand-in partitions nothing."""


class Node(Value):
    """One recorded operation."""

    def __init__(self, name, dtype, shape, operands, compute, static=(), inner=()):
        super().__init__(dtype, shape, operands=operands)
        self.name, self.compute, self.static, self.inner = name, compute, static, inner

    def signature(self):
        graph = ()
        if self.state is State.RECORDED:
            graph = (
                self.name,
                self.static,
                tuple(value.signature() for value in self.inner),
                tuple(value.signature() for value in self.operands),
            )
        return self.dtype.name, self.shape, graph


class ProgramTensor(Tensor):
    """A tensor with the operators of torch that a pattern uses."""

    requires_grad = False

    def requires_grad_(self, requires_grad=True):
        self.requires_grad = requires_grad
        return self

    def detach(self):
        return ProgramTensor(self._sdk, self._value, self.device)

    def _wrapped(self, tensor):
        return tensor if tensor is self else ProgramTensor(tensor._sdk, tensor._value, tensor.device)

    def to(self, device):
        return self._wrapped(super().to(device))

    def view(self, dtype):
        return self._wrapped(super().view(dtype))

    def __mul__(self, other):
        return self._sdk.operation("mul", [self, other], np.multiply)

    def __add__(self, other):
        return self._sdk.operation("add", [self, other], np.add)

    @property
    def T(self):  # noqa: N802
        if len(self.shape) != 2:
            raise RuntimeError("the stand-in transposes matrices only; others are deprecated in torch")
        return self._sdk.operation("t", [self], np.transpose)

    def __getitem__(self, index):
        if type(index) is not int:
            raise TypeError(f"the stand-in indexes by whole numbers, not {index!r}")
        if not self.shape or not -self.shape[0] <= index < self.shape[0]:
            raise IndexError(f"index {index} is out of bounds for {self.shape}")
        return self._sdk.operation("select", [self], lambda array: array[index], static=(index,))

    def unsqueeze(self, dim):
        return self._sdk.operation("unsqueeze", [self], lambda array: np.expand_dims(array, dim), static=(dim,))

    def repeat(self, *repeats):
        if len(repeats) < len(self.shape):
            raise RuntimeError(
                "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor"
            )
        return self._sdk.operation("repeat", [self], lambda array: np.tile(array, repeats), static=repeats)


class ProgramSdk(NeuronSdk):
    """One fake installation that runs programs.

    Settings:
        refused_operations: Names of operations that the compiler fails on, with `REFUSAL`.
        has_scan: False is a torch_xla without `torch_xla.experimental.scan`.
        has_metric_data: False is a torch_xla that counts no executions.
    """

    def __init__(self):
        super().__init__()
        self.refused_operations = set()
        self.has_scan = self.has_metric_data = True
        self.scan_traces = self.host_operations = self.finished = 0
        self.partitions, self.kept_for_backward = [], 0
        self._gradients = True
        self._pure_bodies = weakref.WeakKeyDictionary()

    def modules(self):
        modules = super().modules()
        functions = ("sum", "mean", "relu", "matmul", "stack")
        vars(modules["torch"]).update({name: getattr(self, name) for name in functions})
        modules["torch"].no_grad = self.no_grad
        modules["torch"].func = SimpleNamespace(vmap=self.vmap)
        if self.has_metric_data:
            modules["torch_xla.debug.metrics"].metric_data = self.metric_data
        return modules

    def install(self, monkeypatch):
        super().install(monkeypatch)
        monkeypatch.setitem(sys.modules, "torch_xla.experimental", ModuleType("torch_xla.experimental"))
        scan = ModuleType(SCAN_MODULE)
        scan.scan = self.scan
        monkeypatch.setitem(sys.modules, "functorch", ModuleType("functorch"))
        partitions = ModuleType("functorch.compile")
        partitions.default_partition = default_partition
        partitions.min_cut_rematerialization_partition = min_cut_rematerialization_partition
        monkeypatch.setitem(sys.modules, "functorch.compile", partitions)
        monkeypatch.setitem(sys.modules, SCAN_MODULE, scan if self.has_scan else None)

    # torch

    def from_numpy(self, array):
        tensor = super().from_numpy(array)
        return ProgramTensor(self, tensor._value, CPU)

    def zeros(self, size, *, dtype, device=CPU):
        if device == CPU:
            return ProgramTensor(self, super().zeros(size, dtype=dtype)._value, CPU)
        return self._record(Node("zeros", dtype, tuple(size), (), lambda: np.zeros(size, dtype.numpy)), device)

    def sum(self, tensor, /, dim=None, keepdim=False, *, dtype=None):
        return self._reduced("sum", np.sum, tensor, dim, keepdim, dtype)

    def mean(self, tensor, /, dim=None, keepdim=False, *, dtype=None):
        return self._reduced("mean", np.mean, tensor, dim, keepdim, dtype)

    def relu(self, tensor, /):
        return self.operation("relu", [tensor], lambda array: np.maximum(array, 0))

    def matmul(self, left, right, /):
        if left.dtype != right.dtype:
            raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {left.dtype} != {right.dtype}")
        return self.operation("matmul", [left, right], np.matmul)

    def stack(self, tensors, dim=0):
        if not tensors:
            raise RuntimeError("stack expects a non-empty TensorList")
        if len({tensor.shape for tensor in tensors}) != 1:
            raise RuntimeError("stack expects each tensor to be equal size")
        return self.operation("stack", list(tensors), lambda *arrays: np.stack(arrays, dim), static=(dim,))

    def vmap(self, func, in_dims=0, out_dims=0, randomness="error", *, chunk_size=None):
        if (out_dims, randomness, chunk_size) != (0, "error", None):
            raise RuntimeError("the stand-in maps onto the first axis only")

        def mapped(*tensors):
            axes = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(tensors)
            if len(axes) != len(tensors):
                raise ValueError("in_dims is not compatible with the structure of inputs")
            sizes = {tensor.shape[axis] for tensor, axis in zip(tensors, axes, strict=True) if axis is not None}
            if len(sizes) != 1 or any(axis not in (0, None) for axis in axes):
                raise ValueError("vmap: Expected all tensors to have the same size in the mapped dimension")
            (size,) = sizes
            device = self._common_device(tensors)
            values = [
                Value(t.dtype, t.shape if axis is None else t.shape[1:]) for t, axis in zip(tensors, axes, strict=True)
            ]
            result = self._traced(func, values, device)
            if not isinstance(result, Tensor):
                raise ValueError(f"vmap({func}): must only return Tensors, got type {type(result)}")

            def compute(*arrays, bound):
                slices = []
                for index in range(size):
                    given = [a if axis is None else a[index] for a, axis in zip(arrays, axes, strict=True)]
                    inner = bound | {id(value): array for value, array in zip(values, given, strict=True)}
                    slices.append(self.evaluate(result._value, inner))
                return np.stack(slices)

            node = Node(
                "vmap",
                result.dtype,
                (size, *result.shape),
                tuple(tensor._value for tensor in tensors),
                compute,
                static=axes,
                inner=(result._value, *values),
            )
            return self._record(node, device)

        return mapped

    @contextmanager
    def no_grad(self):
        before, self._gradients = self._gradients, False
        try:
            yield
        finally:
            self._gradients = before

    # torch_xla

    def scan(self, fn, init, xs, partition_fn=default_partition, is_fn_pure=False):
        if not callable(fn):
            raise ValueError(f"`fn` {fn} must be callable.")
        if not isinstance(init, Tensor) or not isinstance(xs, Tensor):
            raise TypeError("the stand-in scans one tensor with one tensor as its carry")
        device = self._common_device([init, xs])
        if device == CPU:
            raise RuntimeError("Input tensor is not an XLA tensor: CPUFloatType")
        self.partitions.append(partition_fn)
        self.kept_for_backward += self._gradients and (init.requires_grad or xs.requires_grad)
        key = (init.dtype, init.shape, xs.dtype, xs.shape[1:], xs.requires_grad)
        traced = self._pure_bodies.get(fn, {}).get(key) if is_fn_pure else None
        if traced is None:
            self.scan_traces += 1
            values = Value(init.dtype, init.shape), Value(xs.dtype, xs.shape[1:])
            carry, y = self._traced(fn, values, device)
            differentiable = {id(values[0]), id(values[1])} if xs.requires_grad else {id(values[0])}
            for number, output in enumerate((carry, y)):
                if not _depends(output._value, differentiable):
                    raise RuntimeError(f"element {number} of tensors does not require grad and does not have a grad_fn")
            assert carry.shape == init.shape, (
                f"`fn` must keep the `carry` shape unchanged.       Got {carry.shape} but expected {init.shape}"
            )
            traced = (values, carry._value, y._value)
            self._pure_bodies.setdefault(fn, {})[key] = traced
        (carry_in, x_in), carry_out, y_out = traced
        length = xs.shape[0]

        def compute(part):
            def run(init_array, xs_array, bound):
                carry_array, ys = init_array, []
                for index in range(length):
                    inner = bound | {id(carry_in): carry_array, id(x_in): xs_array[index]}
                    y = self.evaluate(y_out, inner)
                    carry_array = self.evaluate(carry_out, inner)
                    ys.append(y)
                return (carry_array, np.stack(ys))[part]

            return run

        operands, inner = (init._value, xs._value), (carry_out, y_out)
        return tuple(
            self._record(Node("scan", out.dtype, shape, operands, compute(part), static=(part,), inner=inner), device)
            for part, (out, shape) in enumerate(((carry_out, init.shape), (y_out, (length, *y_out.shape))))
        )

    def metric_data(self, name):
        if name != "ExecuteTime" or not self.finished:
            return None
        return self.finished, 1e6 * self.finished, ()

    def evaluate(self, value, bound):
        """Compute on the device; what was computed once is kept in `bound`."""
        if id(value) in bound or value.array is not None or not isinstance(value, Node):
            return super().evaluate(value, bound)
        arrays = [self.evaluate(operand, bound) for operand in value.operands]
        extra = {"bound": bound} if value.inner else {}
        array = np.asarray(value.compute(*arrays, **extra))
        bound[id(value)] = self.spoil(array) if value.name == "matmul" else array
        return bound[id(value)]

    def operation(self, name, operands, function, static=()):
        """Record an operation on device tensors, or do it at once on host tensors; Python numbers are constants."""
        tensors = [operand for operand in operands if isinstance(operand, Tensor)]
        device = self._common_device(tensors)
        constants = tuple(None if isinstance(operand, Tensor) else operand for operand in operands)
        if not all(constant is None or type(constant) in (int, float) for constant in constants):
            raise TypeError(f"{name}(): argument must be Tensor or Number, not {operands}")
        if len({tensor.dtype for tensor in tensors}) != 1:
            raise RuntimeError(f"the stand-in promotes no types: {[tensor.dtype for tensor in tensors]}")
        dtype = tensors[0].dtype

        def compute(*arrays):
            """In float32, rounded to the type of the operands."""
            given = iter(arrays)
            full = [next(given).astype(np.float32) if item is None else np.float32(item) for item in constants]
            return np.asarray(function(*full)).astype(dtype.numpy)

        try:
            shape = compute(*(np.zeros(tensor.shape, dtype.numpy) for tensor in tensors)).shape
        except ValueError as error:
            raise RuntimeError(f"{name}: shapes {[tensor.shape for tensor in tensors]} do not fit: {error}") from None
        if device == CPU:
            self.host_operations += 1
            return ProgramTensor(self, Value(dtype, shape, compute(*(tensor._value.array for tensor in tensors))), CPU)
        operands = tuple(tensor._value for tensor in tensors)
        return self._record(Node(name, dtype, shape, operands, compute, (*constants, *static)), device)

    def _start(self, live):
        try:
            super()._start(live)
        except RuntimeError:
            raise RuntimeError(REFUSAL) from None

    def _finish(self):
        super()._finish()
        self.finished = self.executions

    def _refuses(self, value):
        if not isinstance(value, Node):
            return super()._refuses(value)
        if value.name in self.refused_operations:
            return True
        return any(self._refuses(operand) for operand in (*value.operands, *value.inner))

    def _record(self, node, device):
        """A tensor of a recorded operation; only what a tensor still holds when the graph is cut is computed."""
        tensor = ProgramTensor(self, node, device)
        reference = weakref.ref(tensor)
        self._recorded.append(lambda: None if reference() is None else reference()._value)
        return tensor

    def _traced(self, function, values, device):
        before = len(self._recorded)
        result = function(*(ProgramTensor(self, value, device) for value in values))
        del self._recorded[before:]  # what was traced is the body's, not the graph's
        return result

    def _reduced(self, name, function, tensor, dim, keepdim, dtype):
        if dtype is not None:
            raise RuntimeError("the stand-in reduces in the type of the operand")
        if dim is not None and not -len(tensor.shape) <= dim < len(tensor.shape):
            raise IndexError(f"Dimension out of range: {dim} of {tensor.shape}")
        return self.operation(
            name, [tensor], lambda array: function(array, axis=dim, keepdims=keepdim), static=(dim, keepdim)
        )

    @staticmethod
    def _common_device(tensors):
        devices = {tensor.device for tensor in tensors}
        if len(devices) != 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, found {', '.join(sorted(map(str, devices)))}"
            )
        return devices.pop()


def _depends(value, identities):
    if id(value) in identities:
        return True
    return any(_depends(operand, identities) for operand in (*value.operands, *getattr(value, "inner", ())))
