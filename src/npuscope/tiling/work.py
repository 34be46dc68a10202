"""What a matmul costs in tiles, instructions, FLOPs and bytes, for one shape or for many at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from npuscope.tiling.model import TENSOR_ENGINE, TileModel
from npuscope.workloads.dtypes import ELEMENT_TYPES
from npuscope.workloads.matmul import MatmulConfig
from npuscope.workloads.suites import Suite

Counts = npt.NDArray[np.int64]

_PE = 128
_TRANSPOSE_FLOPS = 2 * _PE**3  # an identity matmul of a full block; confirmed on 117 captures (M = K = 128)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How many tiles a shape takes in each dimension."""

    num_tiles_M: int
    num_tiles_K: int
    num_tiles_N: int

    @property
    def total_tiles(self) -> int:
        """Tiles in all: one matmul instruction each on the TensorEngine."""
        return self.num_tiles_M * self.num_tiles_K * self.num_tiles_N


@dataclass(frozen=True, slots=True)
class TensorEngineWork:
    """The vendor's summary fields for one matmul on a TensorEngine, predicted in closed form.

    Each operand is taken to be read once, which holds while the operands fit SBUF; equal to the vendor's figures on
    117 captures of float16 128x128xN. Other M and K follow the documented tile limits.
    """

    matmul_instruction_count: int
    """Matmuls of data plus one transpose per stationary block."""
    transpose_instruction_count: int
    """One per 128x128 block of A, which arrives row-major and must be turned before it can be stationary."""
    model_flops: int
    """2MKN."""
    transpose_flops: int
    hardware_flops: int
    """What the PE array is credited with: model_flops and transpose_flops."""
    hbm_read_bytes: int
    """A, B and the 128x128 identity that the transposes multiply with."""
    hbm_write_bytes: int
    tensor_engine_passes: int
    """Passes through the array per matmul: 4 for float32."""


def tile_matmul(config: MatmulConfig, model: TileModel = TENSOR_ENGINE) -> Tiling:
    """Count the tiles of one shape."""
    return Tiling(
        num_tiles_M=-(-config.M // model.tile_m),
        num_tiles_K=-(-config.K // model.tile_k),
        num_tiles_N=-(-config.N // model.tile_n),
    )


def tensor_engine_work(config: MatmulConfig) -> TensorEngineWork:
    """Predict the vendor's counts for one matmul on a NeuronCore."""
    tiling = tile_matmul(config, TENSOR_ENGINE)
    itemsize = ELEMENT_TYPES[config.dtype].itemsize
    transposes = tiling.num_tiles_M * tiling.num_tiles_K
    transpose_flops = transposes * _TRANSPOSE_FLOPS
    return TensorEngineWork(
        matmul_instruction_count=tiling.total_tiles + transposes,
        transpose_instruction_count=transposes,
        model_flops=config.model_flops,
        transpose_flops=transpose_flops,
        hardware_flops=config.model_flops + transpose_flops,
        hbm_read_bytes=itemsize * (config.M * config.K + config.K * config.N + _PE * _PE),
        hbm_write_bytes=itemsize * config.M * config.N,
        tensor_engine_passes=4 if config.dtype == "float32" else 1,
    )


def work_columns(
    shapes: Sequence[tuple[int, int, int]] | Counts,
    itemsize: Counts | int,
    model: TileModel = TENSOR_ENGINE,
    out_itemsize: Counts | int | None = None,
) -> dict[str, npt.NDArray[np.generic]]:
    """Tiles, FLOPs, bytes and utilisation of many shapes, one array per column.

    Args:
        shapes: int64 [n, 3]: M, K, N.
        itemsize: Bytes per operand element, one number or [n].
        model: The tile model.
        out_itemsize: Bytes per element of the result; `itemsize` when None.

    Returns:
        `M`, `K`, `N`, `num_tiles_M|K|N`, `total_tiles`, `model_flops`, `padded_flops` (what the tile grid spends on
        the shape: whole tiles, but the columns that stream in N), `array_utilisation` (model over padded FLOPs) and
        `operand_bytes` (A, B and C once).
    """
    M, K, N = np.asarray(shapes, dtype=np.int64).reshape(-1, 3).T
    tiles_m, tiles_k, tiles_n = -(-M // model.tile_m), -(-K // model.tile_k), -(-N // model.tile_n)
    padded_n = tiles_n * model.tile_n
    if model.moving_n:
        last = N - (tiles_n - 1) * model.tile_n
        padded_n = (tiles_n - 1) * model.tile_n + np.maximum(last, model.min_moving_columns)
    model_flops = 2 * M * K * N
    padded_flops = 2 * (tiles_m * model.tile_m) * (tiles_k * model.tile_k) * padded_n
    out_bytes = (itemsize if out_itemsize is None else out_itemsize) * M * N
    return {
        "M": M,
        "K": K,
        "N": N,
        "num_tiles_M": tiles_m,
        "num_tiles_K": tiles_k,
        "num_tiles_N": tiles_n,
        "total_tiles": tiles_m * tiles_k * tiles_n,
        "model_flops": model_flops,
        "padded_flops": padded_flops,
        "array_utilisation": model_flops / padded_flops,
        "operand_bytes": itemsize * (M * K + K * N) + out_bytes,
    }


def plan(configs: Iterable[MatmulConfig], model: TileModel = TENSOR_ENGINE) -> dict[str, npt.NDArray[np.generic]]:
    """`work_columns` of configs, each with its own dtype."""
    listed = list(configs)
    itemsize = np.array([ELEMENT_TYPES[config.dtype].itemsize for config in listed], dtype=np.int64)
    shapes = np.array([config.shape for config in listed], dtype=np.int64)
    return work_columns(shapes, itemsize, model, np.where(itemsize == 1, 4, itemsize))


def tensor_engine_columns(configs: Iterable[MatmulConfig]) -> dict[str, npt.NDArray[np.generic]]:
    """`tensor_engine_work` of many configs, one int64 array per field."""
    works = [tensor_engine_work(config) for config in configs]
    return {item.name: np.array([getattr(work, item.name) for work in works]) for item in fields(TensorEngineWork)}


def plan_suite(suite: Suite, dtype: str, model: TileModel = TENSOR_ENGINE) -> dict[str, npt.NDArray[np.generic]]:
    """`work_columns` of a suite in one dtype, straight from its shapes."""
    itemsize = ELEMENT_TYPES[dtype].itemsize
    return work_columns(np.array(suite.shapes, dtype=np.int64), itemsize, model, 4 if itemsize == 1 else itemsize)
