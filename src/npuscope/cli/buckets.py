"""`npuscope buckets`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, console, print_json, say
from npuscope.errors import UsageError, shorten

if TYPE_CHECKING:
    from npuscope.analysis.buckets import BucketPlan, LatencyCurve, LengthHistogram

_PADDING_LENGTHS = (
    2,
    64,
    96,
    115,
    128,
    129,
    192,
    230,
    256,
    257,
    384,
    460,
    512,
    513,
    768,
    921,
    1024,
    1025,
    1536,
    1843,
    2048,
)


def buckets(
    histogram: Annotated[
        Path | None, typer.Option(help="CSV with columns length and count, or one length a line.")
    ] = None,
    distribution: Annotated[
        str | None, typer.Option(help="Instead of a file: uniform, lognormal:median=512,sigma=1, geometric:mean=256.")
    ] = None,
    latency: Annotated[
        Path | None,
        typer.Option(help="CSV with columns length and latency_ms, or a results folder in which one dimension varies."),
    ] = None,
    latency_model: Annotated[
        str | None, typer.Option(help="Instead of a file: floor_ms=0.3,per_token_ms=0.002,per_token2_ms=0,tile=128.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest length to serve; default: the longest of the histogram, or 2048.")
    ] = None,
    compile_cost_ms: Annotated[
        float,
        typer.Option(help="Cost of one compiled bucket per request: compile time over the requests it will serve."),
    ] = 0.0,
    max_buckets: Annotated[int | None, typer.Option(help="At most so many buckets.")] = None,
    multiple_of: Annotated[int, typer.Option(help="Bucket lengths are multiples of this.")] = 1,
    scheme: Annotated[
        str, typer.Option(help="Defaults to compare with: vllm (on Neuron), nxdi, vllm-tpu, vllm-gaudi.")
    ] = "vllm",
    max_batch: Annotated[int, typer.Option(help="For the default batch buckets.")] = 32,
    json: JsonFlag = False,
) -> None:
    """Default buckets and their padding; with lengths and latencies, the set of least expected cost."""
    from npuscope.analysis.buckets import batch_buckets, check_planning, default_buckets, padding_table
    from npuscope.formats.lengths import MAX_LENGTH
    from npuscope.report.tables import bucket_table, padding_rows_table

    if not 1 <= max_batch <= 1 << 20:
        raise UsageError(f"--max-batch {max_batch} must lie between 1 and {1 << 20}")
    if max_length is not None and not 1 <= max_length <= MAX_LENGTH:
        raise UsageError(f"--max-length {max_length} must lie between 1 and {MAX_LENGTH}")
    check_planning(compile_cost_ms, max_buckets, multiple_of)
    lengths = _histogram(histogram, distribution, max_length)
    curve = _curve(latency, latency_model)
    if (lengths is None) != (curve is None):
        missing = "--latency or --latency-model" if curve is None else "--histogram or --distribution"
        raise UsageError(f"to plan buckets, {missing} is missing too")
    longest = int(lengths.lengths[-1]) if lengths is not None else 2048
    top = longest if max_length is None else max_length
    defaults = default_buckets(scheme, top)
    document: dict[str, Any] = {
        "scheme": scheme,
        "default_buckets": defaults,
        "default_batch_buckets": batch_buckets(max_batch),
    }
    if lengths is None or curve is None:
        if latency is not None or max_buckets is not None:
            raise UsageError("to plan buckets, give --histogram or --distribution too")
        padding = padding_table([length for length in _PADDING_LENGTHS if length <= defaults[-1]], defaults)
        if json:
            print_json({**document, "padding": padding})
            return
        say(f"{scheme} buckets up to {top}: {', '.join(str(bucket) for bucket in defaults)}")
        say(
            f"batch buckets up to {max_batch}: {', '.join(str(bucket) for bucket in document['default_batch_buckets'])}"
        )
        console().print(padding_rows_table(padding))
        return
    plans = _plans(scheme, defaults, lengths, curve, compile_cost_ms, max_buckets, multiple_of, max_length)
    saving = _saving(plans)
    free = compile_cost_ms == 0 and max_buckets is None
    advice = "a bucket costs nothing here: give --compile-cost-ms or --max-buckets" if free else ""
    if json:
        print_json(
            {**document, "latency_source": curve.source, **plans, "saving": saving.get("planned"), "advice": advice}
        )
        return
    say(f"latency {curve.source}; {len(lengths.lengths)} distinct lengths up to {lengths.lengths[-1]}")
    console().print(bucket_table(list(plans.values())))
    for key, share in saving.items():
        say(f"{plans[key].name}: {100 * share:.1f} % cheaper than {plans['default'].name}")
    if advice:
        say(f"note: {advice}")


def _histogram(path: Path | None, distribution: str | None, max_length: int | None) -> LengthHistogram | None:
    from npuscope.analysis.buckets import LengthHistogram
    from npuscope.formats.lengths import named_distribution, read_histogram

    if path is not None and distribution is not None:
        raise UsageError("give --histogram or --distribution, not both")
    if path is not None:
        return LengthHistogram(*read_histogram(path))
    return (
        None
        if distribution is None
        else LengthHistogram(*named_distribution(distribution, 2048 if max_length is None else max_length))
    )


def _curve(path: Path | None, model: str | None) -> LatencyCurve | None:
    from npuscope.analysis.buckets import LatencyCurve, modelled_curve
    from npuscope.formats.lengths import parse_parameters, read_latency_curve

    if path is not None and model is not None:
        raise UsageError("give --latency or --latency-model, not both")
    if path is not None:
        return LatencyCurve(*read_latency_curve(path), source=f"measured: {path}")
    if model is None:
        return None
    defaults = {"floor_ms": 0.0, "per_token_ms": 0.0, "per_token2_ms": 0.0, "tile": 1.0}
    values = parse_parameters(model, defaults, "latency model")
    return modelled_curve(
        floor_ms=values["floor_ms"],
        per_token_ms=values["per_token_ms"],
        per_token2_ms=values["per_token2_ms"],
        tile=values["tile"],
        label=shorten(model),
    )


def _plans(
    scheme: str,
    defaults: tuple[int, ...],
    lengths: LengthHistogram,
    curve: LatencyCurve,
    compile_cost_ms: float,
    max_buckets: int | None,
    multiple_of: int,
    max_length: int | None,
) -> dict[str, BucketPlan]:
    """The planned set, the best of as many buckets as the stack's default has, and that default.

    The latter two are left out where the latencies do not reach the default's buckets.
    """
    from npuscope.analysis.buckets import evaluate_buckets, plan_buckets
    from npuscope.cli.output import remark

    def planned(limit: int | None) -> BucketPlan:
        return plan_buckets(
            lengths,
            curve,
            compile_cost_ms=compile_cost_ms,
            max_buckets=limit,
            multiple_of=multiple_of,
            max_length=max_length,
        )

    plans = {"planned": planned(max_buckets)}
    try:
        default = evaluate_buckets(f"{scheme} default", defaults, lengths, curve, compile_cost_ms)
    except UsageError as error:
        remark(f"npuscope: no comparison with {scheme}: {error}")
        return plans
    same = replace(planned(len(defaults)), name=f"planned, at most {len(defaults)}")
    return {**plans, "planned_as_many": same, "default": default}


def _saving(plans: dict[str, BucketPlan]) -> dict[str, float]:
    """Share of the default's cost that each plan saves."""
    if "default" not in plans:
        return {}
    default = plans["default"].expected_cost_ms
    return {key: 1 - plan.expected_cost_ms / default for key, plan in plans.items() if key != "default"}
