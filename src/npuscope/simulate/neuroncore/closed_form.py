"""Device time of matmuls in closed form: what the simulator says of `matmul_program`, for thousands of shapes at once.

    device_time = max(tensor path, load path, first-block path, evacuation path) + drain, at least all DMA

| term | what | source |
|---|---|---|
| counts | tiles of 128 x 128 x 512, transposes, loads, stores, what is read again | `matmul_program`; `tiling.work` where all is read once |
| matmul, transpose | one instruction: moving columns, passes of float32, minimum interval, over the clock | `costs.cost_of`: rules of `data/costs.toml` |
| load, store | a fixed time, and rows x (descriptor + bytes / rate), of one DMA engine, over the DMA engines | `costs.run_ns`: the row model; `dma_fixed_ns`, `dma_issue_ns` |
| start | from a DMA's trigger to its first byte | `dma_start_ns` |
| copy | PSUM to SBUF on VectorE and ScalarE in turn, one at a time where they share the PSUM port | `costs.cost_of`, `shares_psum_port` |
| latency | an engine's result can be read; plus a semaphore to the next engine | `*_latency`, `semaphore_ns` |
| half rate | TensorE's first window of 3 us, and the next if it was busy for less than half of it (v3, v4) | `power_ramp_ns` |
| first product | start, identity, A's first rows, their first 4 transposes and the copy; or B's first tile if later | all of the above |
| tensor path | first product, then every matmul and transpose that is left | |
| load path | start, all loads, then transposes and matmuls of A's last rows (of B's last columns where A has 128 rows) | |
| first-block path | start, A's first rows and the first block of B, then all matmuls but those of the first rows | |
| evacuation path | first product, then all copies | |
| drain | TensorE's latency, copy, its latency, start, store | |

Loads go in the order of the program: identity, A's first rows, B, A's other rows. Where loads compete for SBUF, or the
window of reordering is full, the simulator knows more than this formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from npuscope.errors import UsageError
from npuscope.formats.results import PREDICTED
from npuscope.simulate.neuroncore.costs import cost_of, run_ns
from npuscope.simulate.neuroncore.devices import MODEL_NAME, SimDevice, load_device
from npuscope.simulate.neuroncore.matmul_program import (
    EVACUATION,
    LOAD_COLUMNS,
    TILE_K,
    TILE_M,
    TILE_N,
    TURNED_PER_BANK,
    choose_blocking,
    copy_work,
    matmul_work,
    transpose_work,
)
from npuscope.simulate.neuroncore.program import Engine, Space, Transfer, Work
from npuscope.workloads.dtypes import ELEMENT_TYPES
from npuscope.workloads.matmul import MatmulConfig

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CLOSED_FORM: Final = f"{MODEL_NAME} closed form"
"""Names the model in results: the closed form of the simulator's model of that name."""
PREDICTED_TYPES: Final = ("float32", "float16", "bfloat16")
"""Operand types that the TensorEngine multiplies as they are."""
BOUNDS: Final = ("tensor", "vector", "scalar", "dma", "dependency")
_BLOCKS_PER_LOAD: Final = LOAD_COLUMNS // TILE_K
_BUSY: Final = 0.5
"""Where nothing is busy for this share of the time, dependences bound it."""


@dataclass(frozen=True, slots=True)
class MatmulPrediction:
    """Predicted figures of matmuls on one core, one array entry each; times in nanoseconds."""

    device_time_ns: Floats
    """From the first DMA's trigger to the last byte stored."""
    busy_ns: Floats
    """[4, n]: TensorE, VectorE, ScalarE, and the DMA engines on average."""
    bound: tuple[str, ...]
    """What is busiest; `dependency` where that is busy for less than half of the time."""
    utilisation: Floats
    """2MKN over what TensorE's peak for the operands' type gives in the time: a fraction."""


def predict_matmuls(shapes: Sequence[tuple[int, int, int]] | Counts, dtype: str, device: SimDevice) -> MatmulPrediction:
    """Predict many matmuls of one type.

    Args:
        shapes: int64 [n, 3]: M, K, N.
        dtype: One of `PREDICTED_TYPES`.
        device: From `load_device`.

    Raises:
        UsageError: TensorE does not multiply `dtype`.
    """
    if dtype not in PREDICTED_TYPES:
        known = ", ".join(PREDICTED_TYPES)
        raise UsageError(f"no prediction of {dtype} on {device.name}: its TensorE multiplies {known}")
    M, K, N = np.asarray(shapes, dtype=np.int64).reshape(-1, 3).T
    count = len(M)
    # The whole shape, and without its last rows and its last columns where these are no whole tile or store.
    rows = np.concatenate([M, _whole(M, TILE_M), M])
    columns = np.concatenate([N, N, _whole(N, LOAD_COLUMNS)])
    work = _Work(rows, np.tile(K, 3), columns, dtype, device)
    tensor, copies, (loads, stores) = _totals(work)
    time, half_rate_ns = _device_time(work, tensor, copies, loads, stores)
    time = time.reshape(3, count).max(axis=0)
    busy = np.stack([tensor + half_rate_ns, *copies, loads + stores])[:, :count]
    waits = busy.max(axis=0) < _BUSY * time
    names = np.where(waits, len(BOUNDS) - 1, busy.argmax(axis=0))
    peak = device.core.peak_fp32_tflops if dtype == "float32" else device.core.peak_bf16_tflops
    return MatmulPrediction(
        device_time_ns=time,
        busy_ns=busy,
        bound=tuple(np.array(BOUNDS)[names].tolist()),
        utilisation=2.0 * M * K * N / (1e3 * peak * time),
    )


def predicted_columns(configs: Sequence[MatmulConfig], devices: Sequence[str]) -> dict[str, list[float | str]]:
    """Columns for a results file: `predicted_<device>_model|device_time_ms|bound|utilisation`, one value per config.

    Raises:
        UsageError: An unknown device, or a type that it does not multiply.
    """
    columns: dict[str, list[float | str]] = {}
    types = np.array([config.dtype for config in configs])
    shapes = np.array([config.shape for config in configs], dtype=np.int64)
    for name in dict.fromkeys(text.strip().lower().removeprefix("sim:") for text in devices):
        device = load_device(name)
        time, utilisation = np.zeros(len(configs)), np.zeros(len(configs))
        bound = np.full(len(configs), "", dtype=object)
        for dtype in dict.fromkeys(types.tolist()):
            chosen = types == dtype
            found = predict_matmuls(shapes[chosen], dtype, device)
            time[chosen], utilisation[chosen], bound[chosen] = found.device_time_ns, found.utilisation, found.bound
        start = f"{PREDICTED}{name}_"
        columns[f"{start}model"] = [CLOSED_FORM] * len(configs)
        columns[f"{start}device_time_ms"] = (time / 1e6).tolist()
        columns[f"{start}bound"] = bound.tolist()
        columns[f"{start}utilisation"] = utilisation.tolist()
    return columns


def _whole(size: Counts, tile: int) -> Counts:
    """`size` without the part that is no whole tile; `size` where nothing else is left."""
    whole: Counts = np.where(size > tile, size - size % tile, size)
    return whole


class _Axis(NamedTuple):
    """An axis cut into tiles: `tiles - 1` of `full` and one of `last`."""

    tiles: Counts
    full: Counts
    last: Counts

    @property
    def first(self) -> Counts:
        """Size of the first tile."""
        return np.where(self.tiles > 1, self.full, self.last)

    def total(self, cost: Callable[[Counts], Floats]) -> Floats:
        """Sum of `cost(size)` over the tiles."""
        return (self.tiles - 1) * cost(self.full) + cost(self.last)


def _cut(size: Counts, tile: Counts | int) -> _Axis:
    count = -(-size // tile)
    return _Axis(count, np.broadcast_to(tile, size.shape).astype(np.int64), size - (count - 1) * tile)


class _Work:
    """Shapes, how they are cut and blocked, and the costs of their instructions in nanoseconds."""

    def __init__(self, M: Counts, K: Counts, N: Counts, dtype: str, device: SimDevice) -> None:
        self.device, self.dtype = device, dtype
        self._known: dict[tuple[Engine, Work], float] = {}
        self.itemsize = ELEMENT_TYPES[dtype].itemsize
        self.rows, self.blocks, self.columns = _cut(M, TILE_M), _cut(K, TILE_K), _cut(N, TILE_N)
        blocking = choose_blocking(np.stack([M, K, N], axis=1), self.itemsize, device.sbuf_usable_bytes)
        self.block_tiles_n = blocking.block_tiles_n
        self.reads_a = blocking.reads_of_a(self.columns.tiles)
        self.reads_b = blocking.reads_of_b(self.rows.tiles)
        self.loads_a = _cut(K, LOAD_COLUMNS)
        width = np.where(self.block_tiles_n == 1, TILE_N, LOAD_COLUMNS)
        self.loads_b = _cut(N, width)
        """Loads of B and stores of C, per 128 rows."""
        constants = device.constants
        self.start_ns, self.semaphore_ns = constants["dma_start_ns"], constants["semaphore_ns"]
        self.ramp_ns = constants["power_ramp_ns"]
        self.slow = 2.0 if self.ramp_ns else 1.0
        """How much longer TensorE takes at first."""
        self.identity_ns = float(self.moved(np.array([TILE_M]), np.array([TILE_M]))[0])

    def moved(self, rows: Counts, columns: Counts) -> Floats:
        """One DMA of some rows and columns, by its share of all DMA engines."""
        engines, constants = self.device.core.dma_engines, self.device.constants
        rows_ns = rows * _per_distinct(columns[None], self._run_ns)
        taken = (rows_ns + constants["dma_fixed_ns"] * np.minimum(rows, engines)) / engines
        return np.maximum(taken, constants["dma_issue_ns"])

    def _run_ns(self, columns: int) -> float:
        size = columns * self.itemsize
        return run_ns(Transfer(1, size, size, size, Space.HBM, Space.SBUF), self.device)

    def matmul(self, rows: Counts, columns: Counts) -> Floats:
        """One matmul instruction; the contraction depth costs nothing."""
        return self._cost(Engine.TENSOR, rows, columns, lambda r, c: matmul_work(r, TILE_K, c, self.dtype))

    def transpose(self, rows: Counts, depth: Counts) -> Floats:
        """One transpose of a block of A."""
        return self._cost(Engine.TENSOR, rows, depth, lambda r, d: transpose_work(r, d, self.dtype))

    def copy(self, engine: Engine, columns: Counts) -> Floats:
        """PSUM to SBUF."""
        return self._cost(engine, columns, columns, lambda c, _: copy_work(TILE_M, c, self.dtype))

    def result_ns(self, engine: Engine) -> float:
        """From an instruction's end until another engine starts on its result."""
        work = matmul_work(1, 1, 1, self.dtype) if engine is Engine.TENSOR else copy_work(1, 1, self.dtype)
        return cost_of(work, engine, self.device).latency_ns + self.semaphore_ns

    def _cost(self, engine: Engine, first: Counts, second: Counts, work: Callable[[int, int], Work]) -> Floats:
        def cost(a: int, b: int) -> float:
            signature = engine, work(a, b)
            if signature not in self._known:
                self._known[signature] = cost_of(signature[1], engine, self.device).occupancy_ns
            return self._known[signature]

        return _per_distinct(np.stack(np.broadcast_arrays(first, second)), cost)


def _per_distinct(arguments: Counts, cost: Callable[..., float]) -> Floats:
    """`cost` of each column of `arguments`, [a, n], computed once per distinct column."""
    span = int(arguments[-1].max(initial=0)) + 1
    key = arguments[0] if len(arguments) == 1 else arguments[0] * span + arguments[1]
    table = np.full(int(key.max(initial=0)) + 1, np.nan)  # tile edges are small: a table is faster than sorting
    table[key] = 0.0
    for place in np.flatnonzero(table == 0.0).tolist():
        table[place] = cost(place) if len(arguments) == 1 else cost(*divmod(place, span))
    costs: Floats = table[key]
    return costs


def _totals(work: _Work) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
    """Busy times: TensorE at full rate; VectorE and ScalarE [2, n]; DMA engines by loads and by stores."""
    rows, blocks, columns = work.rows, work.blocks, work.columns
    products = blocks.tiles * rows.total(lambda r: columns.total(lambda c: work.matmul(r, c)))
    turns = work.reads_a * rows.total(lambda r: blocks.total(lambda d: work.transpose(r, d)))
    engines = [_copies_on(work, engine) for engine in EVACUATION]
    both = engines[0] * engines[1] / (engines[0] + engines[1])  # each engine is busy for as long: greedy balance
    loads = work.identity_ns + work.reads_a * _over_rows(work, work.loads_a)
    loads = loads + work.reads_b * _over_depth(work)
    return products + turns, np.stack([both, both]), (loads, _over_rows(work, work.loads_b))


def _over_rows(work: _Work, pieces: _Axis) -> Floats:
    """DMA time of all rows of A or of C."""
    return work.rows.total(lambda r: pieces.total(lambda c: work.moved(r, c)))


def _over_depth(work: _Work) -> Floats:
    """DMA time of all of B, once."""
    return work.blocks.total(lambda d: work.loads_b.total(lambda c: work.moved(d, c)))


def _copies_on(work: _Work, engine: Engine) -> Floats:
    """All copies, were they all on one engine."""
    rows, groups = work.rows, _cut(work.blocks.tiles, TURNED_PER_BANK)
    turned = rows.total(lambda r: groups.total(lambda blocks: work.copy(engine, blocks * r)))
    return work.reads_a * turned + rows.tiles * work.columns.total(lambda c: work.copy(engine, c))


def _turned(work: _Work, rows: Counts, blocks: Counts) -> Floats:
    """From the arrival of `blocks` blocks of A until the last group of them is in SBUF."""
    last_group = np.minimum(blocks, (blocks - 1) % TURNED_PER_BANK + 1)
    transposes = blocks * work.transpose(rows, work.blocks.first) * work.slow
    return work.semaphore_ns + transposes + _behind(work, rows * last_group)


def _behind(work: _Work, columns: Counts) -> Floats:
    """From the end of a PE instruction until its columns of PSUM have been copied and can be read."""
    copy: Floats = work.result_ns(Engine.TENSOR) + work.copy(Engine.SCALAR, columns) + work.result_ns(Engine.SCALAR)
    return copy


class _Start(NamedTuple):
    """How it begins, in nanoseconds from the first DMA's trigger."""

    rows_arrived: Floats
    """The first rows of A are in SBUF."""
    first_product: Floats
    """The first matmul of data can start."""
    done_before: Floats
    """What TensorE has done until then, as time at full rate."""
    half_rate: Floats
    """What it loses by half rate, all in all."""
    chain: Floats
    """From the last transpose of the first group until a matmul can read it."""


def _start(work: _Work, tensor: Floats) -> _Start:
    rows, blocks = work.rows, work.blocks
    group = np.minimum(blocks.tiles, TURNED_PER_BANK)
    arrived = work.start_ns + work.identity_ns
    from_a = arrived + work.moved(rows.first, work.loads_a.first) + _turned(work, rows.first, group)
    rows_arrived = arrived + work.loads_a.total(lambda c: work.moved(rows.first, c))
    from_b = rows_arrived + work.moved(blocks.first, work.loads_b.first) + work.semaphore_ns
    chain = _behind(work, group * rows.first)
    one = work.transpose(rows.first, blocks.first)
    meanwhile = (np.maximum(from_b - from_a, 0.0) + chain) // (work.slow * one)  # the rest of the first load
    done_before = one * np.minimum(group + meanwhile, np.minimum(blocks.tiles, _BLOCKS_PER_LOAD))
    first_product = np.maximum(from_a, from_b)
    half_rate = _half_rate(
        np.stack([first_product, from_a - chain]),
        tensor - done_before,
        work.slow * done_before,
        work.matmul(rows.first, work.columns.first),
        work.ramp_ns,
    )
    return _Start(rows_arrived, first_product, done_before, half_rate, chain)


def _device_time(work: _Work, tensor: Floats, copies: Floats, loads: Floats, stores: Floats) -> tuple[Floats, Floats]:
    """Device time, and what half rate adds to TensorE's; see the module's docstring."""
    rows, blocks, columns = work.rows, work.blocks, work.columns
    start = _start(work, tensor)
    # With one column tile, the transposes of the next rows alternate with as many matmuls: the last is not hidden.
    exposed = np.where((columns.tiles == 1) & (rows.tiles > 1), start.chain, 0.0)
    tensor_path = start.first_product + tensor - start.done_before + start.half_rate + exposed

    held = np.minimum(1.0, np.where(work.block_tiles_n == 0, 2, work.block_tiles_n) / columns.tiles)
    last_blocks = (blocks.tiles - 1) % _BLOCKS_PER_LOAD + 1
    last_products = last_blocks * held * columns.total(lambda c: work.matmul(rows.last, c))
    after_a = _turned(work, rows.last, last_blocks) + last_products
    last_tiles = np.minimum(columns.tiles, -(-work.loads_b.last // TILE_N))
    stays_slow = np.where(2 * work.slow * tensor < loads, work.slow, 1.0)  # too little to do for full rate
    after_b = work.semaphore_ns + last_tiles * work.matmul(rows.last, columns.last) * stays_slow
    load_path = work.start_ns + loads + np.where(rows.tiles > 1, after_a, after_b)

    first_products = blocks.tiles * held * columns.total(lambda c: work.matmul(rows.first, c))
    first_rows = first_products + blocks.total(lambda d: work.transpose(rows.first, d))
    block_path = start.rows_arrived + held * _over_depth(work) + tensor - first_rows
    block_path = np.where(work.block_tiles_n > 0, block_path, 0.0)

    both = copies.sum(axis=0) if work.device.constants["shares_psum_port"] else copies.max(axis=0)
    copy_path = start.first_product + both
    drain = _behind(work, columns.last) + work.start_ns + work.moved(rows.last, work.loads_b.last)
    time = np.maximum.reduce([tensor_path, load_path, block_path, copy_path]) + drain
    return np.maximum(time, work.start_ns + loads + stores), start.half_rate


def _half_rate(started: Floats, tensor: Floats, turned: Floats, matmul: Floats, window_ns: float) -> Floats:
    """What TensorE loses by half rate.

    Args:
        started: [2, n]: from when on matmuls keep it busy, and when it had turned A.
        tensor: Time at full rate from then on.
        turned: For how long it turned A.
        matmul: One instruction at full rate; it counts for the window in which it starts.
        window_ns: Of the limiter; 0 where there is none.
    """
    if not window_ns:
        return np.zeros_like(tensor)
    rest = window_ns - started[0] % window_ns
    same_window = started[0] // window_ns == started[1] // window_ns
    busy = np.maximum(rest, np.minimum(2 * matmul, 2 * tensor)) + np.where(same_window, turned, 0.0)
    slow = np.where(2 * busy >= window_ns, np.maximum(rest, 2 * matmul), rest + window_ns)
    lost: Floats = np.minimum(tensor, slow / 2)
    return lost
