"""RMSNorm: each row divided by its root mean square, times a weight per column."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def kernel(x, weight, epsilon=1e-6):
    """Normalise x [rows, columns] by rows; `weight` is [1, columns]. Any number of rows."""
    rows, columns = x.shape
    result = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    part = nl.tile_size.pmax
    row = nl.arange(part)[:, None]
    column = nl.arange(columns)[None, :]
    scale = nl.load(weight).broadcast_to((part, columns))

    for tile in nl.affine_range((rows + part - 1) // part):
        inside = tile * part + row < rows
        values = nl.load(x[tile * part + row, column], mask=inside)
        mean_square = nl.mean(nl.square(values), axis=[1])
        # One instruction each: (mean + epsilon) ** -0.5, then values * inverse.
        inverse = nisa.activation(op=nl.rsqrt, data=nl.add(mean_square, epsilon))
        normal = nisa.tensor_scalar(values, op0=np.multiply, operand0=inverse)
        nl.store(result[tile * part + row, column], value=nl.multiply(normal, scale, dtype=x.dtype), mask=inside)
    return result


def reference(x, weight, epsilon=1e-6):
    """What `kernel` should return."""
    x = x.astype(np.float32)
    return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + epsilon) * weight


def inputs(rows=300, columns=512):
    """Seeded rows, the last tile not full, and weights around 1."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((rows, columns), dtype=np.float32)
    return [x, 1 + 0.1 * generator.standard_normal((1, columns), dtype=np.float32)]
