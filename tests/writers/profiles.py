"""Synthetic Profiles with everything that a timeline draws."""

from typing import Any

import numpy as np

from npuscope.profile.tables import Profile, make_profile

ENGINES = ("Tensor", "Vector", "Scalar", "GpSimd", "Sync")
OPCODES = (
    "MATMUL",
    "TENSOR_TENSOR",
    "TENSOR_REDUCE",
    "WRITE",
    "READ",
    "COPY",
    "DMA_DIRECT2D",
    "ADD",
    "RELU",
    "SCALAR_X",
)


def synthetic_profile(count: int = 200, seed: int = 0, *, simulated: bool = False, cores: int = 1) -> Profile:
    """Instructions that overlap within an engine and across engines, DMA packets that overlap within a queue,
    semaphores, throttling, samples, dependencies and nested host events."""
    rng = np.random.default_rng(seed)
    start = np.sort(rng.integers(0, 20 * count, count))
    duration = rng.integers(0, 60, count)
    core = rng.integers(0, cores, count)
    engine = rng.integers(0, len(ENGINES), count)
    matmul = (engine == 0) & (rng.random(count) < 0.5)
    ids = rng.choice(1 << 62, count, replace=False)
    queue = rng.integers(0, 3, count)
    tables: dict[str, Any] = {
        "Metadata": {"is_simulation": [simulated], "device": ["trn1.2xlarge"]},
        "Instruction": {
            "start_ts": start,
            "end_ts": start + duration,
            "duration_ns": duration,
            "engine": [ENGINES[index] for index in engine],
            "timeline_track": ["TensorMatrix" if is_matmul else None for is_matmul in matmul],
            "opcode": [OPCODES[index] for index in rng.integers(0, len(OPCODES), count)],
            "pcore_idx": core,
            "operands": [f"dst=[{index}]" if index % 3 else "" for index in range(count)],
            "id": ids,
            "pc": np.arange(count),
            "is_estimated": rng.random(count) < 0.5,
        },
        "DmaPacket": {
            "start_ts": start + 3,
            "end_ts": start + 3 + 2 * duration,
            "duration_ns": 2 * duration,
            "id": ids ^ 1,
            "queue_name": ["qSyncIo0-Q1-E0" if index else None for index in queue],
            "queue_idx": queue,
            "engine_idx": queue + 4,
            "queue_type": ["data", "input", "output"] * (count // 3) + ["data"] * (count % 3),
            "transfer_bytes": rng.integers(0, 1 << 20, count),
            "throughput": rng.random(count) * 1e9,
        },
        "SemaphoreUpdate": {
            "timestamp": start,
            "id": [str(index) for index in rng.integers(0, 4, count)],
            "value": rng.integers(0, 9, count),
        },
        "Throttle": {
            "timestamp": [0, 50],
            "duration": [40, 0],
            "k": [1, 1],
            "n": [2, 1],
            "type": ["activity_0", "unknown"],
        },
        "PendingDma": {"timestamp": start, "value": queue},
        "DmaUsage": {"timestamp": start, "current_throughput": rng.random(count) * 1e9},
        "Flow": {
            "in_id": ids[:-1],
            "out_id": ids[1:] ^ (np.arange(count - 1) % 2),
            "in_table": ["instruction"] * (count - 1),
            "out_table": ["dma" if index % 2 else "instruction" for index in range(count - 1)],
        },
        "SystemProfileEvents": {
            "id": [0, 1, 2, 3],
            "name": ["step", "inner", "innermost", "crossing"],
            "start_ts": [0, 0, 10, 90],
            "end_ts": [100, 50, 10, 120],
            "duration_ns": [100, 50, 0, 30],
            "instance_id": ["i-0"] * 4,
            "process_id": [4321] * 4,
            "thread_id": [4321] * 4,
            "process_name": ["python"] * 4,
            "thread_name": ["main"] * 4,
        },
    }
    return make_profile(tables, source="synthetic")
