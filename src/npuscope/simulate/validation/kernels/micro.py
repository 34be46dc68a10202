"""Kernels that show one effect each: streams, chains of tiny instructions, matmuls back to back."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def read_stream(source):
    """Load source [rows, columns] once, 128 rows at a time; nothing uses it."""
    rows = source.shape[0]
    part = min(rows, nl.tile_size.pmax)
    result = nl.ndarray((part, 1), dtype=source.dtype, buffer=nl.shared_hbm)
    for tile in nl.affine_range(rows // part):
        nl.load(source[nl.ds(tile * part, part), :])
    nl.store(result, value=nl.zeros((part, 1), dtype=source.dtype, buffer=nl.sbuf))
    return result


@nki.jit
def read_columns(source):
    """Load source [blocks, 128, columns], one DMA per block; nothing uses it."""
    blocks, part, _ = source.shape
    result = nl.ndarray((part, 1), dtype=source.dtype, buffer=nl.shared_hbm)
    for block in nl.affine_range(blocks):
        nl.load(source[block, :, :])
    nl.store(result, value=nl.zeros((part, 1), dtype=source.dtype, buffer=nl.sbuf))
    return result


@nki.jit
def write_stream(like):
    """Store a tensor of the shape and type of `like` [rows, columns], 128 rows at a time, from one tile."""
    rows, columns = like.shape
    part = nl.tile_size.pmax
    result = nl.ndarray((rows, columns), dtype=like.dtype, buffer=nl.shared_hbm)
    zeros = nl.zeros((part, columns), dtype=like.dtype, buffer=nl.sbuf)
    for tile in nl.affine_range(rows // part):
        nl.store(result[nl.ds(tile * part, part), :], value=zeros)
    return result


@nki.jit
def scalar_chain(x, length):
    """`length` activations of x [128, 1], each of the result of the one before."""
    result = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    value = nl.load(x)
    for _ in range(length):
        value = nisa.activation(op=nl.tanh, data=value)
    nl.store(result, value=value)
    return result


@nki.jit
def products(a, b, count):
    """`count` independent products of the tiles a and b."""
    result = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    left, right = nl.load(a), nl.load(b)
    for _ in range(count):
        product = nisa.tensor_tensor(left, right, op=np.multiply)
    nl.store(result, value=product)
    return result


@nki.jit
def matmuls(stationary, moving, shapes, count):
    """For each (K, M, N) of `shapes`, `count` matmuls of stationary[:K, :M] and moving[:K, :N], sums of 8 in PSUM."""
    result = nl.ndarray((stationary.shape[1], moving.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    weights, values = nl.load(stationary), nl.load(moving)
    for K, M, N in shapes:
        for _ in range(count // 8):
            total = nl.zeros((M, N), dtype=nl.float32, buffer=nl.psum)
            for _ in range(8):
                total += nisa.nc_matmul(weights[0:K, 0:M], values[0:K, 0:N])
    nl.store(result[0:M, 0:N], value=nl.copy(total))
    return result


@nki.jit
def one_bank_matmul(lhsT, rhs):
    """lhsT.T @ rhs with all operands in SBUF and a single accumulator that every 128x512 results pass through."""
    K, M = lhsT.shape
    N = rhs.shape[1]
    part, wide = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    product = nl.ndarray((M, N), dtype=lhsT.dtype, buffer=nl.shared_hbm)
    left = nl.ndarray((K // part, nl.par_dim(part), M), dtype=lhsT.dtype, buffer=nl.sbuf)
    right = nl.ndarray((K // part, nl.par_dim(part), N), dtype=rhs.dtype, buffer=nl.sbuf)
    for k in nl.affine_range(K // part):
        left[k] = nl.load(lhsT[nl.ds(k * part, part), :])
        right[k] = nl.load(rhs[nl.ds(k * part, part), :])
    total = nl.ndarray((part, wide), dtype=nl.float32, buffer=nl.psum)
    for i in nl.sequential_range(M // part):
        row = nl.ndarray((part, N), dtype=product.dtype, buffer=nl.sbuf)
        for j in nl.sequential_range(N // wide):
            total[...] = nisa.nc_matmul(left[0, :, nl.ds(i * part, part)], right[0, :, nl.ds(j * wide, wide)])
            for k in range(1, K // part):
                total += nisa.nc_matmul(left[k, :, nl.ds(i * part, part)], right[k, :, nl.ds(j * wide, wide)])
            row[:, nl.ds(j * wide, wide)] = nl.copy(total, dtype=product.dtype)
        nl.store(product[nl.ds(i * part, part), :], value=row)
    return product
