"""What one HLO op costs, by XLA's rules: see `hlo_cost` for what they are and for where we differ.

Source: `HandleDot`, `HandleConvolution`, `HandleReduceWindow`, ... of `xla/service/hlo_cost_analysis.cc`, openxla/xla.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any, Final, NamedTuple

from npuscope.formats.hlo import Computation, Op, Shape
from npuscope.formats.hlo_schema import message_class

_IMMEDIATE_ELEMENTS: Final = 1
"""A constant of so many elements costs a fusion no access."""
_POINTER_BYTES: Final = 8
_TUPLES_LIMIT: Final = 64
"""In one another."""

TRANSCENDENTAL: Final = frozenset({
    "acos", "acosh", "asin", "asinh", "atan2", "atanh", "cbrt", "cosh", "cosine", "erf", "exponential",
    "exponential-minus-one", "log", "log-plus-one", "logistic", "power", "rsqrt", "sine", "sinh", "sqrt", "tan",
    "tanh",
})  # fmt: skip
ELEMENTWISE: Final = frozenset({
    "abs", "add", "and", "bitcast-convert", "ceil", "clamp", "compare", "complex", "convert", "count-leading-zeros",
    "divide", "floor", "imag", "is-finite", "maximum", "minimum", "multiply", "negate", "not", "or", "popcnt", "real",
    "reduce-precision", "remainder", "round-nearest-afz", "round-nearest-even", "select", "shift-left",
    "shift-right-arithmetic", "shift-right-logical", "sign", "stochastic-convert", "subtract", "xor",
})  # fmt: skip
FREE: Final = frozenset({
    "add-dependency", "after-all", "bitcast", "constant", "domain", "get-tuple-element", "parameter",
})  # fmt: skip
MOVES: Final = frozenset({
    "broadcast", "concatenate", "copy", "copy-done", "copy-start", "get-dimension-size", "iota", "opt-barrier", "pad",
    "partition-id", "replica-id", "reshape", "reverse", "rng-get-and-update-state", "set-dimension-size",
})  # fmt: skip
"""Opcodes that read all operands and write their result, and calculate nothing."""


class Work(NamedTuple):
    """What an op, a computation or a program costs."""

    flops: int
    transcendentals: int
    accessed_bytes: int
    model_flops: int
    """Only those of dots and convolutions: 2 x M x N x K."""

    def times(self, count: int) -> Work:
        """The same, `count` times."""
        return Work(*(count * value for value in self))

    def plus(self, other: Work) -> Work:
        """Both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


def accessed_size(shape: Shape) -> int:
    """Bytes that reading it takes; a tuple is a table of pointers."""
    return _POINTER_BYTES * len(shape[2]) if shape[0] == "tuple" else shape[4]


def _extent(shape: Shape, dimension: int) -> int:
    """Edge of a dimension that an attribute names.

    Raises:
        IndexError: There is none of that number.
    """
    if dimension < 0:
        raise IndexError(dimension)
    return shape.dimensions[dimension]


def _bounded(values: Sequence[Any], shape: Shape) -> Sequence[Any]:
    """An attribute with at most one value per dimension.

    Raises:
        ValueError: It has more.
    """
    if len(values) > len(shape.dimensions):
        raise ValueError(len(values))
    return values


class Site(NamedTuple):
    """An op with what its rule looks at."""

    op: Op
    operands: Sequence[Op]
    accessed_bytes: int
    """Of operands and result."""
    works: Sequence[Work]
    """Costs of the computations so far."""


def _dot(site: Site) -> Work:
    flops = 2 * site.op.shape.elements
    for dimension in _bounded(site.op.attributes.dot.lhs_contracting, site.operands[0].shape):
        flops *= _extent(site.operands[0].shape, dimension)
    return Work(flops, 0, site.accessed_bytes, flops)


def _convolution(site: Site) -> Work:
    numbers, attributes = site.op.attributes.convolution, site.op.attributes
    image, kernel = site.operands[0].shape, site.operands[1].shape
    flops = 2 * (_extent(image, numbers.input_feature) // (attributes.feature_group_count or 1))
    flops *= _extent(site.op.shape, numbers.output_feature)
    flops *= _extent(image, numbers.input_batch) // (attributes.batch_group_count or 1)
    for index, window in enumerate(_bounded(attributes.window.dimensions, image)):
        flops *= _taps(
            window,
            _extent(image, numbers.input_spatial[index]),
            _extent(kernel, numbers.kernel_spatial[index]),
            _extent(site.op.shape, numbers.output_spatial[index]),
        )
    return Work(flops, 0, site.accessed_bytes, flops)


def _taps(window: Any, image: int, kernel: int, output: int) -> int:
    """Pairs of a tap of the kernel and a place of the output along one dimension that meet a real input."""
    stride, spread = max(window.stride, 1), max(window.base_dilation, 1)
    count = 0
    for tap in range(kernel):
        # Inputs are at multiples of `spread`; output `place` reads `place * stride - shift`.
        shift = window.padding_low - tap * window.window_dilation
        divisor = gcd(stride, spread)
        if shift % divisor:
            continue
        period = spread // divisor
        first = (shift // divisor * pow(stride // divisor, -1, period)) % period if period > 1 else 0
        low = max(-(-shift // stride), 0)
        high = min(((image - 1) * spread + shift) // stride, output - 1)
        low += (first - low) % period
        count += max((high - low) // period + 1, 0)
    return count


def _applied(site: Site, counts: Sequence[int], accessed_bytes: int) -> Work:
    """Functions applied to elements: their arithmetic so many times, and the bytes of the op."""
    flops = transcendentals = 0
    for callee, count in zip(site.op.called, counts, strict=False):
        flops += count * site.works[callee].flops
        transcendentals += count * site.works[callee].transcendentals
    return Work(flops, transcendentals, accessed_bytes, 0)


def _first_array(shape: Shape) -> Shape:
    return shape.parts[0] if shape.element_type == "tuple" else shape


def _map(site: Site) -> Work:
    return _applied(site, (site.op.shape.elements,), site.accessed_bytes)


def _reduce(site: Site) -> Work:
    gone = max(site.operands[0].shape.elements - _first_array(site.op.shape).elements, 0)
    return _applied(site, (gone,), site.accessed_bytes)


def _reduce_window(site: Site) -> Work:
    output = _first_array(site.op.shape)
    windows = _bounded(site.op.attributes.window.dimensions, output)
    taps = _window_elements(windows)
    count = (taps - 1) * output.elements
    wide = [index for index, window in enumerate(windows) if window.size != 1]
    padded = [window for window in windows if window.padding_low or window.padding_high]
    if len(wide) == len(padded) == 1 and site.op.shape.element_type != "tuple":
        # A window that spans the whole dimension from every place is a reduction, repeated.
        window, extent = windows[wide[0]], _extent(output, wide[0])
        spans = window.padding_low == window.padding_high == extent - 1 and window.size == 2 * extent - 1
        if spans and window.padding_low and extent:
            count = output.elements // extent + extent - 1
    return _applied(site, (max(count, 0),), site.accessed_bytes)


def _window_elements(windows: Sequence[Any]) -> int:
    elements = 1
    for window in windows:
        elements *= max(window.size, 0)
    return elements


def _select_and_scatter(site: Site) -> Work:
    source = site.operands[1].shape
    taps = _window_elements(_bounded(site.op.attributes.window.dimensions, source))
    return _applied(site, (source.elements * max(taps - 1, 0), source.elements), site.accessed_bytes)


def _scatter(site: Site) -> Work:
    count = len(site.operands) // 2
    updates = site.operands[count + 1 :]
    accessed = 3 * sum(accessed_size(update.shape) for update in updates) + accessed_size(site.operands[count].shape)
    return _applied(site, (updates[0].shape.elements,), accessed)


def _gather(site: Site) -> Work:
    return Work(0, 0, 2 * site.op.shape.bytes + accessed_size(site.operands[1].shape), 0)


def _slice(site: Site) -> Work:
    return Work(0, 0, 2 * site.op.shape.bytes, 0)


def _dynamic_slice(site: Site) -> Work:
    first_index = accessed_size(site.operands[1].shape) if len(site.operands) > 1 else 0
    return Work(0, 0, 2 * site.op.shape.bytes + first_index, 0)


def _dynamic_update_slice(site: Site) -> Work:
    first_index = accessed_size(site.operands[2].shape) if len(site.operands) > 2 else 0
    return Work(0, 0, 2 * accessed_size(site.operands[1].shape) + first_index, 0)


def _tuple(site: Site) -> Work:
    return Work(0, 0, accessed_size(site.op.shape), 0)


def _transpose(site: Site) -> Work:
    return Work(0, 0, 0 if is_relabelling(site.op, site.operands[0]) else site.accessed_bytes, 0)


def _sort(site: Site) -> Work:
    elements = site.operands[0].shape.elements
    return Work(elements * max(elements - 1, 0).bit_length(), 0, site.accessed_bytes, 0)


def _fft(site: Site) -> Work:
    logarithms = 1
    for length in _bounded(site.op.attributes.fft_length, site.operands[0].shape):
        logarithms *= max(length.bit_length() - 1, 0)
    return Work(8 * logarithms * site.operands[0].shape.elements, 0, site.accessed_bytes, 0)


def _random(site: Site) -> Work:
    parts = site.op.shape.parts or (site.op.shape,)
    return Work(0, sum(part.elements for part in parts), site.accessed_bytes, 0)


def _cholesky(site: Site) -> Work:
    shape = site.operands[0].shape
    return Work(shape.dimensions[-1] * shape.elements // 3, 0, shape.bytes, 0)


def _triangular_solve(site: Site) -> Work:
    a, b = site.operands[0].shape, site.operands[1].shape
    return Work(2 * a.dimensions[-1] * b.elements, 0, site.op.shape.bytes + a.bytes // 2 + b.bytes, 0)


def _all_reduce(site: Site) -> Work:
    """As if of two devices: one sum per element."""
    parts = site.op.shape.parts or (site.op.shape,)
    return Work(sum(part.elements for part in parts), 0, site.accessed_bytes, 0)


def _only_bytes(site: Site) -> Work:
    return Work(0, 0, site.accessed_bytes, 0)


_COUNTED_AS_MOVES: Final = (
    "all-gather", "all-gather-done", "all-gather-start", "all-reduce-done", "all-to-all", "async-done",
    "async-update", "collective-permute",
    "collective-permute-done", "collective-permute-start", "infeed", "outfeed", "recv", "recv-done", "reduce-scatter",
    "send", "send-done",
)  # fmt: skip

RULES: Final[dict[str, Callable[[Site], Work]]] = {
    "dot": _dot,
    "convolution": _convolution,
    "map": _map,
    "reduce": _reduce,
    "reduce-window": _reduce_window,
    "select-and-scatter": _select_and_scatter,
    "scatter": _scatter,
    "gather": _gather,
    "slice": _slice,
    "dynamic-slice": _dynamic_slice,
    "dynamic-update-slice": _dynamic_update_slice,
    "tuple": _tuple,
    "transpose": _transpose,
    "sort": _sort,
    "fft": _fft,
    "rng": _random,
    "rng-bit-generator": _random,
    "cholesky": _cholesky,
    "triangular-solve": _triangular_solve,
    "all-reduce": _all_reduce,
    "all-reduce-start": _all_reduce,
    **dict.fromkeys(_COUNTED_AS_MOVES, _only_bytes),
}


def is_relabelling(op: Op, operand: Op) -> bool:
    """Whether a transpose moves no byte: the layout of its result is that of its operand under other names."""
    before, after = minor_to_major(operand), minor_to_major(op)
    permutation = _bounded(op.attributes.dimensions, op.shape)
    return [permutation[dimension] for dimension in after] == list(before)


def minor_to_major(op: Op) -> tuple[int, ...]:
    """Dimensions of an array in the order of memory, the fastest first; row-major where the module does not tell.

    Raises:
        ValueError: The layout names other dimensions than the array has.
    """
    rank = len(op.shape.dimensions)
    found = tuple(message_class("Shape").FromString(op.attributes.shape).layout.minor_to_major)
    if found and sorted(found) != list(range(rank)):
        raise ValueError(found)
    return found or tuple(range(rank - 1, -1, -1))


def fusion_bytes(fused: Computation, fusion: Op) -> int:
    """What a fusion reads and writes: its parameters as far as they are used, larger constants, and its result."""
    users: list[list[int]] = [[] for _ in fused.ops]
    constants = 0
    for number, op in enumerate(fused.ops):
        for operand in set(op.operands):
            users[operand].append(number)
        if op.opcode == "constant" and op.shape.elements > _IMMEDIATE_ELEMENTS:
            constants += op.shape.bytes
    read = sum(_read_bytes(fused, users, number) for number in fused.parameters)
    return read + constants + _written_bytes(fused, fusion)


def _written_bytes(fused: Computation, fusion: Op) -> int:
    """An update in place writes only its update."""
    root = fused.ops[fused.root]
    is_tuple = root.opcode == "tuple"
    made = [fused.ops[operand] for operand in root.operands] if is_tuple else [root]
    parts = fusion.shape.parts if is_tuple else (fusion.shape,)
    return sum(
        fused.ops[op.operands[1]].shape.bytes if op.opcode == "dynamic-update-slice" else part.bytes
        for op, part in zip(made, parts, strict=True)
    )


def _read_bytes(fused: Computation, users: Sequence[Sequence[int]], number: int, depth: int = 0) -> int:
    """What a fusion reads of one of its parameters: what slices take of it, and else all of it, once."""
    whole, read, is_shared = fused.ops[number].shape.bytes, 0, False
    for place in users[number]:
        user = fused.ops[place]
        if user.opcode == "get-tuple-element" and depth < _TUPLES_LIMIT:
            read += _read_bytes(fused, users, place, depth + 1)
        elif user.opcode == "slice" or (user.opcode == "dynamic-slice" and user.operands[0] == number):
            read += user.shape.bytes
        elif user.opcode in ("broadcast", "reshape"):
            read += whole
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != number:
            is_shared = True
    return read + whole if is_shared else read
