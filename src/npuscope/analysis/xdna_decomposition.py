"""Where the time of one call of an XDNA matmul may go, as far as a model and published figures can say.

Nothing here proves a cause: a part is measured, modelled, published of another system, or inferred, and says which. What is
left over is only named; the phases of a call have to be timed on the machine itself to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from npuscope.errors import UsageError
from npuscope.hardware.model import XdnaArray, load_xdna
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_time import Calibration, calibration_for, dispatch_time

MEASURED, MODELLED, PUBLISHED, INFERRED = "measured", "modelled", "published elsewhere", "inferred"
_FLOOR_US: Final = (45.0, 60.0)
_FLOOR_SOURCE: Final = "an empty and a small kernel on NPU1: Xilinx/mlir-aie issue 2381, XRT issue 9018"
_FITTED_SOURCE: Final = "what fits IRON's GEMM on NPU1, its Python harness included"
_SESSION_MS: Final = (67.0, 95.0)
_SESSION_SOURCE: Final = (
    "a launcher that makes device, xclbin, context and buffers anew for each call, on Strix Halo: Triton-XDNA issue 83 (95 ms"
    " at 256^3 and at 512^3 alike), pull request 113 (67 ms saved)"
)
_NEXT_STEP: Final = (
    "npuscope xdna bench on the machine itself (--device xdna), which keeps one session and times each phase of a call"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a call's time."""

    name: str
    low_ms: float
    high_ms: float
    kind: str
    """`measured`, `modelled`, `published elsewhere` or `inferred`."""
    source: str
    is_explained: bool
    """It counts as explained; the rest and what is only a candidate for it do not."""


@dataclass(frozen=True, slots=True)
class CallDecomposition:
    """A measured time per call, explained as far as it can be."""

    observed_ms: float
    headline: str
    parts: tuple[Part, ...]
    compute_share: tuple[float, float]
    """Of the observed time, that the cores may compute: lowest and highest."""
    rest_ms: tuple[float, float]
    """What no part explains: lowest and highest."""
    conclusion: str
    falsified_by: str
    """What would show that the conclusion is wrong."""
    next_step: str


def decompose_call(
    observed_ms: float,
    design: XdnaDesign,
    array: XdnaArray,
    calibration: Calibration,
    conversion_ms: float | None = None,
) -> CallDecomposition:
    """Compare a time per call with what its parts can take.

    Args:
        observed_ms: Wall time of one call, as somebody measured it.
        design: What the call computes.
        array: The device.
        calibration: Of its kernels.
        conversion_ms: What the host's conversion of the operands takes, if it was measured.

    Raises:
        UsageError: A time is not positive.
    """
    if not observed_ms > 0 or (conversion_ms is not None and not conversion_ms >= 0):
        raise UsageError(f"a call of {observed_ms} ms with a conversion of {conversion_ms} ms cannot be decomposed")
    explained = _explained(design, array, calibration, conversion_ms)
    low, high = (sum(getattr(part, end) for part in explained) for end in ("low_ms", "high_ms"))
    rest = (max(0.0, observed_ms - high), max(0.0, observed_ms - low))
    share = (explained[0].low_ms / observed_ms, explained[0].high_ms / observed_ms)
    parts = explained
    if rest[0] > 0:
        parts += (Part("not explained", *rest, INFERRED, "the observed time less the parts above", is_explained=False),)
        parts += (Part("a session per call would take", *_SESSION_MS, PUBLISHED, _SESSION_SOURCE, is_explained=False),)
    return CallDecomposition(
        observed_ms=observed_ms,
        headline=f"{observed_ms:g} ms for a call of {design.call_text} {design.dtype}, tiles of {design.tile_text} on {design.cores}"
        f" core{'s' if design.cores > 1 else ''}: at most {100 * share[1]:.2g} % of it is compute",
        parts=parts,
        compute_share=share,
        rest_ms=rest,
        # Moving data and computing may overlap: the shorter of both need not show.
        conclusion=_conclusion(observed_ms, rest, low - min(part.low_ms for part in explained[:2])),
        falsified_by="the call is about as slow with one session kept open for all calls, or setting up a session takes far less"
        " than the rest on this machine",
        next_step=_NEXT_STEP,
    )


def _explained(
    design: XdnaDesign, array: XdnaArray, calibration: Calibration, conversion_ms: float | None
) -> tuple[Part, ...]:
    slow, fast = (
        dispatch_time(design, array, calibration, clock) for clock in (min(array.clocks_ghz), max(array.clocks_ghz))
    )
    source = f"{calibration.name} kernels of {calibration.array}, {min(array.clocks_ghz):g} to {max(array.clocks_ghz):g} GHz; simulated"
    floor_us = _FLOOR_US if calibration.array == "npu1" else (array.dispatch_us, calibration.dispatch_us)
    floor_source = _FLOOR_SOURCE if calibration.array == "npu1" else "; ".join(calibration.sources[1:2])
    if calibration.array == "npu1" and calibration.dispatch_us > floor_us[1]:
        floor_us = (floor_us[0], calibration.dispatch_us)
        floor_source += f"; {calibration.dispatch_us:.0f} us is {_FITTED_SOURCE}"
    parts = [
        Part("compute", fast.compute_us / 1e3, slow.compute_us / 1e3, MODELLED, source, is_explained=True),
        Part(
            "data between DRAM and the array",
            fast.dram_us / 1e3,
            slow.dram_us / 1e3,
            MODELLED,
            source,
            is_explained=True,
        ),
        Part("dispatch", floor_us[0] / 1e3, floor_us[1] / 1e3, PUBLISHED, floor_source, is_explained=True),
    ]
    if conversion_ms is not None:
        name = "conversion of the operands by the host"
        parts.append(Part(name, conversion_ms, conversion_ms, MEASURED, "on the host, as given", is_explained=True))
    return tuple(parts)


def _conclusion(observed_ms: float, rest: tuple[float, float], least_ms: float) -> str:
    if observed_ms < least_ms:
        return f"That is less than the parts take at their least, {1e3 * least_ms:.3g} us: look at what was timed, a start without its wait, for instance"
    if rest[0] <= 0:
        return "The parts explain all of the call; faster kernels or fewer bytes would shorten the call"
    if rest[0] < 0.5 * observed_ms:
        return f"{100 * rest[0] / observed_ms:.0f} % of the call is not explained; the other parts are those above"
    fits = rest[1] > 0.3 * _SESSION_MS[0] and rest[0] < 3 * _SESSION_MS[1]
    head = f"{100 * rest[0] / observed_ms:.1f} % of the call is none of the parts above, so a faster kernel cannot shorten it. "
    if not fits:
        return head + "No published figure of this size says what it is."
    return (
        head
        + "It is of the size of a session set up per call, as another chip showed it. That this is the cause is an inference,"
        " not shown: nobody timed the phases of this call"
    )


SEED_CALL_MS: Final = 54.4
"""163.7 s for 3,008 calls of a 64x64x64 bfloat16 kernel on one core of an XDNA1, as a published optimisation log reports it."""
SEED_CONVERSION_MS: Final = 4.64
"""Its conversion of the operands and the result, element by element in Python, timed on another machine of two cores."""


def seed_call_lines() -> list[str]:
    """That call taken apart, for the documentation."""
    design = XdnaDesign(64, 64, 64, 64, 64, 64)
    found = decompose_call(
        SEED_CALL_MS, design, load_xdna("npu1"), calibration_for("npu1", "stock"), SEED_CONVERSION_MS
    )
    lines = [
        f"## A reported {SEED_CALL_MS} ms per call",
        "",
        "A log of an encoder on an XDNA1 (Unicorn-Commander/Unicorn-Amanuensis) reports 163.7 s for 3,008 calls of a 64x64x64"
        " bfloat16 kernel. What is known of such a call:",
        "",
        "| part | low | high | how it is known | source |",
        "|---|---:|---:|---|---|",
    ]
    lines += [
        f"| {part.name} | {part.low_ms:,.3g} ms | {part.high_ms:,.3g} ms | {part.kind} | {part.source} |"
        for part in found.parts
    ]
    return [
        *lines,
        "",
        f"Explained are {SEED_CALL_MS - found.rest_ms[1]:.2f} to {SEED_CALL_MS - found.rest_ms[0]:.2f} ms, nearly all of it the"
        f" conversion, whose time was measured on another machine than the call's. {found.conclusion}. Speaking against it: the"
        " class that this log is about, as published (attention_npu.py), makes its context once, in its constructor."
        f" The inference is wrong if {found.falsified_by}. What to measure next: {found.next_step}.",
    ]
