"""A problem planned for an XDNA array, with the strategies that lead from one dispatch per tile to the fewest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from npuscope.backends.xdna.strategies import STRATEGIES
from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_legality import violations
from npuscope.tiling.xdna_plan import Plan, PlanSet, Rejected, judge, plan_matmul
from npuscope.tiling.xdna_time import Calibration, dispatch_time, submission_us


@dataclass(frozen=True, slots=True)
class Rung:
    """A strategy as the planner sees it: predicted, not executed."""

    strategy: str
    title: str
    dispatches: int
    predicted_us: float | None
    """Device time of all dispatches; None where the kernel is not legal."""
    bound: str
    stock_design: bool
    refused: str
    """Why its kernel cannot be built; empty where it can."""


@dataclass(frozen=True, slots=True)
class PlanStudy:
    """What `npuscope xdna plan` shows."""

    device: str
    array_name: str
    calibration: Calibration
    clock_ghz: float | None
    found: PlanSet
    ladder: tuple[Rung, ...]
    asked: tuple[Plan | Rejected, ...]
    """Verdicts on the tiles that were asked about."""


def study_plan(
    request: PlanRequest,
    array: XdnaArray,
    array_name: str,
    calibration: Calibration,
    clock_ghz: float | None,
    *,
    device: str,
    tiles: tuple[tuple[tuple[int, int, int], tuple[int, int]], ...] = (),
    top: int = 10,
) -> PlanStudy:
    """Plan, judge the tiles that were asked about, and predict the strategies.

    Args:
        request: The problem.
        array: The device's facts.
        array_name: `npu1` or `npu2`.
        calibration: Kernels and memory.
        clock_ghz: The calibration's when None.
        device: As the user named it.
        tiles: (m, k, n) with rows and columns of cores, to judge.
        top: Most plans.
    """
    return PlanStudy(
        device,
        array_name,
        calibration,
        clock_ghz,
        plan_matmul(request, array, calibration, clock_ghz, top=top),
        ladder(request, array, calibration, clock_ghz),
        tuple(judge(tile, mapping, request, array, calibration, clock_ghz) for tile, mapping in tiles),
    )


@dataclass(frozen=True, slots=True)
class _Device:
    """What strategies ask of a device."""

    array: XdnaArray
    calibration: Calibration
    clock_ghz: float | None


def ladder(
    request: PlanRequest, array: XdnaArray, calibration: Calibration, clock_ghz: float | None
) -> tuple[Rung, ...]:
    """Each strategy's dispatches and predicted device time."""
    device = _Device(array, calibration, clock_ghz)
    rungs = []
    for strategy in STRATEGIES.values():
        tiling = strategy.tile(request, device, 0)
        broken = violations(tiling.design, array, stack_bytes=request.stack_bytes, joined=request.joined)
        in_list = tiling.list_length > 0
        time = dispatch_time(tiling.design, array, calibration, clock_ghz, in_list=in_list)
        calls = tiling.calls if tiling.design.batch == 1 else tiling.claimed_dispatches
        # What the batched loop claims is not what it sends: it sends every tile.
        sent = tiling.calls if strategy.name == "batched-loop" else tiling.claimed_dispatches
        total_us = calls * time.total_us + (sent * submission_us(array, calibration) if in_list else 0.0)
        rungs.append(
            Rung(
                strategy.name,
                strategy.title,
                sent,
                None if broken else total_us,
                time.bound,
                strategy.stock_design,
                broken[0].reason if broken else "",
            )
        )
    return tuple(rungs)


def plan_document(study: PlanStudy) -> dict[str, Any]:
    """The JSON of `npuscope xdna plan`."""
    request = study.found.request
    return {
        "device": study.device,
        "is_simulated": True,
        "array": study.array_name,
        "M": request.M,
        "K": request.K,
        "N": request.N,
        "dtype": request.dtype,
        "out_dtype": request.out_dtype,
        "multiplication": request.multiplication,
        "kernel_set": study.calibration.name,
        "clock_ghz": study.clock_ghz or study.calibration.clock_ghz,
        "prediction_error": {"mean": study.calibration.error_mean, "max": study.calibration.error_max},
        "plans": [plan_record(plan) for plan in study.found.plans],
        "pareto": [plan_record(plan) for plan in study.found.pareto],
        "rejected": [rejected_record(item) for item in study.found.rejected],
        "asked": [plan_record(item) if isinstance(item, Plan) else rejected_record(item) for item in study.asked],
        "ladder": study.ladder,
        "candidates": study.found.candidates,
        "legal": study.found.legal,
        "fewest_dispatches": study.found.fewest_dispatches,
        "why_fewest": study.found.why_fewest,
    }


def plan_record(plan: Plan) -> Mapping[str, Any]:
    """A plan with its tile first."""
    return {"tile": [plan.tile_m, plan.tile_k, plan.tile_n], **_without_tile(plan)}


def rejected_record(item: Rejected) -> Mapping[str, Any]:
    """A rejected design with its tile first."""
    return {"tile": [item.tile_m, item.tile_k, item.tile_n], **_without_tile(item)}


def _without_tile(value: Plan | Rejected) -> dict[str, Any]:
    from dataclasses import asdict

    return {key.removeprefix("tile_"): each for key, each in asdict(value).items()}
