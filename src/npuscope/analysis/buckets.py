"""Sequence-length buckets: the serving stacks' defaults, and the set of least expected cost.

A request of length l runs in the smallest bucket b >= l and costs latency(b); each compiled bucket costs a fixed
amount more. The cheapest set is found exactly, by dynamic programming over the candidate lengths with a convex-hull
trick: O(n) lines for n candidates, O(n k) with at most k buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npuscope.errors import UsageError, unknown_name

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MIN_BUCKET = 128
_TPU_MIN_BUCKET = 16
_MODELLED_LENGTH = 1 << 20
_LARGEST_COST_MS = 1e12


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """How often each length occurs."""

    lengths: Integers
    """[n], ascending, distinct, positive."""
    weights: Floats
    """[n], positive: counts or probabilities."""


@dataclass(frozen=True, slots=True)
class LatencyCurve:
    """Latency by length: measured points, straight lines between them, never beyond the last."""

    lengths: Integers
    """[m], ascending, distinct."""
    latency_ms: Floats
    """[m], positive."""
    source: str
    """`measured: FILE` or `modelled: ...`."""

    def at(self, lengths: Integers) -> Floats:
        """Latency at lengths, float64 [n]; below the first point it is the first point's.

        Raises:
            UsageError: A length lies beyond the last point: an extrapolation would be a guess.
        """
        if len(lengths) and lengths.max() > self.lengths[-1]:
            raise UsageError(
                f"the latencies end at length {self.lengths[-1]} and length {lengths.max()} is asked for; measure it, or lower --max-length"
            )
        return np.interp(lengths, self.lengths, self.latency_ms)


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """A set of buckets and what it costs on a histogram."""

    name: str
    buckets: tuple[int, ...]
    expected_latency_ms: float
    """Mean over requests of the latency of their bucket."""
    ideal_latency_ms: float
    """The same if every request had a bucket of its own: at its length, or a longer one that runs faster."""
    compile_cost_ms: float
    """Cost of the compiled buckets, per request."""
    expected_cost_ms: float
    """expected_latency_ms + compile_cost_ms: what is minimised."""
    time_waste: float
    """Share of the latency that padding costs: 1 - ideal / expected."""
    padding_waste: float
    """Share of the computed tokens that are padding."""


@dataclass(frozen=True, slots=True)
class PaddingRow:
    """A length in its bucket: the older tool's padding table."""

    actual_N: int
    bucket_N: int
    padding_size: int
    padding_pct: float
    """Padding over the actual length, in percent."""


def vllm_neuron_buckets(max_length: int, min_bucket: int = _MIN_BUCKET) -> tuple[int, ...]:
    """128, 256, 512, ... and max_length: vLLM on Neuron (prefill tokens), and transformers-neuronx before it.

    Source: vllm_neuron/utils/bucket_utils.py; transformers_neuronx/bucket.py token_sizes.
    """
    doubled = [min_bucket << power for power in range(64) if min_bucket << power < max_length]
    return (*doubled, max_length)


def nxdi_buckets(max_length: int, min_bucket: int = _MIN_BUCKET) -> tuple[int, ...]:
    """Powers of two and max_length, as NeuronX Distributed Inference makes them.

    The exponent of the end is rounded, so that the last power of two falls out when max_length lies less than a
    factor of sqrt(2) above it. Source: neuronx_distributed_inference/modules/autobucketing.py generate_buckets.
    """
    if max_length == min_bucket:
        return (max_length,)
    powers = range(int(math.log2(min_bucket)), round(math.log2(max_length)))
    return (*(1 << power for power in powers), max_length)


def vllm_tpu_buckets(max_length: int, min_bucket: int = _TPU_MIN_BUCKET) -> tuple[int, ...]:
    """16, 32, 64, ... up to the first that holds max_length; it may lie above it.

    Source: vllm/v1/worker/tpu_model_runner.py _get_token_paddings with no padding gap.
    """
    steps = max(0, math.ceil(math.log2(max_length / min_bucket)))
    return tuple(min_bucket << power for power in range(steps + 1))


def vllm_gaudi_buckets(max_length: int, min_bucket: int = _MIN_BUCKET) -> tuple[int, ...]:
    """Exponentially spaced multiples of 128, as vLLM on Gaudi spaces prompt lengths.

    Source: vllm_gaudi/extension/bucketing/exponential.py, with ceil(log2(max)) steps.
    """
    count = math.ceil(math.log2(max_length)) if max_length > 1 else 1
    if count <= 1 or max_length <= min_bucket:
        return (max_length,)
    ratio = max_length / min_bucket
    spaced = {math.ceil(min_bucket * ratio ** (i / (count - 1)) / _MIN_BUCKET) * _MIN_BUCKET for i in range(count)}
    return tuple(sorted({min(bucket, max_length) for bucket in spaced}))


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, ... and max_batch: the decode batch sizes of vLLM on Neuron."""
    return vllm_neuron_buckets(max_batch, 1)


SCHEMES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "vllm": vllm_neuron_buckets,
    "nxdi": nxdi_buckets,
    "vllm-tpu": vllm_tpu_buckets,
    "vllm-gaudi": vllm_gaudi_buckets,
}
"""Default buckets by serving stack; `vllm` is vLLM on Neuron."""


def default_buckets(scheme: str, max_length: int) -> tuple[int, ...]:
    """The buckets that a serving stack makes for lengths up to `max_length`.

    Raises:
        UsageError: Unknown scheme, or a length below 1.
    """
    if scheme not in SCHEMES:
        raise unknown_name("bucket scheme", scheme, SCHEMES)
    if not 1 <= max_length <= 1 << 31:
        raise UsageError(f"--max-length {max_length} must lie between 1 and 2^31")
    return SCHEMES[scheme](max_length)


def padding_table(lengths: Sequence[int], buckets: Sequence[int]) -> list[PaddingRow]:
    """Each length in the smallest bucket that holds it.

    Raises:
        UsageError: A length below 1 or above the largest bucket: the stack would reject or truncate it.
    """
    ordered = sorted(buckets)
    rows = []
    for length in lengths:
        bucket = next((edge for edge in ordered if edge >= length), None)
        if bucket is None or length < 1:
            raise UsageError(f"length {length} fits no bucket: they hold 1 to {ordered[-1]}")
        rows.append(PaddingRow(length, bucket, bucket - length, 100 * (bucket - length) / length))
    return rows


def evaluate_buckets(
    name: str, buckets: Sequence[int], histogram: LengthHistogram, curve: LatencyCurve, compile_cost_ms: float
) -> BucketPlan:
    """What a set of buckets costs on a histogram.

    Raises:
        UsageError: A length above the largest bucket, or a bucket beyond the latencies.
    """
    edges = np.array(sorted(set(buckets)), dtype=np.int64)
    if histogram.lengths[-1] > edges[-1]:
        raise UsageError(f"length {histogram.lengths[-1]} exceeds the largest bucket, {edges[-1]}")
    chosen = edges[np.searchsorted(edges, histogram.lengths)]
    share = histogram.weights / histogram.weights.sum()
    expected = float(share @ curve.at(chosen))
    ideal = float(share @ _fastest(curve, histogram.lengths))
    compile_cost = compile_cost_ms * len(edges)
    computed = float(share @ chosen)
    return BucketPlan(
        name=name,
        buckets=tuple(int(edge) for edge in edges),
        expected_latency_ms=expected,
        ideal_latency_ms=ideal,
        compile_cost_ms=compile_cost,
        expected_cost_ms=expected + compile_cost,
        time_waste=1 - ideal / expected,
        padding_waste=1 - float(share @ histogram.lengths) / computed,
    )


def _fastest(curve: LatencyCurve, lengths: Integers) -> Floats:
    """The lowest latency at or above each length."""
    onwards = np.append(np.minimum.accumulate(curve.latency_ms[::-1])[::-1], math.inf)
    fastest: Floats = np.minimum(curve.at(lengths), onwards[np.searchsorted(curve.lengths, lengths)])
    return fastest


def plan_buckets(
    histogram: LengthHistogram,
    curve: LatencyCurve,
    *,
    compile_cost_ms: float = 0.0,
    max_buckets: int | None = None,
    multiple_of: int = 1,
    max_length: int | None = None,
) -> BucketPlan:
    """The set of buckets of least expected cost.

    Args:
        histogram: Lengths and how often they occur.
        curve: Latency by length.
        compile_cost_ms: Cost of one compiled bucket, spread over requests: compile time / requests it serves.
        max_buckets: At most so many.
        multiple_of: Bucket lengths are multiples of this; the last one may be `max_length` instead.
        max_length: The largest bucket must hold this length too; the longest of the histogram when None.

    Raises:
        UsageError: Lengths beyond the latencies or beyond `max_length`, or a value out of range.
    """
    check_planning(compile_cost_ms, max_buckets, multiple_of)
    longest = int(histogram.lengths[-1])
    rounded = -(-longest // multiple_of) * multiple_of
    fitting = rounded if rounded <= curve.lengths[-1] else longest
    top = fitting if max_length is None else max_length
    if top < histogram.lengths[-1]:
        raise UsageError(f"the histogram holds length {histogram.lengths[-1]}, above --max-length {top}")
    candidates, weights = _candidates(histogram, curve, multiple_of, top)
    latency = curve.at(candidates)
    share = weights / weights.sum()
    chosen = _cheapest(share, latency, compile_cost_ms)
    if max_buckets is not None and len(chosen) > max_buckets:
        chosen = _cheapest_limited(share, latency, compile_cost_ms, max_buckets)
    return evaluate_buckets("planned", [int(candidates[index]) for index in chosen], histogram, curve, compile_cost_ms)


def check_planning(compile_cost_ms: float, max_buckets: int | None, multiple_of: int) -> None:
    """Check the values that bound a plan.

    Raises:
        UsageError: One is out of range.
    """
    if not 0 <= compile_cost_ms <= _LARGEST_COST_MS:
        raise UsageError(f"--compile-cost-ms {compile_cost_ms} must lie between 0 and {_LARGEST_COST_MS:g}")
    if not 1 <= multiple_of <= _MODELLED_LENGTH:
        raise UsageError(f"--multiple-of {multiple_of} must lie between 1 and {_MODELLED_LENGTH}")
    if max_buckets is not None and max_buckets < 1:
        raise UsageError(f"--max-buckets {max_buckets} must be at least 1")


def _candidates(histogram: LengthHistogram, curve: LatencyCurve, multiple_of: int, top: int) -> tuple[Integers, Floats]:
    """Bucket lengths worth considering, with the weight that ends at each.

    In an optimal set each bucket can be lowered to the longest length that it serves, rounded up, or raised to a
    longer one that runs faster (latency need not grow with length: a full tile may beat a ragged one). So each length
    stands for the fastest length at or above it.
    """
    rounded = np.minimum(-(-histogram.lengths // multiple_of) * multiple_of, top)
    if top not in histogram.lengths:
        rounded = np.append(rounded, top)
    weights = np.append(histogram.weights, np.zeros(len(rounded) - len(histogram.weights)))
    turning = curve.lengths[(curve.lengths % multiple_of == 0) & (curve.lengths >= rounded.min())]
    options = np.sort(np.concatenate((rounded, turning)))
    options = options[np.append(True, np.diff(options) > 0)]  # np.unique hashes, which is slow on sorted numbers
    latency = curve.at(options)
    # The fastest option at or above each option; the longest among equals, which fewer buckets need.
    best = len(options) - 1 - np.maximum.accumulate(_first_minimum(latency[::-1]))[::-1]
    served = options[best[np.searchsorted(options, rounded)]]
    lengths, inverse = np.unique(served, return_inverse=True)
    return lengths, np.bincount(inverse, weights=weights).astype(np.float64)


def _first_minimum(latency: Floats) -> Integers:
    """Index of each new running minimum of `latency`, the first among equals; 0 elsewhere."""
    before = np.append(math.inf, np.minimum.accumulate(latency)[:-1])
    return np.where(latency < before, np.arange(len(latency)), 0)


def _cheapest(share: Floats, latency: Floats, cost: float) -> list[int]:
    """Indices of the cheapest buckets, their number free: f(j) = min_i f(i) + (P_j - P_i) t_j + cost."""
    _, parents = _layer(np.append(0.0, np.cumsum(share)), latency, cost, None)
    return _trace([parents] * len(latency), len(latency))


def _cheapest_limited(share: Floats, latency: Floats, cost: float, limit: int) -> list[int]:
    """The same with at most `limit` buckets, one layer per bucket."""
    prefix = np.append(0.0, np.cumsum(share))
    totals = np.append(0.0, np.full(len(latency), math.inf))
    layers: list[list[int]] = []
    best, best_layers = math.inf, 0
    for number in range(1, min(limit, len(latency)) + 1):
        totals, parents = _layer(prefix, latency, cost, totals)
        layers.append(parents)
        if totals[-1] < best:
            best, best_layers = float(totals[-1]), number
    return _trace(layers[:best_layers][::-1], len(latency))


def _layer(prefix: Floats, latency: Floats, cost: float, previous: Floats | None) -> tuple[Floats, list[int]]:
    """One pass: totals[j] = min over i < j of base[i] - prefix[i] t_j, plus prefix[j] t_j + cost.

    `base` is `previous`, or the totals of this very pass where None. The lines base[i] - prefix[i] x have falling
    slopes and the queries t_j do not fall, so that a lower hull with a moving pointer answers each in constant time.
    """
    count = len(latency)
    totals = [0.0] + [math.inf] * count
    parents = [0] * (count + 1)
    base = totals if previous is None else previous.tolist()
    slopes, starts, times = (-prefix).tolist(), prefix.tolist(), latency.tolist()
    hull: list[int] = []
    pointer = 0
    for j in range(1, count + 1):
        new = j - 1
        if base[new] < math.inf:
            while hull and slopes[hull[-1]] == slopes[new] and base[hull[-1]] >= base[new]:
                hull.pop()
            if not hull or slopes[hull[-1]] != slopes[new]:
                slope, start = slopes[new], base[new]
                while len(hull) >= 2:
                    left, middle = hull[-2], hull[-1]  # the middle line may lie nowhere below both others
                    rise, fall = start - base[left], base[middle] - base[left]
                    if rise * (slopes[left] - slopes[middle]) > fall * (slopes[left] - slope):
                        break
                    hull.pop()
                hull.append(new)
            pointer = min(pointer, len(hull) - 1)
        if not hull:
            continue
        time = times[j - 1]
        last = len(hull) - 1
        value = base[hull[pointer]] + slopes[hull[pointer]] * time
        while pointer < last:
            following = hull[pointer + 1]
            other = base[following] + slopes[following] * time
            if other > value:
                break
            pointer, value = pointer + 1, other
        parent = hull[pointer]
        totals[j] = value + starts[j] * time + cost
        parents[j] = parent
    return np.array(totals), parents


def _trace(layers: Sequence[list[int]], count: int) -> list[int]:
    """Follow the parents back from the last length; layers stand last bucket first."""
    chosen = []
    position = count
    for parents in layers:
        if position == 0:
            break
        chosen.append(position - 1)
        position = parents[position]
    return chosen[::-1]


def modelled_curve(
    *,
    floor_ms: float,
    per_token_ms: float,
    per_token2_ms: float,
    tile: float,
    label: str = "",
    _MODELLED_LENGTH: int = 1 << 20,
) -> LatencyCurve:
    """Latency = floor + per_token x T + per_token2 x T², with T the length rounded up to whole tiles.

    Raises:
        UsageError: No latency at all, or a tile that is not a whole number from 1 up.
    """
    if tile < 1 or tile != int(tile) or tile > _MODELLED_LENGTH:
        raise UsageError(f"latency model: tile={tile:g} must be a whole number from 1 to {_MODELLED_LENGTH}")
    if not 0 < floor_ms + per_token_ms + per_token2_ms <= _LARGEST_COST_MS:
        raise UsageError(
            f"latency model: give floor_ms, per_token_ms or per_token2_ms a value above 0, of at most {_LARGEST_COST_MS:g}"
        )
    edge = int(tile)
    edges = np.arange(edge, _MODELLED_LENGTH + 1, edge, dtype=np.int64)
    after = edges[:-1] + 1  # a stair: the next length pays for a whole further tile
    lengths = np.sort(np.concatenate((np.ones(1, dtype=np.int64), edges, after)))
    lengths = lengths[np.append(True, np.diff(lengths) > 0)]
    tiles = (-(-lengths // edge) * edge).astype(np.float64)
    return LatencyCurve(
        lengths, floor_ms + per_token_ms * tiles + per_token2_ms * tiles**2, source=f"modelled: {label}"
    )
