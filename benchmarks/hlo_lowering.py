"""HLO to the instructions of a NeuronCore: ops per second, read and lowered, beside XLA's own reading of the same bytes.

Run as `python -m benchmarks.hlo_lowering`. Three programs. Decoder layers, unrolled, are what XLA programs mostly hold. A chain
of elementwise ops becomes an instruction per op. The worst case is a program in which no two ops are alike, so that nothing
that was worked out for one serves another; models are not like that, and it has no target. The peer is XLA's
`HloModule.from_serialized_hlo_module_proto`, compiled code that checks and builds the module and lowers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import Figure, at_least, run_with_repeats, spread_text
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.simulate.hlo.lowering import lower_module

TARGET_OPS_PER_S = 100_000
_WORST = "no two ops alike"
_CHAIN = 25_000
_LAYERS = 250
_SLICES = 1_200


def chain(x: Any, w: Any) -> Any:
    """Four instructions a step: multiply, add, maximum, subtract."""
    for _ in range(_CHAIN // 4):
        x = jnp.maximum(x * w + 0.5, x) - w
    return x


def layers(x: Any, weights: Any) -> Any:
    """Pre-norm decoder layers without a cache: normalisation, attention of one head, gated MLP."""
    for _ in range(_LAYERS):
        for part in (_attention, _gated):
            scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
            x = x + part(x * scale, weights)
    return x


def _attention(x: Any, weights: Any) -> Any:
    q, k, v = (x @ weights[name] for name in ("q", "k", "v"))
    scores = q @ k.T * 0.125
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -1e9)
    return jax.nn.softmax(scores, -1) @ v @ weights["o"]


def _gated(x: Any, weights: Any) -> Any:
    return (jax.nn.silu(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]


def unlike(x: Any) -> list[Any]:
    """Every slice has a size of its own, and so have the ops on it."""
    parts = [x[: 1 + index % 40, : 30 + index // 10] for index in range(_SLICES)]
    return [jnp.tanh(part * 1.5 + part).sum(-1) for part in parts]


def programs() -> dict[str, bytes]:
    """Serialized modules as JAX lowers them."""
    square = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    weights = dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), square)
    return {
        "chain of elementwise ops": _serialized(chain, square, square),
        "decoder layers, unrolled": _serialized(layers, square, weights),
        _WORST: _serialized(unlike, jax.ShapeDtypeStruct((128, 256), jnp.float32)),
    }


def _serialized(function: Callable[..., Any], *specs: Any) -> bytes:
    data: bytes = jax.jit(function).lower(*specs).compiler_ir("hlo").as_serialized_hlo_module_proto()
    return data


def _ours(data: bytes) -> tuple[int, int, float, float]:
    """Ops, instructions, and seconds of reading and of lowering."""
    start = perf_counter()
    module = parse_hlo(data, source="benchmark")
    read = perf_counter()
    lowered = lower_module(module, nc_version=3, sbuf_usable_bytes=212_984)
    return module.op_count, lowered.instruction_count, read - start, perf_counter() - read


def _xla(data: bytes) -> float:
    """Seconds in which XLA builds the module."""
    from jaxlib._hlo import HloModule

    start = perf_counter()
    HloModule.from_serialized_hlo_module_proto(data)
    return perf_counter() - start


def measure(repeats: int = 5) -> list[Figure]:
    """In turn, after one round that is not counted."""
    figures = []
    for name, data in programs().items():
        _ours(data)
        _xla(data)
        rounds = [(_ours(data), _xla(data)) for _ in range(repeats)]
        ops, instructions = rounds[0][0][:2]
        rates = [ops / (read + lowering) for (_, _, read, lowering), _ in rounds]
        reading = median(read for (_, _, read, _), _ in rounds)
        both = median(read + lowering for (_, _, read, lowering), _ in rounds)
        peer = median(seconds for _, seconds in rounds)
        title = f"{name}: read and lowered"
        figures += [
            Figure(title, median(rates), "ops/s", spread=spread_text(rates))
            if name == _WORST
            else at_least(title, median(rates), TARGET_OPS_PER_S, "ops/s", spread_text(rates)),
            Figure(f"{name}: ops, instructions", ops, f"ops, {instructions:,} instructions"),
            Figure(f"{name}: reading alone", reading / ops * 1e6, "us/op"),
            Figure(f"{name}: read and lowered over XLA's reading", both / peer, "x"),
        ]
    return figures


if __name__ == "__main__":
    run_with_repeats("HLO to instructions", measure, __doc__, repeats=5)
